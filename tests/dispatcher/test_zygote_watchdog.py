"""Zygotes that do what they are told, and others."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine

from flask_prefork.dispatcher.zygote_watchdog import LONG
from flask_prefork.dispatcher.zygote_watchdog import Move
from flask_prefork.dispatcher.zygote_watchdog import Stage
from flask_prefork.dispatcher.zygote_watchdog import Watchdog
from flask_prefork.ipc.phase import GRACE
from flask_prefork.ipc.phase import LAST_MOMENT


def serving(limit: float = 10.0) -> Watchdog:
    dog = Watchdog(0.0)
    dog.loaded(limit)
    return dog


def walk(dog: Watchdog, last: float) -> list[tuple[float, Move | None]]:
    """What is done, and when, if it does nothing."""
    found = []
    while (when := dog.deadline()) is not None and when <= last:
        found.append((when, dog.move(when)))
    return found


def test_loading_takes_its_time_and_is_told() -> None:
    dog = Watchdog(100.0)
    assert [at - 100 for at, _ in walk(dog, 1000.0)] == [30, 60, 120, 240, 480]
    assert dog.loading_time == 480
    assert not dog.is_condemned


def test_what_has_nothing_to_load_is_hurried() -> None:
    dog = Watchdog(0.0)
    dog.hurry(0.0, 5.0)
    assert walk(dog, 100.0) == [
        (5.0, Move.SHOW),
        (5.0 + LAST_MOMENT, Move.KILL),
        (5.0 + LAST_MOMENT + GRACE, Move.GIVE_UP),
    ]
    assert dog.overdue == "it did not come up"


def test_each_answer_renews_its_time() -> None:
    dog = serving()
    assert dog.deadline() is None
    dog.asked(1.0, "one")
    dog.asked(5.0, "two")
    assert dog.deadline() == 11.0
    dog.answered(9.0)
    assert dog.deadline() == 19.0
    assert dog.move(18.9) is None
    assert dog.move(19.0) is Move.SHOW
    assert dog.overdue == "two"
    dog.answered(19.1)
    assert dog.move(19.0 + LAST_MOMENT) is Move.KILL, "it is too late"


def test_an_answer_that_nobody_asked_for() -> None:
    dog = serving()
    dog.answered(1.0)
    assert dog.deadline() is None
    dog.asked(2.0, "one")
    assert dog.deadline() == 12.0


def test_one_that_is_to_end() -> None:
    dog = serving()
    dog.end(5.0, 30.0, "it did not end")
    dog.end(6.0, 90.0, "it did not end, told twice")
    dog.asked(7.0, "nothing any more")
    assert dog.deadline() == 35.0
    assert dog.move(35.0) is Move.SHOW
    assert dog.overdue == "it did not end"


class Machine(RuleBasedStateMachine):
    """Whatever is asked and answered, and whoever kills it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.dog = Watchdog(self.now)
        self.owed = 0

    @rule(limit=st.floats(0.1, 100))
    def loaded(self, limit: float) -> None:
        self.dog.loaded(limit)

    @rule()
    def asked(self) -> None:
        if self.dog.stage is Stage.SERVING:
            self.dog.asked(self.now, "something")
            self.owed += 1

    @rule()
    def answered(self) -> None:
        self.dog.answered(self.now)
        self.owed = max(0, self.owed - 1)

    @rule(seconds=st.floats(0, 100))
    def end(self, seconds: float) -> None:
        self.dog.end(self.now, seconds, "end")

    @rule(seconds=st.floats(0, 100))
    def hurry(self, seconds: float) -> None:
        self.dog.hurry(self.now, seconds)

    @rule()
    def killed(self) -> None:
        self.dog.killed(self.now)

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        while self.dog.move(self.now) is not None:
            pass

    @invariant()
    def only_who_serves_and_owes_nothing_has_no_deadline(self) -> None:
        dog = self.dog
        at_rest = (dog.stage is Stage.SERVING and not self.owed) or (
            dog.stage is Stage.GIVEN_UP
        )
        assert at_rest == (dog.deadline() is None)

    def teardown(self) -> None:
        """Whoever is late is gone, or given up, in bounded time."""
        if self.dog.stage in (Stage.LOADING, Stage.SERVING) and not self.owed:
            return
        begun = self.now
        for _ in range(10):
            when = self.dog.deadline()
            if when is None or self.dog.stage is Stage.LOADING:
                break
            self.now = max(self.now, when)
            assert self.dog.move(self.now) is not None
        assert self.dog.stage in (Stage.GIVEN_UP, Stage.LOADING)
        assert self.now <= begun + 100 + LAST_MOMENT + GRACE + LONG


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


def test_what_it_does_and_for_how_long() -> None:
    watchdog = Watchdog(100.0)
    assert watchdog.describe(103.0) == "has been loading for 3.0 s"
    watchdog.loaded(5.0)
    watchdog.asked(110.0, "it did not fork")
    watchdog.asked(111.0, "it did not fork either")
    assert watchdog.describe(112.0) == "has been busy for 2.0 s"
    watchdog.answered(113.0)
    assert watchdog.describe(114.5) == "has been busy for 1.5 s"
    assert watchdog.move(118.0) is Move.SHOW
    assert watchdog.describe(118.2) == "is late: it did not fork either"
    watchdog = Watchdog(100.0)
    watchdog.end(120.0, 10.0, "it did not end")
    assert watchdog.describe(121.0) == "has been ending for 1.0 s"
