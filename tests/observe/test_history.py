"""Samples of the last minutes."""

from __future__ import annotations

from flask_prefork.observe.history import History
from flask_prefork.observe.history import LENGTH
from flask_prefork.observe.snapshot import PoolSample


def sample(workers: int) -> PoolSample:
    return PoolSample(0.0, workers, 1, 2, 3, (4, 5))


def test_samples_grow_old() -> None:
    history = History()
    assert history.samples(10.0) == ()
    history.add(11.0, sample(5))
    history.add(12.0, sample(6))
    first, second = history.samples(14.0)
    assert (first.age, first.workers) == (3.0, 5)
    assert (second.age, second.workers) == (2.0, 6)
    assert (second.busy, second.queue, second.requests) == (1, 2, 3)
    assert second.buckets == (4, 5)


def test_the_oldest_go() -> None:
    history = History()
    for second in range(LENGTH + 3):
        history.add(float(second), sample(second))
    samples = history.samples(float(LENGTH + 3))
    assert [one.workers for one in samples] == list(range(3, LENGTH + 3))
