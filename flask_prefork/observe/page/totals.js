/** What has been counted since the server's start. */

import { byId, element, setFacts, setList, setShare, setText } from "./elements.js";
import { bytes, count, duration, period, short, sum, unbroken } from "./figures.js";
import { word } from "./words.js";

/**
 * @typedef {import("./figures.js").Snapshot} Snapshot
 * @typedef {import("./figures.js").Totals} Totals
 */

const CLASSES = ["no response", "1xx", "2xx", "3xx", "4xx", "5xx"];

/** @param {Snapshot} snapshot */
export function drawTotals({ totals, limits, tls_connections: connected }) {
  const groups = [
    { name: "Unexpected exits", facts: deaths(totals) },
    { name: "Workers", facts: lives(totals) },
    { name: "Dispatch", facts: dispatch(totals) },
    { name: "Traffic", facts: traffic(totals) },
    { name: "Slow clients", facts: sender(totals) },
    { name: "Load shedding", facts: shed(totals) },
    ...(connected || sum(Object.values(totals.tls_handshakes))
      ? [{ name: "TLS", facts: tls(totals, connected) }] : []),
    ...(limits.length
      ? [{ name: "Limits of routes", facts: limits.map(limited), style: "limits" }] : []),
  ];
  const box = byId("totals");
  if (!box.firstElementChild) box.append(makeClasses(), element("div", "groups"));
  updateClasses(box.firstElementChild, totals.classes);
  setList(box.lastElementChild, groups, (group) => group.name, makeGroup, (node, group) => {
    setFacts(node.querySelector("dl"), group.facts, (term) => word(term, `${group.name}: ${term}`));
  });
}

function makeClasses() {
  const title = element("h3", "", word("Requests by status"));
  return element("section", "classes", title, element("div", "stack"), element("ul", "legend"), element("p", "note"));
}

/**
 * @param {HTMLElement} node
 * @param {number[]} classes
 */
function updateClasses(node, classes) {
  const total = sum(classes);
  const items = classes
    .map((value, index) => ({ value, index, share: total && value / total }))
    .filter(({ value }) => value);
  const [, stack, legend, note] = node.children;
  setList(stack, items, ({ index }) => index, makePart, (part, { share }) => {
    setShare(part, "--share", share);
  });
  setList(legend, items, ({ index }) => index, makeClass, (item, { value, share }) => {
    setText(item.querySelector("b"), count(value));
    setText(item.querySelector(".note"), percent(share));
  });
  setText(note, total ? "" : "No requests yet.");
}

/** @param {{index: number}} item */
function makePart({ index }) {
  const part = element("span");
  part.dataset.class = String(index);
  return part;
}

/** @param {{index: number}} item */
function makeClass({ index }) {
  const key = element("span", "swatch");
  key.dataset.class = String(index);
  return element("li", "", key, word(CLASSES[index]), " ", element("b"), " ", element("span", "note"));
}

/** @param {number} share */
const percent = (share) => unbroken(share < 0.001 ? "<\u00a00.1" : short(share * 100), "%");

/** @param {{name: string, style?: string}} group */
const makeGroup = ({ name, style }) => element(
  "section",
  style,
  element("h3", "", word(name)),
  element("dl", "facts"),
);

/**
 * @param {Totals} totals
 * @returns {[string, string][]}
 */
function deaths(totals) {
  const reasons = Object.entries(totals.deaths).filter(([, many]) => many);
  reasons.sort(([, one], [, other]) => other - one);
  return reasons.length ? reasons.map(([reason, many]) => [reason, count(many)]) : [["none", "0"]];
}

/**
 * @param {Totals} totals
 * @returns {[string, string][]}
 */
function lives(totals) {
  return [
    ["started", count(totals.spawned)],
    ["retired", count(totals.retired)],
    ["reloads", count(totals.reloads)],
    ["time saturated", period(totals.saturated)],
  ];
}

/**
 * @param {Totals} totals
 * @returns {[string, string][]}
 */
function dispatch(totals) {
  return [
    ["orders to accept", count(totals.orders)],
    ["connections parked", count(totals.parked)],
    ["connections resumed", count(totals.resumed)],
  ];
}

/**
 * @param {Totals} totals
 * @returns {[string, string][]}
 */
const sender = ({ deliveries }) => Object.entries(deliveries)
  .map(([result, many]) => [`responses ${result}`, count(many)]);

/**
 * @param {Totals} totals
 * @returns {[string, string][]}
 */
const shed = ({ shed: reasons }) => Object.entries(reasons)
  .map(([reason, many]) => [`by ${reason}`, count(many)]);

/**
 * @param {Totals} totals
 * @param {number} connected
 * @returns {[string, string][]}
 */
const tls = ({ tls_handshakes: handshakes, tls_aborted: aborted }, connected) => [
  ["connections", count(connected)],
  ...Object.entries(handshakes).map(([result, many]) => [`handshakes ${result}`, count(many)]),
  ...Object.entries(aborted).map(([reason, many]) => [`connections ${reason}`, count(many)]),
];

/**
 * @param {import("./figures.js").Limit} limit
 * @returns {[string, string]}
 */
function limited({ name, concurrency, running, waiting, refused }) {
  const most = concurrency ? ["of", count(concurrency)] : [];
  const told = [
    unbroken(count(running), ...most, "running"),
    unbroken(count(waiting), "waiting"),
    unbroken(count(refused), "refused"),
  ];
  return [name, told.join(", ")];
}

/**
 * @param {Totals} totals
 * @returns {[string, string][]}
 */
function traffic(totals) {
  return [
    ["requests", count(totals.requests)],
    ["connections", count(totals.connections)],
    ["sent", bytes(totals.sent)],
    ["mean latency", totals.requests ? duration(totals.spent / totals.requests) : "–"],
  ];
}
