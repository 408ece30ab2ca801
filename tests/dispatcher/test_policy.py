"""The policy, by examples and in a simulated server."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_prefork.dispatcher.memory import MemoryAccounting
from flask_prefork.dispatcher.policy import BACK_OFF
from flask_prefork.dispatcher.policy import DOUBT
from flask_prefork.dispatcher.policy import MAX_BACK_OFF
from flask_prefork.dispatcher.policy import Memory
from flask_prefork.dispatcher.policy import Policy
from flask_prefork.dispatcher.policy import STEP
from flask_prefork.dispatcher.pool import Pool
from flask_prefork.dispatcher.pool import PoolWorker
from flask_prefork.ipc.states import Event
from flask_prefork.ipc.states import State

from .policy_world import make
from .policy_world import Server


def test_growth_doubles_while_it_is_short() -> None:
    policy = make(max_workers=100)
    now, total, steps = 0.0, 0, []
    for _ in range(7):
        steps.append(policy.grow(now, idle=0, starting=0, total=total, waiting=100))
        total += steps[-1]
        now += STEP
    assert steps == [1, 2, 4, 8, 16, 32, 32]


def test_growth_waits_for_its_step() -> None:
    policy = make()
    assert policy.grow(0.0, idle=0, starting=0, total=2, waiting=9) == 1
    assert policy.grow(STEP / 2, idle=0, starting=1, total=3, waiting=9) == 0
    assert policy.deadline() == STEP
    assert policy.grow(STEP, idle=0, starting=1, total=3, waiting=9) == 2


def test_rate_starts_anew_when_satisfied() -> None:
    policy = make()
    policy.grow(0.0, idle=0, starting=0, total=2, waiting=9)
    policy.grow(1.0, idle=0, starting=0, total=3, waiting=9)
    assert policy.grow(2.0, idle=2, starting=0, total=5) == 0
    assert policy.deadline() is None
    assert policy.grow(3.0, idle=0, starting=0, total=5, waiting=9) == 1


def test_a_worker_is_replaced_while_starts_fail_only_if_it_is_not_missed() -> None:
    policy = make(min_idle=2, min_workers=4, max_workers=6)
    assert policy.may_replace(0.0, idle=0, total=4, room=False)
    policy.failed(1.0)
    until = policy.back_off(1.0)
    assert until is not None
    assert not policy.may_replace(1.0, idle=6, total=6, room=True)
    # The replacement is a try.
    assert policy.may_replace(until, idle=0, total=4, room=True)
    assert policy.back_off(until) is None
    assert not policy.may_replace(until, idle=2, total=6, room=False)
    assert not policy.may_replace(until, idle=4, total=4, room=False)
    assert policy.may_replace(until, idle=3, total=5, room=False)
    policy.started(until)
    assert policy.may_replace(until, idle=0, total=4, room=False)


def test_starting_counts_as_idle() -> None:
    assert make().grow(0.0, idle=0, starting=2, total=2) == 0


def test_connections_that_wait_are_demand() -> None:
    policy = make()
    assert policy.grow(0.0, idle=0, starting=2, total=4, waiting=2) == 0
    assert policy.grow(0.0, idle=0, starting=2, total=4, waiting=3) == 1


def test_another_generation_counts() -> None:
    policy = make(max_workers=8)
    assert policy.grow(0.0, idle=0, starting=0, total=2, waiting=9, others=6) == 0


def test_saturation_is_an_episode() -> None:
    policy = make(max_workers=4)
    policy.grow(1.0, idle=0, starting=0, total=4, waiting=9)
    assert policy.saturated
    policy.grow(3.0, idle=0, starting=0, total=4, waiting=1)
    assert policy.saturated
    policy.grow(5.0, idle=2, starting=0, total=4)
    assert not policy.saturated
    assert policy.full.is_new()
    policy.grow(6.0, idle=0, starting=0, total=4)
    policy.grow(7.0, idle=2, starting=0, total=4)
    assert not policy.full.is_new()
    policy.grow(17.0, idle=0, starting=0, total=4)
    assert policy.full.is_new()


def test_a_single_worker_may_be_busy() -> None:
    policy = make(min_idle=1, max_workers=1)
    policy.grow(1.0, idle=0, starting=0, total=1)
    assert policy.saturated
    assert not policy.full.is_new(), "nobody waits"
    policy.grow(2.0, idle=0, starting=0, total=1, waiting=1)
    assert policy.full.is_new()


def test_those_that_end_are_not_busy() -> None:
    policy = make(min_idle=1, max_workers=3, idle_timeout=10.0)
    policy.grow(1.0, idle=0, starting=0, total=3, waiting=1, ending=2)
    assert policy.saturated
    assert policy.full_by_ending.is_new() and not policy.full.is_new()
    policy.grow(2.0, idle=0, starting=0, total=3, waiting=1)
    assert policy.full.is_new() and not policy.full_by_ending.is_new()


def test_idle_workers_at_the_limit_are_no_saturation() -> None:
    policy = make(min_idle=3, max_workers=4)
    policy.grow(1.0, idle=1, starting=0, total=4)
    assert not policy.saturated


def grow(policy: Policy, now: float, memory: Memory, **more: int) -> int:
    pool = {"idle": 0, "starting": 0, "total": 4, "waiting": 9}
    return policy.grow(now, **{**pool, **more}, memory=memory)


@pytest.mark.parametrize(
    ("memory", "count"),
    [
        (Memory(used=700, each=100), 3),
        (Memory(used=799, each=100), 2),
        (Memory(used=901, each=100), 0),
        (Memory(used=700, reserve=101, each=100), 1),
        (Memory(used=2000, each=100), 0),
        # Nobody has told yet.
        (Memory(), 9),
    ],
)
def test_growth_is_bounded_by_the_budget(memory: Memory, count: int) -> None:
    policy = make(budget=1000)
    started, now = 0, 0.0
    # In steps, as far as the new ones weigh nothing yet.
    while started < 9 and (step := grow(policy, now, memory, starting=started)):
        started += step
        memory = memory._replace(reserve=memory.reserve + step * memory.each)
        now += STEP
    assert started == count


def test_without_a_budget_memory_is_no_bound() -> None:
    assert grow(make(), 0.0, Memory(used=2**50, each=2**40)) == 1
    assert make().excess(idle=9, total=9, memory=Memory(used=2**50)) == (0, 0)


def test_min_workers_come_whatever_they_take() -> None:
    policy = make(min_workers=3, budget=1000)
    full = Memory(used=5000, each=100)
    assert grow(policy, 0.0, full, total=0) == 1
    assert grow(policy, 1.0, full, total=1) == 2
    assert grow(policy, 2.0, full, total=3) == 0


@pytest.mark.parametrize(
    ("memory", "leak"),
    [
        (Memory(used=1000), 0),
        (Memory(used=1001), 1),
        # What others will have doesn't leak.
        (Memory(used=900, reserve=200), 0),
        (Memory(used=900, reserve=350, growth=150), 50),
    ],
)
def test_what_leaks_into_the_budget(memory: Memory, leak: int) -> None:
    assert make(budget=1000).leak(memory) == leak
    assert make().leak(memory) == 0


@pytest.mark.parametrize(
    ("bounds", "idle", "total", "used", "expected"),
    [
        pytest.param({}, 6, 9, 1000, (0, 0), id="within"),
        pytest.param({}, 6, 9, 1001, (1, 4), id="above"),
        pytest.param({}, 2, 9, 5000, (0, 0), id="min-idle"),
        pytest.param({"min_workers": 8}, 6, 9, 5000, (4000, 1), id="min-workers"),
        pytest.param({"min_idle": 1, "min_workers": 1}, 1, 1, 5000, (0, 0), id="one"),
    ],
)
def test_excess(
    bounds: dict[str, int], idle: int, total: int, used: int, expected: tuple[int, int]
) -> None:
    policy = make(budget=1000, **bounds)
    assert policy.excess(idle=idle, total=total, memory=Memory(used)) == expected
    halves = Memory(used // 2, used - used // 2)
    assert policy.excess(idle=idle, total=total, memory=halves) == expected


def test_a_reached_budget_is_an_episode_of_its_own() -> None:
    policy = make(max_workers=40, budget=1000)
    full, free = Memory(used=950, each=100), Memory(used=500, each=100)
    grow(policy, 0.0, free)
    assert not policy.shortages.is_new()
    grow(policy, 1.0, full)
    assert policy.saturated
    assert policy.shortages.is_new() and not policy.full.is_new()
    assert policy.memory == 950
    grow(policy, 2.0, full, idle=1, waiting=0)
    assert not policy.saturated
    grow(policy, 3.0, full, idle=3, waiting=0)
    grow(policy, 4.0, full)
    assert not policy.shortages.is_new()
    grow(policy, 5.0, free, idle=3, waiting=0)
    # Above it at last, though nobody is wanted.
    grow(policy, 16.0, Memory(used=1001), idle=3, waiting=0)
    assert policy.shortages.is_new()


def test_max_workers_and_no_budget_is_what_is_short() -> None:
    policy = make(max_workers=4, budget=1000)
    grow(policy, 1.0, Memory(used=950, each=100))
    assert policy.full.is_new() and not policy.shortages.is_new()


@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(200, 3000))
def test_workers_of_one_weight_never_pass_the_budget(
    seed: int, weight: int, budget: int
) -> None:
    """With requests of any kind, once the first has told what one leaves."""
    rng = random.Random(seed)
    policy = make(min_idle=1, max_idle=2, min_workers=1, max_workers=12, budget=budget)
    pool, accounting = Pool(12), MemoryAccounting(zygote=100)
    busy: list[PoolWorker] = []
    now = 0.0
    for _ in range(120):
        now += rng.choice((0.0, STEP, 1.0))
        for worker in [w for w in pool if w.state is State.STARTING]:
            pool.report(worker, Event.IDLE, now)
        waiting = rng.randrange(4)
        for worker in pool.order(waiting, now):
            pool.report(worker, Event.BUSY, now)
            busy.append(worker)
            waiting -= 1
        if busy and (rng.random() < 0.5 or not accounting.each):
            worker = busy.pop(rng.randrange(len(busy)))
            accounting.record(worker, weight, served=True)
            pool.report(worker, Event.IDLE, now, 1)
        memory = accounting.memory(pool, 0)
        for _ in range(
            policy.grow(
                now,
                idle=pool.idle,
                starting=pool.starting,
                total=len(pool),
                waiting=waiting if accounting.each else 0,
                memory=memory,
            )
        ):
            assert pool.spawn(now) is not None
        excess = policy.excess(
            idle=pool.idle, total=len(pool), memory=accounting.memory(pool, 0)
        )
        for worker in accounting.choose_idle(pool, *excess):
            pool.report(worker, Event.RETIRE, now)
            pool.report(worker, Event.EXIT, now)
            accounting.forget(worker)
        # Two are there before the first has told.
        assert len(pool) <= 2 or 100 + len(pool) * weight <= budget
        assert len(pool) >= 1


def test_failing_starts_back_off_and_never_stop() -> None:
    policy = make()
    now, pauses = 0.0, []
    for _ in range(40):
        assert policy.grow(now, idle=0, starting=0, total=0) >= 1
        policy.failed(now)
        wake = policy.grow(now, idle=0, starting=0, total=0) or policy.deadline()
        assert wake is not None
        pauses.append(wake - now)
        now = wake
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(MAX_BACK_OFF)
    policy.started(now)
    policy.failed(now)
    assert policy.grow(now + 1, idle=0, starting=0, total=0) >= 1


def test_workers_that_die_idle_are_replaced_ever_more_slowly() -> None:
    policy = make(max_workers=6)
    now, pauses = 0.0, []
    for _ in range(12):
        assert policy.grow(now, idle=0, starting=0, total=0) >= 1
        policy.started(now)
        for _ in range(3):  # those of before may die with it
            policy.failed(now, was_idle=True)
        until = policy.back_off(now)
        assert until is not None
        pauses.append(until - now)
        now = until
    assert pauses[:3] == pytest.approx([BACK_OFF, 2 * BACK_OFF, 4 * BACK_OFF])
    assert pauses[-1] == pytest.approx(MAX_BACK_OFF)
    # One that serves shows that it is over,
    policy.proved(now)
    assert policy.failures == 0
    policy.failed(now, was_idle=True)
    assert policy.back_off(now) == pytest.approx(now + BACK_OFF)
    # and so does one that starts later, or dies later.
    policy.started(now + BACK_OFF)
    assert policy.failures == 1
    policy.failed(now + BACK_OFF + DOUBT, was_idle=True)
    assert policy.failures == 1
    policy.started(now + 2 * (BACK_OFF + DOUBT))
    assert policy.failures == 0


def test_adjusting_stays_within_limits() -> None:
    policy = make(min_idle=2, max_idle=4, max_workers=5)
    assert [policy.adjust(1) for _ in range(5)] == [3, 4, 5, 5, 5]
    assert policy.max_idle == 7
    assert [policy.adjust(-1) for _ in range(6)] == [4, 3, 2, 1, 1, 1]
    assert policy.max_idle == 3


def test_surplus_is_what_was_needed_at_no_moment() -> None:
    policy = make()
    assert policy.shrink(1.0, idle=12, total=20) == 0
    assert policy.shrink(4.0, idle=7, total=20) == 0
    assert policy.shrink(5.0, idle=12, total=20) == 0
    # The trough of seven ended at five, and is in the window until fifteen.
    assert policy.shrink(14.9, idle=12, total=20) == 3
    assert policy.deadline() == 15.0
    assert policy.shrink(15.0, idle=9, total=17) == 5
    assert policy.shrink(15.0, idle=4, total=12) == 0
    assert policy.deadline() is None


def test_never_below_min_workers() -> None:
    policy = make(min_workers=9)
    policy.shrink(0.0, idle=10, total=10)
    assert policy.shrink(100.0, idle=10, total=10) == 1
    assert policy.shrink(200.0, idle=9, total=9) == 0


@given(
    st.lists(
        st.tuples(st.floats(0.001, 3.0), st.integers(0, 12)), min_size=1, max_size=60
    )
)
def test_window_agrees_with_its_definition(steps: list[tuple[float, int]]) -> None:
    """The smallest number in force at any moment of the window, by brute force."""
    timeout, max_idle = 4.0, 1000
    policy = Policy(1, max_idle, 1, 5000, timeout, 0.0)
    now, history = 0.0, [(0.0, 0)]
    for gap, idle in steps:
        now += gap
        history.append((now, idle))
        policy.shrink(now, idle=idle, total=idle)
        in_force = [
            number
            for (_, number), (ended, _) in zip(history, history[1:], strict=False)
            if ended + timeout > now
        ]
        smallest = min([*in_force, idle])
        # Asked with a lower limit, on the same past, it would retire the rest.
        policy.max_idle = 0
        policy_past, policy_idle = policy._past.copy(), policy._idle
        assert policy.shrink(now, idle=idle, total=10**6) == smallest
        policy._past, policy._idle = policy_past, policy_idle
        policy.max_idle = max_idle


def test_a_burst_is_served_within_a_second_and_the_pool_shrinks_back() -> None:
    server = Server(make(min_idle=2, max_idle=4, max_workers=40))
    for _ in range(38):
        server.arrive(5.0, 3.0)
    server.run(5.9)
    assert server.busy == 38
    server.run(60.0)
    assert len(server.pool) == 4
    assert [w.number for w in server.pool] == [0, 1, 2, 3]


@settings(deadline=None, max_examples=30)
@given(
    rate=st.floats(0.5, 30),
    duration=st.floats(0.01, 0.8),
    min_idle=st.integers(1, 6),
    seed=st.integers(0, 10),
)
def test_constant_load_converges(
    rate: float, duration: float, min_idle: int, seed: int
) -> None:
    """Evenly spaced requests of one length: after a while nothing moves."""
    policy = make(min_idle, 2 * min_idle, min_idle, 60)
    server = Server(policy)
    for number in range(int(rate * 90)):
        server.arrive(number / rate, duration)
    server.run(50.0)
    before = server.spawned, server.retired
    server.run(85.0)
    assert (server.spawned, server.retired) == before
    assert not server.durations


def test_random_load_does_not_oscillate() -> None:
    """Poisson arrivals: few processes come and go, for thousands of requests."""
    rng = random.Random(7)
    server = Server(make())
    moment = 0.0
    while moment < 300.0:
        moment += rng.expovariate(20.0)
        server.arrive(moment, rng.expovariate(1 / 0.2))
    server.run(60.0)
    before = server.spawned
    server.run(300.0)
    # A window shorter than the gaps between peaks would restart for each.
    assert server.spawned - before < 40
    assert server.most < 25
