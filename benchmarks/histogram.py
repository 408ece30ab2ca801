"""Latencies, counted in buckets that are two percent wide. Pure.

Histograms of several rounds can be added, but quantiles can't.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping

_WIDTH = math.log(1.02)

BEYOND = 10
"""So many samples have to lie beyond a quantile, else it is chance."""


class Histogram:
    """Microseconds.

    :param counts: How many there are in each bucket.
    """

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts = Counter(counts or {})

    @classmethod
    def of(cls, values: Iterable[float]) -> Histogram:
        """Count some values, in microseconds."""
        return cls(Counter(_bucket(value) for value in values))

    @classmethod
    def from_json(cls, counts: Mapping[str, int]) -> Histogram:
        """What :meth:`json` gave, when it was written and read."""
        return cls({int(bucket): count for bucket, count in counts.items()})

    def json(self) -> dict[str, int]:
        return {str(bucket): self.counts[bucket] for bucket in sorted(self.counts)}

    def __len__(self) -> int:
        return self.counts.total()

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts)

    def quantile(self, fraction: float) -> float | None:
        """The value that this fraction is not above, to two percent.

        ``None`` if there are too few samples to tell.
        """
        size = len(self)

        # What is beyond is counted in whole samples; floats would miss by one.
        if size - math.ceil(fraction * size - 1e-9) < BEYOND:
            return None

        left = fraction * size

        for bucket in sorted(self.counts):
            left -= self.counts[bucket]

            if left <= 1e-9:
                return math.exp(bucket * _WIDTH)

        return None


def _bucket(value: float) -> int:
    """The number of the bucket whose upper bound is the value or just above it."""
    return math.ceil(math.log(max(value, 1.0)) / _WIDTH)
