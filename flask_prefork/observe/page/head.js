/** The head line, the tiles below it, and what is wrong. */

import { byId, element, setAttribute, setFacts, setList, setShare, setText } from "./elements.js";
import { brief, bytes, count, named, period, rates, samples, short, unbroken } from "./figures.js";
import { word } from "./words.js";

/** @typedef {import("./figures.js").Snapshot} Snapshot */

/** The phases for people, as in phase.py; and what the observer adds. */
export const PHASES = {
  loading: "starting: loads the app",
  serving: "serving",
  draining: "shutting down: serves what waits and runs",
  closing: "shutting down: workers finish their requests",
  leaving: "shutting down: all workers have exited",
  stopped: "stopped",
  gone: "the dispatcher has exited",
};

/**
 * @typedef {object} Tile
 * @property {string} name
 * @property {string} value
 * @property {string} note
 * @property {number} [share] What of the whole is used, from 0 to 1.
 * @property {boolean} [alarm]
 */

/** @param {Snapshot} snapshot */
export function drawHead(snapshot) {
  const ready = byId("ready");
  setText(ready.firstElementChild, snapshot.ready ? "✓ Ready" : "✕ Not ready");
  setAttribute(ready, "data-ready", String(snapshot.ready));
  setText(byId("phase").firstElementChild, PHASES[snapshot.phase] ?? snapshot.phase);
  setFacts(byId("facts"), [
    ["Uptime", period(snapshot.uptime)],
    ["Listens on", snapshot.addresses.join("  ") || "nothing yet"],
    ["Dispatcher PID", String(snapshot.pid)],
    ["Version", snapshot.version],
  ], word);
  setList(byId("tiles"), tiles(snapshot), (tile) => tile.name, makeTile, updateTile);
}

/**
 * @param {Snapshot} snapshot
 * @returns {Tile[]}
 */
function tiles(snapshot) {
  const { latency, queue, queue_limit: limit, queue_time: queueTime, max_workers: most, totals } = snapshot;
  const all = samples(snapshot);
  const { workers, busy } = all[all.length - 1];
  const queued = count(queue);
  const rate = rates(all).pop() ?? null;
  // Only then may there be more workers.
  const scales = snapshot.phase === "serving";
  const everyone = snapshot.generations.flatMap((generation) => generation.workers);
  const retiring = everyone.filter(({ state }) => state === "R").length;
  return [
    {
      name: "Busy workers",
      value: count(busy),
      note: [
        [unbroken("of", count(workers)), ...named({ retiring })].join(", "),
        unbroken("at", "most", count(most)),
      ].join("; "),
      share: most && busy / most,
    },
    {
      name: "Waiting for a worker",
      value: count(snapshot.waiting),
      note: `${limit ? unbroken(queued, "of", count(limit)) : queued} in the accept queue`,
      share: limit && queue / limit,
      alarm: limit > 0 && queue >= limit / 2,
    },
    {
      name: "Requests per second",
      value: rate === null ? "–" : short(rate),
      note: `${count(totals.requests)} in total`,
    },
    { name: "Median latency", value: brief(latency.p50), note: tails(latency) },
    { name: "Median queue time", value: brief(queueTime.p50), note: tails(queueTime) },
    { name: "Parked connections", value: count(snapshot.parked), note: waiting(snapshot) },
    {
      name: "Saturated",
      value: scales ? { true: "yes", false: "no" }[snapshot.saturated] : "–",
      note: `${period(totals.saturated)} in total`,
      alarm: scales && snapshot.saturated,
    },
  ];
}

/**
 * The quantiles above the median, and what they are of.
 *
 * @param {import("./figures.js").Quantiles} quantiles
 */
function tails({ window, requests, p90, p99 }) {
  if (!window) return "no history yet";
  const last = unbroken("last", period(Math.round(window)));
  if (!requests) return `no request, ${last}`;
  return [unbroken("p90", brief(p90)), unbroken("p99", brief(p99)), last].join(", ");
}

/**
 * What parked connections wait for, and what is kept for slow clients.
 *
 * @param {Snapshot} snapshot
 */
function waiting({ parked_by_state: states, delivering, spooled }) {
  const told = named({ ...states, "at the sender": delivering });
  if (spooled) told.push(unbroken(bytes(spooled), "spooled"));
  return told.join(", ") || "occupy no worker";
}

/** @param {Tile} tile */
function makeTile(tile) {
  const title = element("h3", "", word(tile.name));
  const value = element("p", "value", element("span"));
  const node = element("li", "tile", title, value, element("p", "note"));
  if (tile.share !== undefined) node.append(element("span", "bar"));
  return node;
}

/**
 * @param {HTMLElement} node
 * @param {Tile} tile
 */
function updateTile(node, tile) {
  node.classList.toggle("alarm", Boolean(tile.alarm));
  setText(node.querySelector(".value").firstElementChild, tile.value);
  setText(node.querySelector(".note"), tile.note);
  if (tile.share !== undefined) setShare(node.querySelector(".bar"), "--share", tile.share);
}
