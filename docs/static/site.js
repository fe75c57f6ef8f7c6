"use strict";

// On a phone, a table of sentences is a list of cards (site.css). The cells learn the titles of their columns.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table.docutils")) {
    const titles = [...table.querySelectorAll("thead th")].map((each) => each.textContent.trim());
    const rows = [...table.querySelectorAll("tbody tr")];
    const cells = rows.flatMap((row) => [...row.cells]);
    const isSimple = titles.length > 0 && rows.every((row) => row.cells.length === titles.length);
    const longest = Math.max(0, ...rows.map((row) => row.textContent.trim().length));
    if (!isSimple || titles.length > 4 || longest < 60) continue;
    table.classList.add("sentences");
    for (const cell of cells) cell.dataset.title = titles[cell.cellIndex];
  }
});

// A page that an entry of search_words.py finds is found by its text as well: it is listed once, with its summary, at
// the place of the better of both.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const perform = Search._performSearch;
  const isWord = ([, , anchor]) => anchor.startsWith("#search-");
  Search._performSearch = (...query) => {
    const best = perform(...query).reverse();
    const worded = new Set(best.filter(isWord).map(([page]) => page));
    const seen = new Set();
    const listed = [];
    for (const entry of best) {
      const [page, , anchor] = entry;
      if (isWord(entry) || (worded.has(page) && anchor === "")) {
        if (seen.has(page)) continue;
        seen.add(page);
        listed.push([page, entry[1], "", null, ...entry.slice(4)]);
      } else listed.push(entry);
    }
    return listed.reverse();
  };
});
