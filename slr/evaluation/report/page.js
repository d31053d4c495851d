"use strict";
// Sorts, filters and unfolds the table of glosses; without it the page shows everything.
(() => {
  const table = document.getElementById("gloss-table");
  const rows = [...table.querySelectorAll("tbody.gloss")];
  const heads = [...table.tHead.rows[0].cells];
  const words = new Map(rows.map((row) => [row, wordsOf(row)]));
  const filter = document.getElementById("filter");
  const which = document.getElementById("which");
  const unfold = document.getElementById("unfold");

  function wordsOf(row) {
    const names = [...row.querySelectorAll("bdi")].map((element) => element.textContent);
    return names.join("\n").toLocaleLowerCase();
  }

  function show() {
    const wanted = filter.value.trim().toLocaleLowerCase();
    let count = 0;
    for (const row of rows) {
      const kind = which.value === "all" || Number(row.dataset[which.value]) > 0;
      row.hidden = !(kind && words.get(row).includes(wanted));
      count += row.hidden ? 0 : 1;
    }
    document.getElementById("count").textContent = `${count} of ${rows.length} glosses`;
  }

  function value(row, column, kind) {
    const text = row.rows[0].cells[column].textContent.trim();
    return kind === "text" ? text : text === "–" ? NaN : Number(text);
  }

  function sort(head, column) {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const sign = up ? 1 : -1;
    const kind = head.dataset.sort;
    const keyed = rows.map((row) => [value(row, column, kind), row]);
    keyed.sort(([left], [right]) => {
      if (kind === "text") return sign * left.localeCompare(right);
      if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right);
      return sign * (left - right);
    });
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.append(...keyed.map(([, row]) => row));
  }

  heads.forEach((head, column) => {
    if (head.dataset.sort === "none") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head, column));
    head.append(button);
  });
  unfold.addEventListener("click", () => {
    const folded = [...table.querySelectorAll("details")];
    const open = folded.some((one) => !one.open);
    for (const one of folded) one.open = open;
    unfold.textContent = open ? "Close all clips" : "Open all clips";
  });
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("input", show);
  which.addEventListener("change", show);
  document.getElementById("controls").hidden = false;
  show();
})();
