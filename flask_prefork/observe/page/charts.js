/** Charts over the last minutes: lines, areas, axes, legends, and a shared cursor. */

import { byId, element, setAttribute, setList, setText, svg } from "./elements.js";
import { brief, count, decades, duration, period, short, ticks, trends, unbroken } from "./figures.js";
import { word } from "./words.js";

/**
 * @typedef {import("./figures.js").Snapshot} Snapshot
 * @typedef {import("./figures.js").Trends} Trends
 *
 * @typedef {object} Series
 * @property {string} name The trend's, and the class of what is drawn.
 * @property {string} label
 * @property {boolean} [area]
 *
 * @typedef {object} Chart
 * @property {string} id
 * @property {string} title
 * @property {string} unit
 * @property {(value: number) => string} format
 * @property {string} [meaning] Of the title, if it has another key in words.js.
 * @property {(value: number) => string} [tick] Format of the ticks, if it is another.
 * @property {(values: number[]) => number[]} axis The ticks for some values.
 * @property {boolean} [logarithmic]
 * @property {Series[]} series
 *
 * @typedef {object} Frame Where values are drawn, and how.
 * @property {number} width
 * @property {number} height
 * @property {(age: number) => number} x
 * @property {(value: number) => number} y
 */

/** Seconds that charts may span, the least first, and from mark to mark on the axis. */
const SPANS = [[60, 15], [120, 30], [300, 60]];
const MARGIN = { top: 8, right: 12, bottom: 22 };
/** The least room for the labels of the ticks, and what lies between them and the plot. */
const LABELS = { least: 40, gap: 8 };
/** The least height; charts.css has it too. */
const HEIGHT = 180;
/** What an arrow key moves the cursor by, in seconds. */
const STEP = 5;

const integers = (values) => ticks(Math.max(...values, 1), 1);

/** @type {Chart[]} */
const CHARTS = [
  {
    id: "pool",
    title: "Workers",
    meaning: "Workers over time",
    unit: "",
    format: count,
    axis: integers,
    series: [{ name: "busy", label: "busy", area: true }, { name: "workers", label: "total" }],
  },
  {
    id: "waiting",
    title: "Waiting for a worker",
    unit: "connections",
    format: count,
    axis: integers,
    series: [{ name: "waiting", label: "waiting", area: true }],
  },
  {
    id: "rate",
    title: "Requests",
    unit: "per second",
    format: short,
    axis: (values) => ticks(Math.max(...values, 1)),
    series: [{ name: "rate", label: "served", area: true }],
  },
  {
    id: "latency",
    title: "Latency",
    unit: `each point: ${unbroken("10", "seconds")}; logarithmic scale`,
    format: brief,
    tick: (value) => (value < 1 ? duration(value) : unbroken(count(value), "s")),
    axis: decades,
    logarithmic: true,
    series: [
      { name: "p50", label: "p50" },
      { name: "p90", label: "p90" },
      { name: "p99", label: "p99" },
      { name: "queued", label: "queue time p99" },
    ],
  },
];

/** How long ago the moment is that is looked at; null if it is now. @type {number?} */
let cursor = null;
/** What the last answer told. @type {Trends?} */
let current = null;
/** What all charts span now, so that what there is fills them. */
let [span, every] = SPANS[0];
/** Where the plots begin, right of the widest label. */
let left = LABELS.least;

/** @param {Snapshot} snapshot */
export function drawCharts(snapshot) {
  current = trends(snapshot);
  [span, every] = SPANS.find(([seconds]) => seconds >= current.age[0]) ?? SPANS[SPANS.length - 1];
  redraw();
}

function redraw() {
  if (!current) return;
  setList(byId("charts"), CHARTS, (chart) => chart.id, makeChart, () => {});
  const plots = CHARTS.map(begin);
  // The same for all: charts that stand below each other have their moments there too.
  const widths = plots.flatMap(({ labels }) => labels.map((label) => label.getComputedTextLength()));
  left = Math.ceil(Math.max(LABELS.least, ...widths)) + LABELS.gap;
  plots.forEach(finish);
}

/** @param {Chart} chart */
function makeChart(chart) {
  const title = element(
    "figcaption",
    "title",
    element("h3", "", word(chart.title, chart.meaning)),
    element("span", "note", chart.unit),
    element("ul", "legend"),
  );
  const drawing = svg("svg", { role: "img", tabindex: 0, height: HEIGHT });
  const node = element("figure", "card chart", title, drawing);
  node.id = `chart-${chart.id}`;
  title.dataset.terms = "";
  drawing.addEventListener("pointermove", (event) => look(ageAt(drawing, event)));
  drawing.addEventListener("pointerleave", () => look(null));
  drawing.addEventListener("blur", () => look(null));
  drawing.addEventListener("keydown", onKey);
  return node;
}

/**
 * Move the cursor of all charts.
 *
 * @param {number?} age
 */
function look(age) {
  cursor = age === null ? null : Math.min(Math.max(age, 0), span);
  redraw();
}

/**
 * @param {Element} drawing
 * @param {PointerEvent} event
 */
function ageAt(drawing, event) {
  const box = drawing.getBoundingClientRect();
  const inner = box.width - left - MARGIN.right;
  return span * (1 - (event.clientX - box.left - left) / inner);
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  const steps = { ArrowLeft: STEP, ArrowRight: -STEP };
  if (!(event.key in steps)) return;
  event.preventDefault();
  look((cursor ?? 0) + steps[event.key]);
}

/**
 * Find out what a chart shows, and write its heading and the labels of its ticks, to be
 * measured.
 *
 * @param {Chart} chart
 */
function begin(chart) {
  const node = byId(`chart-${chart.id}`);
  const ages = current.age;
  const lines = chart.series
    .map((series) => ({ ...series, values: current[series.name] }))
    .filter(({ values }) => values.some((value, i) => value !== null && ages[i] <= span));
  const visible = lines.flatMap(({ values }) => values.filter((value, i) => value !== null && ages[i] <= span));
  const scale = chart.axis(visible);
  const labels = scale.map((value) => {
    const text = svg("text", { class: "tick", "text-anchor": "end" });
    text.textContent = (chart.tick ?? chart.format)(value);
    return text;
  });
  const drawing = node.querySelector(":scope > svg");
  drawing.replaceChildren(...labels);
  const at = moment(ages);
  setList(node.querySelector(".legend"), lines, (line) => line.name, makeKey, (item, { values }) => {
    const value = values[at];
    setText(item.querySelector("b"), value == null ? "–" : chart.format(value));
  });
  const unit = lines.length ? chart.unit : "nothing yet";
  setText(node.querySelector(".note"), cursor === null ? unit : `${period(ages[at])} ago`);
  return { chart, drawing, lines, scale, labels };
}

/**
 * Draw in the room that there is when all headings are written.
 *
 * @param {ReturnType<typeof begin>} plot
 */
function finish({ chart, drawing, lines, scale, labels }) {
  const ages = current.age;
  const frame = framed(drawing, scale, chart.logarithmic);
  setAttribute(drawing, "viewBox", `0 0 ${frame.width} ${frame.height}`);
  setAttribute(drawing, "aria-label", summary(chart, lines));
  drawing.replaceChildren(
    ...scaleMarks(frame, scale, labels),
    ...timeMarks(frame),
    ...lines.filter(({ area }) => area).map((line) => areaMark(frame, ages, line)),
    ...lines.map((line) => lineMark(frame, ages, line)),
    ...(cursor === null ? [] : cursorMarks(frame, lines, moment(ages))),
  );
}

/**
 * The index of the sample that is looked at.
 *
 * @param {number[]} ages Falling.
 */
function moment(ages) {
  const past = ages.findIndex((age) => age <= (cursor ?? 0));
  return past < 0 ? ages.length - 1 : past;
}

/**
 * @param {SVGElement} drawing
 * @param {number[]} scale Its ticks.
 * @param {boolean} [logarithmic]
 * @returns {Frame}
 */
function framed(drawing, scale, logarithmic = false) {
  const [width, height] = [drawing.clientWidth || 400, drawing.clientHeight || HEIGHT];
  const measure = logarithmic ? Math.log10 : (value) => value;
  const [low, high] = [measure(scale[0]), measure(scale[scale.length - 1])];
  const inner = { width: width - left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const share = (value) => Math.min(Math.max((measure(value) - low) / (high - low), 0), 1);
  return {
    width,
    height,
    x: (age) => left + inner.width * (1 - age / span),
    y: (value) => MARGIN.top + inner.height * (1 - share(value)),
  };
}

/**
 * @param {Frame} frame
 * @param {number[]} scale
 * @param {Element[]} labels
 */
function scaleMarks(frame, scale, labels) {
  return scale.flatMap((value, i) => {
    const y = frame.y(value);
    const text = labels[i];
    setAttribute(text, "x", String(left - LABELS.gap));
    setAttribute(text, "y", String(y + 4));
    return [svg("line", { x1: left, x2: frame.width - MARGIN.right, y1: y, y2: y, class: "grid" }), text];
  });
}

/** @param {Frame} frame */
function timeMarks(frame) {
  const step = frame.width < 460 ? 2 * every : every;
  const marks = [];
  for (let age = 0; age <= span; age += step) {
    const anchor = age ? "middle" : "end";
    const x = age ? frame.x(age) : frame.width - MARGIN.right;
    const text = svg("text", { x, y: frame.height - 5, class: "tick", "text-anchor": anchor });
    text.textContent = age ? `−${period(age)}` : "now";
    marks.push(text);
  }
  return marks;
}

/**
 * A line's pieces: it has a gap where there is no value.
 *
 * @param {Frame} frame
 * @param {number[]} ages
 * @param {(number | null)[]} values
 * @returns {[number, number][][]}
 */
function pieces(frame, ages, values) {
  const found = [[]];
  values.forEach((value, i) => {
    if (value === null || ages[i] > span) {
      if (found[found.length - 1].length) found.push([]);
    } else {
      found[found.length - 1].push([frame.x(ages[i]), frame.y(value)]);
    }
  });
  return found.filter((piece) => piece.length);
}

const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;

/**
 * @param {Frame} frame
 * @param {number[]} ages
 * @param {{name: string, values: (number | null)[]}} line
 */
function lineMark(frame, ages, { name, values }) {
  // A single moment between gaps has no length: a dot by the line's round caps.
  const shape = pieces(frame, ages, values).map((points) => `${path(points)}${points.length > 1 ? "" : "h0"}`);
  return svg("path", { d: shape.join(""), class: `line ${name}` });
}

/**
 * @param {Frame} frame
 * @param {number[]} ages
 * @param {{name: string, values: (number | null)[]}} line
 */
function areaMark(frame, ages, { name, values }) {
  const floor = frame.height - MARGIN.bottom;
  const shape = pieces(frame, ages, values).map((points) => {
    const [left, right] = [points[0][0], points[points.length - 1][0]];
    return `${path(points)}L${right.toFixed(1)} ${floor}L${left.toFixed(1)} ${floor}Z`;
  });
  return svg("path", { d: shape.join(""), class: `area ${name}` });
}

/**
 * @param {Frame} frame
 * @param {{name: string, values: (number | null)[]}[]} lines
 * @param {number} at
 */
function cursorMarks(frame, lines, at) {
  const x = frame.x(Math.min(current.age[at], span));
  const dots = lines
    .filter(({ values }) => values[at] != null)
    .map(({ name, values }) => svg("circle", { cx: x, cy: frame.y(values[at]), r: 4, class: `dot ${name}` }));
  return [svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: frame.height - MARGIN.bottom, class: "cursor" }), ...dots];
}

/** @param {Series} series */
function makeKey(series) {
  const swatch = svg("svg", { width: 22, height: 10, "aria-hidden": "true" });
  swatch.append(svg("path", { d: "M1 5H21", class: `line ${series.name}` }));
  return element("li", "", swatch, word(series.label), " ", element("b"));
}

/**
 * What a chart says, in words.
 *
 * @param {Chart} chart
 * @param {{label: string, values: (number | null)[]}[]} lines
 */
function summary(chart, lines) {
  const parts = lines.map(({ label, values }) => {
    const known = values.filter((value) => value !== null);
    if (!known.length) return `${label}: nothing yet`;
    const last = values[values.length - 1];
    const now = last === null ? "none" : chart.format(last);
    return `${label}: now ${now}, at most ${chart.format(Math.max(...known))}`;
  });
  const name = [chart.title, chart.unit].filter(Boolean).join(", ");
  return `${name}, over the last minutes. ${parts.join("; ") || "No requests yet"}`;
}

/** Draw anew when there is more room, or less. */
export function watchCharts() {
  new ResizeObserver(redraw).observe(byId("charts"));
}
