"use strict";
// Sorts the table of trials by a column: numbers as numbers, empty cells last, equal ones in the order they had.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const said = document.getElementById("sorted");
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const text = new Intl.Collator("en", { numeric: true });
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const compare = head.dataset.kind === "number" ? (a, b) => Number(a) - Number(b) : text.compare;
      const rows = [...body.rows].sort((one, other) => {
        const a = value(one, column), b = value(other, column);
        if (a === "" || b === "") return (a === "") - (b === "");
        return down ? compare(b, a) : compare(a, b);
      });
      body.append(...rows);
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      said.textContent = `Sorted by ${head.textContent}, ${down ? "descending" : "ascending"}`;
    });
  });
}
