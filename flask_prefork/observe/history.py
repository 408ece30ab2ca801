"""The history of the pool: about one sample a second for the last minutes. Pure."""

from __future__ import annotations

import typing as t
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from ..ipc import durations
from ..ipc.durations import Durations
from .snapshot import PoolSample
from .snapshot import Quantiles

#: So many are kept: five minutes of them.
LENGTH = 300
#: What quantiles are told for, in seconds: those of a sample, and the present ones.
SAMPLE_WINDOW = 10.0
WINDOW = 60.0
#: Samples come about once a second.
LATE = 1.0
_HALF = durations.BUCKETS


class History:
    """The samples, by the time when they were taken.

    :param now: Monotonic seconds.
    :param begun: When the server was started, and nothing was counted.
    """

    def __init__(self, now: float, begun: float) -> None:
        self._samples: deque[tuple[float, PoolSample]] = deque(maxlen=LENGTH)
        # Quantiles reach back less far, so that 0.3 MB hold all histograms.
        self._durations: deque[tuple[float, array[int]]] = deque(
            maxlen=round(WINDOW + LATE) + 1
        )
        if now - begun <= WINDOW:
            # Workers may have served before there is a sample.
            self._durations.append((begun, array("Q", bytes(8 * 2 * _HALF))))

    def add(self, now: float, sample: PoolSample, counted: Durations) -> None:
        """Keep a sample that is just taken.

        :param sample: Without its quantiles, which are added.
        :param counted: What all workers had counted.
        """
        latency, queue_time = self.quantiles(now, SAMPLE_WINDOW, counted)
        sample = replace(sample, latency=latency, queue_time=queue_time)
        self._samples.append((now, sample))
        self._durations.append((now, array("Q", counted[0] + counted[1])))

    def samples(self, now: float) -> tuple[PoolSample, ...]:
        """The last minutes, the oldest first."""
        # Of a copy, for another thread may add to them meanwhile.
        return tuple(
            replace(sample, age=now - when) for when, sample in self._samples.copy()
        )

    def quantiles(
        self, now: float, window: float, counted: Durations
    ) -> tuple[Quantiles, Quantiles]:
        """Of the latencies and the queue times of the last seconds.

        :param window: So many, as far as there is history.
        :param counted: What all workers have counted until now.
        """
        known = self._durations.copy()
        young = (one for one in known if now - one[0] <= window + LATE)
        when, before = next(young, known[-1] if known else (now, None))
        if before is None:
            return Quantiles(), Quantiles()
        latencies, queue_times = before[:_HALF], before[_HALF:]
        then = Durations(tuple(latencies), tuple(queue_times))
        passed, age = durations.since(counted, then), round(now - when, 3)
        return (
            _quantiles(age, passed.latencies),
            _quantiles(age, durations.waits(passed)),
        )


def _quantiles(window: float, counts: Sequence[int]) -> Quantiles:
    found: dict[str, t.Any] = {
        name: durations.quantile(counts, part) for name, part in durations.SHOWN.items()
    }
    return Quantiles(window, sum(counts), **found)
