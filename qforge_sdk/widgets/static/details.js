// One thing: its structure, its name and what there is to say of it. Whatever it says is set as text.
const IMAGE = "data:image/svg+xml;base64,";
const LONG = 28;

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawFacts(facts) {
  const made = element("dl", "qf-portrait-facts");
  for (const { label, value, hint, tone } of facts) {
    const long = value.length > LONG ? "qf-long" : "";
    const shown = element("dd", `${long} ${tone ? `qf-text-${tone}` : ""}`.trim(), value);
    if (hint) shown.title = hint;
    made.append(element("dt", long, label), shown);
  }
  return made;
}

function render({ model, el }) {
  const box = element("div", "qf-portrait");
  box.setAttribute("role", "region");
  box.setAttribute("aria-live", "polite");
  el.append(box);

  const draw = () => {
    box.setAttribute("aria-label", model.get("label"));
    box.classList.toggle("qf-wide", model.get("is_wide"));
    const image = model.get("image");
    const words = element("div", "qf-portrait-words");
    const title = model.get("title");
    if (title) words.append(element("div", "qf-title", title));
    if (model.get("facts").length) words.append(drawFacts(model.get("facts")));
    if (!title && !image) words.append(element("div", "qf-nothing", model.get("nothing")));
    box.replaceChildren(words);
    if (!image.startsWith(IMAGE)) return;
    const picture = element("img", "qf-structure");
    picture.src = image;
    picture.alt = model.get("alt");
    box.prepend(picture);
  };

  const changes = "change:image change:alt change:title change:facts change:nothing change:is_wide change:label";
  model.on(changes, draw);
  draw();
  return () => model.off(changes, draw);
}

export default { render };
