"""Every figure that the server keeps, described once. Pure.

As settings are rows of a table, figures are fields of the classes here. Each
field's zero says how it lies in shared memory (:class:`Layout`), and its
:class:`FigureSpec` says what it means. The rest follows from that: the records and the
header of the scoreboard, the counters in ``/status.json`` (``observe/snapshot.py``),
``/metrics`` and the manual.

A new counter needs a field here, and the line that counts. A new gauge also needs its
field in ``Snapshot``.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from itertools import islice
from operator import attrgetter

from .states import Reason

#: Upper bounds of the histograms as they are published, in seconds; above the last
#: there is one bucket more. Workers count by finer ones (:mod:`.durations`).
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
#: Status classes: index 0 counts requests that got no response, 1 to 5 are 1xx to 5xx.
CLASSES = 6
#: What parked connections may wait for: the next request, the rest of a head, the rest
#: of a body, the client's end, a permit of a route's limit, a worker.
PARKED_STATES = ("idle", "head", "body", "lingering", "permit", "ready")
#: What may become of a response that was handed to the sender.
DELIVERY_RESULTS = ("complete", "incomplete", "lost")
#: How a TLS handshake ends, and why a TLS connection does that has no end.
HANDSHAKE_RESULTS = ("full", "resumed", "failed")
TLS_ABORTS = ("cut", "lost")
#: Why a request may be refused without a worker: by the settings of these names, or
#: because it has waited too long for a permit of its route's limit.
SHED_REASONS = ("queue-timeout", "max-queue", "limit")
#: The greatest number of a word.
MOST = 2**64 - 1

Number = int | float
Zero = Number | tuple[int, ...] | dict[str, int]
_C = t.TypeVar("_C", bound=type)


@dataclass(frozen=True)
class FigureSpec:
    """What is known of one figure.

    :param kind: Its type in OpenMetrics, ``counter`` or ``gauge``.
    :param help: What it tells, in one sentence.
    :param metric: The metric's name, without the prefix. Without one the figure is part
        of another metric (``observe/openmetrics.py``).
    :param label: The label of a figure that has several numbers by a word.
    :param absent_without: The gauge without which the metric isn't shown.
    """

    kind: str
    help: str
    metric: str = ""
    label: str = ""
    absent_without: str = ""


def _figure(zero: Zero, spec: FigureSpec) -> t.Any:
    metadata = {"figure": spec}
    if isinstance(zero, dict):
        return field(default_factory=zero.copy, metadata=metadata)
    return field(default=zero, metadata=metadata)


def _counter(zero: Zero, help: str, metric: str = "", label: str = "") -> t.Any:
    return _figure(zero, FigureSpec("counter", help, metric, label))


def _gauge(
    zero: Zero, help: str, metric: str = "", label: str = "", absent_without: str = ""
) -> t.Any:
    return _figure(zero, FigureSpec("gauge", help, metric, label, absent_without))


def specs(kind: type) -> dict[str, FigureSpec]:
    """The figures among a class's fields, by name."""
    return {
        f.name: f.metadata["figure"] for f in fields(kind) if "figure" in f.metadata
    }


def documented(kind: _C) -> _C:
    """Add what the figures mean to a class's docstring."""
    lines = [f":param {name}: {spec.help}" for name, spec in specs(kind).items()]
    kind.__doc__ = "\n".join([(kind.__doc__ or "").rstrip(), "", *lines])
    return kind


@dataclass
class Served:
    """What a worker counts; also the sums of several workers'.

    They are counters since the worker's start, of the same names as in its
    :class:`.records.Record`.
    """

    requests: int = _counter(0, "Requests served.", "requests")
    connections: int = _counter(0, "Connections accepted.", "connections_accepted")
    sent: int = _counter(0, "Sent in responses, heads included.", "sent_bytes")
    classes: tuple[int, ...] = _counter(
        (0,) * CLASSES, "Requests by status class: without a response, 1xx to 5xx."
    )
    spent: float = _counter(0.0, "Seconds of all requests together.")
    queued: float = _counter(
        0.0, "Seconds that all requests together have waited for a worker."
    )


@dataclass
class Histograms:
    """What is published of the histograms that workers count (:mod:`.durations`)."""

    buckets: tuple[int, ...] = _counter(
        (0,) * (len(BOUNDS) + 1),
        "Requests by their seconds, not cumulative; the bounds are those of"
        " request_duration_seconds.",
    )
    queue_buckets: tuple[int, ...] = _counter(
        (0,) * (len(BOUNDS) + 1),
        "Requests that have waited, by their seconds, not cumulative; those that"
        " haven't waited are in none.",
    )


@dataclass
class Counters:
    """What the dispatcher counts, since the server's start."""

    orders: int = _counter(
        0, "Orders to accept; each begins a run of one or more connections.", "orders"
    )
    resumed: int = _counter(
        0, "Parked connections handed to workers.", "connections_resumed"
    )
    parked: int = _counter(
        0, "Connections that workers handed back.", "connections_parked"
    )
    spawned: int = _counter(0, "Workers started.", "worker_spawns")
    retired: int = _counter(
        0, "Workers that ended because they were asked to.", "worker_retirements"
    )
    deaths: dict[str, int] = _counter(
        {reason.value: 0 for reason in Reason if reason is not Reason.RETIRED},
        "Workers that ended otherwise, by reason.",
        "worker_deaths",
        label="reason",
    )
    reloads: int = _counter(0, "Generations that took over from another.", "reloads")
    saturated: float = _counter(
        0.0,
        "Time in which more workers were wanted than allowed.",
        "saturated_seconds",
    )
    shortages: int = _counter(
        0, "How often the memory budget was reached.", "memory_shortages"
    )
    deliveries: dict[str, int] = _counter(
        dict.fromkeys(DELIVERY_RESULTS, 0),
        "Responses that the sender has sent: to their end, cut short because the client"
        " left or was too slow, or lost with the sender's process.",
        "deliveries",
        label="result",
    )
    shed: dict[str, int] = _counter(
        dict.fromkeys(SHED_REASONS, 0),
        "Requests that were answered with 503, or whose connection was closed, without"
        " a worker: they had waited too long, or too many did.",
        "shed_requests",
        label="reason",
    )

    tls_handshakes: dict[str, int] = _counter(
        dict.fromkeys(HANDSHAKE_RESULTS, 0),
        "TLS handshakes: whole ones, those that a session ticket made short, and those"
        " that failed.",
        "tls_handshakes",
        label="result",
    )
    tls_aborted: dict[str, int] = _counter(
        dict.fromkeys(TLS_ABORTS, 0),
        "TLS connections that ended without an end: the client has reset or cut them"
        " off, or they were lost with the TLS proxy.",
        "tls_aborted_connections",
        label="reason",
    )


@dataclass
class Gauges:
    """What the dispatcher knows of the present. Times are monotonic seconds.

    Those that have a metric are fields of :class:`~.observe.snapshot.Snapshot` too.
    """

    min_idle: int = _gauge(0, "The setting min-idle.", "min_idle_workers")
    max_idle: int = _gauge(0, "The setting max-idle.", "max_idle_workers")
    max_workers: int = _gauge(0, "The setting max-workers.", "max_workers")
    parked_by_state: dict[str, int] = _gauge(
        dict.fromkeys(PARKED_STATES, 0),
        "Connections that wait without a worker: for their next request, the rest of a"
        " head or a body, their end after the last response, a permit of their route's"
        " limit, or a worker.",
        "parked_connections",
        label="state",
    )
    spooled: int = _gauge(
        0, "Bodies and responses that spools hold for slow clients.", "spooled_bytes"
    )
    delivering: int = _gauge(
        0,
        "Connections that the sender sends the rest of a response on.",
        "delivering_connections",
    )
    tls_connections: int = _gauge(
        0, "Connections that the TLS proxy has with clients.", "tls_connections"
    )
    memory: int = _gauge(
        0,
        "Memory of zygote and workers, as the setting memory-budget counts it; absent"
        " without that.",
        "memory_bytes",
        absent_without="memory_budget",
    )
    memory_budget: int = _gauge(
        0,
        "The setting memory-budget; absent without one.",
        "memory_budget_bytes",
        absent_without="memory_budget",
    )
    saturated_since: float = _gauge(
        0.0, "Since when more workers are wanted than allowed; 0 if they aren't."
    )
    idle_at: float = _gauge(
        0.0, "When a worker was idle, as far as is known; 0 is never."
    )


class LimitRow(t.NamedTuple):
    """What is shown of a limit.

    :param name: The limit's.
    :param concurrency: Requests that may run at once; 0 for any number.
    :param running: Requests that run, or have a permit and no worker yet.
    :param waiting: Requests that wait for a permit.
    :param refused: Requests that were refused because they had waited too long, or
        couldn't wait.
    """

    name: str
    concurrency: int
    running: int
    waiting: int
    refused: int


# How figures lie in memory


def width(zero: object) -> int:
    """How many numbers a figure has."""
    return len(zero) if isinstance(zero, tuple | dict) else 1


def code(zero: object) -> str:
    """A figure's format (:mod:`struct`): each of its numbers takes eight bytes."""
    return "d" if isinstance(zero, float) else f"{width(zero)}Q"


F = t.TypeVar("F", Served, Counters, Gauges)


class Layout(t.Generic[F]):
    """The numbers of a class of figures, one after the other.

    :param kind: The class.

    :ivar format: Their format, without a byte order.
    """

    def __init__(self, kind: type[F]) -> None:
        self._kind: t.Callable[..., F] = kind
        self._zeros: dict[str, Zero] = {
            name: getattr(kind(), name) for name in specs(kind)
        }
        self._values = attrgetter(*self._zeros)
        self.format = "".join(map(code, self._zeros.values()))

    def numbers(self, figures: F) -> list[Number]:
        """All numbers, to be packed."""
        found: list[Number] = []
        for value in self._values(figures):
            kind = type(value)
            if kind is tuple:
                found += value
            elif kind is dict:
                found += value.values()
            else:
                found.append(value)
        return found

    def figures(self, numbers: Iterator[Number]) -> F:
        """Take as many numbers as there are, and make figures of them."""
        values: dict[str, t.Any] = {}
        for name, zero in self._zeros.items():
            if isinstance(zero, tuple):
                values[name] = tuple(islice(numbers, len(zero)))
            elif isinstance(zero, dict):
                values[name] = {key: t.cast(int, next(numbers)) for key in zero}
            else:
                values[name] = next(numbers)
        return self._kind(**values)


def add(one: Served, other: t.Any) -> Served:
    """The sums of two; none gets greater than its place on the scoreboard.

    :param other: Anything that has the same figures, such as a worker's record.
    """
    return Served(
        **{name: _sum(getattr(one, name), getattr(other, name)) for name in SERVED}
    )


def _sum(one: t.Any, other: t.Any) -> t.Any:
    if isinstance(one, tuple):
        return tuple(map(_sum, one, other))
    return one + other if isinstance(one, float) else min(one + other, MOST)


SERVED: Mapping[str, FigureSpec] = specs(Served)
GAUGES: Mapping[str, FigureSpec] = specs(Gauges)
