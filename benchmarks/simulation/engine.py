"""What happens around a server: time, connections that wait, processes.

A :class:`World` runs one :class:`Server` with one :class:`.traffic.Traffic`. The server
decides which process accepts a connection and how many processes there are. The world
lets them start, serve and exit, and counts. Processes wait in their requests instead of
computing, so they don't slow each other down.
"""

from __future__ import annotations

import heapq
import math
import typing as t
from collections import deque
from collections.abc import Callable

from .traffic import Traffic


class Machine(t.NamedTuple):
    """What starting a process costs."""

    fork: float = 0.002
    """Seconds that the parent forks, one child after the other."""

    boot: float = 0.010
    """Seconds from there until the child can accept."""

    warm_up: float = 0.0
    """Seconds that a process's first request takes longer."""


class Process:
    """One process of the server."""

    __slots__ = ("born", "cold", "leaving", "number", "serving", "spent", "starting")

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.born = now
        self.starting = True
        self.cold = True
        self.leaving = False
        """It ends after its request."""

        self.serving = 0.0
        """Seconds of its present request."""

        self.spent = 0.0
        """Seconds of all requests that it has finished."""


class Account(t.NamedTuple):
    """What a run came to."""

    waits: list[float]
    """For each request, the seconds that it took longer than its service: in the
    queue, and for a process's first request."""

    workers: list[int]
    """For each request, the number of the process that served it."""

    seconds: float
    """How long the run was."""

    alive: float
    """Seconds of all processes."""

    busy: float
    starting: float
    spawned: int
    retired: int
    peak: int
    """The most processes at once."""

    events: int
    sizes: list[tuple[float, int]]
    """The number of processes, with the time since when."""


class Server:
    """What a model of a server answers to. Subclasses are in ``ours`` and ``peers``."""

    deadline = math.inf
    """When to :meth:`wake` it if nothing happens before."""

    def __init__(self, world: World) -> None:
        self.world = world

    def begin(self) -> None:
        """Start the first processes."""
        raise NotImplementedError

    def arrived(self) -> None:
        """One more connection is in the queue."""
        raise NotImplementedError

    def started(self, process: Process) -> None:
        """A process can accept for the first time."""
        raise NotImplementedError

    def finished(self, process: Process) -> None:
        """A process is done with its request."""
        raise NotImplementedError

    def wake(self) -> None:
        """It is the deadline."""
        raise NotImplementedError


class World:
    """One run.

    :param traffic: the requests.
    :param machine: what processes cost.
    :param make: makes the server.
    :param tail: seconds after the last arrival that the run goes on, to see the pool
        shrink.
    """

    def __init__(
        self,
        traffic: Traffic,
        machine: Machine,
        make: Callable[[World], Server],
        tail: float = 0.0,
    ) -> None:
        self.now = 0.0
        self.queue: deque[int] = deque()
        """Requests that wait, by their index."""

        self.processes: dict[int, Process] = {}
        """Those that live, by number."""

        self._arrivals, self._services = traffic
        self._machine = machine
        self._tail = tail
        self._events: list[tuple[float, int, Process]] = []
        self._serial = 0
        self._fork_free = 0.0
        self._free: list[int] = []
        self._waits = [math.nan] * len(self._arrivals)
        self._workers = [-1] * len(self._arrivals)
        self._alive = self._busy = self._starting = 0.0
        self._spawned = self._retired = self._peak = 0
        self._sizes: list[tuple[float, int]] = []
        self._server = make(self)

    # What servers do

    def fork(self) -> Process:
        """Start a process. It has the lowest number that is free."""
        number = heapq.heappop(self._free) if self._free else len(self.processes)
        process = self.processes[number] = Process(number, self.now)
        self._fork_free = max(self._fork_free, self.now) + self._machine.fork
        ready = self._fork_free + self._machine.boot
        self._starting += ready - self.now
        self._spawned += 1
        self._peak = max(self._peak, len(self.processes))
        self._resized()
        self._at(ready, process)
        return process

    def take(self, process: Process) -> None:
        """Let a process serve the connection that waits longest."""
        index = self.queue.popleft()
        extra = self._machine.warm_up if process.cold else 0.0
        process.cold = False
        seconds = self._services[index] + extra
        self._waits[index] = self.now - self._arrivals[index] + extra
        self._workers[index] = process.number
        self._busy += seconds
        process.serving = seconds
        self._at(self.now + seconds, process)

    def retire(self, process: Process) -> None:
        """End a process that has nothing to do."""
        del self.processes[process.number]
        heapq.heappush(self._free, process.number)
        self._alive += self.now - process.born
        self._retired += 1
        self._resized()

    # The run

    def run(self) -> Account:
        """Let all requests be served, and the tail pass."""
        arrivals, events, server = self._arrivals, self._events, self._server
        count, arrived, happened = len(arrivals), 0, 0
        end = (arrivals[-1] if arrivals else 0.0) + self._tail
        server.begin()
        while True:
            next_arrival = arrivals[arrived] if arrived < count else math.inf
            next_event = events[0][0] if events else math.inf
            moment = min(next_arrival, next_event, server.deadline)
            if moment > end and arrived == count and not self._unserved():
                break
            if moment == math.inf:
                raise RuntimeError(f"{len(self.queue)} requests wait for ever")
            happened += 1
            # A deadline may have come while it was not asked.
            self.now = max(moment, self.now)
            if moment == next_event:
                self._happen(heapq.heappop(events)[2])
            elif moment == next_arrival:
                self.queue.append(arrived)
                arrived += 1
                server.arrived()
            else:
                server.wake()
        return self._account(max(end, self.now), happened)

    def _unserved(self) -> bool:
        return bool(self.queue) or any(not e[2].starting for e in self._events)

    def _happen(self, process: Process) -> None:
        if process.starting:
            process.starting = False
            self._server.started(process)
        else:
            process.spent += process.serving
            self._server.finished(process)

    def _at(self, when: float, process: Process) -> None:
        self._serial += 1
        heapq.heappush(self._events, (when, self._serial, process))

    def _resized(self) -> None:
        self._sizes.append((self.now, len(self.processes)))

    def _account(self, end: float, happened: int) -> Account:
        left = sum(end - process.born for process in self.processes.values())
        return Account(
            waits=self._waits,
            workers=self._workers,
            seconds=end,
            alive=self._alive + left,
            busy=self._busy,
            starting=self._starting,
            spawned=self._spawned,
            retired=self._retired,
            peak=self._peak,
            events=happened,
            sizes=self._sizes,
        )
