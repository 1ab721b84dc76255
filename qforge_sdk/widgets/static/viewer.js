// A molecule in 3D, drawn by 3Dmol. Its 540 kB are asked for once a page and not sent, or saved, with every widget.
const CACHE = "qforge_3dmol";
const NO_WEBGL =
  "This browser offers no WebGL, so the molecule cannot be drawn in 3D. The tables are complete without it.";
const LOADING = "Loading the 3D picture from the kernel; if the kernel is gone, run the cell again.";
const NEGATIVE = [209, 47, 47];
const POSITIVE = [33, 90, 208];
const NEUTRAL = [245, 245, 245];
const UNKNOWN = 0x9e9e9e;
const LONGEST_ARROW = 2;
// Where an arrow begins: about the radius of the balls, angstrom.
const SURFACE = 0.35;
const SHORTEST_ARROW = 0.02;
const TURN = 10;

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function hasWebGL() {
  const context = document.createElement("canvas").getContext("webgl2") ?? document.createElement("canvas").getContext("webgl");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return context !== null;
}

function source(model) {
  return new Promise((resolve) => {
    const receive = (content, buffers) => {
      if (!content?.library) return;
      model.off("msg:custom", receive);
      resolve(buffers[0]);
    };
    model.on("msg:custom", receive);
    model.send({ library: true });
  });
}

async function library(model) {
  if (!globalThis[CACHE]) {
    const bytes = await source(model);
    const url = URL.createObjectURL(new Blob([bytes], { type: "text/javascript" }));
    globalThis[CACHE] ??= import(url);
  }
  return globalThis[CACHE];
}

function shade(charge, limit) {
  if (charge === null || charge === undefined) return UNKNOWN;
  const share = limit > 0 ? Math.max(-1, Math.min(1, charge / limit)) : 0;
  const end = share < 0 ? NEGATIVE : POSITIVE;
  const mixed = NEUTRAL.map((one, place) => Math.round(one + Math.abs(share) * (end[place] - one)));
  return (mixed[0] << 16) | (mixed[1] << 8) | mixed[2];
}

const css = (colour) => `rgb(${colour.join(",")})`;
const point = ([x, y, z]) => ({ x, y, z });

function xyz({ element: elements, position }) {
  const lines = elements.map((symbol, place) => `${symbol} ${position[place].map((one) => one.toFixed(5)).join(" ")}`);
  return [elements.length, "", ...lines, ""].join("\n");
}

function drawLegend(box, model) {
  const limit = model.get("charge_limit");
  const isShown = model.get("color_by") === "charge" && limit > 0;
  box.hidden = !isShown;
  if (!isShown) return;
  const bar = element("div", "qf-gradient");
  bar.style.background = `linear-gradient(to bottom, ${css(POSITIVE)}, ${css(NEUTRAL)}, ${css(NEGATIVE)})`;
  const numbers = element("div", "qf-gradient-numbers");
  const text = limit.toFixed(limit < 0.1 ? 3 : 2);
  numbers.append(...[`+${text}`, "0", `−${text}`].map((one) => element("span", "", one)));
  box.replaceChildren(element("div", "", "charge (e)"), bar, numbers);
}

function drawArrows(viewer, model) {
  const { position, force } = model.get("atoms");
  const longest = model.get("force_limit");
  if (!model.get("show_forces") || !force || !(longest > 0)) return;
  force.forEach((vector, place) => {
    const share = vector ? Math.hypot(...vector) / longest : 0;
    if (share < SHORTEST_ARROW) return;
    const norm = Math.hypot(...vector);
    const at = (distance) => point(position[place].map((start, axis) => start + (vector[axis] / norm) * distance));
    viewer.addArrow({
      start: at(SURFACE),
      end: at(SURFACE + share * LONGEST_ARROW),
      radius: 0.08,
      radiusRatio: 2.2,
      mid: 0.6,
      color: "#12a150",
    });
  });
}

function drawShapes(viewer, model, isDark) {
  viewer.removeAllShapes();
  viewer.removeAllLabels();
  drawArrows(viewer, model);
  const { element: elements, position } = model.get("atoms");
  const picked = model.get("picked");
  const label = (place, isPicked) =>
    viewer.addLabel(isPicked ? `${elements[place]} ${place}` : String(place), {
      position: point(position[place]),
      fontSize: isPicked ? 14 : 11,
      fontColor: isDark ? "white" : "black",
      backgroundColor: isDark ? "black" : "white",
      backgroundOpacity: 0.55,
      alignment: isPicked ? "bottomLeft" : "center",
      inFront: true,
    });
  if (model.get("show_labels")) elements.forEach((_, place) => place !== picked && label(place, false));
  if (picked !== null && picked < elements.length) {
    viewer.addSphere({ center: point(position[picked]), radius: 0.7, color: "#ff9800", alpha: 0.6 });
    label(picked, true);
  }
  viewer.render();
}

function drawStyle(viewer, model) {
  const { charge } = model.get("atoms");
  const limit = model.get("charge_limit");
  const isCharge = model.get("color_by") === "charge";
  const colours = isCharge ? { colorfunc: (atom) => shade(charge[atom.serial], limit) } : { colorscheme: "Jmol" };
  viewer.setStyle({}, { stick: { radius: 0.13, ...colours }, sphere: { scale: 0.27, ...colours } });
}

function drawMolecule(viewer, model) {
  viewer.removeAllModels();
  const molecule = viewer.addModel(xyz(model.get("atoms")), "xyz");
  molecule.selectedAtoms({}).forEach((atom, place) => { atom.serial = place; });
  drawStyle(viewer, model);
  viewer.setClickable({}, true, (atom) => {
    model.set("picked", model.get("picked") === atom.serial ? null : atom.serial);
    model.save_changes();
  });
  viewer.zoomTo();
}

function steer(viewer, event) {
  const steps = {
    ArrowLeft: () => viewer.rotate(-TURN, "y"),
    ArrowRight: () => viewer.rotate(TURN, "y"),
    ArrowUp: () => viewer.rotate(-TURN, "x"),
    ArrowDown: () => viewer.rotate(TURN, "x"),
    "+": () => viewer.zoom(1.2),
    "-": () => viewer.zoom(1 / 1.2),
    0: () => viewer.zoomTo(),
  };
  if (!(event.key in steps)) return;
  steps[event.key]();
  viewer.render();
  event.preventDefault();
  event.stopPropagation();
}

function sized(box) {
  return new Promise((resolve) => {
    const watcher = new ResizeObserver(() => {
      if (!box.clientWidth || !box.clientHeight) return;
      watcher.disconnect();
      resolve();
    });
    watcher.observe(box);
  });
}

function connect(viewer, model, legend) {
  const isDark = () => model.get("is_dark");
  const shapes = () => drawShapes(viewer, model, isDark());
  const style = () => {
    drawStyle(viewer, model);
    drawLegend(legend, model);
    viewer.render();
  };
  const all = () => {
    drawMolecule(viewer, model);
    drawLegend(legend, model);
    shapes();
  };
  const changes = [
    ["change:atoms", all],
    ["change:color_by change:charge_limit", style],
    ["change:show_forces change:force_limit change:show_labels change:picked change:is_dark", shapes],
  ];
  for (const [names, draw] of changes) model.on(names, draw);
  all();
  return () => {
    for (const [names, draw] of changes) model.off(names, draw);
  };
}

function render({ model, el }) {
  const frame = element("div", "qf-viewer");
  const box = element("div", "qf-viewer-canvas");
  const legend = element("div", "qf-legend");
  const words = element("div", "qf-nothing", LOADING);
  legend.hidden = true;
  frame.append(box, legend, words);
  el.append(frame);
  if (!hasWebGL()) {
    words.textContent = NO_WEBGL;
    box.remove();
    return undefined;
  }
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.setAttribute("aria-label", `${model.get("label")} in 3D: arrow keys turn it, + and - zoom, 0 shows all of it`);
  let stop;
  let isGone = false;
  (async () => {
    const [$3Dmol] = await Promise.all([library(model), sized(box)]);
    if (isGone) return;
    const viewer = $3Dmol.createViewer(box, { backgroundColor: "white", backgroundAlpha: 0, antialias: true });
    words.remove();
    const disconnect = connect(viewer, model, legend);
    const watcher = new ResizeObserver(() => viewer.resize());
    watcher.observe(box);
    const keys = (event) => steer(viewer, event);
    box.addEventListener("keydown", keys);
    stop = () => {
      disconnect();
      watcher.disconnect();
      viewer.clear();
      box.querySelector("canvas")?.getContext("webgl2")?.getExtension("WEBGL_lose_context")?.loseContext();
    };
    frame.dataset.drawn = "true";
  })().catch((error) => {
    words.textContent = `The molecule could not be drawn in 3D: ${error?.message ?? error}`;
    frame.append(words);
  });
  return () => {
    isGone = true;
    stop?.();
  };
}

export default { render };
