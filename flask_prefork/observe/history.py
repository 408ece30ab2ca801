"""The history of the pool: about one sample a second for the last minutes. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from .snapshot import PoolSample

#: So many are kept: five minutes of them.
LENGTH = 300


class History:
    """The samples, by the time when they were taken."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, PoolSample]] = deque(maxlen=LENGTH)

    def add(self, now: float, sample: PoolSample) -> None:
        """Keep a sample that is just taken."""
        self._samples.append((now, sample))

    def samples(self, now: float) -> tuple[PoolSample, ...]:
        """The last minutes, the oldest first."""
        # Of a copy, for another thread may add to them meanwhile.
        return tuple(
            replace(sample, age=now - when) for when, sample in self._samples.copy()
        )
