"use strict";

/* Draws the page's data into its charts. */

const { lines, axes, budget } = JSON.parse(document.getElementById("data").textContent);
const isCrowded = lines.length > 4; // then names and intervals must make way

const titles = {
  s: "S, gain on the specialized text, %",
  dg: "DG, loss on the general text, %",
  step: "step",
};

/* Elements */

function svg(tag, attributes, parent, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

function lineGroup(line, parent, attributes = {}) {
  const group = svg("g", { class: "line", ...attributes }, parent);
  group.style.setProperty("--colour", line.colour);
  group.style.setProperty("--paleness", `${100 * line.paleness}%`);
  return group;
}

/* Marks: corners about the origin, for a mark of radius 1; a circle has none. */

const plus = [
  [-1, -3], [1, -3], [1, -1], [3, -1], [3, 1], [1, 1],
  [1, 3], [-1, 3], [-1, 1], [-3, 1], [-3, -1], [-1, -1],
].map(([x, y]) => [0.4 * x, 0.4 * y]);
const corners = {
  s: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
  "^": [[0, -1.3], [1.2, 0.9], [-1.2, 0.9]],
  v: [[0, 1.3], [1.2, -0.9], [-1.2, -0.9]],
  "<": [[-1.3, 0], [0.9, 1.2], [0.9, -1.2]],
  ">": [[1.3, 0], [-0.9, 1.2], [-0.9, -1.2]],
  D: [[0, -1.35], [1.35, 0], [0, 1.35], [-1.35, 0]],
  P: plus,
  X: plus.map(([x, y]) => [Math.SQRT1_2 * (x - y), Math.SQRT1_2 * (x + y)]),
  "*": Array.from({ length: 10 }, (_, corner) => {
    const radius = corner % 2 ? 0.42 : 1;
    return [radius * Math.sin((corner * Math.PI) / 5), -radius * Math.cos((corner * Math.PI) / 5)];
  }),
};

function mark(kind, x, y, radius) {
  if (!(kind in corners)) {
    const half = (across) => `a${radius} ${radius} 0 1 0 ${across} 0`;
    return `M${x - radius} ${y}${half(2 * radius)}${half(-2 * radius)}z`;
  }
  return `M${corners[kind].map(([a, b]) => `${x + radius * a} ${y + radius * b}`).join("L")}z`;
}

function dashes(line) {
  return line.dash.map((length) => 1.6 * length).join(" ") || "none";
}

/* Scales: a function from a value to a pixel that knows its ticks. */

function scaleOf(quantity, start, end) {
  const axis = axes[quantity] ?? { limits: stepLimits() };
  const place = axis.width ? (value) => Math.asinh(value / axis.width) : (value) => value;
  const [low, high] = axis.limits.map(place);
  const scale = (value) => start + ((place(value) - low) / (high - low)) * (end - start);
  const spacing = quantity === "s" || start > end ? 28 : 44; // pixels that a tick needs
  const wanted = axis.ticks ?? roundTicks(axis.limits, Math.abs(end - start) / (spacing * 1.8));
  scale.limits = axis.limits;
  scale.ticks = spaced(wanted, scale, spacing);
  scale.shows = (value) => axis.limits[0] <= value && value <= axis.limits[1];
  return scale;
}

function stepLimits() {
  const last = Math.max(1, ...lines.flatMap((line) => line.points.map((point) => point.step)));
  return [0, last];
}

function roundTicks([low, high], count) {
  const rough = (high - low) / Math.max(2, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= rough);
  const first = Math.ceil(low / size);
  const length = Math.floor(high / size) - first + 1;
  return Array.from({ length }, (_, index) => Number(((first + index) * size).toPrecision(12)));
}

function spaced(ticks, scale, spacing) {
  const outwards = [...ticks].sort((one, other) => Math.abs(one) - Math.abs(other));
  const kept = [];
  for (const tick of outwards) {
    if (kept.every((other) => Math.abs(scale(tick) - scale(other)) >= spacing)) kept.push(tick);
  }
  return kept;
}

/* Charts: axes below, then the lines, then stars and names on top. */

function draw(chart) {
  const frame = frameOf(chart);
  const { width, height, box, across, upward } = frame;
  const title = `${titles[upward]}, over ${titles[across]}: the table has the numbers`;
  chart.querySelector("svg")?.remove();
  const root = svg("svg", { width, height, role: "img", "aria-label": title });
  chart.prepend(root);
  drawAxes(root, frame);
  const budgetName = drawBudget(root, frame);
  const view = `${box.left} ${box.top} ${box.width} ${box.height}`;
  const { left: x, top: y } = box;
  const clipped = svg("svg", { x, y, width: box.width, height: box.height, viewBox: view }, root);
  const shown = lines.map((line, index) => ({ line, index }))
    .filter(({ line }) => Number.isFinite(line.kept[upward]) && Number.isFinite(line.kept[across]))
    .filter(({ line }) => across !== "step" || !isBlend(line)) // all of a blend is at one step
    .map(({ line, index }) => placed(line, index, frame));
  for (const result of shown) drawLine(clipped, result);
  for (const result of shown) result.group = drawStar(root, result);
  if (budgetName) root.append(budgetName);
  if (frame.isFrontier || !isCrowded) nameLines(shown, box, budgetName);
  const visible = ({ point }) => frame.shows(point);
  chart.targets = shown.flatMap(({ star, spots }) => [star, ...spots.filter(visible)]);
}

function isBlend(line) {
  return line.points.some((point) => "c" in point);
}

function frameOf(chart) {
  const { x: across, y: upward } = chart.dataset;
  const isFrontier = across === "dg";
  const width = chart.clientWidth;
  const height = Math.round(Math.min(Math.max(0.56 * width, 300), isFrontier ? 460 : 340));
  const box = { left: 36, right: width - 14, top: 30, bottom: height - 44 };
  box.width = box.right - box.left;
  box.height = box.bottom - box.top;
  const x = scaleOf(across, box.left, box.right);
  const y = scaleOf(upward, box.bottom, box.top);
  const shows = (point) => x.shows(point[across]) && y.shows(point[upward]);
  return { across, upward, isFrontier, width, height, box, x, y, shows };
}

/* A line in pixels: its evaluations, its star, and the ends of its intervals. */
function placed(line, index, { across, upward, x, y }) {
  const spot = (point) => ({ point, index, left: x(point[across]), top: y(point[upward]) });
  const star = spot(line.kept);
  const bars = [line.intervals[upward].map((bound) => ({ ...star, top: y(bound) }))];
  if (across !== "step") {
    bars.push(line.intervals[across].map((bound) => ({ ...star, left: x(bound) })));
  }
  return { line, index, spots: line.points.map(spot), star, bars };
}

function drawAxes(root, { box, x, y, across, upward }) {
  const { left, right, top, bottom } = box;
  const words = (tick) => String(tick).replace("-", "−");
  const kind = (tick) => (tick === 0 ? "zero" : "grid");
  for (const tick of y.ticks) {
    svg("line", { class: kind(tick), x1: left, x2: right, y1: y(tick), y2: y(tick) }, root);
    svg("text", { x: left - 7, y: y(tick) + 4, "text-anchor": "end" }, root, words(tick));
  }
  for (const tick of x.ticks) {
    svg("line", { class: kind(tick), x1: x(tick), x2: x(tick), y1: top, y2: bottom }, root);
    svg("text", { x: x(tick), y: bottom + 17, "text-anchor": "middle" }, root, words(tick));
  }
  svg("text", { x: 0, y: 14 }, root, titles[upward]);
  svg("text", { x: right, y: bottom + 38, "text-anchor": "end" }, root, titles[across]);
}

/* A dashed line where DG is the budget, and a wash over all that is above; its name comes back. */
function drawBudget(root, { box: { left, right, top, bottom }, x, y, across, upward }) {
  const scale = { [across]: x, [upward]: y }.dg;
  if (!scale?.shows(budget)) return null;
  const at = scale(budget);
  const [start, end] = across === "dg" ? [at, bottom] : [left, at];
  svg("rect", { class: "over", x: start, y: top, width: right - start, height: end - top }, root);
  const [x2, y2] = across === "dg" ? [at, top] : [right, at];
  svg("line", { class: "budget", x1: start, x2, y1: end, y2 }, root);
  const place = { x: start + 6, y: across === "dg" ? top + 14 : at - 6 };
  return svg("text", { class: "budget-name", ...place }, root, `budget, DG ≤ ${budget} %`);
}

function pathThrough(spots) {
  return `M${spots.map(({ left, top }) => `${left} ${top}`).join("L")}`;
}

function drawLine(parent, { line, index, spots }) {
  const group = lineGroup(line, parent, { "data-line": index });
  svg("path", { d: pathThrough(spots), "stroke-dasharray": dashes(line) }, group);
  const marks = spots.map(({ left, top }) => mark(line.marker, left, top, 2.6));
  svg("path", { class: "mark", d: marks.join("") }, group);
}

function drawStar(parent, { line, index, star, bars }) {
  const group = lineGroup(line, parent, { "data-line": index });
  svg("path", { class: "cross", d: bars.map(pathThrough).join("") }, group);
  svg("path", { class: "star", d: mark("*", star.left, star.top, 8) }, group);
  return group;
}

/* Names beside the stars, where they hide least. Where many lines are drawn, a name that would
   hide anything is left out: the table has them all. */
function nameLines(shown, box, budgetName) {
  const taken = shown.map(({ star: { left, top } }) => (
    { left: left - 7, right: left + 7, top: top - 7, bottom: top + 7 }
  ));
  if (budgetName) taken.push(bounds(budgetName));
  const drawn = shown.flatMap(({ spots, bars }) => (isCrowded ? [spots] : [spots, ...bars]));
  const inked = drawn.flatMap(pointsAlong);
  const hidden = (own) => {
    if (own.left < box.left || own.right > box.right + 14 || own.top < box.top - 8) return Infinity;
    const points = inked.filter((point) => overlap(own, point)).length;
    return points + 100 * taken.filter((other) => overlap(own, other)).length;
  };
  for (const { line, star: { left, top }, group } of shown) {
    const text = svg("text", {}, group, line.name);
    const { width } = text.getBBox();
    const choices = [
      [left + 11, top + 4], [left + 8, top - 9], [left + 8, top + 17], [left - 11 - width, top + 4],
      [left - 8 - width, top - 9], [left - width / 2, top - 12], [left - width / 2, top + 20],
    ].map(([x, y]) => {
      const cost = hidden({ left: x, right: x + width, top: y - 10, bottom: y + 3 });
      return { x, y, cost };
    });
    const best = choices.reduce((one, other) => (other.cost < one.cost ? other : one));
    text.setAttribute("x", best.x);
    text.setAttribute("y", best.y);
    if (isCrowded && best.cost > 0) text.remove();
    else taken.push(bounds(text));
  }
}

function pointsAlong(spots) {
  return spots.slice(1).flatMap((to, order) => {
    const from = spots[order];
    const count = Math.ceil(Math.hypot(to.left - from.left, to.top - from.top) / 4);
    return Array.from({ length: count }, (_, part) => {
      const left = from.left + (part / count) * (to.left - from.left);
      const top = from.top + (part / count) * (to.top - from.top);
      return { left, right: left, top, bottom: top };
    });
  });
}

function bounds(element) {
  const { x, y, width, height } = element.getBBox();
  return { left: x, right: x + width, top: y + 2, bottom: y + height - 2 };
}

function overlap(one, other) {
  const isApart = one.left >= other.right || other.left >= one.right;
  return !isApart && one.top < other.bottom && other.top < one.bottom;
}
