"""How long requests took: their histograms, and quantiles of them. Pure.

The bounds of the buckets are log-linear: each power of ten has six ranges with equal
steps (1.0, 1.05, ... 1.5, 1.6, ... 2.5, 2.7, ... s). No bucket is wider than 8 % of its
lower bound, so from 10 us to 1 h what a quantile is told as is within :data:`ERROR` of
all that is in its bucket. The conventional bounds (:data:`.figures.BOUNDS`) are among
them, so counts at these are exact.
"""

from __future__ import annotations

import typing as t
from bisect import bisect_left
from collections.abc import Iterable
from collections.abc import Sequence
from itertools import accumulate
from itertools import pairwise
from math import ceil

from .figures import BOUNDS
from .figures import MOST

#: Hundredths of a power of ten.
_STEPS = (
    *range(100, 150, 5),
    *range(150, 250, 10),
    *range(250, 350, 20),
    *range(350, 500, 25),
    *range(500, 700, 40),
    *range(700, 1000, 50),
)
#: Quantiles are told of what is from the second of these to the last, in seconds.
_FIRST, _LAST = 9.5e-6, 3600.0
#: Upper bounds of the buckets, in seconds; above the last there is one bucket more.
FINE_BOUNDS: tuple[float, ...] = (
    *(
        bound
        for power in range(-6, 4)
        for step in _STEPS
        if _FIRST <= (bound := float(f"{step}e{power - 2}")) < _LAST
    ),
    _LAST,
)
#: How many buckets a histogram has.
BUCKETS = len(FINE_BOUNDS) + 1
#: How far a quantile may be from the truth, as a part of that.
ERROR = 0.05
#: The quantiles that are shown.
SHOWN = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

#: Requests by their seconds, not cumulative.
Counts = tuple[int, ...]

#: What a bucket's content is told as: between two bounds it is as far, relatively, from
#: the one as from the other. Below the first there is none, and beyond the last nobody
#: knows. By three digits, so that whatever shows it shows the same.
_MIDDLES = (
    0.0,
    *(float(f"{2 * a * b / (a + b):.3g}") for a, b in pairwise(FINE_BOUNDS)),
    _LAST,
)
#: Where the buckets begin that have conventional bounds.
_EDGES = (0, *(FINE_BOUNDS.index(bound) + 1 for bound in BOUNDS), BUCKETS)


class Durations(t.NamedTuple):
    """What a worker, or several, counted since the start.

    :param latencies: All requests, from the head to the last byte.
    :param queue_times: Those that have waited for a worker.
    """

    latencies: Counts = (0,) * BUCKETS
    queue_times: Counts = (0,) * BUCKETS


def quantile(counts: Sequence[int], part: float) -> float | None:
    """What this part of the requests didn't exceed.

    :param counts: By :data:`FINE_BOUNDS`.
    :param part: From 0 to 1.
    :return: Seconds by three digits, within :data:`ERROR` of the request's whose rank
        that is, from 10 us to 1 h. What is shorter is 0, what is longer is 1 h.
        ``None`` if there are no requests.
    """
    upto = [*accumulate(counts)]
    if not upto or not upto[-1]:
        return None
    rank = min(max(ceil(part * upto[-1]), 1), upto[-1])
    return _MIDDLES[bisect_left(upto, rank)]


def conventional(counts: Counts) -> Counts:
    """The same requests by :data:`.figures.BOUNDS`."""
    return tuple(sum(counts[start:end]) for start, end in pairwise(_EDGES))


def count(counts: Counts, seconds: float) -> Counts:
    """The counts with one request more."""
    more = list(counts)
    more[bisect_left(FINE_BOUNDS, seconds)] += 1
    return tuple(more)


def total(parts: Iterable[Durations]) -> Durations:
    """The sums of several; none gets greater than its place on the scoreboard."""
    # By columns, because an observer adds up hundreds of workers each second.
    latencies, queue_times = zip(*parts, strict=True)
    return Durations(_sums(latencies), _sums(queue_times))


def _sums(rows: Iterable[Counts]) -> Counts:
    columns = [sum(column) for column in zip(*rows, strict=True)]
    return tuple(columns) if max(columns) <= MOST else tuple(map(_at_most, columns))


def _at_most(number: int) -> int:
    return min(number, MOST)


def since(now: Durations, before: Durations) -> Durations:
    """What was counted between two moments."""
    return Durations(_less(now[0], before[0]), _less(now[1], before[1]))


def _less(now: Counts, before: Counts) -> Counts:
    return tuple(max(a - b, 0) for a, b in zip(now, before, strict=True))


def waits(durations: Durations) -> Counts:
    """The queue times of all requests: who hasn't waited is in none of the buckets."""
    first, *others = durations.queue_times
    waited = first + sum(others)
    return (first + max(sum(durations.latencies) - waited, 0), *others)
