/** The slots of each generation, what a slot's worker does, and the busy workers. */

import { byId, element, setAttribute, setFacts, setList, setShare, setText } from "./elements.js";
import { bytes, count, duration, period } from "./figures.js";
import { slots, STATES, tally } from "./states.js";
import { addTip } from "./tips.js";
import { word } from "./words.js";

/**
 * @typedef {import("./figures.js").Snapshot} Snapshot
 * @typedef {import("./figures.js").Generation} Generation
 * @typedef {import("./figures.js").Worker} Worker
 * @typedef {import("./states.js").Kind} Kind
 * @typedef {import("./states.js").Slot} Slot
 */

/** Up to so many slots there is room to tell what each does. */
const ROOMY = 24;
/** So many requests are listed unless more are asked for. */
const FEW = 10;
/** Seconds of a request at which a cell's bar is full; it is logarithmic. */
const LONG = 60;

/** The slot that each cell, and each row's button, stands for. @type {WeakMap<Element, {generation: Generation, slot: Slot}>} */
const meanings = new WeakMap();
/** Whether all requests are listed. */
let whole = false;
/** What was drawn last. @type {Snapshot?} */
let last = null;

/** @param {Snapshot} snapshot */
export function drawWorkers(snapshot) {
  last = snapshot;
  drawStates(snapshot);
  setList(byId("generations"), snapshot.generations, (g) => g.number, makeGeneration, updateGeneration);
  const full = `full at ${period(LONG)}, logarithmic scale`;
  setText(byId("bars"), `Bar in a cell: time since its request began, ${full}.`);
  drawRequests(snapshot);
}

/** @param {Snapshot} snapshot */
function drawStates({ generations }) {
  setList(byId("states"), tally(generations), (kind) => kind.name, makeKind, updateKind);
}

/** @param {Kind} kind */
function makeKind({ name }) {
  return element("li", "", element("span"), element("b"), " ", word(name), element("span", "parts"));
}

/**
 * @param {HTMLElement} node
 * @param {Kind} kind
 */
function updateKind(node, { count: many, letters, ordered }) {
  const [keys, number] = node.children;
  setList(keys, letters, (letter) => letter, makeKey, () => {});
  setText(number, count(many));
  const some = ordered ? [count(ordered)] : [];
  setList(node.lastElementChild, some, () => "ordered", makeOrdered, (part, text) => {
    setText(part.firstElementChild, text);
  });
}

/** @param {string} letter */
function makeKey(letter) {
  const key = element("span", "key", sign(letter));
  key.dataset.state = letter;
  return key;
}

const makeOrdered = () => element("span", "", element("span"), " ", word("ordered"));

/** @param {string} letter */
const sign = (letter) => (letter === "." ? "·" : letter);

/** @param {string} role What "retiring" says of a generation isn't what it says of a worker. */
const makeRole = (role) => element("span", "", word(role, role === "retiring" ? "retiring generation" : role));

/** @param {Generation} generation */
function makeGeneration(generation) {
  const heading = element("h3", "", `Generation ${generation.number}`);
  const role = element("span", "pill quiet");
  const title = element("div", "title", heading, role, element("p", "note"));
  title.dataset.terms = "";
  const cells = element("ol", "cells");
  cells.setAttribute("aria-label", `Slots of generation ${generation.number}`);
  return element("section", "generation", title, cells);
}

/**
 * @param {HTMLElement} node
 * @param {Generation} generation
 */
function updateGeneration(node, generation) {
  setAttribute(node, "data-role", generation.role);
  setList(node.querySelector(".pill"), [generation.role], (role) => role, makeRole, () => {});
  setText(node.querySelector(".note"), generation.workers.length ? "" : "The app is loading.");
  const cells = node.querySelector(".cells");
  const visible = slots(generation);
  cells.classList.toggle("roomy", visible.length <= ROOMY);
  setList(cells, visible, (slot) => slot.number, makeCell, (item, slot) => {
    meanings.set(item.firstElementChild, { generation, slot });
    updateCell(item.firstElementChild, slot);
  });
}

/**
 * A word for what the slot's worker does. The app may have its connection.
 *
 * @param {Slot} slot
 */
function stateOf({ letter, worker }) {
  const state = STATES[letter] ?? letter;
  return worker?.upgraded ? `${state}, upgraded` : state;
}

/** @param {Slot} slot */
function makeCell(slot) {
  const cell = element(
    "button",
    "cell",
    element("span", "slot", String(slot.number)),
    element("span", "letter"),
    element("span", "doing code"),
    element("span", "while"),
    element("span", "bar"),
  );
  cell.setAttribute("type", "button");
  cell.setAttribute("tabindex", "-1");
  return element("li", "", cell);
}

/**
 * @param {HTMLElement} cell
 * @param {Slot} slot
 */
function updateCell(cell, slot) {
  const { number, letter, worker } = slot;
  const doing = worker?.method ? `${worker.method} ${worker.target}` : "";
  const busy = worker?.busy_for ?? null;
  const state = stateOf(slot);
  setAttribute(cell, "data-state", letter);
  setText(cell.querySelector(".letter"), sign(letter));
  setText(cell.querySelector(".doing"), doing || state);
  setText(cell.querySelector(".while"), busy === null ? "" : duration(busy));
  setShare(cell, "--share", Math.log1p(busy ?? 0) / Math.log1p(LONG));
  setAttribute(cell, "aria-label", [`Slot ${number}: ${state}`, doing].filter(Boolean).join(", "));
}

/** @param {Snapshot} snapshot */
function drawRequests(snapshot) {
  const rows = snapshot.generations
    .flatMap((generation) => slots(generation)
      .map((slot) => ({ generation, slot, worker: slot.worker })))
    .filter(({ worker }) => (worker?.busy_for ?? null) !== null)
    .sort((one, other) => other.worker.busy_for - one.worker.busy_for);
  const listed = whole ? rows : rows.slice(0, FEW);
  const upgraded = rows.filter(({ worker }) => worker.upgraded).length;
  const many = listed.length < rows.length ? `${count(listed.length)} of ${count(rows.length)}` : count(rows.length);
  const requests = rows.length === 1 ? "request" : "requests";
  const note = `${many} ${requests}, longest first${upgraded ? `; ${count(upgraded)} upgraded` : ""}`;
  setText(byId("requests-note"), rows.length ? note : "None at this moment.");
  const button = byId("requests-all");
  button.hidden = rows.length <= FEW;
  setAttribute(button, "aria-expanded", String(whole));
  setText(button, whole ? `Show ${FEW}` : `Show all ${count(rows.length)}`);
  byId("requests-scroll").hidden = !rows.length;
  byId("requests-hint").hidden = !rows.length;
  const body = byId("requests").tBodies[0];
  setList(body, listed, nameOf, makeRow, updateRow);
}

/** @param {{generation: Generation, slot: Slot}} item */
const nameOf = ({ generation, slot }) => `${generation.number}.${slot.number}`;

function makeRow() {
  const button = element("button", "more");
  button.setAttribute("type", "button");
  const row = element("tr", "", element("th", "", button));
  row.firstElementChild.setAttribute("scope", "row");
  for (const kind of ["number", "", "wide code", "number", "number", "number", "number"]) {
    row.append(element("td", kind));
  }
  return row;
}

/**
 * @param {HTMLElement} row
 * @param {{generation: Generation, slot: Slot, worker: Worker}} item
 */
function updateRow(row, item) {
  const { worker } = item;
  const button = row.querySelector(".more");
  meanings.set(button, item);
  setText(button, nameOf(item));
  const texts = [
    duration(worker.busy_for),
    worker.method,
    worker.target,
    duration(worker.silent_for),
    count(worker.requests),
    bytes(worker.pss),
    String(worker.pid),
  ];
  texts.forEach((text, i) => setText(row.children[i + 1], text));
}

/**
 * Tell what a cell or a row's button stands for.
 *
 * @param {Element} anchor
 */
function fillDetail(anchor) {
  const { generation, slot } = meanings.get(anchor);
  const worker = slot.worker;
  setText(byId("detail-title"), `Worker ${generation.number}.${slot.number}: ${stateOf(slot)}`);
  setText(byId("detail-request"), worker?.method ? `${worker.method} ${worker.target}` : "");
  setFacts(byId("detail-facts"), worker ? facts(worker) : []);
}

/**
 * @param {Worker} worker
 * @returns {[string, string][]}
 */
function facts(worker) {
  return [
    ["Busy for", duration(worker.busy_for)],
    ["No progress for", duration(worker.silent_for)],
    ["PID", worker.pid ? String(worker.pid) : "–"],
    ["Age", period(worker.age)],
    ["Requests served", count(worker.requests)],
    ["Connections accepted", count(worker.connections)],
    ["Memory (PSS)", bytes(worker.pss)],
  ];
}

/** Let cells and rows tell more, and the list of requests be as long as its reader wants. */
export function watchWorkers() {
  addTip({ anchor: ".cell", group: ".cells", box: "detail", fill: fillDetail });
  addTip({
    anchor: ".more",
    area: "tbody tr",
    group: "#requests tbody",
    box: "detail",
    fill: fillDetail,
  });
  byId("requests-all").addEventListener("click", () => {
    whole = !whole;
    if (last) drawRequests(last);
  });
}
