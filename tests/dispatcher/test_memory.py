"""What workers weigh, and together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.dispatcher.memory import AHEAD
from flask_prefork.dispatcher.memory import MemoryAccounting
from flask_prefork.dispatcher.policy import Memory
from flask_prefork.dispatcher.pool import Pool
from flask_prefork.dispatcher.pool import PoolWorker
from flask_prefork.ipc.states import Event
from flask_prefork.ipc.states import State


def idle_pool(count: int) -> Pool:
    pool = Pool(count)
    for _ in range(count):
        worker = pool.spawn(0.0)
        assert worker is not None
        pool.report(worker, Event.IDLE, 0.0)
    return pool


def workers(pool: Pool) -> list[PoolWorker]:
    return list(pool)


def test_who_has_not_served_is_light_and_will_not_be() -> None:
    pool, accounting = idle_pool(4), MemoryAccounting(zygote=100)
    first, second, *_ = workers(pool)
    assert accounting.memory(pool, 0) == Memory(100, 0, 0)
    accounting.record(second, 5, served=False)
    assert accounting.memory(pool, 0) == Memory(120, 0, 5)
    accounting.record(first, 30, served=True)
    assert accounting.memory(pool, 0) == Memory(100 + 30 + 3 * 5, 3 * 25, 30)
    accounting.record(second, 20, served=True)
    assert accounting.memory(pool, 7) == Memory(100 + 30 + 20 + 2 * 5 + 7, 2 * 20, 25)


def test_the_last_look_counts() -> None:
    pool, accounting = idle_pool(1), MemoryAccounting()
    (worker,) = pool
    accounting.record(worker, 30, served=True)
    accounting.record(worker, 10, served=True)
    assert accounting.total(pool) == 10


def test_the_dead_weigh_nothing() -> None:
    pool, accounting = idle_pool(2), MemoryAccounting()
    for worker in workers(pool):
        accounting.record(worker, 30, served=True)
        pool.report(worker, Event.EXIT, 1.0)
        accounting.forget(worker)
        accounting.forget(worker)
    assert accounting.memory(pool, 0) == Memory(0, 0, 0)


@pytest.mark.parametrize(
    ("limit", "size", "served", "over", "urgent"),
    [
        (100, 100, True, False, False),
        (100, 101, True, True, False),
        (100, 125, True, True, False),
        (100, 126, True, True, True),
        # Its replacement would have as much.
        (100, 126, False, False, False),
        (0, 2**40, True, False, False),
    ],
)
def test_who_has_too_much(
    limit: int, size: int, served: bool, over: bool, urgent: bool
) -> None:
    (worker,) = idle_pool(1)
    accounting = MemoryAccounting(limit)
    accounting.record(worker, size, served)
    assert (worker in accounting.over) is over
    assert (worker in accounting.urgent) is urgent
    accounting.forget(worker)
    assert not accounting.over
    assert not accounting.urgent


def test_who_grows_will_grow() -> None:
    pool, accounting = idle_pool(2), MemoryAccounting(zygote=100)
    first, second = workers(pool)
    accounting.record(first, 30, served=True)
    assert accounting.memory(pool, 0).growth == 0, "its first request isn't growth"
    accounting.record(first, 50, served=True)
    accounting.record(second, 30, served=True)
    assert accounting.memory(pool, 0) == Memory(180, AHEAD * 20, 40, AHEAD * 20)
    accounting.record(second, 37, served=True)
    assert accounting.memory(pool, 0).growth == AHEAD * 27
    accounting.record(first, 50, served=True)
    assert accounting.memory(pool, 0).growth == AHEAD * 7
    accounting.forget(second)
    assert accounting.memory(pool, 0).growth == 0


def grown_pool(*sizes: int) -> tuple[Pool, MemoryAccounting]:
    """Workers that had 10 after their first request, and have so much now."""
    pool, accounting = idle_pool(len(sizes)), MemoryAccounting()
    for worker in workers(pool):
        accounting.record(worker, 10, served=True)
    for worker, size in zip(workers(pool), sizes, strict=True):
        accounting.record(worker, size, served=True)
    return pool, accounting


def test_who_has_grown_most_is_replaced() -> None:
    pool, accounting = grown_pool(60, 100, 19, 80)

    def grown(excess: int) -> list[int]:
        return [worker.number for worker in accounting.choose_grown(excess)]

    assert grown(0) == []
    assert grown(1) == [1]
    # That one will give 90 back.
    assert grown(90) == []
    assert grown(91) == [3]
    # Most of what the third one has the next one would soon have, too.
    assert grown(10**6) == [0]
    assert {worker.number for worker in accounting.urgent} == {0, 1, 3}


def test_who_goes_already_is_not_replaced() -> None:
    pool, accounting = grown_pool(60, 100)
    fat = workers(pool)[1]
    pool.report(fat, Event.RETIRE, 1.0)
    assert accounting.retiring(pool) == 100
    assert [worker.number for worker in accounting.choose_grown(1)] == [0]


def test_a_budget_that_is_too_small_replaces_nobody() -> None:
    pool, accounting = idle_pool(3), MemoryAccounting()
    for worker in workers(pool):
        accounting.record(worker, 60, served=True)
        accounting.record(worker, 80, served=True)
    assert accounting.choose_grown(10**6) == []


def test_the_coldest_go_and_no_more_than_needed() -> None:
    pool, accounting = idle_pool(5), MemoryAccounting()
    for worker in workers(pool):
        accounting.record(worker, 10 * (worker.number + 1), served=True)
    busy = pool.workers[4]
    assert busy is not None
    pool.report(busy, Event.BUSY, 1.0)

    def choose_idle(excess: int, most: int) -> list[int]:
        return [worker.number for worker in accounting.choose_idle(pool, excess, most)]

    assert choose_idle(0, 9) == []
    assert choose_idle(1, 9) == [3]
    assert choose_idle(40, 9) == [3]
    assert choose_idle(41, 9) == [3, 2]
    assert choose_idle(10**6, 3) == [3, 2, 1]
    assert choose_idle(10**6, 0) == []


def test_who_has_not_served_goes_for_what_it_would_have() -> None:
    pool, accounting = idle_pool(4), MemoryAccounting()
    (hot,) = pool.order(1, 1.0)
    accounting.record(hot, 50, served=True)
    assert len(accounting.choose_idle(pool, 51, 9)) == 2


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_sums_are_right_whatever_happens(seed: int, steps: int) -> None:
    """They are kept, not made anew: to look must not cost more with more workers."""
    rng = random.Random(seed)
    pool, accounting = Pool(6), MemoryAccounting(zygote=1000)
    known: dict[PoolWorker, int] = {}
    growth: dict[PoolWorker, int] = {}
    for step in range(steps):
        living = workers(pool)
        if not living or rng.random() < 0.4:
            pool.spawn(step)
        elif rng.random() < 0.7:
            worker = rng.choice(living)
            before = known.get(worker, 100)
            known[worker] = rng.randrange(100)
            growth[worker] = max(known[worker] - before, 0)
            accounting.record(worker, known[worker], served=True)
        else:
            worker = rng.choice(living)
            pool.report(worker, Event.EXIT, step)
            accounting.forget(worker)
            known.pop(worker, None)
            growth.pop(worker, None)
        assert accounting.memory(pool, 0).growth == AHEAD * sum(growth.values())
        assert accounting.total(pool) == 1000 + sum(known.values())
        assert accounting.each == (sum(known.values()) // len(known) if known else 0)
        assert len(pool) == sum(w.state is not State.FREE for w in pool)
