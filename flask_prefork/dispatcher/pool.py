"""The pool: slots, their states, and which is the lowest-numbered idle worker.

This module is pure: events and the time come in as arguments, decisions go
out as results. It knows no process, descriptor or clock. The dispatcher feeds
it and carries out what it decides. :mod:`.policy` decides how many workers there
should be; the pool decides which.

An event that a worker's life (:mod:`..ipc.states`) doesn't know in its state is late,
doubled or out of order. It is ignored, and :meth:`Pool.report` returns so.
"""

from __future__ import annotations

import heapq
import random
import typing as t
from collections import Counter
from collections.abc import Iterator

from ..ipc.states import Event as Event
from ..ipc.states import State as State
from ..ipc.states import TRANSITIONS as TRANSITIONS


class PoolWorker:
    """A worker as the pool sees it. The next one in its slot is another object.

    :ivar number: The slot's, from 0.
    :ivar state: Where it is in its life.
    :ivar since: When it came into that state, in seconds.
    :ivar transitions: How many times it has changed its state.
    :ivar served: Requests it has reported.
    :ivar limit: Requests after which it is due to be replaced; 0 is never.
    :ivar suspect: It was ordered and is silent; its connection is others' now.
    :ivar was_idle: It was idle at least once, so it has started well.
    :ivar was_busy: It has begun a request at least once.
    :ivar queue: The accept queue it was ordered to take from.
    :ivar finishing: It serves no more, and waits for what the app's threads do.
    """

    __slots__ = (
        "finishing",
        "limit",
        "number",
        "queue",
        "served",
        "since",
        "state",
        "suspect",
        "transitions",
        "was_busy",
        "was_idle",
    )

    def __init__(self, number: int, now: float, limit: int = 0) -> None:
        self.number = number
        self.state = State.FREE
        self.since = now
        self.transitions = 0
        self.served = 0
        self.limit = limit
        self.suspect = False
        self.was_idle = False
        self.was_busy = False
        self.queue = 0
        self.finishing = False

    @property
    def due(self) -> bool:
        """It has served as many requests as it may."""
        return bool(self.limit) and self.served >= self.limit

    def __repr__(self) -> str:
        return f"<Worker {self.number} {self.state.name}>"


class Timeouts(t.NamedTuple):
    """How long a worker may stay in a state, in seconds.

    :param order: Ordered and silent; then the connection is somebody else's.
    :param spawn: Starting; or ordered and silent altogether; then it's killed.
    :param retire: Retiring; then it is killed.
    """

    order: float = 1.0
    spawn: float = 30.0
    retire: float = 30.0


class Pool:
    """The workers of one generation.

    :param size: The number of slots.
    :param timeouts: Deadlines of the states that have one.
    :param max_requests: Requests after which a worker is due; 0 is never.
    :param jitter: Up to this many more, for each worker.
    :param rng: Where the jitter comes from.
    :ivar outstanding: For each accept queue, how many orders may each still
        take a connection from it.
    :ivar gone: How many workers have ended.
    """

    def __init__(
        self,
        size: int,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - immutable
        *,
        max_requests: int = 0,
        jitter: int = 0,
        rng: random.Random | None = None,
    ) -> None:
        self.timeouts = timeouts
        self.max_requests = max_requests
        self.jitter = jitter
        self.rng = rng or random.Random()
        self.workers: list[PoolWorker | None] = [None] * size
        self.counts = dict.fromkeys(State, 0)
        self.counts[State.FREE] = size
        self.outstanding: Counter[int] = Counter()
        self.gone = 0
        # Lowest first. A slot is in _free once; in _idle it may be listed
        # although it has gone on, so what comes off the top is looked at.
        self._free = list(range(size))
        self._idle: list[int] = []
        # Each in the order of arrival. As all that enter wait equally long,
        # the first is the next whose time is up.
        self._starting: dict[PoolWorker, None] = {}
        self._ordered: dict[PoolWorker, None] = {}
        self._suspect: dict[PoolWorker, None] = {}
        self._retiring: dict[PoolWorker, None] = {}
        self._due: dict[PoolWorker, None] = {}
        self._finishing = 0
        self._replacement: PoolWorker | None = None

    # Facts

    def __iter__(self) -> Iterator[PoolWorker]:
        return (worker for worker in self.workers if worker is not None)

    def __len__(self) -> int:
        """The number of slots that are not free."""
        return len(self.workers) - self.counts[State.FREE]

    @property
    def total(self) -> int:
        """How many workers serve, or may: those that only finish don't."""
        return len(self) - self._finishing

    @property
    def idle(self) -> int:
        """How many workers wait for orders."""
        return self.counts[State.IDLE]

    @property
    def retiring(self) -> int:
        """How many workers were asked to exit."""
        return self.counts[State.RETIRING]

    @property
    def suspects(self) -> int:
        """How many workers were ordered and are silent."""
        return len(self._suspect)

    @property
    def starting(self) -> int:
        """How many workers are on their way to their first idle."""
        return self.counts[State.STARTING]

    def lowest_idle(self) -> PoolWorker | None:
        """The lowest-numbered idle worker."""
        while self._idle:
            worker = self.workers[self._idle[0]]
            if worker is not None and worker.state is State.IDLE:
                return worker
            heapq.heappop(self._idle)
        return None

    def letters(self) -> str:
        """A letter for each slot up to the highest in use, as ``BBI.S``."""
        line = "".join("." if w is None else w.state.value for w in self.workers)
        return line.rstrip(".")

    # Events

    def spawn(self, now: float) -> PoolWorker | None:
        """Take the lowest free slot for a new worker.

        :return: The worker, or ``None`` when no slot is free.
        """
        if not self._free:
            return None
        slot = heapq.heappop(self._free)
        limit = self.max_requests
        if limit and self.jitter:
            limit += self.rng.randint(0, self.jitter)
        worker = PoolWorker(slot, now, limit)
        self.workers[slot] = worker
        self._move(worker, Event.SPAWN, now)
        return worker

    def report(
        self, worker: PoolWorker, event: Event, now: float, served: int = 0
    ) -> bool:
        """Take in what happened to a worker.

        :param served: Requests served since its last report.
        :return: Whether the event had a place in its life. If not, it was
            late, doubled or out of order, and nothing has changed.
        """
        if self.workers[worker.number] is not worker:
            return False
        if event in (Event.SPAWN, Event.ORDER):
            raise ValueError(f"{event.value} is decided here, not reported")
        worker.served += served
        return self._move(worker, event, now)

    def _move(self, worker: PoolWorker, event: Event, now: float) -> bool:
        old = worker.state
        new = TRANSITIONS.get((old, event))
        if new is None:
            return False
        if old is State.ORDERED:
            if worker.suspect:
                del self._suspect[worker]
                worker.suspect = False
            else:
                del self._ordered[worker]
                self.outstanding[worker.queue] -= 1
        elif old is State.STARTING:
            self._starting.pop(worker, None)
        elif old is State.RETIRING:
            self._retiring.pop(worker, None)
        self.counts[old] -= 1
        self.counts[new] += 1
        worker.state = new
        worker.transitions += 1
        worker.since = now
        if new is State.IDLE:
            worker.was_idle = True
            heapq.heappush(self._idle, worker.number)
            if worker.due:
                self._due[worker] = None
        elif new is State.BUSY:
            worker.was_busy = True
        elif new is State.ORDERED:
            self._ordered[worker] = None
        elif new is State.STARTING:
            self._starting[worker] = None
        elif new is State.RETIRING:
            self._retiring[worker] = None
        elif new is State.FREE:
            self._release(worker)
        return True

    def _release(self, worker: PoolWorker) -> None:
        self.workers[worker.number] = None
        self.gone += 1
        self._finishing -= worker.finishing
        heapq.heappush(self._free, worker.number)
        self._due.pop(worker, None)
        if self._replacement is worker:
            self._replacement = None

    # Decisions

    def order(self, count: int, now: float, queue: int = 0) -> list[PoolWorker]:
        """Order workers to accept, the lowest-numbered idle ones.

        :param count: The number of connections that wait and that nobody was
            ordered to take.
        :param queue: The accept queue they wait in.
        :return: The workers to send an order to; they are ORDERED now.
        """
        ordered: list[PoolWorker] = []
        while len(ordered) < count:
            worker = self.lowest_idle()
            if worker is None:
                break
            worker.queue = queue
            self.outstanding[queue] += 1
            self._move(worker, Event.ORDER, now)
            ordered.append(worker)
        return ordered

    def expire(self, worker: PoolWorker) -> None:
        """Let a worker be due that has served: it may serve no more."""
        worker.limit = 1
        if worker.state is State.IDLE:
            self._due[worker] = None

    def highest_idle(self, count: int) -> list[PoolWorker]:
        """The idle workers to retire when ``count`` of them are surplus."""
        chosen: list[PoolWorker] = []
        for worker in reversed(self.workers):
            if len(chosen) >= count:
                break
            if worker is not None and worker.state is State.IDLE:
                chosen.append(worker)
        return chosen

    def finish(self, worker: PoolWorker, now: float) -> None:
        """A worker serves no more: it is retiring, and in nobody's way."""
        self._move(worker, Event.RETIRE, now)
        if worker.state is State.RETIRING and not worker.finishing:
            worker.finishing = True
            self._finishing += 1

    @property
    def recycles(self) -> bool:
        """Whether there is something for :meth:`recycle` to do, or soon will be."""
        return bool(self._due) or self._replacement is not None

    def recycle(
        self, now: float, room: bool
    ) -> tuple[PoolWorker | None, PoolWorker | None]:
        """Replace a worker that has served its number of requests.

        One at a time: first a new worker is started; when that is idle the
        one that is due retires, when it is idle too. Without room for one
        more the old one goes first; but not while others, too, are yet to come.

        :param room: Whether one more worker is allowed.
        :return: A worker to start (it is STARTING now), and one to retire.
        """
        # Not by their number: among those that finish there are killed ones too.
        if self._starting or not all(one.finishing for one in self._retiring):
            return None, None
        if not self._due:
            # The one it was to replace has died.
            self._replacement = None
            return None, None
        if self._replacement is not None and self._replacement.state is State.KILLED:
            return None, None  # another one is started when it is buried
        if self._replacement is None and room:
            self._replacement = self.spawn(now)
            return self._replacement, None
        for worker in self._due:
            if worker.state is State.IDLE:
                del self._due[worker]
                self._replacement = None
                return None, worker
        return None, None

    def renew(self, worker: PoolWorker, now: float) -> None:
        """Give a worker the whole time again that it has for its state."""
        for waiting, _ in self._limited():
            if worker in waiting:
                del waiting[worker]
                waiting[worker] = None
                worker.since = now

    def overdue(self, now: float) -> list[PoolWorker]:
        """Those whose time in their state is up and who are to be killed.

        An ordered worker that stays silent first becomes suspect, which only
        makes its connection free for others: a worker whose pages are swapped
        out may need seconds, and being slow is no crime.
        """
        while self._ordered:
            worker = next(iter(self._ordered))
            if worker.since + self.timeouts.order > now:
                break
            del self._ordered[worker]
            self.outstanding[worker.queue] -= 1
            self._suspect[worker] = None
            worker.suspect = True
        late = []
        for waiting, limit in self._limited():
            for worker in waiting:
                if worker.since + limit > now:
                    break
                late.append(worker)
        return late

    def deadline(self) -> float | None:
        """When :meth:`overdue` should be asked next, in seconds."""
        lists = [(self._ordered, self.timeouts.order), *self._limited()]
        times = [next(iter(w)).since + limit for w, limit in lists if w]
        return min(times, default=None)

    def _limited(self) -> tuple[tuple[dict[PoolWorker, None], float], ...]:
        _, spawn, retire = self.timeouts
        return (self._starting, spawn), (self._suspect, spawn), (self._retiring, retire)
