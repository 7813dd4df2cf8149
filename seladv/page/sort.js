// A click on a column's head sorts by it, a second one the other way round; what has no value stays at the end.
const key = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  return text === "–" ? "" : text;
};
const compare = (a, b) => {
  const numbers = [Number(a), Number(b)];
  return numbers.some(Number.isNaN) ? a.localeCompare(b, "en", { numeric: true }) : numbers[0] - numbers[1];
};
const sort = (table, column) => {
  const head = table.tHead.rows[0].cells;
  const down = head[column].getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: key(row, column) }));
  const known = rows.filter((entry) => entry.key !== "");
  known.sort((a, b) => (down ? compare(b.key, a.key) : compare(a.key, b.key)));
  body.append(...[...known, ...rows.filter((entry) => entry.key === "")].map((entry) => entry.row));
  [...head].forEach((cell) => cell.removeAttribute("aria-sort"));
  head[column].setAttribute("aria-sort", down ? "descending" : "ascending");
};
for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    button.addEventListener("click", () => sort(table, column));
    cell.append(button);
  });
}
