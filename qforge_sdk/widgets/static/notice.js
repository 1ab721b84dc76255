// A line for what is being done or went wrong; it also tells Python whether the page is dark and whether anybody looks.
const HEARTBEAT = 5000;
const SETTLED = 100;
const CHART = ".plot-container";

function isDark() {
  const light = document.body.dataset.jpThemeLight;
  if (light !== undefined) return light === "false";
  return window.matchMedia("(prefers-color-scheme: dark)").matches;
}

function render({ model, el }) {
  const line = document.createElement("div");
  el.append(line);

  const draw = () => {
    const text = model.get("text");
    const isError = model.get("is_error");
    line.className = `qf-notice${isError ? " qf-error" : ""}`;
    line.setAttribute("role", isError ? "alert" : "status");
    line.textContent = text;
    line.hidden = !text;
  };
  const tellTheme = () => {
    if (model.get("is_dark") === isDark()) return;
    model.set("is_dark", isDark());
    model.save_changes();
  };
  // A plotly chart that was drawn before it had its place fits itself only when the window says that it was resized.
  let panel = null;
  const fit = () => requestAnimationFrame(() => window.dispatchEvent(new Event("resize")));
  const drawn = new MutationObserver((changes) => {
    const added = changes.flatMap((change) => [...change.addedNodes]).filter((node) => node instanceof Element);
    // It is drawn in its place, or brought there when it has been drawn.
    if (added.some((node) => node.matches(CHART) || node.querySelector(CHART))) setTimeout(fit, SETTLED);
  });
  const resized = new ResizeObserver(() => {
    if (!panel) {
      panel = el.closest(".qf-panel");
      if (panel) {
        resized.observe(panel);
        drawn.observe(panel, { childList: true, subtree: true });
      }
    }
    fit();
  });
  resized.observe(el);
  const beat = () => model.send({ alive: true });

  model.on("change:text change:is_error", draw);
  const watcher = new MutationObserver(tellTheme);
  watcher.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  const timer = setInterval(beat, HEARTBEAT);
  draw();
  tellTheme();
  beat();
  return () => {
    clearInterval(timer);
    watcher.disconnect();
    resized.disconnect();
    drawn.disconnect();
    model.off("change:text change:is_error", draw);
    model.send({ alive: false });
  };
}

export default { render };
