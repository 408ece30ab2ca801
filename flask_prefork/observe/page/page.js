/**
 * The page's life: ask for the status once a second, draw it, and say so when there
 * is no answer. What is drawn depends on the last answer alone, its history included.
 */

import { byId, setText } from "./elements.js";
import { drawCharts, watchCharts } from "./charts.js";
import { present } from "./figures.js";
import { drawHead } from "./head.js";
import { drawTotals } from "./totals.js";
import { drawTips, watchTips } from "./tips.js";
import { drawWorkers, watchWorkers } from "./workers.js";

/** @typedef {import("./figures.js").Snapshot} Snapshot */

/** Milliseconds between two questions, and how long one may take. */
const INTERVAL = 1000;
const PATIENCE = 3000;

// Not relative to the document's URL: that may hold a password, which fetch refuses.
const STATUS = new URL("status.json", location.origin + location.pathname);

let paused = false;
/** @type {number | undefined} The next question's timer. */
let timer;
/** Whether a question is under way. */
let asking = false;
/** When all was well for the last time. */
let well = new Date();

/** An answer that isn't the status. */
class Refusal extends Error {}

/** @returns {Promise<Snapshot>} */
async function ask() {
  const abort = new AbortController();
  const deadline = setTimeout(() => abort.abort(), PATIENCE);
  try {
    const response = await fetch(STATUS, { cache: "no-store", signal: abort.signal });
    if (!response.ok) throw new Refusal(`The server has answered ${response.status} ${response.statusText}`);
    return await response.json();
  } finally {
    clearTimeout(deadline);
  }
}

/** @param {Snapshot} snapshot */
function draw(snapshot) {
  drawHead(snapshot);
  drawWorkers(snapshot);
  drawCharts(snapshot);
  drawTotals(snapshot);
  drawTips();
  const { workers, busy } = present(snapshot);
  document.title = `${busy}/${workers} busy · flask_prefork`;
}

/** @param {Date} date */
const clock = (date) => date.toLocaleTimeString("en-GB");

/**
 * Show what is wrong.
 *
 * @param {string} text Reads on with since when; empty if nothing is.
 * @param {boolean} stale Whether what is shown is old.
 */
function report(text, stale) {
  if (!text) well = new Date();
  byId("trouble").hidden = !text;
  setText(byId("trouble"), text && `${text} since ${clock(well)}.`);
  document.body.classList.toggle("stale", stale);
  if (stale) document.title = "✕ flask_prefork";
}

/** @param {Snapshot} snapshot */
function trouble(snapshot) {
  if (snapshot.phase === "gone") return "The dispatcher has been gone";
  return snapshot.responsive ? "" : "No answer from the dispatcher";
}

/**
 * Ask, and draw the answer.
 *
 * @returns {Promise<void>}
 */
async function turn() {
  let snapshot;
  try {
    snapshot = await ask();
  } catch (error) {
    return report(error instanceof Refusal ? error.message : "No answer", true);
  }
  try {
    draw(snapshot);
  } catch (error) {
    report("No answer could be shown", true);
    throw error;
  }
  report(trouble(snapshot), false);
  setText(byId("updated"), `Updated ${clock(new Date())}`);
}

async function act() {
  asking = true;
  try {
    await turn();
  } finally {
    asking = false;
    schedule();
  }
}

/** Ask when it is time, unless nobody looks. */
function schedule(delay = INTERVAL) {
  clearTimeout(timer);
  if (!paused && !document.hidden && !asking) timer = setTimeout(act, delay);
}

byId("pause").addEventListener("click", (event) => {
  paused = !paused;
  const button = /** @type {HTMLElement} */ (event.currentTarget);
  button.setAttribute("aria-pressed", String(paused));
  schedule(0);
});
watchWorkers();
watchCharts();
watchTips();
document.addEventListener("visibilitychange", () => schedule(0));
schedule(0);
