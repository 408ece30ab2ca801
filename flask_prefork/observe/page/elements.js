/**
 * Making and updating elements. All text goes in by textContent, and only when it
 * has changed: a screen reader is to hear news, and a selection is to last.
 */

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} id */
export const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/**
 * @param {string} tag
 * @param {string} [className]
 * @param {...(Node | string)} children
 */
export function element(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/**
 * @param {string} tag
 * @param {Object<string, string | number>} [attributes]
 */
export function svg(tag, attributes = {}) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  return node;
}

/**
 * @param {Element} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * @param {Element} node
 * @param {string} name
 * @param {string} value
 */
export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/**
 * Set a custom property of CSS, a share of a whole.
 *
 * @param {HTMLElement} node
 * @param {string} name
 * @param {number} share From 0 to 1.
 */
export function setShare(node, name, share) {
  node.style.setProperty(name, Math.min(Math.max(share, 0), 1).toFixed(4));
}

/**
 * Make a node's children stand for items. A child stays the same node while its
 * item is there, and keeps focus.
 *
 * @template T
 * @param {Element} parent
 * @param {T[]} items
 * @param {(item: T) => string | number} keyOf
 * @param {(item: T) => HTMLElement} make
 * @param {(node: HTMLElement, item: T) => void} update
 */
export function setList(parent, items, keyOf, make, update) {
  const focused = /** @type {HTMLElement?} */ (document.activeElement);
  const mine = parent.contains(focused);
  const keys = new Set(items.map((item) => String(keyOf(item))));
  const present = new Map();
  for (const node of [...parent.children]) {
    if (keys.has(node.dataset.key)) present.set(node.dataset.key, node);
    else node.remove();
  }
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    const node = present.get(key) ?? make(item);
    node.dataset.key = key;
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
    update(node, item);
  }
  // One that was moved has lost it.
  if (mine && focused.isConnected && focused !== document.activeElement) {
    focused.focus({ preventScroll: true });
  }
}

/**
 * Fill a list of terms and what they stand for.
 *
 * @param {Element} list A `dl`.
 * @param {[string, string][]} facts
 * @param {(term: string) => Node | string} [show] What stands for a term.
 */
export function setFacts(list, facts, show = (term) => term) {
  setList(
    list,
    facts,
    ([term]) => term,
    ([term]) => element("div", "", element("dt", "", show(term)), element("dd")),
    (node, [, text]) => setText(node.lastElementChild, text),
  );
}
