"use strict";
// Sorting by a heading: up, down, as it was. Groups of rows stay together, what closes a table stays last, and so do cells without a number.
const NUMBER = /^<?\s*([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=$|\s)/;
const collator = new Intl.Collator(undefined, { numeric: true });
function keyOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = NUMBER.exec(text);
  return { text, number: number ? Number(number[1]) : null, empty: text === "" || text.startsWith("--") };
}
function sortBody(body, column, direction) {
  const rows = [...body.rows].filter((row) => row.cells[0].scope !== "rowgroup");
  const keys = new Map(rows.map((row) => [row, keyOf(row, column)]));
  const numeric = rows.every((row) => keys.get(row).empty || keys.get(row).number !== null);
  rows.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (direction === "none") return a.place - b.place;
    if (x.empty || y.empty) return x.empty - y.empty;
    const order = numeric ? x.number - y.number : collator.compare(x.text, y.text);
    return direction === "ascending" ? order : -order;
  });
  body.append(...rows);
}
for (const table of document.querySelectorAll("table.sortable")) {
  for (const body of table.tBodies) [...body.rows].forEach((row, place) => { row.place = place; });
  for (const heading of table.tHead.querySelectorAll("th[data-column]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const direction = { ascending: "descending", descending: "none" }[heading.getAttribute("aria-sort")] || "ascending";
      for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
      if (direction !== "none") heading.setAttribute("aria-sort", direction);
      for (const body of table.tBodies) sortBody(body, Number(heading.dataset.column), direction);
    });
  }
}
// What is folded opens for a link into it, and on paper.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const fold of opened) fold.open = true;
});
addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });
