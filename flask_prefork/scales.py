"""When a worker looks how much memory it has.

It looks at itself, between requests, for others may not be allowed to, and a look
from outside would keep it waiting all the same. One that has served nothing since
its last look has nothing to tell, and sleeps on.
"""

from __future__ import annotations

import time
import typing as t

from . import footprint
from . import size
from .channel import Frame
from .channel import Kind
from .settings import Settings

#: Seconds between two looks, and the part of the time that all may take.
INTERVAL = 1.0
PART = 0.005
#: KiB that fit into a frame.
_MOST = 2**32 - 1


def _own() -> int:
    found = footprint.read()
    return found.own if found is not None else 0


class Scales:
    """A worker's.

    :param read: Tells how many bytes this process has for itself.
    :param clock: Monotonic seconds.
    :param work: Seconds that this thread has had a processor: a look that was
        interrupted for long has not cost more.
    """

    def __init__(
        self,
        read: t.Callable[[], int] = _own,
        clock: t.Callable[[], float] = time.monotonic,
        work: t.Callable[[], float] = time.thread_time,
    ) -> None:
        self._read = read
        self._clock = clock
        self._work = work
        self._not_before = clock()
        # What the fork alone has cost is looked at too.
        self._stale = True
        self._has_served = False

    def served(self, now: float) -> bool:
        """A request is over.

        :param now: The time by our clock.
        :return: Whether it is time for a look.
        """
        self._stale = self._has_served = True
        return now >= self._not_before

    def is_due(self, is_quiet: t.Callable[[float], bool]) -> bool:
        """Whether to look, if there is nothing else to do.

        :param is_quiet: Waits so many seconds, and tells whether nothing came.
        """
        return self._stale and is_quiet(max(self._not_before - self._clock(), 0.0))

    def frame(self, generation: int, slot: int) -> Frame:
        """Look, and write down what the dispatcher is to know.

        :param generation: The worker's.
        :param slot: The worker's.
        """
        before = self._work()
        size = self._read() // 1024
        cost = self._work() - before
        self._stale = False
        self._not_before = self._clock() + max(INTERVAL, cost / PART)
        flags = int(self._has_served)
        return Frame(Kind.WEIGHED, generation, slot, min(size, _MOST), flags=flags)


def of(settings: Settings) -> Scales | None:
    """Scales, if a setting asks for them."""
    limits = (settings.max_worker_memory, settings.memory_budget)
    return Scales() if any(map(size.parse, limits)) else None
