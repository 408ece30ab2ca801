/** The states of workers, and how many slots are in which. All here is pure. */

import { isBusy } from "./figures.js";

/**
 * @typedef {import("./figures.js").Generation} Generation
 * @typedef {import("./figures.js").Worker} Worker
 *
 * @typedef {object} Slot
 * @property {number} number
 * @property {string} letter
 * @property {Worker} [worker]
 *
 * @typedef {object} Kind Slots that the legend counts together.
 * @property {string} name
 * @property {number} count
 * @property {string[]} letters Those that the slots have.
 * @property {number} ordered How many of them were ordered to accept.
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
/** The order of the legend. */
const KINDS = ["busy", "idle", "starting", "retiring", "killed", "free"];

/**
 * What there is to show: of one that retires no free slot, for nobody is started there.
 *
 * @param {Generation} generation
 * @returns {Slot[]}
 */
export function slots({ role, letters, workers }) {
  const present = new Map(workers.map((worker) => [worker.slot, worker]));
  return [...letters]
    .map((letter, number) => ({ number, letter, worker: present.get(number) }))
    .filter(({ letter }) => role !== "retiring" || letter !== ".");
}

/** @param {Slot} slot */
const kindOf = ({ letter }) => (isBusy(letter) ? "busy" : STATES[letter] ?? letter);

/**
 * Count each slot once. Who was ordered to accept counts as busy: in the tile, the chart
 * and the terminal too.
 *
 * @param {Generation[]} generations
 * @returns {Kind[]} Those that occur.
 */
export function tally(generations) {
  /** @type {Map<string, Slot[]>} */
  const found = new Map(KINDS.map((name) => [name, []]));
  for (const slot of generations.flatMap(slots)) {
    const name = kindOf(slot);
    found.set(name, [...(found.get(name) ?? []), slot]);
  }
  return [...found].filter(([, all]) => all.length).map(([name, all]) => {
    const many = (letter) => all.filter((slot) => slot.letter === letter).length;
    const known = Object.keys(STATES).filter(many);
    const letters = known.length ? known : [all[0].letter];
    return { name, count: all.length, letters, ordered: many("O") };
  });
}
