"""Load shedding: who is refused, and when to look."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine

from flask_prefork.dispatcher.shedding import Accept
from flask_prefork.dispatcher.shedding import EPISODE
from flask_prefork.dispatcher.shedding import Queue
from flask_prefork.dispatcher.shedding import Shed
from flask_prefork.dispatcher.shedding import Shedding
from flask_prefork.dispatcher.shedding import ShedReason
from flask_prefork.ipc.figures import SHED_REASONS


def shedding(queue_timeout: float = 0.0, max_queue: int = 0) -> Shedding:
    made = Shedding(0.0)
    made.configure(queue_timeout, max_queue)
    return made


def test_reasons_are_counted() -> None:
    assert tuple(reason.value for reason in ShedReason) == SHED_REASONS


def test_without_a_setting_nobody_looks() -> None:
    made = shedding()
    assert not made.is_due(1e9, False)
    assert made.deadline() is None


def test_while_a_worker_is_idle_nobody_looks() -> None:
    made = shedding(1.0)
    assert not made.is_due(100.0, False)
    assert made.deadline() is not None
    assert not made.is_due(101.0, True)
    assert made.deadline() is None


@pytest.mark.parametrize(
    ("timeout", "bound", "interval"),
    [(0.01, 0, 0.02), (1.0, 0, 0.125), (60.0, 0, 0.5), (0, 5, 0.05), (60.0, 5, 0.05)],
)
def test_how_often_it_looks(timeout: float, bound: int, interval: float) -> None:
    made = shedding(timeout, bound)
    made.is_due(100.0, False)
    assert made.deadline() == pytest.approx(100.0 + interval)
    assert not made.is_due(100.0 + interval * 0.9, False)
    assert made.is_due(100.0 + interval * 1.1, False)
    made.looked(101.0, None, True)
    assert made.deadline() == pytest.approx(101.0 + interval)


def test_it_looks_when_the_first_gets_stale() -> None:
    made = shedding(60.0)
    made.looked(100.0, 40.25, True)
    assert made.deadline() == 100.25
    made.looked(100.0, 30.0, False)
    assert made.deadline() == 100.0


def test_a_new_setting_counts_at_once() -> None:
    made = shedding(60.0)
    made.is_due(100.0, False)
    made.configure(0.0, 0)
    assert made.deadline() is None


@pytest.mark.parametrize(
    ("timeout", "retry"), [(0.2, 1), (3.5, 4), (60.0, 10), (0.0, 1)]
)
def test_when_to_try_again(timeout: float, retry: int) -> None:
    assert shedding(timeout).retry_after == retry


def test_the_front_of_each_queue_is_held() -> None:
    made = shedding(1.0)
    empty, held = Queue(0, False, True), Queue(9, True, True)
    assert made.next(5.0, [empty, Queue(2, False, True)], 0, None) == Accept(1)
    assert made.next(5.0, [empty, held], 1, 4.5) is None
    assert made.next(5.0, [empty, held], 1, 4.0) == Shed(ShedReason.QUEUE_TIMEOUT)


def test_all_are_held_whose_age_nobody_tells() -> None:
    made = shedding(1.0)
    assert made.next(5.0, [Queue(2, True, False)], 3, 4.9) == Accept(0)


def test_the_bound() -> None:
    made = shedding(0.0, 3)
    assert made.next(5.0, [Queue(3, False, True)], 0, None) is None
    assert made.next(5.0, [Queue(4, False, True)], 0, None) == Accept(0)
    assert made.next(5.0, [Queue(3, True, True)], 1, 5.0) == Shed(ShedReason.MAX_QUEUE)
    assert made.next(5.0, [Queue(2, True, True)], 1, 0.0) is None


def test_an_episode() -> None:
    made = shedding(1.0)
    assert made.ended(1e9) == 0
    assert made.refused(10.0)
    assert not made.refused(11.0)
    assert made.deadline() == 11.0 + EPISODE
    assert made.ended(10.0 + EPISODE) == 0
    assert made.ended(11.0 + EPISODE) == 2
    assert made.ended(12.0 + EPISODE) == 0
    assert made.deadline() is None
    assert made.refused(100.0)


class Machine(RuleBasedStateMachine):
    """Accept queues, some of whose ages are told, and workers that come and go.

    A connection is the moment of its arrival.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.tells = [True]
        self.queues: list[deque[float]] = [deque()]
        #: Arrival as it is known, the listener if it is a front, and its true arrival.
        self.ready: list[tuple[float, int, float]] = []
        self.made = Shedding(self.now)
        self.shed: list[float] = []
        self.sent = self.served = 0

    @initialize(
        tells=st.lists(st.booleans(), min_size=1, max_size=3),
        timeout=st.sampled_from([0.0, 0.5, 2.0]),
        bound=st.sampled_from([0, 1, 5]),
    )
    def begin(self, tells: list[bool], timeout: float, bound: int) -> None:
        self.tells = tells
        self.queues = [deque() for _ in tells]
        self.made.configure(timeout, bound)

    @rule(index=st.integers(0, 2), count=st.integers(1, 4))
    def arrive(self, index: int, count: int) -> None:
        self.queues[index % len(self.queues)].extend([self.now] * count)
        self.sent += count

    @rule(time=st.floats(0.001, 1.0))
    def later(self, time: float) -> None:
        self.now += time

    @rule()
    def speak_again(self) -> None:
        """A kept-alive connection has its next request."""
        self.ready.append((self.now, -1, self.now))
        self.sent += 1

    @rule(index=st.integers(0, 2))
    def take(self, index: int) -> None:
        """A worker takes the next one, as the queues do it: the rest of a queue waits
        for its front."""
        index %= len(self.queues)
        held = {one for _, one, _ in self.ready}
        if index not in held and self.queues[index]:
            self.queues[index].popleft()
            self.served += 1
        elif self.ready:
            self.ready.pop(0)
            self.served += 1

    @rule(steps=st.integers(1, 20))
    def look(self, steps: int) -> None:
        if not self.made.is_due(self.now, False):
            return
        for _ in range(steps):
            action = self._next()
            if action is None:
                break
            self._act(action)
        done = self._next() is None
        self.made.looked(self.now, self._oldest(), done)
        timeout = self.made.queue_timeout
        if done and timeout:
            assert all(self.now - known < timeout for known, _, _ in self.ready)
            assert all(
                not queue or index in {one for _, one, _ in self.ready}
                for index, queue in enumerate(self.queues)
            ), "nobody knows how old its front is"
        waiting = len(self.ready) + sum(map(len, self.queues))
        if done and self.made.max_queue:
            assert waiting <= self.made.max_queue

    def _oldest(self) -> float | None:
        return self.ready[0][0] if self.ready else None

    def _next(self) -> Accept | Shed | None:
        held = {one for _, one, _ in self.ready}
        queues = [
            Queue(len(queue), index in held, self.tells[index])
            for index, queue in enumerate(self.queues)
        ]
        return self.made.next(self.now, queues, len(self.ready), self._oldest())

    def _act(self, action: Accept | Shed) -> None:
        if isinstance(action, Accept):
            arrived = self.queues[action.queue].popleft()
            known = arrived if self.tells[action.queue] else self.now
            place = len(self.ready)
            while place and self.ready[place - 1][0] > known:
                place -= 1
            self.ready.insert(place, (known, action.queue, arrived))
            return
        known, _, arrived = self.ready.pop(0)
        if action.reason is ShedReason.QUEUE_TIMEOUT:
            assert self.now - arrived >= self.made.queue_timeout, "it is fresh"
        else:
            assert all(known <= other for other, _, _ in self.ready)
        self.shed.append(arrived)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        waiting = len(self.ready) + sum(map(len, self.queues))
        assert self.sent == waiting + self.served + len(self.shed)

    @invariant()
    def the_order_within_a_queue_is_kept(self) -> None:
        for index, queue in enumerate(self.queues):
            fronts = [true for _, one, true in self.ready if one == index]
            assert fronts == sorted(fronts)
            assert not fronts or not queue or fronts[-1] <= queue[0]


TestShedding = Machine.TestCase
TestShedding.settings = settings(max_examples=150, stateful_step_count=40)


@given(
    timeout=st.floats(0.1, 5),
    load=st.lists(st.floats(0.01, 0.5), min_size=1, max_size=60),
)
def test_after_a_stall_the_first_that_is_served_is_fresh(
    timeout: float, load: list[float]
) -> None:
    """Every worker is stuck while clients come, as late as they like."""
    made, queue, ready = shedding(timeout), deque[float](), list[float]()
    now = 100.0
    for gap in load:
        end = now + gap
        while (moment := made.deadline()) is not None and moment <= end:
            now = max(now, moment)
            if made.is_due(now, False):
                _finish(made, now, queue, ready)
        now = end
        made.is_due(now, False)
        queue.append(now)
    if made.is_due(now, False):
        _finish(made, now, queue, ready)
        first = min([*ready, *queue], default=now)
        assert now - first < timeout


def _finish(
    made: Shedding, now: float, queue: deque[float], ready: list[float]
) -> None:
    for _ in range(1000):
        queues = [Queue(len(queue), bool(ready), True)]
        action = made.next(now, queues, len(ready), ready[0] if ready else None)
        if action is None:
            made.looked(now, ready[0] if ready else None, True)
            return
        if isinstance(action, Accept):
            ready.append(queue.popleft())
        else:
            ready.pop(0)
    raise AssertionError("it doesn't end")
