// Rows that one sorts by their headings and picks by mouse or keyboard. Whatever a cell says is set as text.
const IMAGE = "data:image/svg+xml;base64,";

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function bar(parts) {
  const made = element("span", "qf-bar");
  for (const [share, tone] of parts) {
    const part = element("span", `qf-part qf-${tone}`);
    part.style.width = `${100 * share}%`;
    made.append(part);
  }
  made.setAttribute("aria-hidden", "true");
  return made;
}

function content(cell, send) {
  if (cell === null || typeof cell !== "object") return [document.createTextNode(cell ?? "")];
  const made = [];
  if (cell.bar) made.push(bar(cell.bar));
  if (typeof cell.image === "string" && cell.image.startsWith(IMAGE)) {
    const picture = element("img", "qf-thumbnail");
    picture.src = cell.image;
    picture.alt = cell.alt ?? "";
    made.push(picture);
  }
  if (cell.text !== undefined) made.push(element("span", cell.tone ? `qf-text-${cell.tone}` : "", cell.text));
  if (cell.action) {
    const button = element("button", "qf-button", cell.button);
    button.type = "button";
    button.addEventListener("click", (event) => {
      event.stopPropagation();
      send(cell.action);
    });
    button.addEventListener("keydown", (event) => event.stopPropagation());
    made.push(button);
  }
  return made;
}

function kind(column) {
  if (column.is_number) return "qf-number";
  return column.is_word ? "qf-word" : "";
}

function heading(model, column) {
  const made = element("th", kind(column));
  made.scope = "col";
  if (!column.can_sort) {
    made.textContent = column.label;
    return made;
  }
  const sort = model.get("sort");
  const down = sort === `-${column.name}`;
  const up = sort === column.name;
  made.setAttribute("aria-sort", up ? "ascending" : down ? "descending" : "none");
  const button = element("button", "qf-sort", `${column.label}${up ? " ▲" : down ? " ▼" : ""}`);
  button.type = "button";
  button.dataset.column = column.name;
  button.addEventListener("click", () => {
    model.set("sort", up ? `-${column.name}` : column.name);
    model.save_changes();
  });
  made.append(button);
  return made;
}

function render({ model, el }) {
  const scroll = element("div", "qf-scroll");
  const table = element("table", "qf-table");
  scroll.append(table);
  el.append(scroll);

  const pick = (key) => {
    const mode = model.get("pick");
    if (mode === "none") return;
    const picked = model.get("picked");
    const kept = mode === "many" ? picked.filter((other) => other !== key) : [];
    model.set("picked", picked.includes(key) && mode === "many" ? kept : [...kept, key]);
    model.save_changes();
    model.send({ picked: key });
  };

  const drawRow = (row, columns, picked, canPick) => {
    const made = element("tr");
    made.dataset.key = row.key;
    if (canPick) {
      made.tabIndex = -1;
      made.setAttribute("aria-selected", String(picked.includes(row.key)));
      made.addEventListener("click", () => pick(row.key));
    }
    row.cells.forEach((cell, place) => {
      const box = element("td", kind(columns[place]));
      if (cell && cell.title) box.title = cell.title;
      box.append(...content(cell, (action) => model.send({ action, key: row.key })));
      made.append(box);
    });
    return made;
  };

  const draw = () => {
    const focused = el.contains(document.activeElement) ? document.activeElement : null;
    const key = focused?.closest("tr")?.dataset.key;
    const column = focused?.dataset.column;
    const isButton = focused?.classList.contains("qf-button");
    const columns = model.get("columns");
    const rows = model.get("rows");
    const canPick = model.get("pick") !== "none";
    table.replaceChildren();
    table.setAttribute("role", canPick ? "grid" : "table");
    table.setAttribute("aria-label", model.get("label"));
    if (canPick) table.setAttribute("aria-multiselectable", String(model.get("pick") === "many"));
    const head = element("thead");
    const headings = element("tr");
    headings.append(...columns.map((one) => heading(model, one)));
    head.append(headings);
    const body = element("tbody");
    body.append(...rows.map((row) => drawRow(row, columns, model.get("picked"), canPick)));
    if (!rows.length) {
      const nothing = element("td", "qf-nothing", model.get("nothing"));
      nothing.colSpan = columns.length;
      const line = element("tr");
      line.append(nothing);
      body.append(line);
    }
    table.append(head, body);
    const start = body.querySelector(`tr[aria-selected="true"]`) ?? body.querySelector("tr[tabindex]");
    if (start) start.tabIndex = 0;
    if (column) table.querySelector(`button[data-column="${CSS.escape(column)}"]`)?.focus();
    else if (key) body.querySelector(`tr[data-key="${CSS.escape(key)}"]${isButton ? " .qf-button" : ""}`)?.focus();
  };

  table.addEventListener("keydown", (event) => {
    const row = event.target.closest("tbody tr[tabindex]");
    if (!row || event.target !== row) return;
    if (event.key === "Enter" || event.key === " ") pick(model.get("rows")[row.sectionRowIndex].key);
    else if (event.key === "ArrowDown") row.nextElementSibling?.focus();
    else if (event.key === "ArrowUp") row.previousElementSibling?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  table.addEventListener("focusin", (event) => {
    const row = event.target.closest("tbody tr[tabindex]");
    if (row && event.target === row && model.get("tells_focus")) model.send({ focused: model.get("rows")[row.sectionRowIndex].key });
  });

  const changes = "change:rows change:columns change:picked change:sort change:pick change:nothing";
  model.on(changes, draw);
  draw();
  return () => model.off(changes, draw);
}

export default { render };
