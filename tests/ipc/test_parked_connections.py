"""Parked connections and their deadlines, against naive models."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine

from flask_prefork.ipc.figures import PARKED_STATES
from flask_prefork.ipc.parked_connections import Connection
from flask_prefork.ipc.parked_connections import FIRST_DELAY
from flask_prefork.ipc.parked_connections import LAST_DELAY
from flask_prefork.ipc.parked_connections import ParkedConnections
from flask_prefork.system import slow_client
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.timers import Deadlines

#: How late a deadline may be told of, in seconds: a bit above the precision.
LATE = 0.051
#: What adding floats may cost.
EPSILON = 1e-6

#: Bytes per second that clients must send.
RATE = 100
#: As a clock that has run for days; fractions that don't hit the precision.
TIMES = st.floats(-5, 5).map(lambda offset: 1_000_000 + offset)
ITEMS = st.integers(0, 9)


# Deadlines


def test_no_deadlines() -> None:
    deadlines: Deadlines[str] = Deadlines()
    assert deadlines.next() is None
    assert deadlines.pop(1e9) == []
    deadlines.discard("nobody's")
    assert len(deadlines) == 0


def test_a_new_deadline_takes_the_place_of_the_old() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("a", 10.0)
    deadlines.set("a", 20.0)
    assert len(deadlines) == 1
    assert deadlines.pop(19.0) == []
    assert deadlines.pop(21.0) == ["a"]


def test_the_earlier_come_first() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for when in (7, 3, 9, 1):
        deadlines.set(when, float(when))
    assert deadlines.pop(8.0) == [1, 3, 7]


class DeadlinesMachine(RuleBasedStateMachine):
    """Deadlines beside a plain dict."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: Deadlines[int] = Deadlines()
        self.model: dict[int, float] = {}

    @rule(item=ITEMS, when=TIMES)
    def set(self, item: int, when: float) -> None:
        self.deadlines.set(item, when)
        self.model[item] = when

    @rule(item=ITEMS)
    def discard(self, item: int) -> None:
        self.deadlines.discard(item)
        self.model.pop(item, None)

    @rule(now=TIMES)
    def pop(self, now: float) -> None:
        popped = self.deadlines.pop(now)
        assert len(set(popped)) == len(popped)
        for item in popped:
            assert self.model.pop(item) <= now + EPSILON, "early"
        assert all(when > now - LATE for when in self.model.values()), "late"

    @invariant()
    def next_is_the_earliest(self) -> None:
        assert len(self.deadlines) == len(self.model)
        when = self.deadlines.next()
        if not self.model:
            assert when is None
            return
        earliest = min(self.model.values())
        assert when is not None
        assert earliest - EPSILON <= when < earliest + LATE
        # Whoever waits until then finds somebody.
        assert self.deadlines.pop(when) != []
        # What was taken out for the look goes back.
        for item, moment in self.model.items():
            self.deadlines.set(item, moment)


TestDeadlinesMachine = DeadlinesMachine.TestCase


# The lot


def connection(
    wait: Wait = Wait.KEEP_ALIVE,
    deadline: float = 100.0,
    have: int = 0,
    wakes: int = 0,
) -> Connection:
    """A connection that is nobody's descriptor."""
    return Connection(-1, 0, Parked(wait, deadline, have, wakes, rate=RATE))


def test_one_between_two_requests_is_watched() -> None:
    lot = ParkedConnections()
    parked = connection()
    assert lot.park(parked, 0.0)
    assert parked in lot
    assert len(lot) == 1
    assert lot.heads == 0
    assert not lot.ready


def test_one_whose_turn_is_over_is_ready_at_once() -> None:
    lot = ParkedConnections()
    first, second = connection(), connection(Wait.WORKER, have=20)
    lot.park(first, 0.0)
    assert not lot.park(second, 0.0)
    lot.wake(first, 1.0)
    assert list(lot.ready) == [second, first]
    assert first not in lot, "it waits for no client"
    assert len(lot) == 2
    assert lot.deadline() is None


@pytest.mark.parametrize(
    ("wakes", "delay"), [(1, 0.01), (2, 0.02), (5, 0.16), (8, 1.0), (15, 1.0)]
)
def test_one_woken_for_nothing_rests_ever_longer(wakes: int, delay: float) -> None:
    lot = ParkedConnections()
    parked = connection(Wait.HEAD, have=3, wakes=wakes)
    assert not lot.park(parked, 10.0)
    assert lot.expire(10.0 + delay - EPSILON) == ([], [], [], [])
    assert parked in lot
    assert lot.expire(10.0 + delay + LATE) == ([], [], [parked], [])
    assert parked in lot, "it is watched now"


def test_a_gap_that_is_too_long_ends_the_connection() -> None:
    lot = ParkedConnections()
    parked = connection(deadline=5.0)
    lot.park(parked, 0.0)
    assert lot.expire(4.9) == ([], [], [], [])
    assert lot.expire(5.0 + LATE) == ([parked], [], [], [])
    assert len(lot) == 0
    assert not lot.ready


def test_a_head_that_takes_too_long_is_a_workers_to_answer() -> None:
    lot = ParkedConnections()
    begun = connection(Wait.HEAD, deadline=5.0, have=7, wakes=9)
    silent = connection(Wait.HEAD, deadline=5.0)
    # Woken so often that its rest ends beyond its deadline.
    lot.park(begun, 4.5)
    lot.park(silent, 0.0)
    assert lot.heads == 2
    assert lot.expire(5.0 + LATE) == ([silent], [begun], [], [])
    assert list(lot.ready) == [begun]
    assert lot.expire(100.0) == ([], [], [], [])


def test_the_longest_idle_goes_first_and_begun_requests_last() -> None:
    lot = ParkedConnections()
    head, old, new = connection(Wait.HEAD, have=1), connection(), connection()
    ready = connection(Wait.WORKER, have=1)
    for parked in (ready, head, old, new):
        lot.park(parked, 0.0)
    for expected in (old, new, head):
        assert lot.longest_idle() is expected
        lot.remove(expected)
    assert lot.longest_idle() is None
    assert list(lot.ready) == [ready]


def test_a_body_without_a_rate_may_go_on_as_long_as_anything_comes() -> None:
    lot = ParkedConnections()
    body = Connection(-1, 0, Parked(Wait.BODY, 5.0, have=10))
    lot.park(body, 0.0)
    assert lot.expire(5.0 + LATE).slow == [body]
    assert lot.progressed(body, 11, 6.0)
    assert body.state.deadline == 6.0 + slow_client.STALL
    assert lot.expire(70.0).slow == [body]
    assert not lot.progressed(body, 11, 70.0)
    assert list(lot.ready) == [body]


class LotMachine(RuleBasedStateMachine):
    """A lot beside lists in which one looks for everything."""

    def __init__(self) -> None:
        super().__init__()
        self.lot = ParkedConnections()
        self.now = 1_000_000.0
        #: Those that wait for their client, in the order of their coming.
        self.waiting: list[Connection] = []
        self.ready: list[Connection] = []
        #: Until when those that were woken for nothing rest.
        self.rests: dict[Connection, float] = {}

    @rule(
        wait=st.sampled_from([wait for wait in Wait if wait is not Wait.PERMIT]),
        time=st.floats(0, 3),
        have=st.integers(0, 2),
        wakes=st.integers(0, 15),
    )
    def park(self, wait: Wait, time: float, have: int, wakes: int) -> None:
        parked = connection(wait, self.now + time, have, wakes)
        watch = self.lot.park(parked, self.now)
        if wait is Wait.WORKER:
            assert not watch
            self.ready.append(parked)
            return
        self.waiting.append(parked)
        assert watch is (wakes == 0)
        if wakes:
            delay = min(FIRST_DELAY * 2 ** (wakes - 1), LAST_DELAY)
            self.rests[parked] = self.now + delay

    def forget(self, parked: Connection) -> None:
        self.waiting.remove(parked)
        self.rests.pop(parked, None)

    @precondition(lambda self: len(self.waiting) > len(self.rests))
    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        watched = [one for one in self.waiting if one not in self.rests]
        woken = data.draw(st.sampled_from(watched))
        self.lot.wake(woken, self.now)
        self.forget(woken)
        self.ready.append(woken)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        removed = data.draw(st.sampled_from(self.waiting))
        self.lot.remove(removed)
        self.lot.remove(removed)
        self.forget(removed)

    @precondition(lambda self: self.ready)
    @rule()
    def hand_over(self) -> None:
        assert self.lot.ready.popleft() is self.ready.pop(0)

    @rule(time=st.floats(0, 2), came=st.integers(-2, 3 * RATE))
    def expire(self, time: float, came: int) -> None:
        self.now += time
        close, _, watch, slow = self.lot.expire(self.now)
        woken = list(self.lot.ready)[len(self.ready) :]
        assert len({*close, *watch, *woken}) == len(close) + len(watch) + len(woken)
        for gone in (*close, *woken):
            assert gone.state.deadline <= self.now + EPSILON
            assert (gone in woken) is (
                gone.state.wait is Wait.HEAD and gone.state.have > 0
            )
            self.forget(gone)
        self.ready += woken
        for rested in watch:
            assert self.rests.pop(rested) <= self.now + EPSILON
        for one in slow:
            assert one.state.wait is Wait.BODY
            assert one.state.deadline <= self.now + EPSILON
            self.check_rate(one, one.state.have + came)
        assert all(one.state.deadline > self.now - LATE for one in self.waiting)
        assert all(end > self.now - LATE for end in self.rests.values())

    def check_rate(self, one: Connection, there: int) -> None:
        came = there - one.state.have
        if self.lot.progressed(one, there, self.now):
            assert came > 0
            left = min(came / RATE, slow_client.CREDIT)
            assert one.state.deadline == pytest.approx(self.now + left)
            assert one.state.have == there
        else:
            assert came <= 0
            self.forget(one)
            self.ready.append(one)

    @rule()
    def clear(self) -> None:
        assert set(self.lot.clear()) == {*self.waiting, *self.ready}
        self.waiting, self.ready, self.rests = [], [], {}

    @invariant()
    def agrees(self) -> None:
        lot = self.lot
        assert list(lot.ready) == self.ready
        assert len(lot) == len(self.waiting) + len(self.ready)
        assert all(one in lot for one in self.waiting)
        assert not any(one in lot for one in self.ready)
        kinds = [
            [one for one in self.waiting if one.state.wait is wait]
            for wait in (Wait.LINGER, Wait.KEEP_ALIVE, Wait.HEAD, Wait.BODY)
        ]
        counts = [lot.lingering, lot.idle, lot.heads, lot.bodies]
        states = lot.by_state()
        assert tuple(states) == PARKED_STATES
        assert sum(states.values()) == len(lot)
        assert counts == [len(kind) for kind in kinds]
        assert lot.longest_idle() is next(itertools.chain(*kinds), None)

    @invariant()
    def deadline_is_the_earliest(self) -> None:
        moments = [one.state.deadline for one in self.waiting] + [*self.rests.values()]
        deadline = self.lot.deadline()
        if not moments:
            assert deadline is None
        else:
            assert deadline is not None
            assert min(moments) - EPSILON <= deadline < min(moments) + LATE


TestLotMachine = LotMachine.TestCase
for machine in (TestDeadlinesMachine, TestLotMachine):
    machine.settings = settings(max_examples=60, stateful_step_count=30)
