/** The words of the page that need an explanation, and what they mean. */

import { element } from "./elements.js";

/** By the word as it is shown, or by another key where a word has several meanings. */
export const MEANINGS = {
  ready: "Whether a new request would be served soon, as /readyz tells: the server is serving, and a worker is idle or"
    + " was within the last 5 seconds.",
  phase: "What the server does: it starts, serves, or shuts down.",
  "Uptime": "Time since the server was started.",
  "Listens on": "The addresses that clients connect to.",
  "Dispatcher PID": "The process that was started and that signals are sent to. It decides which worker accepts, and"
    + " how many workers there are.",

  "Busy workers": "Workers that have a connection, mostly with a request, or were ordered to accept one; without those"
    + " that retire. The bar shows their share of the most workers that are allowed (--max-workers).",
  "Waiting for a worker": "Connections whose request is there and that no worker serves yet. They are in the kernel's"
    + " accept queue, or parked and ready.",
  "Requests per second": "Requests that ended, over the last second.",
  "Median latency": "Half of the requests of the last minute took less than this from the beginning of their"
    + " service to its end. 99 % took less than the p99.",
  "Median queue time": "Half of the requests of the last minute waited less than this for a worker. 99 % waited"
    + " less than the p99.",
  "Parked connections": "Connections that occupy no worker. idle: keep-alive, until the next request; head, body: the"
    + " rest of a request is still to come; lingering: until the client closes after its last response; permit: until"
    + " the limit of a route allows it; ready: until a worker is free. The sender has responses for slow clients."
    + " Spooled: what is buffered for slow clients, in memory or on disk.",
  "Saturated": "Whether more workers are wanted now than allowed (--max-workers): new requests have to wait. There is"
    + " no answer while the server starts or shuts down.",

  "busy": "Has a connection, mostly with a request, or was ordered to accept one.",
  "idle": "Waits for a request.",
  "starting": "Is being forked, or was not idle yet.",
  "killed": "Was sent SIGKILL.",
  "free": "No worker is in this slot. A worker is started in the lowest free slot when it is needed.",
  "ordered": "Was ordered to accept, and has not begun a request.",
  "retiring": "Exits when its request is finished, or at once if it has none. Its slot takes no new requests.",

  current: "New requests go to this generation.",
  next: "This generation is loading the app or starting its first workers. Then it takes over.",
  "retiring generation": "This generation finishes its requests. A newer one has taken over.",

  "Worker": "Generation and slot. The slot is the worker's number within its generation, from 0.",
  "Duration": "Time since the request began to be served.",
  "Target": "The request target: path and query, cut if it is long. Select the row to see more of it.",
  "No progress for": "Time since something of the request was last read or written. At --timeout the request is ended.",
  "Requests served": "Requests that this worker has served before.",
  "Memory (PSS)": "Proportional set size: the worker's own memory, and its share of what it has in common with others.",
  "PID": "The worker's process ID.",

  "Workers over time": "How many workers there were, and how many of them were busy, without those that retired.",
  "Requests": "Requests that ended, per second.",
  "Latency": "How long requests took, of those that ended in the 10 seconds before.",
  p50: "The median: half of the requests took less.",
  p90: "90 % of the requests took less.",
  p99: "99 % of the requests took less.",
  "queue time p99": "99 % of the requests waited less than this for a worker. It is not part of the latency.",

  "Requests by status": "All responses, by the class of their status code.",
  "no response": "Requests that ended without a response: the client left before it began, for example.",
  "Unexpected exits": "Workers that ended without having been asked to, or that were killed, by reason.",
  "Unexpected exits: exit": "It exited by itself.",
  "Unexpected exits: signal": "It was ended by a signal that did not come from the server.",
  "Unexpected exits: memory": "The kernel has killed it, for memory was short.",
  "Unexpected exits: unknown": "Its exit status is not known.",
  "Unexpected exits: timeout": "It was killed because its request made no progress (--timeout).",
  "Unexpected exits: spawn-timeout": "It was killed because it was not idle in time after its start (--spawn-timeout).",
  "Unexpected exits: graceful-timeout": "It was killed because it did not finish in time (--graceful-timeout).",
  "Unexpected exits: silent": "It was killed because it did not answer an order.",
  "Unexpected exits: garbage": "It was killed because it sent the dispatcher what is no message.",
  "Unexpected exits: stop": "It was killed because the server, or its generation, was stopped at once.",
  "Workers: retired": "Workers that ended because they were asked to: surplus, recycled, or of an old generation.",
  "Workers: reloads": "Generations that have taken over from another.",
  "Workers: time saturated": "Time in which more workers were wanted than allowed.",
  "Dispatch": "What the dispatcher has told the workers to do.",
  "Dispatch: orders to accept": "Each lets a worker accept one connection or several.",
  "Dispatch: connections parked": "How often a worker has handed a connection back, to wait without a worker.",
  "Dispatch: connections resumed": "How often a parked connection was handed to a worker.",
  "Traffic: connections": "Connections that were accepted.",
  "Traffic: sent": "Bytes of responses, headers included.",
  "Traffic: mean latency": "The mean of all requests since the start.",
  "Slow clients": "Responses that the sender, a process of its own, sends in place of a worker, because the client reads"
    + " slowly.",
  "Slow clients: responses complete": "They were sent to the end.",
  "Slow clients: responses incomplete": "They were cut short: the client left or was too slow.",
  "Slow clients: responses lost": "They were lost with the sender's process.",
  "Load shedding": "Requests that were refused without a worker, so that others are served in time.",
  "Load shedding: by queue-timeout": "They had waited for a worker for too long (--queue-timeout).",
  "Load shedding: by max-queue": "Too many waited already (--max-queue).",
  "Load shedding: by limit": "They had waited too long for the limit of their route.",
  "TLS": "What the TLS proxy decrypts.",
  "TLS: connections": "Those that it has with clients now.",
  "TLS: handshakes full": "Whole handshakes.",
  "TLS: handshakes resumed": "Handshakes that a session ticket made short.",
  "TLS: handshakes failed": "Handshakes that led to no connection.",
  "TLS: connections cut": "The client has reset them, or closed them without TLS's own end.",
  "TLS: connections lost": "They ended with the TLS proxy's process.",
  "Limits of routes": "Requests that run, wait and were refused, for each limit that the app or the settings have.",
};

/**
 * A word that tells its meaning when it is pointed at, focused or tapped; see tips.js.
 *
 * @param {string} text
 * @param {string} [key] In `MEANINGS`, if it isn't the text.
 * @returns {HTMLElement | string} The text itself if it has no meaning of its own here.
 */
export function word(text, key = text) {
  if (!Object.hasOwn(MEANINGS, key)) return text;
  const node = element("button", "term", text);
  node.setAttribute("type", "button");
  node.dataset.word = key;
  return node;
}
