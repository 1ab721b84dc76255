// Structures with a few lines of text, picked by mouse or keyboard. Whatever a card says is set as text.
const IMAGE = "data:image/svg+xml;base64,";

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawCard(card, isPicked) {
  const made = element("div", "qf-card");
  made.dataset.key = card.key;
  made.setAttribute("role", "option");
  made.setAttribute("aria-selected", String(isPicked));
  made.tabIndex = -1;
  if (card.image.startsWith(IMAGE)) {
    const picture = element("img", "qf-structure");
    picture.src = card.image;
    picture.alt = card.alt;
    made.append(picture);
  }
  const title = element("div", "qf-title", card.title);
  title.title = card.title;
  const lines = card.lines.map((line) => element("div", "qf-line", line));
  for (const line of lines) line.title = line.textContent;
  made.append(title, ...lines);
  return made;
}

function render({ model, el }) {
  const list = element("div", "qf-cards");
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-multiselectable", "true");
  const nothing = element("div", "qf-nothing");
  el.append(list, nothing);

  const pick = (key) => {
    const picked = model.get("picked");
    model.set("picked", picked.includes(key) ? picked.filter((one) => one !== key) : [...picked, key]);
    model.save_changes();
  };
  const mark = () => {
    const picked = model.get("picked");
    for (const card of list.children) card.setAttribute("aria-selected", String(picked.includes(Number(card.dataset.key))));
  };
  const draw = () => {
    const key = list.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    const cards = model.get("cards");
    const picked = model.get("picked");
    list.setAttribute("aria-label", model.get("label"));
    list.replaceChildren(...cards.map((card) => drawCard(card, picked.includes(card.key))));
    nothing.textContent = model.get("nothing");
    nothing.hidden = cards.length > 0;
    if (list.firstChild) list.firstChild.tabIndex = 0;
    if (key !== undefined) list.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  };
  const columns = () => {
    const top = list.firstChild?.offsetTop;
    return Math.max([...list.children].findIndex((card) => card.offsetTop !== top), 1);
  };
  const steps = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: () => -columns() };

  list.addEventListener("click", (event) => {
    const card = event.target.closest(".qf-card");
    if (!card) return;
    card.focus();
    pick(Number(card.dataset.key));
  });
  list.addEventListener("keydown", (event) => {
    const card = event.target.closest(".qf-card");
    if (!card) return;
    if (event.key === "Enter" || event.key === " ") pick(Number(card.dataset.key));
    else if (event.key in steps) {
      const next = list.children[[...list.children].indexOf(card) + steps[event.key]()];
      if (next) {
        for (const other of list.children) other.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      }
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  model.on("change:cards change:nothing", draw);
  model.on("change:picked", mark);
  draw();
  return () => {
    model.off("change:cards change:nothing", draw);
    model.off("change:picked", mark);
  };
}

export default { render };
