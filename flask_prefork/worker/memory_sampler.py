"""When a worker reads its own memory, and what it reports.

It reads ``smaps_rollup`` itself, between requests: other processes may not be allowed
to, and would block it all the same. A worker that has served nothing since its last
sample has nothing to report, and takes no other.

A sample takes long, and a second is long for a fast leak. So after each request there
is a cheap estimate of the growth (:class:`.smaps.AnonymousMemory`). It decides whether
a sample is due at once, since the worker may be above its limit. Growth that is much
for the pool's budget is reported without a sample.
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
from ..system.smaps import AnonymousMemory

#: Seconds between two samples, and the part of the time that all may take.
INTERVAL = 1.0
PART = 0.005
#: Bytes that are no growth yet: the kernel counts pages in batches, for each processor.
LEAST = 2**20
#: All workers together may have grown by this part of the budget unreported.
UNREPORTED = 1 / 8
#: Above its limit by this part a worker takes another sample, for it exits at once then
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
    :param step: Bytes of growth that are reported at once; 0 is never.
    :param read: Returns the bytes that this process has for itself.
    :param anonymous: Returns the bytes of it that are no file's, cheaply.
    :param clock: Monotonic seconds.
    :param work: Seconds that this thread has had a processor: a sample that was
        interrupted for long has not cost more.

    :ivar growth: Which requests have made it grow.
    :ivar is_over: Whether it had more than its limit at its last sample.
    """

    def __init__(
        self,
        limit: int = 0,
        step: int = 0,
        read: t.Callable[[], int] = _own,
        anonymous: t.Callable[[], int] | None = None,
        clock: t.Callable[[], float] = time.monotonic,
        work: t.Callable[[], float] = time.thread_time,
    ) -> None:
        self.growth = Growth()
        self.is_over = False
        self._limit = limit or math.inf
        self._step = max(step, LEAST) if step else math.inf
        self._read = read
        self._file = AnonymousMemory()
        self._read_anonymous = anonymous or self._file.read
        self._clock = clock
        self._work = work
        self._not_before = clock()
        # What the fork alone has cost is sampled too.
        self._stale = True
        self._has_served = False
        self._request = ("", "")
        # The last estimate's memory, that at the last sample, and the sample.
        self._resident = self._at_sample = self._read_anonymous()
        self._own = 0
        # What it has by the last estimate, and the bounds above which that is
        # reported, and a sample is taken.
        self._estimate = 0
        self._report_at: float = math.inf
        self._sample_at: float = math.inf

    def close(self) -> None:
        """Close its file, in a process that isn't the worker any more."""
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
        resident = self._read_anonymous()
        grown = resident - self._resident
        if grown:
            self._resident = resident
            self.growth.note(*self._request, grown)
            self._estimate = self._own + resident - self._at_sample
        # After its first request it has what every worker soon has.
        return is_first or now >= self._not_before or self._estimate >= self._report_at

    def is_due(self, is_quiet: t.Callable[[float], bool]) -> bool:
        """Whether to take a sample, if there is nothing else to do.

        :param is_quiet: Waits so many seconds, and returns whether nothing came.
        """
        return self._stale and is_quiet(max(self._not_before - self._clock(), 0.0))

    def frame(self, generation: int, slot: int) -> MemoryUse:
        """Take a sample if it is time, and make the report for the dispatcher.

        :param generation: The worker's.
        :param slot: The worker's.
        """
        if self._clock() >= self._not_before or self._estimate >= self._sample_at:
            self._sample()
        self._report_at = min(self._estimate + self._step, self._sample_at)
        size = min(max(self._estimate, 0) // 1024, _MOST)
        return MemoryUse(generation, slot, size, self._has_served)

    def _sample(self) -> None:
        before = self._work()
        self._own = self._estimate = size = self._read()
        cost = self._work() - before
        self._at_sample = self._resident = self._read_anonymous()
        self._stale = False
        self._not_before = self._clock() + max(INTERVAL, cost / PART)
        self.is_over = self._has_served and size > self._limit
        bound = self._limit
        if self.is_over:
            bound *= 1 + AGAIN
            if size > bound:
                bound = size * (1 + AGAIN)
        self._sample_at = max(bound, size + LEAST)


def of(settings: Settings) -> MemorySampler | None:
    """A sampler, if a setting asks for one."""
    limit, budget = map(
        size.parse, (settings.max_worker_memory, settings.memory_budget)
    )
    if not (limit or budget):
        return None
    return MemorySampler(limit, int(budget * UNREPORTED) // settings.max_workers)
