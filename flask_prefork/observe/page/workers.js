/** The slots of each generation, what a slot's worker does, and the busy workers. */

import { byId, element, setAttribute, setFacts, setList, setShare, setText } from "./elements.js";
import { bytes, count, duration, period } from "./figures.js";

/**
 * @typedef {import("./figures.js").Snapshot} Snapshot
 * @typedef {import("./figures.js").Generation} Generation
 * @typedef {import("./figures.js").Worker} Worker
 *
 * @typedef {object} Slot
 * @property {number} number
 * @property {string} letter
 * @property {Worker} [worker]
 */

/** The states by their letters, as in pool.py. */
export const STATES = {
  B: "busy",
  I: "idle",
  O: "ordered",
  S: "starting",
  R: "retiring",
  K: "killed",
  ".": "free",
};
const ROLES = { current: "current", next: "next", retiring: "retiring" };
/** Up to so many slots there is room to tell what each does. */
const ROOMY = 24;
/** Seconds of a request at which a cell's bar is full; it is logarithmic. */
const LONG = 60;

/** The cell that the details are of. @type {HTMLElement?} */
let shown = null;
/** The slot that each cell stands for. @type {WeakMap<Element, {generation: Generation, slot: Slot}>} */
const meanings = new WeakMap();

/** @param {Snapshot} snapshot */
export function drawWorkers(snapshot) {
  drawStates(snapshot);
  setList(byId("generations"), snapshot.generations, (g) => g.number, makeGeneration, updateGeneration);
  drawRequests(snapshot);
  drawDetail();
}

/**
 * What there is to show: of one that retires no free slot, for nobody is started there.
 *
 * @param {Generation} generation
 * @returns {Slot[]}
 */
function slots({ role, letters, workers }) {
  const present = new Map(workers.map((worker) => [worker.slot, worker]));
  return [...letters]
    .map((letter, number) => ({ number, letter, worker: present.get(number) }))
    .filter(({ letter }) => role !== "retiring" || letter !== ".");
}

/** @param {Snapshot} snapshot */
function drawStates(snapshot) {
  const all = snapshot.generations.flatMap(slots);
  setList(byId("states"), Object.keys(STATES), (letter) => letter, makeState, (node, letter) => {
    const many = all.filter((slot) => slot.letter === letter).length;
    setText(node.querySelector("b"), count(many));
    node.classList.toggle("none", !many);
  });
}

/** @param {string} letter */
function makeState(letter) {
  const key = element("span", "key", letter === "." ? "·" : letter);
  key.dataset.state = letter;
  return element("li", "", key, element("b"), ` ${STATES[letter]}`);
}

/** @param {Generation} generation */
function makeGeneration(generation) {
  const heading = element("h3", "", `Generation ${generation.number}`);
  const title = element("div", "title", heading, element("span", "pill quiet"), element("p", "note"));
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
  setText(node.querySelector(".pill"), ROLES[generation.role] ?? generation.role);
  setText(node.querySelector(".note"), generation.workers.length ? "" : "The app is loading.");
  const cells = node.querySelector(".cells");
  const visible = slots(generation);
  cells.classList.toggle("roomy", visible.length <= ROOMY);
  setList(cells, visible, (slot) => slot.number, makeCell, (item, slot) => {
    meanings.set(item.firstElementChild, { generation, slot });
    updateCell(item.firstElementChild, slot);
  });
  // One stop for the Tab key in each generation; arrows go from there.
  if (!cells.querySelector("[tabindex='0']")) cells.querySelector(".cell")?.setAttribute("tabindex", "0");
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
  setText(cell.querySelector(".letter"), letter === "." ? "·" : letter);
  setText(cell.querySelector(".doing"), doing || state);
  setText(cell.querySelector(".while"), busy === null ? "" : duration(busy));
  setShare(cell, "--share", Math.log1p(busy ?? 0) / Math.log1p(LONG));
  setAttribute(cell, "aria-label", [`Slot ${number}: ${state}`, doing].filter(Boolean).join(", "));
}

/** @param {Snapshot} snapshot */
function drawRequests(snapshot) {
  const rows = snapshot.generations
    .flatMap((generation) => generation.workers.map((worker) => ({ generation: generation.number, worker })))
    .filter(({ worker }) => worker.busy_for !== null)
    .sort((one, other) => other.worker.busy_for - one.worker.busy_for);
  const upgraded = rows.filter(({ worker }) => worker.upgraded).length;
  const note = `${count(rows.length)}, the longest first${upgraded ? `; ${count(upgraded)} upgraded` : ""}`;
  setText(byId("requests-note"), rows.length ? note : "Nothing at this moment.");
  byId("requests-scroll").hidden = !rows.length;
  const body = byId("requests").tBodies[0];
  setList(body, rows, ({ generation, worker }) => `${generation}.${worker.slot}`, makeRow, updateRow);
}

function makeRow() {
  const row = element("tr", "", element("th"));
  row.firstElementChild.setAttribute("scope", "row");
  for (const kind of ["number", "", "wide code", "number", "number", "number", "number"]) {
    row.append(element("td", kind));
  }
  return row;
}

/**
 * @param {HTMLElement} row
 * @param {{generation: number, worker: Worker}} item
 */
function updateRow(row, { generation, worker }) {
  const texts = [
    `${generation}.${worker.slot}`,
    duration(worker.busy_for),
    worker.method,
    worker.target,
    duration(worker.silent_for),
    count(worker.requests),
    bytes(worker.pss),
    String(worker.pid),
  ];
  texts.forEach((text, i) => setText(row.children[i], text));
}

/** Show what the shown cell stands for, if there is one and it is still there. */
function drawDetail() {
  const box = byId("detail");
  if (!shown?.isConnected) shown = null;
  box.hidden = !shown;
  if (!shown) return;
  const { generation, slot } = meanings.get(shown);
  const worker = slot.worker;
  setText(byId("detail-title"), `Worker ${generation.number}.${slot.number}: ${stateOf(slot)}`);
  setText(byId("detail-request"), worker?.method ? `${worker.method} ${worker.target}` : "");
  setFacts(byId("detail-facts"), worker ? facts(worker) : []);
  place(box, shown);
}

/**
 * @param {Worker} worker
 * @returns {[string, string][]}
 */
function facts(worker) {
  return [
    ["Busy for", duration(worker.busy_for)],
    ["Silent for", duration(worker.silent_for)],
    ["Pid", worker.pid ? String(worker.pid) : "–"],
    ["Age", period(worker.age)],
    ["Requests", count(worker.requests)],
    ["Connections", count(worker.connections)],
    ["PSS", bytes(worker.pss)],
  ];
}

/**
 * Put a box below an element, or above it where there is no room.
 *
 * @param {HTMLElement} box
 * @param {HTMLElement} anchor
 */
function place(box, anchor) {
  const at = anchor.getBoundingClientRect();
  const left = Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 8);
  const below = at.bottom + 6 + box.offsetHeight <= document.documentElement.clientHeight;
  box.style.left = `${Math.max(left, 8)}px`;
  box.style.top = `${below ? at.bottom + 6 : Math.max(at.top - box.offsetHeight - 6, 8)}px`;
}

/** @param {HTMLElement?} cell */
function show(cell) {
  shown?.removeAttribute("aria-describedby");
  shown = cell;
  shown?.setAttribute("aria-describedby", "detail");
  drawDetail();
}

/** @param {EventTarget?} target */
const cellOf = (target) => (target instanceof Element ? target.closest(".cell") : null);

/**
 * The cell that a key leads to.
 *
 * @param {HTMLElement} cell
 * @param {string} key
 * @returns {HTMLElement | undefined}
 */
function neighbour(cell, key) {
  const cells = [...cell.closest(".cells").querySelectorAll(".cell")];
  const here = cells.indexOf(cell);
  const columns = cells.filter((other) => other.offsetTop === cells[0].offsetTop).length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  if (key in steps) return cells[here + steps[key]];
  return { Home: cells[0], End: cells[cells.length - 1] }[key];
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.key === "Escape") return show(null);
  const cell = cellOf(event.target);
  const next = cell && neighbour(cell, event.key);
  if (!next) return;
  event.preventDefault();
  next.focus();
}

/** @param {FocusEvent} event */
function onFocus(event) {
  const cell = cellOf(event.target);
  if (!cell) return show(null);
  const before = cell.closest(".cells").querySelector("[tabindex='0']");
  before?.setAttribute("tabindex", "-1");
  cell.setAttribute("tabindex", "0");
  show(cell);
}

/** Let the cells tell more when they are pointed at, focused or tapped. */
export function watchCells() {
  document.addEventListener("pointerover", (event) => {
    if (!byId("detail").contains(event.target)) show(cellOf(event.target) ?? cellOf(document.activeElement));
  });
  document.addEventListener("click", (event) => show(cellOf(event.target)));
  document.addEventListener("focusin", onFocus);
  document.addEventListener("focusout", () => show(null));
  document.addEventListener("keydown", onKey);
  document.addEventListener("scroll", drawDetail, { capture: true, passive: true });
}
