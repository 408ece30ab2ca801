"""Other preforking servers, as their documentation and source describe the scaling.

These are models of the rules, not of the rest of the code. All have the same limits,
under their own names. If a server has a setting that only makes it faster and that
doesn't exist here, it has the better value. Each class says which.
"""

from __future__ import annotations

import heapq

from .engine import Process
from .engine import Server
from .engine import World
from .ours import Limits

MAX_SPAWN_RATE = 32
"""Apache's and php-fpm's ``MAX_SPAWN_RATE``."""


class Accepting(Server):
    """All processes block in accept, and the kernel wakes the longest idle one.

    Subclasses say how many processes there are, on a tick or when one reports.
    """

    TICK = 1.0
    """Seconds between two looks at the pool."""

    def __init__(self, world: World, limits: Limits) -> None:
        super().__init__(world)
        self.limits = limits
        self.idle: dict[Process, None] = {}
        self.starting = 0

    @property
    def total(self) -> int:
        return len(self.world.processes)

    @property
    def room(self) -> int:
        return self.limits.max_workers - self.total

    def begin(self) -> None:
        self.deadline = self.world.now + self.TICK
        self.fork(self.limits.fewest)

    def arrived(self) -> None:
        if self.idle:
            self.accept(self.choose())

    def started(self, process: Process) -> None:
        self.starting -= 1
        self.free(process)

    def finished(self, process: Process) -> None:
        self.free(process)

    def wake(self) -> None:
        self.deadline += self.TICK
        self.look()

    def look(self) -> None:
        """The tick: start or retire processes."""

    def choose(self) -> Process:
        """Who of the idle accepts."""
        return next(iter(self.idle))

    def accept(self, process: Process) -> None:
        """A process takes the next connection."""
        self.idle.pop(process, None)
        self.world.take(process)

    def free(self, process: Process) -> None:
        """A process comes back for the next connection."""
        if process.leaving:
            self.world.retire(process)
        elif self.world.queue:
            self.accept(process)
        else:
            self.idle[process] = None

    def fork(self, count: int) -> None:
        self.starting += max(count, 0)
        for _ in range(count):
            self.world.fork()

    def retire(self, process: Process) -> None:
        """Let it end, after its request if it has one."""
        if process in self.idle:
            del self.idle[process]
            self.world.retire(process)
        else:
            process.leaving = True


class Fixed(Accepting):
    """As many processes as it is given, for ever."""


class Apache(Accepting):
    """The prefork MPM: MinSpareServers, MaxSpareServers, MaxRequestWorkers.

    Once a second it starts 1, 2, 4 ... 32 children while there are too few spares,
    or ends one if there are too many.
    """

    rate = 1

    def look(self) -> None:
        spare = len(self.idle) + self.starting
        if spare > max(self.limits.most_idle, self.limits.min_idle + 1):
            self.rate = 1
            if self.idle:
                self.retire(max(self.idle, key=lambda process: process.number))
        elif spare < self.limits.min_idle and self.room > 0:
            self.fork(min(self.rate, self.room))
            self.rate = min(self.rate * 2, MAX_SPAWN_RATE)
        else:
            self.rate = 1


class PhpFpm(Accepting):
    """``pm = dynamic``: pm.min_spare_servers, pm.max_spare_servers, pm.max_children.

    Apache's rule, but for what is missing at the most; who starts is not yet spare.
    """

    rate = 1

    def look(self) -> None:
        spare = len(self.idle)
        count = min(self.rate, self.limits.min_idle - spare, self.room)
        if spare > self.limits.most_idle:
            self.rate = 1
            self.retire(min(self.idle, key=lambda process: process.born))
        elif count > 0:
            self.fork(count)
            self.rate = min(self.rate * 2, MAX_SPAWN_RATE)
        else:
            self.rate = 1


class SpamAssassin(Accepting):
    """spamd: --min-spare, --max-spare, --max-children.

    The lowest-numbered idle child is ordered. When a child reports that it is idle,
    and at no other time, one child is started or killed.
    """

    def __init__(self, world: World, limits: Limits) -> None:
        super().__init__(world, limits)
        # May list some that are idle no more.
        self.numbers: list[int] = []

    def begin(self) -> None:
        self.fork(self.limits.fewest)

    def choose(self) -> Process:
        while True:
            process = self.world.processes.get(self.numbers[0])
            if process is not None and process in self.idle:
                return process
            heapq.heappop(self.numbers)

    def free(self, process: Process) -> None:
        super().free(process)
        if process in self.idle:
            heapq.heappush(self.numbers, process.number)
        spare = len(self.idle)
        if spare < self.limits.min_idle:
            self.fork(min(1, self.room))
        elif spare > self.limits.most_idle and self.total > self.limits.fewest:
            self.retire(max(self.idle, key=lambda process: process.number))


class NetServer(Accepting):
    """Net::Server::PreFork: min_spare_servers, max_spare_servers, max_servers.

    After each report of a child it starts all spares that are missing; who starts
    counts. Every ``check_for_waiting`` seconds it ends all surplus spares, if none
    was started or ended within ``min_child_ttl``.
    """

    TICK = 10.0
    """check_for_waiting, its default."""

    TTL = 10.0
    """min_child_ttl, its default."""

    last_start = last_kill = last_look = last_accept = 0.0

    def accept(self, process: Process) -> None:
        super().accept(process)
        self.last_accept = self.world.now
        self.look()

    def free(self, process: Process) -> None:
        super().free(process)
        self.look()

    def look(self) -> None:
        now = self.world.now
        spare = len(self.idle) + self.starting
        missing = max(self.limits.min_idle - spare, self.limits.fewest - self.total)
        missing = min(missing, self.room)
        if missing > 0:
            self.last_start = now
            self.fork(missing)
        if now - self.last_look >= self.TICK:
            self.last_look = now
            if now - self.last_start > self.TTL:
                self.kill(spare - self.limits.most_idle)
        if now - self.last_accept > 3 * self.TTL:
            self.kill(spare - self.limits.min_idle)

    def kill(self, count: int) -> None:
        count = min(count, self.total - self.limits.fewest, len(self.idle))
        if count > 0 and self.world.now - self.last_kill >= self.TTL:
            self.last_kill = self.world.now
            for process in list(self.idle)[:count]:
                self.retire(process)


class UwsgiSpare2(Accepting):
    """uWSGI's ``cheaper-algo = spare2``: cheaper, workers.

    Once a second it starts the idle workers that are missing. When there were more
    for ``cheaper-idle`` seconds it ends one, the oldest. ``cheaper-step`` is as high
    as needed here; its default of 1 is slower.
    """

    IDLE = 10
    """cheaper-idle, its default."""

    surplus = 0

    def look(self) -> None:
        spare = len(self.idle) + self.starting
        if spare < self.limits.min_idle:
            self.surplus = 0
            self.fork(min(self.limits.min_idle - spare, self.room))
        elif spare == self.limits.min_idle:
            self.surplus = 0
        else:
            self.surplus += 1
            if self.surplus > self.IDLE:
                self.surplus = 0
                self.retire_oldest()

    def retire_oldest(self) -> None:
        staying = (p for p in self.world.processes.values() if not p.leaving)
        self.retire(min(staying, key=lambda process: process.born))


class UwsgiBusyness(UwsgiSpare2):
    """uWSGI's ``cheaper-algo = busyness``: cheaper, workers.

    Every ``cheaper-overload`` seconds: above 50 % of the time busy it starts
    ``cheaper-step`` workers, below 25 % for ten such cycles it ends one. A worker a
    second is started while more than 33 connections wait. ``cheaper-step`` is the
    same as cheaper here; its default of 1 is slower.
    """

    OVERLOAD = 3
    """cheaper-overload, its default."""

    MOST, LEAST = 0.50, 0.25
    """cheaper-busyness-max and -min, the defaults."""

    CYCLES, EMERGENCY_CYCLES = 10, 3
    """cheaper-busyness-multiplier and -backlog-multiplier, the defaults."""

    BACKLOG = 33
    """cheaper-busyness-backlog-alert, its default."""

    PENALTY = 2
    """cheaper-busyness-penalty, its default."""

    ticks = emergencies = tolerated = 0
    multiplier = CYCLES
    may_cheap = float(OVERLOAD * CYCLES)
    last_cheap = float("-inf")
    cheaped_last = False

    def __init__(self, world: World, limits: Limits) -> None:
        super().__init__(world, limits)
        self.seen: dict[Process, float] = {}

    def look(self) -> None:
        self.ticks += 1
        if self.ticks % self.OVERLOAD == 0 and self.judge():
            return
        if len(self.world.queue) > self.BACKLOG and self.room > 0:
            self.multiplier, self.cheaped_last = self.CYCLES, False
            self.emergencies += 1
            self.postpone()
            self.fork(1)

    def postpone(self) -> None:
        cycles = self.EMERGENCY_CYCLES if self.emergencies else self.multiplier
        self.may_cheap = self.world.now + self.OVERLOAD * cycles

    def busyness(self) -> float:
        """The part of the last cycle that workers were busy.

        A request counts when it is finished; who finished none and is busy was busy
        all the time.
        """
        parts = []
        seen, self.seen = self.seen, {}
        for process in self.world.processes.values():
            if process.leaving:
                continue
            is_serving = not process.starting and process not in self.idle
            self.seen[process] = process.spent
            spent = process.spent - seen.get(process, 0.0)
            whole = is_serving and not spent
            parts.append(1.0 if whole else min(spent / self.OVERLOAD, 1.0))
        return sum(parts) / max(len(parts), 1)

    def judge(self) -> bool:
        """A cycle is over; whether that is all for now."""
        now, busyness = self.world.now, self.busyness()
        if busyness > self.MOST:
            self.tolerated = 0
            self.grow(now)
            return True
        if len(self.world.queue) > self.BACKLOG and self.room > 0:
            return False
        if self.total == 1:
            return True
        if busyness < self.LEAST:
            self.tolerated = 0
            if self.total > self.limits.fewest and now >= self.may_cheap:
                self.cheap(now)
            return True
        self.emergencies = max(self.emergencies - 1, 0)
        self.tolerated += 1
        if self.tolerated >= 3:
            self.postpone()
        else:
            self.may_cheap += self.OVERLOAD
        return True

    def grow(self, now: float) -> None:
        count = min(self.limits.min_idle, self.room)
        if count > 0:
            self.cheaped_last = False
            if now - self.last_cheap <= self.OVERLOAD * self.multiplier:
                self.multiplier += self.PENALTY
            else:
                self.relax()
            self.postpone()
            self.fork(count)

    def cheap(self, now: float) -> None:
        if self.cheaped_last:
            self.relax()
        self.postpone()
        self.last_cheap, self.cheaped_last = now, True
        self.emergencies = max(self.emergencies - 1, 0)
        self.retire_oldest()

    def relax(self) -> None:
        self.multiplier = max(self.multiplier - 1, self.CYCLES)
