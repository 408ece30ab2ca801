"""Samples of the last minutes."""

from __future__ import annotations

import sys

import pytest

from flask_prefork.ipc import durations
from flask_prefork.ipc.durations import BUCKETS
from flask_prefork.ipc.durations import Durations
from flask_prefork.observe.history import History
from flask_prefork.observe.history import LENGTH
from flask_prefork.observe.history import SAMPLE_WINDOW
from flask_prefork.observe.history import WINDOW
from flask_prefork.observe.snapshot import PoolSample
from flask_prefork.observe.snapshot import Quantiles


def sample(workers: int) -> PoolSample:
    return PoolSample(0.0, workers, 1, 2, 3)


def served(*seconds: float, waited: tuple[float, ...] = ()) -> Durations:
    """What was counted until a moment."""
    latencies, queue_times = Durations()
    for one in seconds:
        latencies = durations.count(latencies, one)
    for one in waited:
        queue_times = durations.count(queue_times, one)
    return Durations(latencies, queue_times)


NOTHING = served()


def observer_that_is_late() -> History:
    """The server has been there for long when it begins."""
    return History(0.0, -1000.0)


def test_samples_grow_old() -> None:
    history = observer_that_is_late()
    assert history.samples(10.0) == ()
    history.add(11.0, sample(5), NOTHING)
    history.add(12.0, sample(6), NOTHING)
    first, second = history.samples(14.0)
    assert (first.age, first.workers) == (3.0, 5)
    assert (second.age, second.workers) == (2.0, 6)
    assert (second.busy, second.queue, second.requests) == (1, 2, 3)


def test_the_oldest_go() -> None:
    history = observer_that_is_late()
    for second in range(LENGTH + 3):
        history.add(float(second), sample(second), NOTHING)
    samples = history.samples(float(LENGTH + 3))
    assert [one.workers for one in samples] == list(range(3, LENGTH + 3))


def test_quantiles_without_history() -> None:
    history = observer_that_is_late()
    found = history.quantiles(10.0, WINDOW, served(1.0))
    assert found == (Quantiles(), Quantiles())
    history.add(10.0, sample(1), served(1.0))
    assert history.samples(10.0)[0].latency == Quantiles()
    # What was before the first sample isn't known.
    latency, _ = history.quantiles(12.0, WINDOW, served(1.0))
    assert latency == Quantiles(2.0)


def test_quantiles_since_the_start_of_the_server() -> None:
    """What was served before the observer began counts too."""
    history = History(6.5, 5.0)
    latency, _ = history.quantiles(7.0, WINDOW, served(1.0))
    assert (latency.window, latency.requests) == (2.0, 1)
    history.add(7.0, sample(1), served(1.0))
    assert history.samples(7.0)[0].latency == latency
    for second in range(8, 80):
        history.add(float(second), sample(1), served(1.0))
    latency, _ = history.quantiles(80.0, WINDOW, served(1.0))
    assert (latency.window, latency.requests) == (WINDOW + 1, 0)


def test_quantiles_of_what_there_is() -> None:
    history = observer_that_is_late()
    history.add(10.0, sample(1), served(0.001))
    counted = served(0.001, *[1.0] * 4, waited=(0.5,))
    latency, queue_time = history.quantiles(13.0, WINDOW, counted)
    assert (latency.window, latency.requests) == (3.0, 4)
    for found in (latency.p50, latency.p90, latency.p99):
        assert found == pytest.approx(1.0, rel=durations.ERROR)
    # Three of them haven't waited.
    assert (queue_time.requests, queue_time.p50) == (4, 0.0)
    assert queue_time.p99 == pytest.approx(0.5, rel=durations.ERROR)


def test_quantiles_are_of_the_last_seconds() -> None:
    """One request a second, of as many seconds as its moment."""
    history, moments = observer_that_is_late(), range(1, 101)
    for moment in moments:
        history.add(float(moment), sample(1), served(*moments[:moment]))
    counted = served(*moments)
    latency, _ = history.quantiles(100.5, WINDOW, counted)
    assert WINDOW <= latency.window <= WINDOW + 1
    assert latency.requests == 60
    assert latency.p50 == pytest.approx(70, rel=durations.ERROR)
    latencies = [one.latency for one in history.samples(100.5)]
    assert [one.requests for one in latencies] == [*range(11), *[11] * 89]
    assert latencies[-1].window == SAMPLE_WINDOW + 1
    assert latencies[-1].p99 == pytest.approx(100, rel=durations.ERROR)


def test_quantiles_after_a_time_in_which_nobody_ran() -> None:
    """They are of as short a time as can be told."""
    history = observer_that_is_late()
    history.add(10.0, sample(1), NOTHING)
    history.add(11.0, sample(1), served(5.0))
    latency, _ = history.quantiles(5000.0, WINDOW, served(5.0, 7.0))
    assert (latency.window, latency.requests) == (4989.0, 1)


def test_how_much_it_keeps() -> None:
    history = observer_that_is_late()
    full = Durations((2**63,) * BUCKETS, (2**63,) * BUCKETS)
    for second in range(2 * LENGTH):
        history.add(float(second), sample(second), full)
    kept = sum(sys.getsizeof(counts) for _, counts in history._durations)
    assert kept < 400_000
