"""How much memory each worker uses, read in the background.

The kernel adds a process's pages up when it is asked, which takes long for a big
one, and keeps that process waiting if it wants more memory meanwhile. So nobody is
looked at often, and who takes long still less.
"""

from __future__ import annotations

import time
import typing as t
from collections.abc import Iterable
from collections.abc import Mapping

from ..system import smaps

#: How often a worker is looked at, in seconds.
_INTERVAL = 5.0
#: What one step may take, in seconds, and the part of the time that all may take.
_BUDGET = 0.05
_PART = 0.05


def pss(pid: int) -> int | None:
    """A process's memory in bytes, its share of what is shared counted.

    :return: ``None`` if the system doesn't tell (``proc_pid_smaps_rollup(5)``), or
        not us.
    """
    found = smaps.read(pid)
    return found.pss if found is not None else None


class PssSampler:
    """What is known of the workers' memory.

    :param read: :func:`pss`.
    :param clock: Monotonic seconds.
    """

    def __init__(
        self,
        read: t.Callable[[int], int | None] = pss,
        clock: t.Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._due: dict[int, float] = {}
        self._not_before = 0.0
        #: Bytes by pid. It is replaced, never changed.
        self.known: Mapping[int, int] = {}

    def step(self, pids: Iterable[int]) -> None:
        """Look at those that are due, as far as there is time.

        :param pids: All workers.
        """
        now = self._clock()
        alive = set(pids) - {0}
        known = {pid: size for pid, size in self.known.items() if pid in alive}
        self._due = {pid: self._due.get(pid, now) for pid in alive}
        spent = 0.0
        for pid in sorted(alive, key=self._due.__getitem__):
            if self._due[pid] > now or now < self._not_before or spent > _BUDGET:
                break
            size = self._read(pid)
            spent = self._clock() - now
            self._due[pid] = now + _INTERVAL
            if size is None:
                known.pop(pid, None)
            else:
                known[pid] = size
        if spent > _BUDGET:
            self._not_before = now + spent / _PART
        self.known = known
