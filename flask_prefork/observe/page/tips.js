/**
 * Boxes that tell more about what is pointed at, focused or tapped. There is at most
 * one at a time.
 */

import { byId, setAttribute, setText } from "./elements.js";
import { MEANINGS } from "./words.js";

/**
 * @typedef {object} Tip
 * @property {string} anchor Selects what has one.
 * @property {string} group Selects what holds those that share a stop of the Tab key;
 *   arrows go from one to the next.
 * @property {string} [area] Selects what holds an anchor, and is clicked in its place.
 * @property {string} box The id of the box.
 * @property {(anchor: HTMLElement) => void} fill Writes into the box.
 */

/** @type {Tip[]} */
const tips = [
  {
    anchor: ".term",
    group: "[data-terms]",
    box: "meaning",
    fill: (anchor) => setText(byId("meaning"), MEANINGS[anchor.dataset.word]),
  },
];
/** What a box tells about now. @type {HTMLElement?} */
let shown = null;

/** @param {Tip} tip */
export function addTip(tip) {
  tips.push(tip);
}

/** Write the box anew, and let the Tab key reach each group, when the page was drawn. */
export function drawTips() {
  for (const { anchor, group } of tips) {
    for (const node of document.querySelectorAll(group)) {
      const all = [...node.querySelectorAll(anchor)];
      const stop = all.find((one) => one.getAttribute("tabindex") === "0") ?? all[0];
      for (const one of all) setAttribute(one, "tabindex", one === stop ? "0" : "-1");
    }
  }
  drawTip();
}

/** Show the box of what is told about, if that is still there, and no other. */
function drawTip() {
  if (!shown?.isConnected) shown = null;
  const mine = shown && tipOf(shown);
  for (const { box } of tips) byId(box).hidden = box !== mine?.box;
  if (!mine) return;
  mine.fill(shown);
  place(byId(mine.box), shown);
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

/** @param {HTMLElement?} anchor */
function show(anchor) {
  shown?.removeAttribute("aria-describedby");
  shown = anchor;
  if (shown) shown.setAttribute("aria-describedby", tipOf(shown).box);
  drawTip();
}

/** @param {Element} anchor */
const tipOf = (anchor) => tips.find((tip) => anchor.matches(tip.anchor));

/** @param {EventTarget?} target */
function anchorOf(target) {
  if (!(target instanceof Element)) return null;
  return /** @type {HTMLElement?} */ (target.closest(tips.map((tip) => tip.anchor).join()));
}

/**
 * The anchor that a click is for.
 *
 * @param {EventTarget?} target
 */
function clicked(target) {
  const anchor = anchorOf(target);
  if (anchor || !(target instanceof Element)) return anchor;
  const tip = tips.find(({ area }) => area && target.closest(area));
  return tip ? target.closest(tip.area).querySelector(tip.anchor) : null;
}

/** @param {EventTarget?} target */
const inBox = (target) => tips.some(({ box }) => byId(box).contains(/** @type {Node} */ (target)));

/**
 * What a key leads to.
 *
 * @param {HTMLElement} anchor
 * @param {string} key
 * @returns {HTMLElement | undefined}
 */
function neighbour(anchor, key) {
  const tip = tipOf(anchor);
  const all = [...anchor.closest(tip.group).querySelectorAll(tip.anchor)];
  const here = all.indexOf(anchor);
  const top = (node) => node.getBoundingClientRect().top;
  const columns = all.filter((other) => top(other) === top(all[0])).length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  if (key in steps) return all[here + steps[key]];
  return { Home: all[0], End: all[all.length - 1] }[key];
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.key === "Escape") return show(null);
  const anchor = anchorOf(event.target);
  const next = anchor && neighbour(anchor, event.key);
  if (!next) return;
  event.preventDefault();
  next.focus();
}

/** @param {FocusEvent} event */
function onFocus(event) {
  const anchor = anchorOf(event.target);
  if (!anchor) return show(null);
  const tip = tipOf(anchor);
  const before = anchor.closest(tip.group).querySelector(`${tip.anchor}[tabindex='0']`);
  before?.setAttribute("tabindex", "-1");
  anchor.setAttribute("tabindex", "0");
  show(anchor);
}

/** @param {MouseEvent} event */
function onClick(event) {
  const anchor = clicked(event.target);
  // So the arrow keys go on from here, and the box stays when the pointer moves away.
  anchor?.focus({ preventScroll: true });
  show(anchor);
}

/** Listen to pointer and keyboard. */
export function watchTips() {
  document.addEventListener("pointerover", (event) => {
    if (!inBox(event.target)) show(anchorOf(event.target) ?? anchorOf(document.activeElement));
  });
  document.addEventListener("click", onClick);
  document.addEventListener("focusin", onFocus);
  document.addEventListener("focusout", () => show(null));
  document.addEventListener("keydown", onKey);
  document.addEventListener("scroll", drawTip, { capture: true, passive: true });
}
