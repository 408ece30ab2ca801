/** The head line, the tiles below it, and what is wrong. */

import { byId, element, setFacts, setList, setShare, setText } from "./elements.js";
import { bytes, count, duration, latencies, named, period, quantile, queueTimes, rates, samples, short } from "./figures.js";

/** @typedef {import("./figures.js").Snapshot} Snapshot */

/** The phases for people, as in phase.py; and what the observer adds. */
export const PHASES = {
  loading: "loading the app",
  serving: "serving",
  draining: "draining: finishes what waits and runs",
  closing: "closing: workers finish",
  leaving: "leaving",
  stopped: "stopped",
  gone: "the dispatcher is gone",
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
  setText(ready, snapshot.ready ? "✓ Ready" : "✕ Not ready");
  ready.dataset.ready = String(snapshot.ready);
  setText(byId("phase"), PHASES[snapshot.phase] ?? snapshot.phase);
  setFacts(byId("facts"), [
    ["Up", period(snapshot.uptime)],
    ["Serves on", snapshot.addresses.join("  ") || "nothing yet"],
    ["Dispatcher", String(snapshot.pid)],
    ["Version", snapshot.version],
  ]);
  setList(byId("tiles"), tiles(snapshot), (tile) => tile.name, makeTile, updateTile);
}

/**
 * @param {Snapshot} snapshot
 * @returns {Tile[]}
 */
function tiles(snapshot) {
  const { queue, queue_limit: limit, max_workers: most, totals } = snapshot;
  const all = samples(snapshot);
  const { workers, busy } = all[all.length - 1];
  const rate = rates(all).pop() ?? null;
  const quantiles = (counts) => [0.5, 0.99].map((q) => quantile(counts, q));
  const [median, p99] = quantiles(latencies(all).pop() ?? []);
  const [queued, longest] = quantiles(queueTimes(all).pop() ?? []);
  return [
    {
      name: "Busy workers",
      value: count(busy),
      note: `of ${count(workers)}, at most ${count(most)}`,
      share: most && busy / most,
    },
    {
      name: "Waiting for a worker",
      value: count(snapshot.waiting),
      note: `${count(queue)}${limit ? ` of ${count(limit)}` : ""} in the accept queue`,
      share: limit && queue / limit,
      alarm: limit > 0 && queue >= limit / 2,
    },
    {
      name: "Requests per second",
      value: rate === null ? "–" : short(rate),
      note: `${count(totals.requests)} in all`,
    },
    { name: "Median latency", value: duration(median), note: `p99 ${duration(p99)}, last 10 s` },
    { name: "Median queue time", value: duration(queued), note: `p99 ${duration(longest)}, last 10 s` },
    { name: "Parked connections", value: count(snapshot.parked), note: waiting(snapshot) },
    {
      name: "Saturated",
      value: snapshot.saturated ? "yes" : "no",
      note: `${period(totals.saturated)} in all`,
      alarm: snapshot.saturated,
    },
  ];
}

/**
 * What parked connections wait for, and what is kept for slow clients.
 *
 * @param {Snapshot} snapshot
 */
function waiting({ parked_by_state: states, delivering, spooled }) {
  const told = named({ ...states, "at the sender": delivering });
  if (spooled) told.push(`${bytes(spooled)} spooled`);
  return told.join(", ") || "hold no worker";
}

/** @param {Tile} tile */
function makeTile(tile) {
  const title = element("h3", "", tile.name);
  const node = element("li", "tile", title, element("p", "value"), element("p", "note"));
  if (tile.share !== undefined) node.append(element("span", "bar"));
  return node;
}

/**
 * @param {HTMLElement} node
 * @param {Tile} tile
 */
function updateTile(node, tile) {
  node.classList.toggle("alarm", Boolean(tile.alarm));
  setText(node.querySelector(".value"), tile.value);
  setText(node.querySelector(".note"), tile.note);
  if (tile.share !== undefined) setShare(node.querySelector(".bar"), "--share", tile.share);
}
