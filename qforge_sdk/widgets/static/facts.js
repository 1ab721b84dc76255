// Numbers with their labels. Whatever they say is set as text.
function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawFact(fact) {
  const made = element("div", "qf-fact");
  if (fact.hint) made.title = fact.hint;
  made.append(element("dt", "qf-quiet", fact.label), element("dd", "qf-value", fact.value));
  return made;
}

function render({ model, el }) {
  const list = element("dl", "qf-facts");
  el.append(list);
  const draw = () => list.replaceChildren(...model.get("facts").map(drawFact));
  model.on("change:facts", draw);
  draw();
  return () => model.off("change:facts", draw);
}

export default { render };
