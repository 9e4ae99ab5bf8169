"use strict";
// Headings of tables become buttons that sort the rows. Without scripts the page is the same but for that.
const number = (text) => {
  const found = text.replace(/,/g, "").match(/^[+-]?\d+(\.\d+)?(e[+-]?\d+)?/);
  return found ? Number(found[0]) : null;
};
const compare = (one, other) => {
  const [a, b] = [number(one), number(other)];
  if (a !== null && b !== null) return a - b;
  if ((a === null) !== (b === null)) return a === null ? 1 : -1; // what has no figure comes last
  return one.localeCompare(other);
};
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 3) continue;
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.textContent = heading.textContent;
    button.title = "sort by this column";
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") !== "descending"; // the largest first
      headings.forEach((one) => one.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const cell = (row) => row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((one, other) => {
        const order = compare(cell(one), cell(other));
        const isMissing = (number(cell(one)) === null) !== (number(cell(other)) === null);
        return down && !isMissing ? -order : order;
      });
      body.replaceChildren(...rows);
    });
  });
}
