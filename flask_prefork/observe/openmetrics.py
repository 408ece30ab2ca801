"""The snapshot as metrics, in the text format of OpenMetrics 1.0: ``/metrics``.

The observer renders them for each scrape. No label's values can be made up by
clients, and there is none for each worker, so the number of series is bounded. The
names of limits are the app's.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from itertools import accumulate

from ..ipc import durations
from ..ipc.figures import BOUNDS
from ..ipc.figures import FigureSpec
from ..ipc.figures import GAUGES
from ..ipc.figures import specs
from ..ipc.phase import Phase
from .snapshot import Quantiles
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


#: In this order metrics are shown; those that aren't here come last.
_ORDER = (
    "build",
    "phase",
    "uptime_seconds",
    "ready",
    "dispatcher_responsive",
    "generation",
    "workers",
    "workers_pss_bytes",
    "min_idle_workers",
    "max_idle_workers",
    "max_workers",
    "saturated",
    "saturated_seconds",
    "memory_bytes",
    "memory_budget_bytes",
    "memory_shortages",
    "worker_spawns",
    "worker_retirements",
    "worker_deaths",
    "reloads",
    "waiting_connections",
    "queue_connections",
    "queue_limit_connections",
    "parked_connections",
    "delivering_connections",
    "deliveries",
    "tls_connections",
    "tls_handshakes",
    "tls_aborted_connections",
    "spooled_bytes",
    "upgraded_connections",
    "orders",
    "connections_accepted",
    "connections_parked",
    "connections_resumed",
    "requests",
    "requests_unanswered",
    "responses",
    "sent_bytes",
    "request_duration_seconds",
    "request_queue_seconds",
    "recent_request_duration_seconds",
    "recent_request_queue_seconds",
    "longest_request_seconds",
    "shed_requests",
    "limit_concurrency",
    "limit_running",
    "limit_waiting",
    "limit_refused",
)


def families(snapshot: Snapshot) -> list[Family]:
    """All metrics, in the order in which they are shown."""
    found = [
        *_figures(GAUGES, snapshot, snapshot),
        *_figures(specs(Totals), snapshot.totals, snapshot),
        *_server(snapshot),
        *_workers(snapshot),
        *_connections(snapshot),
        *_requests(snapshot),
        *_limits(snapshot),
    ]
    rank = {name: place for place, name in enumerate(_ORDER)}
    return sorted(found, key=lambda family: rank.get(family.name, len(rank)))


def _figures(
    described: Mapping[str, FigureSpec], values: object, snapshot: Snapshot
) -> Iterator[Family]:
    """The metrics that are one figure each (``ipc/figures.py``)."""
    for name, spec in described.items():
        if not spec.metric:
            continue
        value = getattr(values, name)
        suffix = "_total" if spec.kind == "counter" else ""
        if spec.absent_without and not getattr(snapshot, spec.absent_without):
            samples = []
        elif spec.label:
            samples = [Sample(n, {spec.label: w}, suffix) for w, n in value.items()]
        else:
            samples = [Sample(value, suffix=suffix)]
        yield Family(spec.kind, spec.metric, spec.help, samples)


def _gauge(name: str, help: str, value: float) -> Family:
    return Family("gauge", name, help, [Sample(value)])


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
    yield _gauge(
        "saturated",
        "Whether more workers are wanted than allowed.",
        snapshot.saturated,
    )


def _workers(snapshot: Snapshot) -> Iterator[Family]:
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


def _connections(snapshot: Snapshot) -> Iterator[Family]:
    yield _gauge(
        "waiting_connections",
        "Connections that wait for a worker: in the accept queues, or parked and"
        " ready.",
        snapshot.waiting,
    )
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
        "upgraded_connections",
        "Connections that the app has taken over, as for WebSockets; each has a"
        " worker.",
        snapshot.upgraded,
    )


def _requests(snapshot: Snapshot) -> Iterator[Family]:
    totals = snapshot.totals
    unanswered, *answered = totals.classes
    yield Family(
        "counter",
        "requests_unanswered",
        "Requests without a response.",
        [Sample(unanswered, suffix="_total")],
    )
    classes = zip(("1xx", "2xx", "3xx", "4xx", "5xx"), answered, strict=True)
    yield Family(
        "counter",
        "responses",
        "Responses by status class.",
        [Sample(count, {"class": which}, "_total") for which, count in classes],
    )
    yield Family(
        "histogram",
        "request_duration_seconds",
        "From the call of the app to the last byte of its response, or until the app or"
        " the sender took the connection over.",
        _histogram(totals.buckets, totals.spent),
    )
    waited = [*totals.queue_buckets]
    # Those that haven't waited are in none of the buckets.
    waited[0] += max(sum(totals.buckets) - sum(waited), 0)
    yield Family(
        "histogram",
        "request_queue_seconds",
        "From the arrival of a request's data to when a worker took it.",
        _histogram(waited, totals.queued),
    )
    within = f"within {durations.ERROR * 100:g} %; absent while there were none."
    yield Family(
        "summary",
        "recent_request_duration_seconds",
        "Quantiles of request_duration_seconds of the requests of the last minute,"
        f" {within}",
        _quantiles(snapshot.latency),
    )
    yield Family(
        "summary",
        "recent_request_queue_seconds",
        "Quantiles of request_queue_seconds of the requests of the last minute,"
        f" {within}",
        _quantiles(snapshot.queue_time),
    )
    running = [w.busy_for or 0.0 for w in snapshot.workers if not w.upgraded]
    yield _gauge(
        "longest_request_seconds",
        "For how long the longest request runs, of those that run now; upgraded"
        " connections aside.",
        max(running, default=0.0),
    )


#: The metrics of a limit, by the fields of its view.
_LIMITS = {
    "concurrency": "Requests of a limit that may run at once; 0 for any number.",
    "running": "Requests of a limit that run.",
    "waiting": "Requests of a limit that wait for one of them to end.",
    "refused": "Requests of a limit that were refused.",
}


def _limits(snapshot: Snapshot) -> Iterator[Family]:
    for name, help in _LIMITS.items():
        kind, suffix = ("counter", "_total") if name == "refused" else ("gauge", "")
        samples = [
            Sample(getattr(limit, name), {"limit": limit.name}, suffix)
            for limit in snapshot.limits
        ]
        yield Family(kind, f"limit_{name}", help, samples)


def _histogram(buckets: Sequence[int], total: float) -> Iterator[Sample]:
    # No _created: the snapshot knows no date, and uptime_seconds tells as much.
    bounds = [*map(repr, map(float, BOUNDS)), "+Inf"]
    for bound, count in zip(bounds, accumulate(buckets), strict=True):
        yield Sample(count, {"le": bound}, "_bucket")
    # Not the total of requests, which may be a moment older or newer.
    yield Sample(sum(buckets), suffix="_count")
    yield Sample(total, suffix="_sum")


def _quantiles(found: Quantiles) -> Iterator[Sample]:
    for name, part in durations.SHOWN.items():
        if (seconds := getattr(found, name)) is not None:
            yield Sample(seconds, {"quantile": repr(part)})
