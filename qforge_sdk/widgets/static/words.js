// Lines of text. Whatever they say is set as text.
function render({ model, el }) {
  const draw = () => {
    const lines = model.get("lines").map(([text, tone]) => {
      const line = document.createElement("div");
      line.className = `qf-words qf-text-${tone}`;
      line.textContent = text;
      return line;
    });
    el.replaceChildren(...lines);
  };
  model.on("change:lines", draw);
  draw();
  return () => model.off("change:lines", draw);
}

export default { render };
