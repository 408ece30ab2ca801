/**
 * Numbers from snapshots, and numbers as text. All here is pure: it knows neither
 * the document nor the clock. What the fields of a snapshot mean is told in
 * snapshot.py.
 *
 * @typedef {object} Worker
 * @property {number} slot
 * @property {string} state
 * @property {number} pid
 * @property {number} age
 * @property {number} requests
 * @property {number} connections
 * @property {string} method
 * @property {string} target
 * @property {number?} busy_for
 * @property {number?} silent_for
 * @property {number?} pss
 * @property {number} grown
 * @property {string} grown_by
 * @property {boolean} upgraded
 *
 * @typedef {object} Generation
 * @property {number} number
 * @property {"current" | "next" | "retiring"} role
 * @property {string} letters
 * @property {Worker[]} workers
 *
 * @typedef {object} Quantiles
 * @property {number} window
 * @property {number} requests
 * @property {number?} p50
 * @property {number?} p90
 * @property {number?} p99
 *
 * @typedef {object} Sample
 * @property {number} age
 * @property {number} workers
 * @property {number} busy
 * @property {number} queue
 * @property {number} requests
 * @property {number} waiting
 * @property {Quantiles} latency
 * @property {Quantiles} queue_time
 *
 * @typedef {object} Limit
 * @property {string} name
 * @property {number} concurrency
 * @property {number} running
 * @property {number} waiting
 * @property {number} refused
 *
 * @typedef {object} Totals
 * @property {number} requests
 * @property {number} connections
 * @property {number} sent
 * @property {number[]} classes
 * @property {number} spent
 * @property {number[]} buckets
 * @property {number} orders
 * @property {number} resumed
 * @property {number} parked
 * @property {number} spawned
 * @property {number} retired
 * @property {Object<string, number>} deaths
 * @property {number} reloads
 * @property {number} saturated
 * @property {Object<string, number>} deliveries
 * @property {number[]} queue_buckets
 * @property {Object<string, number>} shed
 * @property {Object<string, number>} tls_handshakes
 * @property {Object<string, number>} tls_aborted
 *
 * @typedef {object} Snapshot
 * @property {number} pid
 * @property {string} version
 * @property {number} uptime
 * @property {string} phase
 * @property {boolean} responsive
 * @property {boolean} ready
 * @property {string[]} addresses
 * @property {Generation[]} generations
 * @property {number} min_idle
 * @property {number} max_idle
 * @property {number} max_workers
 * @property {boolean} saturated
 * @property {number} queue
 * @property {number} queue_limit
 * @property {number} waiting
 * @property {Limit[]} limits
 * @property {number} parked
 * @property {Object<string, number>} parked_by_state
 * @property {number} spooled
 * @property {number} delivering
 * @property {number} tls_connections
 * @property {Totals} totals
 * @property {Sample[]} history
 * @property {Quantiles} latency
 * @property {Quantiles} queue_time
 *
 * @typedef {Object<string, (number | null)[]>} Trends Values over time by name,
 *   with `age` for how long ago; null where there is none.
 */

/** Letters of the states in which a worker serves or is about to, as in reading.py. */
const AT_WORK = "OB";
/** Seconds that a rate is taken over at least: two looks may be close together. */
const RATE_SPAN = 0.9;

/** @param {number[]} values */
export const sum = (values) => values.reduce((total, value) => total + value, 0);

/**
 * Whether a worker in a state serves, or is about to. Who retires counts as that alone.
 *
 * @param {string} letter
 */
export const isBusy = (letter) => AT_WORK.includes(letter);

/**
 * The present as a sample. Its quantiles are the last sample's, which are of as long a
 * time as those of all others.
 *
 * @param {Snapshot} snapshot
 * @returns {Sample}
 */
export function present(snapshot) {
  const workers = snapshot.generations.flatMap((generation) => generation.workers);
  const { latency, queue_time } = snapshot.history[snapshot.history.length - 1] ?? snapshot;
  return {
    age: 0,
    workers: workers.length,
    busy: workers.filter(({ state }) => isBusy(state)).length,
    queue: snapshot.queue,
    waiting: snapshot.waiting,
    requests: snapshot.totals.requests,
    latency,
    queue_time,
  };
}

/**
 * The history and the present.
 *
 * @param {Snapshot} snapshot
 * @returns {Sample[]}
 */
export const samples = (snapshot) => [...snapshot.history, present(snapshot)];

/**
 * For each sample the latest earlier one that is at least `span` older.
 *
 * @param {{age: number}[]} samples The oldest first.
 * @param {number} span Seconds.
 * @returns {number[]} Indices; -1 where there is none.
 */
export function baselines(samples, span) {
  let next = 0;
  return samples.map((sample) => {
    while (samples[next].age - sample.age >= span) next += 1;
    return next - 1;
  });
}

/**
 * Requests per second.
 *
 * @param {Sample[]} samples The oldest first.
 * @returns {(number | null)[]} Null where there is nothing to compare with.
 */
export function rates(samples) {
  return baselines(samples, RATE_SPAN).map((before, i) => {
    if (before < 0) return null;
    const more = samples[i].requests - samples[before].requests;
    return more < 0 ? null : more / (samples[before].age - samples[i].age);
  });
}

/**
 * A quantile as a value on a logarithmic axis, where there is no 0.
 *
 * @param {number?} seconds
 */
const drawn = (seconds) => seconds || null;

/**
 * All that is charted.
 *
 * @param {Snapshot} snapshot
 * @returns {Trends}
 */
export function trends(snapshot) {
  const all = samples(snapshot);
  return {
    age: all.map((sample) => sample.age),
    workers: all.map((sample) => sample.workers),
    busy: all.map((sample) => sample.busy),
    waiting: all.map((sample) => sample.waiting),
    rate: rates(all),
    p50: all.map(({ latency }) => drawn(latency.p50)),
    p90: all.map(({ latency }) => drawn(latency.p90)),
    p99: all.map(({ latency }) => drawn(latency.p99)),
    queued: all.map(({ queue_time: queue }) => drawn(queue.p99)),
  };
}

/**
 * Round values for an axis from 0.
 *
 * @param {number} top The greatest value that is to be shown.
 * @param {number} [least] What the step is a multiple of, if it matters.
 * @returns {number[]} From 0 to `top` or just above it.
 */
export function ticks(top, least = 0) {
  const rough = Math.max(top, 1e-9) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const round = power * [1, 2, 2.5, 5, 10].find((n) => n * power >= rough * 0.999);
  const step = least ? Math.ceil(round / least) * least : round;
  const count = Math.max(1, Math.ceil(top / step - 1e-6));
  return Array.from({ length: count + 1 }, (_, i) => i * step);
}

/**
 * Powers of ten around values.
 *
 * @param {number[]} values Greater than 0.
 * @returns {number[]} At least two.
 */
export function decades(values) {
  const low = Math.floor(Math.log10(Math.min(...values, 0.01)) + 1e-9);
  const high = Math.ceil(Math.log10(Math.max(...values, 0.1)) - 1e-9);
  return Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
}

/**
 * What must stay on one line: a number and its unit or word.
 *
 * @param {...string} parts
 */
export const unbroken = (...parts) => parts.join("\u00a0");

/** @param {number} value */
export const count = (value) => Math.round(value).toLocaleString("en");

/**
 * Those that aren't 0, each with its word.
 *
 * @param {Object<string, number>} counts
 * @returns {string[]}
 */
export const named = (counts) => Object.entries(counts)
  .filter(([, many]) => many)
  .map(([word, many]) => unbroken(count(many), word));

/**
 * A number with at most three digits that matter.
 *
 * @param {number} value
 */
export function short(value) {
  if (value >= 100) return count(value);
  return String(Number(value.toPrecision(value >= 10 ? 3 : 2)));
}

/**
 * A duration as people say it, in one or two units.
 *
 * @param {number?} seconds
 */
export function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 0.9995) return unbroken(short(seconds * 1000), "ms");
  if (seconds < 59.95) return unbroken(String(Number(seconds.toFixed(1))), "s");
  return pair(seconds);
}

/**
 * What a request took, by three digits and a unit; the terminal has the same.
 *
 * @param {number?} seconds
 */
export function brief(seconds) {
  if (seconds === null) return "–";
  const rounded = Number(seconds.toPrecision(3));
  if (rounded >= 60) return pair(rounded);
  const [unit, factor] = !rounded || rounded >= 1 ? ["s", 1] : rounded >= 0.001 ? ["ms", 1e3] : ["µs", 1e6];
  return unbroken(String(Number((rounded * factor).toPrecision(3))), unit);
}

/**
 * A duration of which less than a second doesn't matter.
 *
 * @param {number} seconds
 */
export function period(seconds) {
  return seconds < 60 ? unbroken(String(Math.floor(seconds)), "s") : pair(seconds);
}

/** @param {number} seconds At least a minute, almost. */
function pair(seconds) {
  const whole = Math.round(seconds);
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => whole >= size);
  return units.slice(first, first + 2)
    .map(([name, size], i) => [Math.floor((i ? whole % units[first][1] : whole) / size), name])
    .filter(([value]) => value)
    .map(([value, name]) => unbroken(String(value), name))
    .join(" ");
}

/**
 * An amount of memory or data.
 *
 * @param {number?} value
 */
export function bytes(value) {
  if (value === null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const power = value && Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
  return unbroken(short(value / 1024 ** power), units[power]);
}
