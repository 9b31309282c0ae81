"use strict";
// Sorts and filters tables, and opens what a link leads to. Without scripts the page shows all of it, unsorted.

const value = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace(/,(?=\d{3})/g, ""));
  return { text, number: Number.isNaN(number) ? null : number };
};

function sort(table, column, ascending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, ...value(row, column) }));
  const numeric = rows.filter((one) => one.number !== null).length * 2 > rows.length;
  const sign = ascending ? 1 : -1;
  rows.sort((a, b) => {
    if (!numeric) return sign * a.text.localeCompare(b.text, "en", { numeric: true });
    if (a.number === null || b.number === null) return (a.number === null) - (b.number === null);
    return sign * (a.number - b.number);
  });
  body.append(...rows.map((one) => one.row));
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, column, ascending);
    });
  });
}

function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows];
  const name = table.caption.textContent;
  const tools = document.createElement("div");
  tools.className = "tools";
  const label = document.createElement("label");
  const input = document.createElement("input");
  const shown = document.createElement("span");
  input.type = "search";
  label.append("Filter ", Object.assign(document.createElement("span"), { className: "hidden", textContent: name }), input);
  shown.setAttribute("role", "status");
  const column = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent.trim() === "Verdict");
  const chosen = new Set();
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const verdict = column < 0 || !chosen.size || chosen.has(row.cells[column].textContent.trim());
      row.hidden = !(verdict && words.every((word) => text.includes(word)));
      count += !row.hidden;
    }
    shown.textContent = count === rows.length ? `${count} rows` : `${count} of ${rows.length} rows`;
  };
  tools.append(label);
  if (column >= 0) {
    const counts = new Map();
    rows.map((row) => row.cells[column].textContent.trim()).forEach((one) => counts.set(one, (counts.get(one) ?? 0) + 1));
    for (const [verdict, count] of counts) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `${verdict} ${count}`;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        if (!chosen.delete(verdict)) chosen.add(verdict);
        button.setAttribute("aria-pressed", String(chosen.has(verdict)));
        apply();
      });
      tools.append(button);
    }
  }
  tools.append(shown);
  input.addEventListener("input", apply);
  apply();
  table.parentElement.before(tools);
}

function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  target?.scrollIntoView();
}

for (const table of document.querySelectorAll("main table")) {
  const count = table.tBodies[0].rows.length;
  if (count > 1) makeSortable(table);
  if (count > 12) makeFilterable(table);
}
addEventListener("hashchange", open);
if (location.hash) open();
