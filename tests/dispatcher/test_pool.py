"""The pool, by examples and as a state machine that does anything at any time."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine

from flask_prefork.dispatcher.pool import Pool
from flask_prefork.dispatcher.pool import PoolWorker
from flask_prefork.dispatcher.pool import Timeouts
from flask_prefork.ipc.states import Event
from flask_prefork.ipc.states import State
from flask_prefork.ipc.states import TRANSITIONS

REPORTS = [Event.IDLE, Event.BUSY, Event.RETIRE, Event.KILL, Event.EXIT]


def idle_pool(size: int, count: int, **more: int) -> Pool:
    pool = Pool(size, **more)  # type: ignore[arg-type]
    for _ in range(count):
        worker = pool.spawn(0.0)
        assert worker is not None
        pool.report(worker, Event.IDLE, 0.0)
    return pool


def slots(workers: list[PoolWorker]) -> list[int]:
    return [worker.number for worker in workers]


def test_lowest_idle_is_ordered_first() -> None:
    pool = idle_pool(8, 4)
    first = pool.order(2, 1.0)
    assert slots(first) == [0, 1]
    pool.report(first[0], Event.BUSY, 1.0)
    pool.report(first[0], Event.IDLE, 1.0, served=1)
    assert slots(pool.order(1, 1.0)) == [0]
    assert slots(pool.order(9, 1.0)) == [2, 3]
    assert pool.order(1, 1.0) == []


def test_lowest_free_slot_is_filled_first() -> None:
    pool = idle_pool(4, 4)
    for slot in (2, 1):
        worker = pool.workers[slot]
        assert worker is not None
        pool.report(worker, Event.EXIT, 1.0)
    filled = [pool.spawn(1.0), pool.spawn(1.0)]
    assert [worker and worker.number for worker in filled] == [1, 2]
    assert pool.spawn(1.0) is None


def test_reports_of_a_dead_process_are_ignored() -> None:
    pool = idle_pool(2, 1)
    dead = pool.lowest_idle()
    assert dead is not None
    assert pool.report(dead, Event.EXIT, 1.0)
    new = pool.spawn(1.0)
    assert new is not None
    assert new.number == dead.number
    for event in REPORTS:
        assert not pool.report(dead, event, 1.0)
    assert new.state is State.STARTING


def test_silent_worker_loses_its_connection_then_its_life() -> None:
    pool = Pool(4, Timeouts(order=1.0, spawn=30.0))
    for _ in range(2):
        worker = pool.spawn(0.0)
        assert worker is not None
        pool.report(worker, Event.IDLE, 0.0)
    (silent,) = pool.order(1, 10.0)
    assert pool.outstanding[0] == 1
    assert pool.deadline() == 11.0
    assert pool.overdue(10.9) == []
    assert pool.outstanding[0] == 1
    assert pool.overdue(11.0) == []
    assert pool.outstanding[0] == 0
    assert silent.suspect
    assert pool.deadline() == 40.0
    assert pool.overdue(39.9) == []
    assert pool.overdue(40.0) == [silent]


def test_slow_is_no_crime() -> None:
    pool = idle_pool(4, 1)
    (slow,) = pool.order(1, 0.0)
    pool.overdue(5.0)
    assert pool.report(slow, Event.BUSY, 6.0)
    assert not slow.suspect
    assert pool.outstanding[0] == 0
    assert pool.overdue(1000.0) == []


def test_outstanding_is_counted_by_queue() -> None:
    pool = idle_pool(4, 3)
    pool.order(1, 0.0, queue=0)
    (second, third) = pool.order(2, 0.0, queue=1)
    assert pool.outstanding[0] == 1
    assert pool.outstanding[1] == 2
    pool.report(second, Event.BUSY, 0.0)
    pool.report(third, Event.EXIT, 0.0)
    assert pool.outstanding[1] == 0


def test_surplus_is_taken_from_the_top() -> None:
    pool = idle_pool(8, 6)
    pool.order(1, 0.0)
    assert slots(pool.highest_idle(2)) == [5, 4]
    assert slots(pool.highest_idle(99)) == [5, 4, 3, 2, 1]


def test_recycling_starts_the_replacement_first_and_is_one_at_a_time() -> None:
    pool = idle_pool(8, 2, max_requests=3)
    workers = [worker for worker in pool]
    for worker in workers:
        pool.report(worker, Event.BUSY, 1.0)
        pool.report(worker, Event.IDLE, 1.0, served=3)
        assert worker.due
    new, old = pool.recycle(1.0, room=True)
    assert new is not None
    assert (new.number, old) == (2, None)
    assert pool.recycle(1.0, room=True) == (None, None)
    pool.report(new, Event.IDLE, 2.0)
    pool.order(1, 2.0)
    new2, old = pool.recycle(2.0, room=True)
    # The first is serving, the second is idle.
    assert (new2, old) == (None, workers[1])
    pool.report(workers[1], Event.RETIRE, 2.0)
    assert pool.recycle(2.0, room=True) == (None, None)
    pool.report(workers[1], Event.EXIT, 2.0)
    new, old = pool.recycle(3.0, room=True)
    assert new is not None
    assert new.number == 1


def test_who_only_finishes_is_in_nobodys_way() -> None:
    pool = Pool(2)
    one = pool.spawn(0.0)
    assert one is not None
    pool.report(one, Event.IDLE, 0.0)
    # By itself, or because it was told to retire; once.
    for _ in range(2):
        pool.finish(one, 1.0)
        assert (one.state, pool.total, len(pool)) == (State.RETIRING, 0, 1)
    other = pool.spawn(1.0)
    assert other is not None
    assert (other.number, pool.total, len(pool)) == (1, 1, 2)
    assert pool.overdue(1.0 + pool.timeouts.retire) == [other, one]
    pool.report(one, Event.KILL, 31.0)
    assert pool.total == 1
    pool.report(one, Event.EXIT, 31.0)
    assert (pool.total, len(pool)) == (1, 1)
    # What is late changes nothing.
    pool.finish(one, 32.0)
    assert pool.total == 1


def test_recycling_goes_on_beside_one_that_only_finishes() -> None:
    pool = Pool(3, max_requests=1)
    workers = [pool.spawn(0.0), pool.spawn(0.0)]
    for worker in workers:
        assert worker is not None
        pool.report(worker, Event.IDLE, 0.0, 1)
    _, old = pool.recycle(0.0, room=False)
    assert old is workers[0]
    assert old is not None
    pool.report(old, Event.RETIRE, 0.0)
    assert pool.recycle(0.0, room=False) == (None, None)
    pool.finish(old, 0.0)
    assert pool.recycle(0.0, room=False) == (None, workers[1])


def test_who_is_killed_while_it_finishes_stands_for_no_other() -> None:
    pool = Pool(4, max_requests=1)
    workers = [pool.spawn(0.0) for _ in range(3)]
    for worker in workers:
        assert worker is not None
        pool.report(worker, Event.IDLE, 0.0, 1)
    first, second, third = (worker for worker in workers if worker is not None)
    pool.finish(first, 0.0)
    pool.report(first, Event.KILL, 0.0)
    assert pool.recycle(0.0, room=False) == (None, second)
    pool.report(second, Event.RETIRE, 0.0)
    assert pool.recycle(0.0, room=False) == (None, None), "the second is yet to go"
    pool.finish(second, 0.0)
    assert pool.recycle(0.0, room=False) == (None, third)


def test_recycling_without_room_retires_first() -> None:
    pool = idle_pool(2, 2, max_requests=1)
    worker = pool.lowest_idle()
    assert worker is not None
    pool.report(worker, Event.IDLE, 1.0)
    pool.report(worker, Event.BUSY, 1.0)
    pool.report(worker, Event.IDLE, 1.0, served=1)
    assert pool.recycle(1.0, room=False) == (None, worker)


def test_nobody_is_replaced_while_others_are_yet_to_come() -> None:
    pool = idle_pool(3, 2, max_requests=1)
    worker = pool.lowest_idle()
    assert worker is not None
    pool.report(worker, Event.BUSY, 1.0)
    pool.report(worker, Event.IDLE, 1.0, served=1)
    more = pool.spawn(1.0)
    assert more is not None
    assert pool.recycle(1.0, room=False) == (None, None)
    assert pool.recycles
    pool.report(more, Event.IDLE, 2.0)
    assert pool.recycle(2.0, room=False) == (None, worker)


def test_a_replacement_that_dies_is_started_again() -> None:
    pool = idle_pool(4, 1, max_requests=1)
    worker = pool.lowest_idle()
    assert worker is not None
    pool.report(worker, Event.BUSY, 1.0)
    pool.report(worker, Event.IDLE, 1.0, served=1)
    new, _ = pool.recycle(1.0, room=True)
    assert new is not None
    # It is known to be dying before it is known to be dead.
    pool.report(new, Event.KILL, 1.0)
    assert pool.recycle(1.0, room=True) == (None, None)
    pool.report(new, Event.EXIT, 1.0)
    again, old = pool.recycle(1.0, room=True)
    assert again is not None
    assert old is None


def test_who_is_expired_is_replaced_as_soon_as_it_is_idle() -> None:
    pool = idle_pool(4, 2)
    first, second = pool
    for worker in (first, second):
        pool.report(worker, Event.BUSY, 1.0)
    pool.report(first, Event.IDLE, 1.0, served=7)
    assert not pool.recycles
    assert pool.recycle(1.0, room=False) == (None, None)
    pool.expire(first)
    pool.expire(second)
    assert pool.recycles
    assert pool.recycle(1.0, room=False) == (None, first)
    pool.report(first, Event.RETIRE, 1.0)
    pool.report(first, Event.EXIT, 2.0)
    assert pool.recycle(2.0, room=False) == (None, None)
    pool.report(second, Event.IDLE, 3.0, served=1)
    assert pool.recycle(3.0, room=False) == (None, second)


def test_there_is_something_to_recycle_until_all_is_done() -> None:
    pool = idle_pool(4, 1, max_requests=1)
    (worker,) = pool
    pool.report(worker, Event.BUSY, 1.0)
    assert not pool.recycles
    pool.report(worker, Event.IDLE, 1.0, served=1)
    new, _ = pool.recycle(1.0, room=True)
    assert new is not None
    pool.report(worker, Event.EXIT, 2.0)
    pool.report(new, Event.IDLE, 2.0)
    assert pool.recycles
    assert pool.recycle(2.0, room=True) == (None, None)
    assert not pool.recycles


def test_jitter_spreads_the_limits() -> None:
    pool = Pool(50, max_requests=100, jitter=50, rng=random.Random(1))
    limits = {worker.limit for _ in range(50) if (worker := pool.spawn(0.0))}
    assert len(limits) > 10
    assert min(limits) >= 100
    assert max(limits) <= 150


def test_letters() -> None:
    pool = idle_pool(9, 4)
    pool.order(2, 0.0)
    worker = pool.workers[3]
    assert worker is not None
    pool.report(worker, Event.RETIRE, 0.0)
    pool.spawn(0.0)
    assert pool.letters() == "OOIRS"


def test_decisions_are_not_reported() -> None:
    pool = idle_pool(1, 1)
    worker = pool.lowest_idle()
    assert worker is not None
    for event in (Event.ORDER, Event.SPAWN):
        with pytest.raises(ValueError, match="decided here"):
            pool.report(worker, event, 0.0)


def test_every_state_can_be_left_and_only_death_frees() -> None:
    for state in State:
        if state is not State.FREE:
            assert TRANSITIONS[state, Event.EXIT] is State.FREE
    freeing = {event for (_, event), new in TRANSITIONS.items() if new is State.FREE}
    assert freeing == {Event.EXIT}


class Machine(RuleBasedStateMachine):
    """Any event, true or not, at any time, for workers alive or long dead."""

    @initialize(
        size=st.integers(1, 8),
        max_requests=st.integers(0, 3),
        jitter=st.integers(0, 2),
    )
    def begin(self, size: int, max_requests: int, jitter: int) -> None:
        self.now = 0.0
        self.size = size
        self.timeouts = Timeouts(1.0, 30.0, 10.0)
        self.pool = Pool(
            size,
            self.timeouts,
            max_requests=max_requests,
            jitter=jitter,
            rng=random.Random(0),
        )
        self.known: list[PoolWorker] = []
        self.seen: dict[PoolWorker, State] = {}

    def watch(self, worker: PoolWorker) -> None:
        """Whatever happened to a worker is in the table."""
        old = self.seen[worker]
        if worker.state is not old:
            steps = {new for (state, _), new in TRANSITIONS.items() if state is old}
            assert worker.state in steps
            self.seen[worker] = worker.state

    @rule()
    def spawn(self) -> None:
        free = [slot for slot, w in enumerate(self.pool.workers) if w is None]
        worker = self.pool.spawn(self.now)
        if worker is None:
            assert not free
        else:
            assert worker.number == free[0]
            self.known.append(worker)
            self.seen[worker] = State.STARTING

    @precondition(lambda self: self.known)
    @rule(data=st.data(), event=st.sampled_from(REPORTS), served=st.integers(0, 4))
    def report(self, data: st.DataObject, event: Event, served: int) -> None:
        worker = data.draw(st.sampled_from(self.known))
        before = worker.state
        moved = self.pool.report(worker, event, self.now, served)
        assert moved == ((before, event) in TRANSITIONS)
        assert moved or worker.state is before

    @rule(count=st.integers(0, 9), queue=st.integers(0, 1))
    def order(self, count: int, queue: int) -> None:
        idle = [w.number for w in self.pool if w.state is State.IDLE]
        ordered = self.pool.order(count, self.now, queue)
        assert slots(ordered) == idle[:count]

    @rule(count=st.integers(0, 9))
    def retire_surplus(self, count: int) -> None:
        for worker in self.pool.highest_idle(count):
            assert self.pool.report(worker, Event.RETIRE, self.now)

    @rule(room=st.booleans())
    def recycle(self, room: bool) -> None:
        new, old = self.pool.recycle(self.now, room)
        assert new is None or old is None
        if new is not None:
            assert room
            self.known.append(new)
            self.seen[new] = State.STARTING
        if old is not None:
            assert old.state is State.IDLE
            assert old.due
            assert self.pool.report(old, Event.RETIRE, self.now)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 9.0, 29.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        late = self.pool.overdue(self.now)
        for worker in late:
            assert worker.state in (State.STARTING, State.ORDERED, State.RETIRING)
            assert self.pool.report(worker, Event.KILL, self.now)
        assert self.pool.overdue(self.now) == []
        deadline = self.pool.deadline()
        assert deadline is None or deadline > self.now

    @invariant()
    def sums_are_right(self) -> None:
        pool = self.pool
        assert sum(pool.counts.values()) == self.size
        assert len(list(pool)) == len(pool)
        for state in State:
            if state is not State.FREE:
                assert pool.counts[state] == sum(w.state is state for w in pool)
        ordered = [w for w in pool if w.state is State.ORDERED and not w.suspect]
        assert pool.outstanding.total() == len(ordered)

    @invariant()
    def lives_follow_the_table(self) -> None:
        for worker in self.known:
            self.watch(worker)

    @invariant()
    def lowest_idle_is_lowest(self) -> None:
        idle = [w for w in self.pool if w.state is State.IDLE]
        assert self.pool.lowest_idle() is (idle[0] if idle else None)

    def teardown(self) -> None:
        """No slot leaks: when all processes have died, all are free."""
        for worker in self.known:
            self.pool.report(worker, Event.EXIT, self.now)
        assert len(self.pool) == 0
        filled = [self.pool.spawn(self.now) for _ in range(self.size)]
        assert [w and w.number for w in filled] == list(range(self.size))


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
