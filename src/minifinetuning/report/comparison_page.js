/* What moves on the page: one result alone, the same in every chart and in the table; sorting. */

const body = document.querySelector("tbody");
const charts = [...document.querySelectorAll(".chart")];

function light(index, chart = charts[0], target = null) {
  document.body.classList.toggle("has-lit", index !== null);
  for (const element of document.querySelectorAll("[data-line]")) {
    element.classList.toggle("lit", Number(element.dataset.line) === index);
  }
  for (const tooltip of document.querySelectorAll(".tooltip")) tooltip.remove();
  if (index === null) return;
  for (const element of document.querySelectorAll("g.lit")) element.parentNode.append(element);
  const isStar = (other) => other.point === lines[index].kept;
  const shown = target ?? chart.targets.find(isStar);
  if (shown) showTooltip(chart, shown);
}

function showTooltip(chart, { point, index, left, top }) {
  const percent = (value) => `${(Math.round(100 * value) / 100 + 0).toFixed(2)} %`;
  const tooltip = document.createElement("div");
  tooltip.className = "tooltip";
  const name = document.createElement("b");
  name.textContent = lines[index].name;
  const place = "c" in point ? `c = ${point.c}` : `step ${point.step}`;
  const kept = point === lines[index].kept ? " (kept)" : "";
  const values = [`${place}${kept}`, `S ${percent(point.s)}`];
  if (typeof point.dg === "number") values.push(`DG ${percent(point.dg)}`);
  tooltip.append(name, values.join(" · "));
  chart.append(tooltip);
  const across = Math.min(left + 12, chart.clientWidth - tooltip.offsetWidth);
  const above = top - tooltip.offsetHeight - 12;
  tooltip.style.left = `${Math.max(0, across)}px`;
  tooltip.style.top = `${above < 0 ? top + 14 : above}px`;
}

function restingLine() {
  const row = document.activeElement?.closest("[data-line]");
  return row ? Number(row.dataset.line) : null;
}

function nearest(chart, event) {
  const { left, top } = chart.getBoundingClientRect();
  const [x, y] = [event.clientX - left, event.clientY - top];
  const distance = (target) => Math.hypot(target.left - x, target.top - y);
  const [first] = [...chart.targets].sort((one, other) => distance(one) - distance(other));
  return first && distance(first) < 24 ? first : null;
}

/* Sorting */

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

/* What is set in motion */

document.body.classList.toggle("crowded", isCrowded);
for (const row of body.rows) {
  const line = lines[row.dataset.line];
  const swatch = row.querySelector(".swatch");
  const key = svg("svg", { width: 34, height: 12, "aria-hidden": "true" }, swatch);
  const group = lineGroup(line, key);
  svg("path", { d: "M1 6H33", "stroke-dasharray": dashes(line) }, group);
  svg("path", { class: "mark", d: mark(line.marker, 17, 6, 3) }, group);
}
for (const header of body.parentNode.tHead.rows[0].cells) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
body.addEventListener("pointerover", (event) => {
  light(Number(event.target.closest("tr").dataset.line));
});
body.addEventListener("pointerleave", () => light(restingLine()));
body.addEventListener("focusin", () => light(restingLine()));
body.addEventListener("focusout", () => light(null));
const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) if (contentRect.width > 0) draw(target);
});
for (const chart of charts) {
  chart.targets = [];
  resized.observe(chart); // draws it for the first time, too
  for (const kind of ["pointermove", "pointerdown"]) {
    chart.addEventListener(kind, (event) => {
      const target = nearest(chart, event);
      light(target ? target.index : restingLine(), target ? chart : undefined, target);
    });
  }
  chart.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") light(restingLine()); // a finger leaves as soon as it taps
  });
}
