"""The snapshot as metrics, in the text format of OpenMetrics 1.0: ``/metrics``.

The observer renders them for each scrape. No label's values can be made up by
clients, and there is none for each worker, so the number of series is bounded.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from itertools import accumulate

from ..ipc.phase import Phase
from ..ipc.records import BOUNDS
from .snapshot import Snapshot
from .snapshot import STATES
from .snapshot import Totals

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PREFIX = "flask_prefork_"
#: What :attr:`.snapshot.Snapshot.phase` may be.
PHASES = (*(phase.value for phase in Phase), "gone")
#: What :attr:`.snapshot.GenerationView.role` may be.
ROLES = ("current", "next", "retiring")


class Sample(t.NamedTuple):
    """A line with a number.

    :param value: The number; a truth is 0 or 1.
    :param labels: Its labels.
    :param suffix: What follows the family's name.
    """

    value: float
    labels: Mapping[str, str] = {}
    suffix: str = ""


class Family(t.NamedTuple):
    """The lines of one name.

    :param kind: Its type in OpenMetrics.
    :param name: Without the prefix. It ends with the unit, if that is a base unit.
    :param help: What it tells, for people.
    :param samples: Its numbers.
    """

    kind: str
    name: str
    help: str
    samples: Iterable[Sample]

    def lines(self) -> Iterator[str]:
        """The family's text."""
        name = PREFIX + self.name
        unit = name.rpartition("_")[2]
        yield f"# TYPE {name} {self.kind}"
        if unit in ("seconds", "bytes"):
            yield f"# UNIT {name} {unit}"
        yield f"# HELP {name} {self.help}"
        for value, labels, suffix in self.samples:
            pairs = ",".join(f'{k}="{_escape(v)}"' for k, v in labels.items())
            yield f"{name}{suffix}{f'{{{pairs}}}' if pairs else ''} {+value!r}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def render(snapshot: Snapshot) -> bytes:
    """Write all metrics."""
    lines = [line for family in families(snapshot) for line in family.lines()]
    return "\n".join([*lines, "# EOF", ""]).encode()


def families(snapshot: Snapshot) -> Iterator[Family]:
    """All metrics, in the order in which they are shown."""
    yield from _server(snapshot)
    yield from _pool(snapshot)
    yield from _lives(snapshot.totals)
    yield from _connections(snapshot)
    yield from _requests(snapshot)


def _gauge(name: str, help: str, value: float) -> Family:
    return Family("gauge", name, help, [Sample(value)])


def _counter(name: str, help: str, value: float) -> Family:
    return Family("counter", name, help, [Sample(value, suffix="_total")])


def _counters(
    name: str, help: str, label: str, values: Iterable[tuple[str, float]]
) -> Family:
    samples = [Sample(value, {label: which}, "_total") for which, value in values]
    return Family("counter", name, help, samples)


def _server(snapshot: Snapshot) -> Iterator[Family]:
    version = Sample(1, {"version": snapshot.version}, "_info")
    yield Family("info", "build", "The server's version.", [version])
    phases = [
        Sample(phase == snapshot.phase, {f"{PREFIX}phase": phase}) for phase in PHASES
    ]
    yield Family("stateset", "phase", "Where the server is in its life.", phases)
    yield _gauge("uptime_seconds", "Time since the server's start.", snapshot.uptime)
    yield _gauge("ready", "Whether a new request would be served soon.", snapshot.ready)
    yield _gauge(
        "dispatcher_responsive",
        "Whether the dispatcher answers.",
        snapshot.responsive,
    )
    current = [g.number for g in snapshot.generations if g.role == "current"]
    yield Family(
        "gauge",
        "generation",
        "The number of the generation that serves; absent while there is none.",
        map(Sample, current),
    )


def _pool(snapshot: Snapshot) -> Iterator[Family]:
    yield Family(
        "gauge",
        "workers",
        "Workers by their generation's role and their state.",
        _by_role_and_state(snapshot),
    )
    yield Family(
        "gauge",
        "workers_pss_bytes",
        "Memory of the workers, their share of what is shared counted.",
        _memory(snapshot),
    )
    yield _gauge("min_idle_workers", "The setting min-idle.", snapshot.min_idle)
    yield _gauge("max_idle_workers", "The setting max-idle.", snapshot.max_idle)
    yield _gauge("max_workers", "The setting max-workers.", snapshot.max_workers)
    yield _gauge(
        "saturated",
        "Whether more workers are wanted than allowed.",
        snapshot.saturated,
    )
    yield _counter(
        "saturated_seconds",
        "Time in which more workers were wanted than allowed.",
        snapshot.totals.saturated,
    )
    yield from _budget(snapshot)


def _budget(snapshot: Snapshot) -> Iterator[Family]:
    there_is = snapshot.memory_budget > 0
    yield Family(
        "gauge",
        "memory_bytes",
        "Memory of zygote and workers, as the setting memory-budget counts it; absent"
        " without that.",
        [Sample(snapshot.memory)] if there_is else [],
    )
    yield Family(
        "gauge",
        "memory_budget_bytes",
        "The setting memory-budget; absent without one.",
        [Sample(snapshot.memory_budget)] if there_is else [],
    )
    yield _counter(
        "memory_shortages",
        "How often the memory budget was reached.",
        snapshot.totals.shortages,
    )


def _by_role_and_state(snapshot: Snapshot) -> Iterator[Sample]:
    for role in ROLES:
        workers = [
            worker
            for generation in snapshot.generations
            if generation.role == role
            for worker in generation.workers
        ]
        for letter, state in STATES.items():
            count = sum(worker.state == letter for worker in workers)
            yield Sample(count, {"role": role, "state": state})


def _memory(snapshot: Snapshot) -> Iterator[Sample]:
    """Their sum; none where no worker's is known, for that isn't 0."""
    known = [worker.pss for worker in snapshot.workers if worker.pss is not None]
    if known:
        yield Sample(sum(known))


def _lives(totals: Totals) -> Iterator[Family]:
    yield _counter("worker_spawns", "Workers started.", totals.spawned)
    yield _counter(
        "worker_retirements",
        "Workers that ended because they were asked to.",
        totals.retired,
    )
    yield _counters(
        "worker_deaths",
        "Workers that ended otherwise, by reason.",
        "reason",
        totals.deaths.items(),
    )
    yield _counter(
        "reloads", "Generations that took over from another.", totals.reloads
    )


def _connections(snapshot: Snapshot) -> Iterator[Family]:
    totals = snapshot.totals
    yield _gauge(
        "queue_connections",
        "Connections that wait in the accept queues.",
        snapshot.queue,
    )
    yield Family(
        "gauge",
        "queue_limit_connections",
        "How many fit into the accept queues; absent where that can't be told.",
        [Sample(snapshot.queue_limit)] if snapshot.queue_limit else [],
    )
    yield _gauge(
        "parked_connections",
        "Connections that wait for their client without a worker.",
        snapshot.parked,
    )
    yield _gauge(
        "upgraded_connections",
        "Connections that the app has taken over, as for WebSockets; each has a"
        " worker.",
        snapshot.upgraded,
    )
    yield _counter(
        "orders",
        "Orders to accept; each begins a run of one or more connections.",
        totals.orders,
    )
    yield _counter("connections_accepted", "Connections accepted.", totals.connections)
    yield _counter(
        "connections_parked", "Connections that workers handed back.", totals.parked
    )
    yield _counter(
        "connections_resumed",
        "Parked connections handed to workers.",
        totals.resumed,
    )


def _requests(snapshot: Snapshot) -> Iterator[Family]:
    totals = snapshot.totals
    unanswered, *answered = totals.classes
    yield _counter("requests", "Requests served.", totals.requests)
    yield _counter("requests_unanswered", "Requests without a response.", unanswered)
    classes = zip(("1xx", "2xx", "3xx", "4xx", "5xx"), answered, strict=True)
    yield _counters("responses", "Responses by status class.", "class", classes)
    yield _counter("sent_bytes", "Sent in responses, heads included.", totals.sent)
    yield Family(
        "histogram",
        "request_duration_seconds",
        "From a request's head to the last byte of its response, or until the app took"
        " the connection over.",
        _durations(totals),
    )
    running = [w.busy_for or 0.0 for w in snapshot.workers if not w.upgraded]
    yield _gauge(
        "longest_request_seconds",
        "For how long the longest request runs, of those that run now; upgraded"
        " connections aside.",
        max(running, default=0.0),
    )


def _durations(totals: Totals) -> Iterator[Sample]:
    # No _created: the snapshot knows no date, and uptime_seconds tells as much.
    bounds = [*map(repr, map(float, BOUNDS)), "+Inf"]
    for bound, count in zip(bounds, accumulate(totals.buckets), strict=True):
        yield Sample(count, {"le": bound}, "_bucket")
    # Not the total of requests, which may be a moment older or newer.
    yield Sample(sum(totals.buckets), suffix="_count")
    yield Sample(totals.spent, suffix="_sum")
