"""When a worker reads its own memory, and what it reports.

It looks at itself, between requests, for others may not be allowed to, and a look
from outside would keep it waiting all the same. One that has served nothing since
its last look has nothing to tell, and sleeps on.

Such a look is dear, and a second is long for a fast leak. So after each request there
is a glance at what has grown (:class:`.smaps.Glance`). It decides whether the look
is due at once, since the worker may be above its limit; and what has grown is told
without a look where that is much for the pool's budget.
"""

from __future__ import annotations

import math
import time
import typing as t

from ..ipc.frames import MemoryUse
from ..ipc.growth import Growth
from ..settings import size
from ..settings.table import Settings
from ..system import smaps
from ..system.smaps import Glance

#: Seconds between two looks, and the part of the time that all may take.
INTERVAL = 1.0
PART = 0.005
#: Bytes that are no growth yet: the kernel counts pages in batches, for each processor.
LEAST = 2**20
#: All workers together may have grown by this part of the budget without a word.
UNTOLD = 1 / 8
#: Above its limit by this part a worker looks again, for it is to go at once then
#: (:data:`.memory.TOO_FAR`); and above that when it has grown by as much.
AGAIN = 0.25
#: KiB that fit into a frame.
_MOST = 2**32 - 1


def _own() -> int:
    found = smaps.read()
    return found.own if found is not None else 0


class MemorySampler:
    """A worker's.

    :param limit: Bytes that it may have for itself; 0 is no limit.
    :param step: Bytes of growth that are told at once; 0 is never.
    :param read: Tells how many bytes this process has for itself.
    :param glance: Tells how many it has that are no file's, cheaply.
    :param clock: Monotonic seconds.
    :param work: Seconds that this thread has had a processor: a look that was
        interrupted for long has not cost more.

    :ivar growth: Which requests have made it grow.
    :ivar is_over: Whether it had more than its limit at its last look.
    """

    def __init__(
        self,
        limit: int = 0,
        step: int = 0,
        read: t.Callable[[], int] = _own,
        glance: t.Callable[[], int] | None = None,
        clock: t.Callable[[], float] = time.monotonic,
        work: t.Callable[[], float] = time.thread_time,
    ) -> None:
        self.growth = Growth()
        self.is_over = False
        self._limit = limit or math.inf
        self._step = max(step, LEAST) if step else math.inf
        self._read = read
        self._file = Glance()
        self._glance = glance or self._file.read
        self._clock = clock
        self._work = work
        self._not_before = clock()
        # What the fork alone has cost is looked at too.
        self._stale = True
        self._has_served = False
        self._request = ("", "")
        # What the last glance saw, and at the last look; and that.
        self._resident = self._at_look = self._glance()
        self._own = 0
        # What it has by the last glance, from where on that is told, and from where
        # on it is looked at.
        self._estimate = 0
        self._tell_at: float = math.inf
        self._look_at: float = math.inf

    def close(self) -> None:
        """Close what a process has no use for that isn't the worker any more."""
        self._file.close()

    def begin(self, method: str, target: str) -> None:
        """A request begins."""
        self._request = method, target

    def served(self, now: float) -> bool:
        """A request is over.

        :param now: The time by our clock.
        :return: Whether it is time for :meth:`frame`.
        """
        is_first = not self._has_served
        self._stale = self._has_served = True
        resident = self._glance()
        grown = resident - self._resident
        if grown:
            self._resident = resident
            self.growth.note(*self._request, grown)
            self._estimate = self._own + resident - self._at_look
        # After its first request it has what every worker soon has.
        return is_first or now >= self._not_before or self._estimate >= self._tell_at

    def is_due(self, is_quiet: t.Callable[[float], bool]) -> bool:
        """Whether to look, if there is nothing else to do.

        :param is_quiet: Waits so many seconds, and tells whether nothing came.
        """
        return self._stale and is_quiet(max(self._not_before - self._clock(), 0.0))

    def frame(self, generation: int, slot: int) -> MemoryUse:
        """Look, if it is time, and write down what the dispatcher is to know.

        :param generation: The worker's.
        :param slot: The worker's.
        """
        if self._clock() >= self._not_before or self._estimate >= self._look_at:
            self._look()
        self._tell_at = min(self._estimate + self._step, self._look_at)
        size = min(max(self._estimate, 0) // 1024, _MOST)
        return MemoryUse(generation, slot, size, self._has_served)

    def _look(self) -> None:
        before = self._work()
        self._own = self._estimate = size = self._read()
        cost = self._work() - before
        self._at_look = self._resident = self._glance()
        self._stale = False
        self._not_before = self._clock() + max(INTERVAL, cost / PART)
        self.is_over = self._has_served and size > self._limit
        bound = self._limit
        if self.is_over:
            bound *= 1 + AGAIN
            if size > bound:
                bound = size * (1 + AGAIN)
        self._look_at = max(bound, size + LEAST)


def of(settings: Settings) -> MemorySampler | None:
    """A sampler, if a setting asks for one."""
    limit, budget = map(
        size.parse, (settings.max_worker_memory, settings.memory_budget)
    )
    if not (limit or budget):
        return None
    return MemorySampler(limit, int(budget * UNTOLD) // settings.max_workers)
