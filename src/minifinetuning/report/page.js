"use strict";

/* What moves on the page: one result alone, the same in every chart and in the table; sorting. */

const body = document.querySelector("tbody");
const charts = [...document.querySelectorAll(".chart")];

/* A result by its number, with what there is to say of a mark of it, else of its first star. */
function light(number, mark = null) {
  document.body.classList.toggle("has-lit", number !== null);
  for (const element of document.querySelectorAll("[data-line]")) {
    const isLit = element.dataset.line === number;
    element.classList.toggle("lit", isLit);
    if (isLit && element instanceof SVGElement) element.parentNode.append(element); // on top
  }
  document.querySelector(".tooltip")?.remove();
  const told = mark ?? charts[0].querySelector(`[data-line="${number}"] .star`);
  if (told) showTooltip(told);
}

function showTooltip(mark) {
  const chart = mark.closest(".chart");
  const number = mark.closest("[data-line]").dataset.line;
  const tooltip = document.createElement("div");
  tooltip.className = "tooltip";
  const name = document.createElement("b");
  name.textContent = chart.querySelector(`[data-line="${number}"][data-name]`).dataset.name;
  tooltip.append(name, mark.dataset.told);
  chart.append(tooltip);
  const [left, top] = middle(mark, chart);
  const across = Math.min(left + 12, chart.clientWidth - tooltip.offsetWidth);
  const above = top - tooltip.offsetHeight - 12;
  tooltip.style.left = `${Math.max(0, across)}px`;
  tooltip.style.top = `${above < 0 ? top + 14 : above}px`;
}

function middle(mark, chart) {
  const [own, frame] = [mark.getBoundingClientRect(), chart.getBoundingClientRect()];
  return [own.left + own.width / 2 - frame.left, own.top + own.height / 2 - frame.top];
}

function nearest(chart, event) {
  const frame = chart.getBoundingClientRect();
  const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
  let [found, least] = [null, 24]; // pixels
  for (const mark of chart.querySelectorAll("[data-told]")) {
    const [left, top] = middle(mark, chart);
    const distance = Math.hypot(left - x, top - y);
    if (distance < least) [found, least] = [mark, distance];
  }
  return found;
}

function restingLine() {
  return document.activeElement?.closest("[data-line]")?.dataset.line ?? null;
}

function sortBy(header) {
  const isAscending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
  const value = (row) => row.cells[header.cellIndex].dataset.value;
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return (isAscending ? 1 : -1) * (a - b || a.localeCompare(b));
  });
  body.append(...rows);
}

for (const header of body.parentNode.tHead.rows[0].cells) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
body.addEventListener("pointerover", (event) => light(event.target.closest("tr").dataset.line));
body.addEventListener("pointerleave", () => light(restingLine()));
body.addEventListener("focusin", () => light(restingLine()));
body.addEventListener("focusout", () => light(null));
for (const chart of charts) {
  for (const kind of ["pointermove", "pointerdown"]) {
    chart.addEventListener(kind, (event) => {
      const mark = nearest(chart, event);
      light(mark ? mark.closest("[data-line]").dataset.line : restingLine(), mark);
    });
  }
  chart.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") light(restingLine()); // a finger leaves as soon as it taps
  });
}
