"""``flask prefork-run`` under overload, with its own shedding and permits.

:class:`Overloaded` replaces the dispatcher: it asks ``Shedding`` and ``Permits`` after
each event, and at their deadlines. There is one accept queue and a fixed number of
workers. Messages and refusals take no time. A client that has left is served all the
same: of a closed connection the kernel tells a server nothing but that no more comes.
"""

from __future__ import annotations

import heapq
import math
import typing as t
from bisect import insort
from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence

from openloop import OK
from overload import Answer
from overload import REFUSED

from flask_prefork.dispatcher.permits import Permits
from flask_prefork.dispatcher.shedding import Accept
from flask_prefork.dispatcher.shedding import Queue
from flask_prefork.dispatcher.shedding import Shedding
from flask_prefork.settings.limits import RouteLimit

STEPS = 64
"""What is done in one turn of the dispatcher at most."""


class Request:
    """A request on a connection of its own; ``Permits`` takes it for a connection.

    :ivar arrived: Seconds from the start.
    :ivar service: Seconds that it takes.
    :ivar limit: The name of its route's limit, or nothing.
    """

    __slots__ = ("arrived", "has_permit", "is_held", "limit", "service")

    def __init__(self, arrived: float, service: float, limit: str = "") -> None:
        self.arrived = arrived
        self.service = service
        self.limit = limit
        self.has_permit = False
        self.is_held = False

    @property
    def state(self) -> Request:
        return self


class Ended(t.NamedTuple):
    """What became of a request.

    :ivar waited: Seconds until a worker took it, and those in which it was stuck; or
        until it was refused.
    """

    request: Request
    waited: float
    served: bool

    def answer(self, patience: float) -> Answer:
        """What its client saw.

        :param patience: Seconds that it waits.
        """
        took = self.waited + (self.request.service if self.served else 0.0)

        if took > patience:
            return self.request.arrived, patience, "timeout"

        return self.request.arrived, took, OK if self.served else REFUSED


class Overloaded:
    """One run.

    :param workers: How many there are.
    :param queue_timeout: As ``--queue-timeout``.
    :param max_queue: As ``--max-queue``.
    :param limits: Those of routes.
    :param stall: From when to when every request is stuck.
    """

    def __init__(
        self,
        workers: int,
        queue_timeout: float = 0.0,
        max_queue: int = 0,
        limits: Sequence[RouteLimit] = (),
        stall: tuple[float, float] = (math.inf, math.inf),
    ) -> None:
        self.now = 0.0
        self.shedding = Shedding(self.now)
        self.shedding.configure(queue_timeout, max_queue)
        self.permits = Permits()
        self.permits.configure(limits, queue_timeout)
        self.ended: list[Ended] = []
        self.most_running: dict[str, int] = {}
        """Requests of each limit, at once."""

        self._stall = stall
        #: The lowest-numbered idle worker is first.
        self._idle = list(range(workers))
        self._queue: deque[Request] = deque()
        self._ready: list[Request] = []
        self._busy: list[tuple[float, int]] = []

    def run(self, requests: Iterable[Request]) -> list[Ended]:
        """Let all requests end.

        :param requests: In the order of their arrival.
        """
        coming = deque(requests)

        while coming or self._busy or self._queue or self._ready or len(self.permits):
            arrival = coming[0].arrived if coming else math.inf
            done = self._busy[0][0] if self._busy else math.inf
            deadline = self._deadline()
            # A deadline may have come in this turn, as there was too much to do.
            self.now = max(self.now, min(arrival, done, deadline))

            if done <= self.now:
                worker = heapq.heappop(self._busy)[1]
                self.permits.release(worker)
                heapq.heappush(self._idle, worker)
            elif arrival <= self.now:
                self._queue.append(coming.popleft())

            self._turn()

        return self.ended

    def _deadline(self) -> float:
        times = (self.permits.deadline(), self.shedding.deadline())
        return min((moment for moment in times if moment is not None), default=math.inf)

    def _turn(self) -> None:
        for late in self.permits.expire(self.now):
            self._end(t.cast(Request, late), served=False)

        self._grant()

        while self._idle and (self._ready or self._queue):
            self._take(self._ready.pop(0) if self._ready else self._queue.popleft())

        self.shedding.ended(self.now)

        if self.shedding.is_due(self.now, bool(self._idle)):
            is_done = self._look()
            self.shedding.looked(self.now, self._oldest(), is_done)

    def _grant(self) -> None:
        for granted in self.permits.grant():
            request = t.cast(Request, granted)
            request.has_permit = True
            insort(self._ready, request, key=lambda one: one.arrived)

    def _take(self, request: Request) -> None:
        """Let the first idle worker have it."""
        connection = t.cast(t.Any, request)

        if request.limit and not request.has_permit:
            # The worker has read its head, and is idle again.
            self.permits.wait(connection, self.now)
            self._grant()
            return

        worker = heapq.heappop(self._idle)
        self.permits.take(connection, worker)
        until = self.now + request.service
        begin, end = self._stall

        stuck = end - until if begin <= until < end else 0.0
        heapq.heappush(self._busy, (until + stuck, worker))
        self._end(request, served=True, stuck=stuck)

        for row in self.permits.rows() if request.limit else ():
            most = self.most_running.get(row.name, 0)
            # Those with a permit and no worker yet don't run.
            running = row.running - sum(one.limit == row.name for one in self._ready)
            self.most_running[row.name] = max(most, running)

    def _look(self) -> bool:
        """See :class:`flask_prefork.dispatcher.shedder.Shedder`."""
        for _ in range(STEPS):
            is_held = any(one.is_held for one in self._ready)
            queue = Queue(len(self._queue), is_held, tells_age=True)
            ready = len(self._ready)
            action = self.shedding.next(self.now, [queue], ready, self._oldest())

            if action is None:
                return True

            if isinstance(action, Accept):
                request = self._queue.popleft()
                request.is_held = True
                insort(self._ready, request, key=lambda one: one.arrived)
            else:
                request = self._ready.pop(0)
                self.permits.forget(t.cast(t.Any, request))
                self.shedding.refused(self.now)
                self._end(request, served=False)

        return False

    def _oldest(self) -> float | None:
        return self._ready[0].arrived if self._ready else None

    def _end(self, request: Request, served: bool, stuck: float = 0.0) -> None:
        waited = self.now - request.arrived + stuck
        self.ended.append(Ended(request, waited, served))
