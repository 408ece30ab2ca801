"""The policy: how many workers there should be.

Pure, like :mod:`.pool`: the dispatcher passes in the state of the pool and the time,
and learns how many workers to start or to retire. It asks after every event that
changed a state and at :meth:`Policy.deadline`, never on a tick.

Growth follows Apache's prefork (``idle_spawn_rate`` in mpm_prefork: 1, 2, 4
... 32 while it keeps being short), with a step of a tenth of a second. Apache's
step is a second; with it, eight requests at once wait three.

Shrinking goes by the smallest number of idle workers in a window of time:
what was idle at every moment of it was needed at none. SpamAssassin looked at
one moment, and killed in the trough what it had started for the peak.

A budget of memory bounds growth as max-workers does. Above it, idle workers go at
once, but for min-idle and min-workers.
"""

from __future__ import annotations

import typing as t
from collections import deque

from ..settings.size import parse

if t.TYPE_CHECKING:
    from ..settings.table import Settings

#: Seconds between two steps of growth.
STEP = 0.1
#: At most this many new workers a step.
MAX_RATE = 32
#: After failed starts wait this long, doubled with each, up to the maximum.
BACK_OFF = 0.2
MAX_BACK_OFF = 30.0
#: When the last one died idle, a worker that becomes idle so soon after the pause isn't
#: taken for a success, in seconds.
DOUBT = 1.0


class Episodes:
    """Times in which something is so; after shorter breaks it is the same one.

    :param pause: What is no shorter break, in seconds.
    :param now: The time.
    """

    def __init__(self, pause: float, now: float) -> None:
        self._is_new = False
        self._pause = pause
        self._is_so = False
        self._until = now - pause

    def note(self, now: float, is_so: bool) -> None:
        """Take in whether it is so now."""
        if is_so and not self._is_so:
            if now - self._until >= self._pause:
                self._is_new = True
        elif self._is_so and not is_so:
            self._until = now
        self._is_so = is_so

    def is_new(self) -> bool:
        """Whether another one has begun since this was asked last."""
        is_new, self._is_new = self._is_new, False
        return is_new


class Memory(t.NamedTuple):
    """What all of the pool's processes have in memory, in bytes.

    :param used: That they have.
    :param reserve: That they will have in addition.
    :param each: That one more worker would have.
    :param growth: The part of the reserve that is for those who have served: they will
        grow as they have grown last.
    """

    used: int = 0
    reserve: int = 0
    each: int = 0
    growth: int = 0


NO_MEMORY = Memory()


class Policy:
    """Decides the size of one generation.

    :param min_idle: Keep this many idle.
    :param max_idle: Above this idle workers are surplus if they weren't
        needed for ``idle_timeout``.
    :param min_workers: Never fewer.
    :param max_workers: Never more.
    :param idle_timeout: The window for shrinking, in seconds.
    :param now: The time, in seconds, by the clock of all later calls.
    :param budget: What all processes of the pool may have in memory together, in
        bytes; 0 is no limit.
    """

    def __init__(
        self,
        min_idle: int,
        max_idle: int,
        min_workers: int,
        max_workers: int,
        idle_timeout: float,
        now: float,
        budget: int = 0,
    ) -> None:
        self.min_idle = min_idle
        self.max_idle = max(max_idle, min_idle)
        self.min_workers = min_workers
        self.max_workers = max_workers
        self.idle_timeout = idle_timeout
        self.budget = budget
        #: What all had in memory when it was passed in last.
        self.memory = 0
        #: Starts that failed since one succeeded.
        self.failures = 0
        #: The end of the pause after the last one that died idle.
        self._paused_until = now - DOUBT
        #: Whether more workers are wanted than are allowed.
        self.saturated = False
        #: When max-workers is reached by busy workers, when by some that have yet to
        #: end, and when the budget is reached.
        self.full = Episodes(idle_timeout, now)
        self.full_by_ending = Episodes(idle_timeout, now)
        self.shortages = Episodes(idle_timeout, now)
        self._rate = 1
        self._not_before = now
        self._short = False
        self._idle = 0
        # Numbers of idle workers with the time when they ended to be true,
        # both ascending: a number that was followed by a smaller one can't
        # be the smallest of any window any more.
        self._past: deque[tuple[float, int]] = deque([(now, 0)])

    @classmethod
    def of(cls, settings: Settings, now: float) -> Policy:
        """The policy that the settings want."""
        return cls(
            settings.min_idle,
            settings.max_idle,
            settings.min_workers,
            settings.max_workers,
            settings.idle_timeout,
            now,
            parse(settings.memory_budget),
        )

    def adjust(self, step: int) -> int:
        """Raise or lower min-idle (TTIN, TTOU) within 1 and max-workers.

        :return: The new min-idle. max-idle keeps its distance.
        """
        distance = self.max_idle - self.min_idle
        self.min_idle = min(max(self.min_idle + step, 1), self.max_workers)
        self.max_idle = self.min_idle + distance
        return self.min_idle

    def first(self) -> int:
        """How many workers a new generation starts with."""
        return max(self.min_idle, self.min_workers)

    def started(self, now: float) -> None:
        """A worker became idle for the first time: what failed before is over.

        Unless the last one became idle, too, and died at once.
        """
        if now >= self._paused_until + DOUBT:
            self.proved(now)

    def proved(self, now: float) -> None:
        """A worker began its first request: what failed before is over."""
        self.failures = 0
        self._paused_until = now - DOUBT
        self._not_before = min(self._not_before, now + STEP)

    def failed(self, now: float, *, was_idle: bool = False) -> None:
        """A worker died before it began a request, or couldn't be forked.

        :param was_idle: It was idle already.
        """
        if was_idle and now < self._paused_until:
            return  # it was started before this pause
        if was_idle and now >= self._paused_until + DOUBT:
            self.failures = 0
        pause = min(BACK_OFF * 2**self.failures, MAX_BACK_OFF)
        self.failures = min(self.failures + 1, 30)
        self._not_before = max(self._not_before, now + pause)
        if was_idle:
            self._paused_until = self._not_before

    def grow(
        self,
        now: float,
        *,
        idle: int,
        starting: int,
        total: int,
        waiting: int = 0,
        others: int = 0,
        memory: Memory = NO_MEMORY,
        ending: int = 0,
    ) -> int:
        """How many workers to start now.

        :param idle: Workers that wait for orders.
        :param starting: Workers that will.
        :param total: All of the generation's processes.
        :param waiting: Connections that nobody was ordered to take.
        :param others: Processes of another generation, which count too.
        :param memory: What all have in memory.
        :param ending: Of all these processes, those that serve nobody new.
        """
        wanted = max(self.min_idle, waiting) - idle - starting
        wanted = max(wanted, self.min_workers - total)
        self._short = wanted > 0
        self.memory = memory.used
        room = self.max_workers - total - others
        fit = self.room(total, others, memory)
        denied = self._short and fit <= 0
        self.saturated = denied and idle + starting == 0
        # That a single worker is busy says nothing, unless others wait for it.
        is_news = waiting > 0 or self.max_workers > 1
        self.full.note(now, self.saturated and room <= 0 and not ending and is_news)
        self.full_by_ending.note(now, self.saturated and room <= 0 and ending > 0)
        self.shortages.note(
            now,
            self.budget > 0 and (memory.used > self.budget or (denied and room > 0)),
        )
        if not self._short:
            self._rate = 1
            return 0
        if denied:
            # An event reports a free place.
            self._short = False
            return 0
        if now < self._not_before:
            return 0
        count = min(wanted, fit, self._rate)
        self._rate = min(self._rate * 2, MAX_RATE)
        self._not_before = now + STEP
        return count

    def may_replace(self, now: float, *, idle: int, total: int, room: bool) -> bool:
        """Whether a worker may be replaced now.

        While starts fail, the next one may fail as well: nobody goes first who would
        be missed.

        :param room: Whether one more worker is allowed.
        """
        if not self.failures:
            return True
        if now < self._not_before:
            return False
        return room or (idle > self.min_idle and total > self.min_workers)

    def back_off(self, now: float) -> float | None:
        """Until when no worker may be started because the last start failed."""
        return self._not_before if self.failures and now < self._not_before else None

    def room(self, total: int, others: int, memory: Memory) -> int:
        """How many more workers are allowed; see :meth:`grow`."""
        room = self.max_workers - total - others
        if self.budget:
            left = self.budget - memory.used - memory.reserve
            fit = left // max(memory.each, 1)
            room = min(room, max(fit, self.min_workers - total))
        return room

    def excess(self, *, idle: int, total: int, memory: Memory) -> tuple[int, int]:
        """What the pool has above its budget, or will have, in bytes.

        :return: With it, how many idle workers may retire for that.
        """
        most = min(idle - self.min_idle, total - max(self.min_workers, 1))
        excess = memory.used + memory.reserve - self.budget
        if not self.budget or excess <= 0 or most <= 0:
            return 0, 0
        return excess, most

    def leak(self, memory: Memory) -> int:
        """What those who have served have above the budget, or will have, in bytes."""
        return max(memory.used + memory.growth - self.budget, 0) if self.budget else 0

    def shrink(self, now: float, *, idle: int, total: int) -> int:
        """How many idle workers to retire now.

        The caller does so; the next call sees fewer idle ones.
        """
        self._observe(now, idle)
        smallest = self._past[0][1] if self._past else idle
        count = min(smallest - self.max_idle, total - self.min_workers)
        if count <= 0:
            return 0
        # At those moments, too, the ones that retire now were among the idle.
        self._past = deque((ended, n - count) for ended, n in self._past)
        self._idle = idle - count
        return count

    def _observe(self, now: float, idle: int) -> None:
        past = self._past
        if idle != self._idle:
            while past and past[-1][1] >= self._idle:
                past.pop()
            past.append((now, self._idle))
            self._idle = idle
        while past and past[-1][1] >= idle:
            past.pop()
        while past and past[0][0] + self.idle_timeout <= now:
            past.popleft()

    def deadline(self) -> float | None:
        """When to ask again if nothing happens before, in seconds."""
        times = []
        if self._short:
            times.append(self._not_before)
        if self._idle > self.max_idle and self._past:
            times.append(self._past[0][0] + self.idle_timeout)
        return min(times, default=None)
