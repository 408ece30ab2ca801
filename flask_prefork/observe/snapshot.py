"""The state of the whole server at one moment, as plain data.

The observer takes it from shared memory (:mod:`.reading`). All that shows something
to somebody (text, JSON, metrics, the page, the agent check) is a function of it, and
needs no server to be tested. Times are seconds.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from dataclasses import field

from ..ipc.figures import Counters
from ..ipc.figures import documented
from ..ipc.figures import Histograms
from ..ipc.figures import Served
from ..ipc.states import State

#: The states that a worker may be in, by their letters.
STATES = {s.value: s.name.lower() for s in State if s is not State.FREE}


@dataclass(frozen=True)
class WorkerView:
    """One worker.

    :param slot: Its number within its generation.
    :param state: The letter of its state, see :data:`STATES`.
    :param pid: Its process; 0 while it isn't known.
    :param age: Since its start.
    :param requests: Requests served.
    :param connections: Connections accepted.
    :param method: The current request's method; empty between requests.
    :param target: The current request's target, cut.
    :param busy_for: Since the current request began; ``None`` between requests.
    :param silent_for: Since something of it was last read or written.
    :param pss: Bytes of memory, its share of what is shared counted
        (``proc_pid_smaps_rollup(5)``); ``None`` if that can't be told.
    :param grown: Bytes that requests of one kind have left, the kind that has left
        most; 0 if that isn't known.
    :param grown_by: Their method and path.
    :param upgraded: Whether the app has its connection, as for a WebSocket.
    """

    slot: int
    state: str
    pid: int
    age: float
    requests: int
    connections: int
    method: str = ""
    target: str = ""
    busy_for: float | None = None
    silent_for: float | None = None
    pss: int | None = None
    grown: int = 0
    grown_by: str = ""
    upgraded: bool = False


@dataclass(frozen=True)
class GenerationView:
    """One generation that has workers, or will.

    :param number: From 1.
    :param role: ``current``, ``next`` (loads or starts) or ``retiring`` (drains).
    :param letters: A letter for each slot, ``BBI.S``.
    :param workers: Those that there are, by slot.
    """

    number: int
    role: t.Literal["current", "next", "retiring"]
    letters: str
    workers: tuple[WorkerView, ...]


@dataclass(frozen=True)
class LimitView:
    """One limit of routes.

    :param name: The rule, or the endpoint of a decorated view.
    :param concurrency: Requests that may run at once; 0 for any number.
    :param running: Requests that run.
    :param waiting: Requests that wait for one of them to end.
    :param refused: Requests that were refused since the limit is there.
    """

    name: str
    concurrency: int
    running: int
    waiting: int
    refused: int


@documented
@dataclass
class Totals(Counters, Histograms, Served):
    """Counters since the server's start; they never go down."""


@dataclass(frozen=True)
class Quantiles:
    """How long the requests of the last seconds took, within 5 % from 10 us to 1 h.

    What is shorter than 9.5 us is 0, what is longer than 1 h is 3600. Without any
    request they are ``None``.

    :param window: How many seconds; 0 while there is no history.
    :param requests: How many requests ended in them.
    :param p50: What half of the requests didn't exceed.
    :param p90: What 90 % of them didn't exceed.
    :param p99: What 99 % of them didn't exceed.
    """

    window: float = 0.0
    requests: int = 0
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class PoolSample:
    """How the pool was at an earlier moment.

    :param age: How long ago.
    :param workers: How many there were.
    :param busy: How many of them served, or were ordered to accept; without those
        that retired.
    :param queue: Connections that waited in the accept queues.
    :param requests: Requests served until then.
    :param waiting: Connections that waited for a worker.
    :param latency: Latencies of the requests that ended in the 10 seconds until then.
    :param queue_time: Queue times of the same requests.
    """

    age: float
    workers: int
    busy: int
    queue: int
    requests: int
    waiting: int = 0
    latency: Quantiles = Quantiles()
    queue_time: Quantiles = Quantiles()


@dataclass(frozen=True)
class Snapshot:
    """The whole server.

    :param pid: The dispatcher's process.
    :param version: This package's.
    :param uptime: Since the server's start.
    :param phase: The dispatcher's, see :class:`..phase.Phase`; ``gone`` if its
        process ended.
    :param responsive: Whether the dispatcher answers.
    :param ready: Whether a new request would be served soon: a worker is idle or was
        within the last seconds, a generation is loaded, and the server doesn't drain.
    :param addresses: What it serves on, as URLs.
    :param generations: The current one first.
    :param min_idle: The settings that bound the pool, as they are now.
    :param max_idle: See ``min_idle``.
    :param max_workers: See ``min_idle``.
    :param saturated: Whether more workers are wanted than allowed, now.
    :param queue: Connections in all accept queues.
    :param queue_limit: How many fit in; 0 if that can't be told.
    :param waiting: Connections that wait for a worker: in the accept queues, or parked
        and ready.
    :param parked: Connections that wait without a worker, now.
    :param parked_by_state: The same by what they wait for: their next request
        (``idle``), the rest of a ``head`` or ``body``, their client's end after the
        last response (``lingering``), a permit of their route's limit (``permit``), or
        a worker (``ready``).
    :param spooled: Bytes of bodies and responses in spools, for slow clients.
    :param delivering: Connections that the sender sends the rest of a response on.
    :param tls_connections: Connections that the TLS proxy has with clients.
    :param totals: Counters.
    :param history: Samples of the last minutes, the oldest first.
    :param memory: Bytes that zygote and workers have, as the memory budget counts them;
        0 without one.
    :param memory_budget: Bytes that they may have; 0 is no limit.
    :param staffed: Whether there is a worker that takes new requests, or was in the
        last seconds; also while there need be none.
    :param limits: The limits of routes.
    :param latency: Latencies of the requests that ended in the last minute.
    :param queue_time: Queue times of the same requests.
    """

    pid: int
    version: str
    uptime: float
    phase: str
    responsive: bool
    ready: bool
    addresses: tuple[str, ...]
    generations: tuple[GenerationView, ...]
    min_idle: int
    max_idle: int
    max_workers: int
    saturated: bool
    queue: int
    queue_limit: int
    parked: int
    totals: Totals
    history: tuple[PoolSample, ...] = ()
    memory: int = 0
    memory_budget: int = 0
    staffed: bool = True
    parked_by_state: dict[str, int] = field(default_factory=dict)
    spooled: int = 0
    delivering: int = 0
    tls_connections: int = 0
    waiting: int = 0
    limits: tuple[LimitView, ...] = ()
    latency: Quantiles = Quantiles()
    queue_time: Quantiles = Quantiles()

    @property
    def workers(self) -> tuple[WorkerView, ...]:
        """The workers of all generations."""
        return tuple(w for g in self.generations for w in g.workers)

    @property
    def upgraded(self) -> int:
        """How many connections the app has taken over, now."""
        return sum(worker.upgraded for worker in self.workers)

    def count(self, letters: str) -> int:
        """How many workers are in the states of these letters."""
        return sum(worker.state in letters for worker in self.workers)
