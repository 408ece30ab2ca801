"""Histograms of durations, and what is told of them."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.ipc import durations
from flask_prefork.ipc.durations import BUCKETS
from flask_prefork.ipc.durations import Counts
from flask_prefork.ipc.durations import Durations
from flask_prefork.ipc.durations import ERROR
from flask_prefork.ipc.durations import FINE_BOUNDS
from flask_prefork.ipc.durations import quantile
from flask_prefork.ipc.figures import BOUNDS
from flask_prefork.ipc.figures import MOST

EMPTY = (0,) * BUCKETS
#: What quantiles are promised for, in seconds.
promised = st.one_of(
    st.floats(1e-5, 3600.0),
    # Of each power of ten as many.
    st.floats(-5.0, math.log10(3600)).map(lambda power: min(10.0**power, 3600.0)),
    st.sampled_from([bound for bound in FINE_BOUNDS if bound >= 1e-5]),
)
parts = st.floats(0.0, 1.0) | st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])
histograms = st.lists(st.integers(0, 5), min_size=BUCKETS, max_size=BUCKETS).map(tuple)


def counted(samples: list[float]) -> Counts:
    counts = EMPTY
    for seconds in samples:
        counts = durations.count(counts, seconds)
    return counts


def test_the_bounds() -> None:
    assert all(a < b for a, b in pairwise(FINE_BOUNDS))
    assert all(b - a <= 0.08 * a * (1 + 1e-9) for a, b in pairwise(FINE_BOUNDS))
    assert FINE_BOUNDS[0] < 1e-5 in FINE_BOUNDS
    assert FINE_BOUNDS[-1] == 3600.0
    # Else what is published at these would be an estimate.
    assert set(BOUNDS) < set(FINE_BOUNDS)


@given(st.lists(promised, min_size=1, max_size=40), parts)
def test_a_quantile_is_near_the_sample_of_that_rank(
    samples: list[float], part: float
) -> None:
    found = quantile(counted(samples), part)
    rank = max(math.ceil(part * len(samples)), 1)
    assert found == pytest.approx(sorted(samples)[rank - 1], rel=ERROR)


@given(st.floats(0.0, 1e-5, exclude_max=True))
def test_what_is_too_short_is_nothing_or_the_shortest(seconds: float) -> None:
    found = quantile(counted([seconds]), 0.5)
    assert found is not None
    assert found == (0.0 if seconds <= FINE_BOUNDS[0] else pytest.approx(1e-5, rel=0.1))


@given(st.floats(3600.0, 1e12, exclude_min=True))
def test_what_is_too_long_is_an_hour(seconds: float) -> None:
    assert quantile(counted([seconds]), 0.5) == 3600.0


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=40), st.tuples(parts, parts))
def test_quantiles_rise_with_their_parts(
    samples: list[float], wanted: tuple[float, float]
) -> None:
    low, high = (quantile(counted(samples), part) for part in sorted(wanted))
    assert low is not None and high is not None
    assert low <= high


@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_quantiles_rise_with_the_samples(one: float, other: float) -> None:
    low, high = (quantile(counted([it] * 3), 0.5) for it in sorted((one, other)))
    assert low is not None and high is not None
    assert low <= high


@given(parts)
def test_of_nothing_there_is_none(part: float) -> None:
    assert quantile(EMPTY, part) is None


@pytest.mark.parametrize("part", durations.SHOWN.values())
def test_five_requests_of_a_second(part: float) -> None:
    found = quantile(counted([1.0, 1.0007, 1.001, 1.0023, 1.004]), part)
    assert found == pytest.approx(1.0, rel=0.03)


def test_many_that_are_alike() -> None:
    """No rank is beyond the last request, however great the numbers are."""
    counts = durations.count((MOST, *EMPTY[1:]), 1.0)
    assert quantile(counts, 0.99) == 0.0
    assert quantile(counts, 1.0) == pytest.approx(1.0, rel=ERROR)


def test_quantiles_have_so_few_digits_that_all_show_the_same() -> None:
    told = [quantile(counted([bound]), 0.5) for bound in FINE_BOUNDS]
    assert all(it is not None and float(f"{it:.3g}") == it for it in told)


@given(st.lists(st.floats(0, 1e5) | st.sampled_from(BOUNDS), max_size=40))
def test_conventional_counts_are_exact(samples: list[float]) -> None:
    expected = [0] * (len(BOUNDS) + 1)
    for seconds in samples:
        expected[bisect_left(BOUNDS, seconds)] += 1
    assert durations.conventional(counted(samples)) == tuple(expected)


@given(st.lists(st.builds(Durations, histograms, histograms), min_size=1, max_size=4))
def test_totals(rows: list[Durations]) -> None:
    found = durations.total(rows)
    for index in range(BUCKETS):
        assert found.latencies[index] == sum(row.latencies[index] for row in rows)
        assert found.queue_times[index] == sum(row.queue_times[index] for row in rows)
    more = durations.total([found, rows[0]])
    assert durations.since(more, found) == rows[0]
    # What never goes down can't be less than before, whatever was written there.
    assert durations.since(found, more) == Durations()


def test_totals_stop_at_the_greatest_that_fits() -> None:
    full = Durations((MOST,) * BUCKETS, (1,) * BUCKETS)
    assert durations.total([full, full]) == Durations(full.latencies, (2,) * BUCKETS)


def test_who_has_not_waited_counts_as_the_first() -> None:
    latencies, queue_times = counted([0.1] * 10), counted([0.0, 0.5, 0.5])
    assert durations.waits(Durations(latencies, queue_times)) == counted(
        [*[0.0] * 8, 0.5, 0.5]
    )
    # A moment between two words of a record: one waited whose request goes on.
    assert durations.waits(Durations(EMPTY, queue_times)) == queue_times
