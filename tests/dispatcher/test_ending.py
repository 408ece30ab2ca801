"""The server's way to its end, whatever its processes do."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine

from flask_prefork.dispatcher.ending import Ending
from flask_prefork.dispatcher.ending import Left
from flask_prefork.dispatcher.ending import Step
from flask_prefork.ipc.phase import GRACE
from flask_prefork.ipc.phase import Phase

ALL = Left(False, 3, 1, 2)
NONE = Left(True, 0, 0, 0)


def steps(ending: Ending, now: float, left: Left) -> list[Step]:
    found = []
    while (step := ending.step(now, left)) is not None:
        found.append(step)
    return found


def serving() -> Ending:
    ending = Ending()
    ending.serve()
    return ending


def walk(ending: Ending, left: Left) -> list[tuple[float, Step]]:
    """What is done, and when, if nobody ever does what he is told."""
    found = []
    while (when := ending.deadline()) is not None:
        found += [(when, step) for step in steps(ending, when, left)]
    return found


def test_all_is_well() -> None:
    ending = serving()
    assert ending.deadline() is None
    assert ending.term(10.0, 0.0, 30.0) is Step.DRAIN
    assert steps(ending, 10.0, Left(False, 3, 0, 2)) == []
    assert steps(ending, 11.0, Left(True, 3, 0, 2)) == [Step.CLOSE]
    assert ending.deadline() == 40.0
    assert steps(ending, 12.0, Left(True, 0, 0, 2)) == [Step.RELEASE]
    assert ending.phase is Phase.LEAVING
    assert ending.deadline() == 40.0, "what the app does at its end has that time too"
    assert steps(ending, 13.0, NONE) == []
    assert ending.phase is Phase.STOPPED
    assert ending.deadline() is None


def test_responses_are_sent_to_their_end_without_workers() -> None:
    ending = serving()
    ending.term(10.0, 0.0, 30.0)
    assert steps(ending, 11.0, Left(True, 0, 2, 1)) == [Step.CLOSE]
    assert ending.phase is Phase.CLOSING
    assert steps(ending, 12.0, Left(True, 0, 1, 1)) == []
    assert ending.deadline() == 40.0
    assert steps(ending, 13.0, Left(True, 0, 0, 1)) == [Step.RELEASE]


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(ALL, id="all"),
        # A client that takes too long to take its response.
        pytest.param(Left(True, 0, 1, 1), id="a response"),
    ],
)
def test_nobody_ends(left: Left) -> None:
    ending = serving()
    ending.term(10.0, 0.0, 30.0)
    assert walk(ending, left) == [
        (40.0, Step.CLOSE),
        (41.0, Step.SHOW_WORKERS),
        (41.5, Step.KILL_WORKERS),
        (43.5, Step.RELEASE),
        (45.5, Step.SHOW_ZYGOTES),
        (46.0, Step.KILL),
    ]
    assert ending.phase is Phase.STOPPED


def test_the_drain_delay() -> None:
    ending = serving()
    assert ending.term(10.0, 5.0, 30.0) is None
    assert ending.phase is Phase.SERVING
    assert steps(ending, 14.9, NONE) == []
    assert ending.deadline() == 15.0
    assert steps(ending, 15.0, ALL) == [Step.DRAIN]
    assert ending.deadline() == 45.0


def test_the_second_signal_ends_it_at_once_and_a_third_this_instant() -> None:
    ending = serving()
    ending.term(10.0, 0.0, 3600.0)
    assert ending.term(11.0, 0.0, 3600.0) is Step.CUT
    assert ending.is_hurried
    assert ending.deadline() == 11.0 + GRACE
    assert steps(ending, 11.0, ALL) == []
    assert ending.interrupt(11.5) is Step.KILL
    assert walk(ending, ALL) == []
    assert ending.phase is Phase.STOPPED


def test_the_second_signal_when_only_a_zygote_is_left() -> None:
    ending = serving()
    ending.term(10.0, 0.0, 3600.0)
    assert steps(ending, 10.0, Left(True, 0, 0, 1)) == [Step.CLOSE, Step.RELEASE]
    assert ending.term(11.0, 0.0, 3600.0) is Step.KILL


def test_a_signal_while_the_app_loads() -> None:
    for signal in ("term", "interrupt"):
        ending = Ending()
        if signal == "term":
            assert ending.term(1.0, 9.0, 30.0) is Step.KILL
        else:
            assert ending.interrupt(1.0) is Step.KILL
        assert steps(ending, 1.0, NONE) == []
        assert ending.phase is Phase.STOPPED
        assert ending.interrupt(2.0) is None


def test_an_interrupt_between_the_last_steps() -> None:
    """After workers were shown, the rest is cut off; after they were killed, all is."""
    for waits, step in ((2, Step.CUT), (3, Step.KILL)):
        ending = Ending()
        ending.serve()
        assert ending.term(0.0, 0.0, 0.0) is Step.DRAIN
        done: list[Step] = []
        now = 0.0
        for _ in range(waits):
            now = ending.deadline() or now
            done += steps(ending, now, Left(False, 1, 0, 1))
        assert done[1:] == [Step.SHOW_WORKERS, Step.KILL_WORKERS][: waits - 1]
        assert ending.interrupt(now) is step


class Machine(RuleBasedStateMachine):
    """Signals and deaths at any time, and processes that do nothing they are told."""

    @initialize(delay=st.floats(0, 100), graceful=st.floats(0, 3600))
    def begin(self, delay: float, graceful: float) -> None:
        self.now = 0.0
        self.delay, self.graceful = delay, graceful
        self.ending = Ending()
        self.workers, self.deliveries, self.others = 3, 1, 2
        self.served = False
        self.done: list[Step] = []
        self.told_at: float | None = None
        self.hurried_at: float | None = None

    def note(self, step: Step | None) -> None:
        if step is not None:
            self.done.append(step)

    def left(self) -> Left:
        return Left(self.served, self.workers, self.deliveries, self.others)

    @precondition(lambda self: self.ending.phase is Phase.LOADING)
    @rule()
    def load(self) -> None:
        self.ending.serve()

    @rule()
    def term(self) -> None:
        if self.told_at is None:
            self.told_at = self.now
        elif self.hurried_at is None:
            self.hurried_at = self.now
        self.note(self.ending.term(self.now, self.delay, self.graceful))

    @rule()
    def interrupt(self) -> None:
        if self.hurried_at is None:
            self.hurried_at = self.now
        self.note(self.ending.interrupt(self.now))

    @rule(deliveries=st.integers(0, 3))
    def deliver(self, deliveries: int) -> None:
        # Workers hand over more.
        if self.workers or deliveries < self.deliveries:
            self.deliveries = deliveries

    @rule(workers=st.integers(0, 3), others=st.integers(0, 2), served=st.booleans())
    def end(self, workers: int, others: int, served: bool) -> None:
        self.workers = min(self.workers, workers)
        self.others = min(self.others, others)
        self.served |= served

    @rule()
    def wait(self) -> None:
        when = self.ending.deadline()
        if when is not None:
            assert when >= self.now
            self.now = when

    @rule()
    def turn(self) -> None:
        before = self.now
        self.done += steps(self.ending, self.now, self.left())
        assert self.now == before
        when = self.ending.deadline()
        assert when is None or when > self.now, "it would turn for nothing"

    @invariant()
    def no_phase_waits_without_a_deadline(self) -> None:
        if not hasattr(self, "ending"):
            return
        ending = self.ending
        at_rest = ending.phase in (Phase.LOADING, Phase.SERVING, Phase.STOPPED)
        assert at_rest or ending.deadline() is not None

    @invariant()
    def each_step_is_harder(self) -> None:
        if hasattr(self, "done"):
            order = [list(Step).index(step) for step in self.done]
            assert order == sorted(order)

    def teardown(self) -> None:
        if not hasattr(self, "ending"):
            return
        told = self.told_at is not None or self.hurried_at is not None
        while (when := self.ending.deadline()) is not None:
            self.now = max(self.now, when)
            steps(self.ending, self.now, self.left())
        assert (self.ending.phase is Phase.STOPPED) == told
        few = 4 * GRACE
        if self.hurried_at is not None:
            assert self.now <= self.hurried_at + few
        elif self.told_at is not None:
            assert self.now <= self.told_at + self.delay + self.graceful + few


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
