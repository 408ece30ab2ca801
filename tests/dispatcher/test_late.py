"""Who is late, is shown and is killed; and who has gone on meanwhile."""

from __future__ import annotations

import typing as t

import pytest

from flask_prefork.dispatcher.late import Late
from flask_prefork.dispatcher.pool import Pool
from flask_prefork.dispatcher.pool import PoolWorker
from flask_prefork.dispatcher.pool import Timeouts
from flask_prefork.dispatcher.watchdog import RequestWatchdog
from flask_prefork.ipc.exits import LATE
from flask_prefork.ipc.exits import Why
from flask_prefork.ipc.phase import LAST_MOMENT
from flask_prefork.ipc.records import Record
from flask_prefork.ipc.states import Event
from flask_prefork.ipc.states import State
from flask_prefork.system.timers import Deadlines

#: How long a worker may be ordered and silent.
SPAWN = 2.0
TOO_LATE = LATE[State.RETIRING]


class FakeWorkers:
    """Workers whose processes are told to do things.

    :ivar record: What the worker tells of itself.
    :ivar shown: What is to be called when the worker has shown where it is.
    """

    def __init__(self) -> None:
        self.pool = Pool(2, Timeouts(order=1.0, spawn=SPAWN, retire=3.0))
        self.watchdog = RequestWatchdog(timeout=1.0, slow=0.0, pause=1.0, upgrade=1.0)
        self.killed: Deadlines[PoolWorker] = Deadlines()
        self.bank = self
        self.record = Record()
        self.shown: list[t.Callable[[], None]] = []
        self.signals: list[int] = []
        self.dead: list[Why] = []

    def read(self, slot: int) -> Record:
        return self.record

    def pid(self, worker: PoolWorker) -> int:
        return 100 + worker.number

    def show(
        self,
        worker: PoolWorker,
        text: str = "",
        then: t.Callable[[], None] | None = None,
    ) -> None:
        if then is not None:
            self.shown.append(then)

    def signal(self, worker: PoolWorker, number: int) -> None:
        self.signals.append(number)

    def kill(self, worker: PoolWorker, why: Why) -> None:
        self.dead.append(why)


class World:
    """A generation's only worker, and the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.workers = FakeWorkers()
        self.late = Late(t.cast(t.Any, self.workers), lambda: self.now)
        worker = self.workers.pool.spawn(self.now)
        assert worker is not None
        self.worker = worker
        self.report(Event.IDLE)

    def report(self, event: Event) -> None:
        assert self.workers.pool.report(self.worker, event, self.now)

    def order(self) -> None:
        assert self.workers.pool.order(1, self.now) == [self.worker]

    def be_busy(self) -> None:
        self.order()
        self.report(Event.BUSY)
        self.workers.watchdog.watch(self.worker, self.now)

    def go_on(self, seconds: float) -> None:
        """Let the time pass, and what is due be done."""
        end = self.now + seconds
        while (due := self.late.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.late.step(self.now)
        self.now = end

    def go_on_until_shown(self) -> None:
        while not self.workers.shown:
            self.go_on(0.1)


@pytest.fixture
def world() -> World:
    return World()


def test_who_stays_silent_is_killed(world: World) -> None:
    world.order()
    world.go_on_until_shown()
    assert world.workers.dead == []
    world.go_on(LAST_MOMENT + 0.1)
    assert world.workers.dead == [LATE[State.ORDERED]]


@pytest.mark.parametrize("has_shown", [True, False])
def test_who_is_ordered_anew_lives(world: World, has_shown: bool) -> None:
    """It has left the state and entered it again before its last moment was over."""
    world.order()
    world.go_on_until_shown()
    world.report(Event.BUSY)
    world.report(Event.IDLE)
    world.order()
    if has_shown:
        world.workers.shown[0]()
    else:
        world.go_on(LAST_MOMENT + 0.1)
    assert world.workers.dead == []
    world.go_on(SPAWN + 2 * LAST_MOMENT)
    assert world.workers.dead == [LATE[State.ORDERED]]


def test_who_has_gone_on_is_shown_for_the_next_reason(world: World) -> None:
    world.order()
    world.go_on_until_shown()
    world.report(Event.BUSY)
    world.late.show(world.worker, TOO_LATE)
    first, second = world.workers.shown
    first()
    assert world.workers.dead == []
    second()
    assert world.workers.dead == [TOO_LATE]


def test_who_is_busy_without_a_request_is_killed(world: World) -> None:
    world.be_busy()
    world.go_on_until_shown()
    world.workers.shown[0]()
    (why,) = world.workers.dead
    assert "without a request" in why.text


def test_who_has_begun_a_request_lives(world: World) -> None:
    """It was shown as busy without one, and is still busy."""
    world.be_busy()
    world.go_on_until_shown()
    world.workers.record = Record(began=world.now, method="GET", target="/")
    world.workers.shown[0]()
    assert world.workers.dead == []
    # That one has its own time.
    assert world.workers.signals == []
    world.go_on(0.9)
    assert world.workers.signals == []
    assert world.workers.dead == []


def test_who_has_served_one_lives(world: World) -> None:
    world.be_busy()
    world.go_on_until_shown()
    world.workers.record = Record(requests=1)
    world.go_on(LAST_MOMENT + 0.1)
    assert world.workers.dead == []


def test_who_keeps_a_connection_that_the_app_has_taken_over(world: World) -> None:
    world.be_busy()
    world.workers.record = Record(began=0.1, upgraded=0.1)
    world.go_on_until_shown()
    world.go_on(LAST_MOMENT + 0.1)
    (why,) = world.workers.dead
    assert "its view didn't end" in why.text


def test_a_connection_that_moves_again(world: World) -> None:
    world.be_busy()
    world.workers.record = Record(began=0.1, upgraded=0.1)
    world.go_on_until_shown()
    world.workers.record = Record(began=0.1, upgraded=0.1, moved=world.now)
    world.workers.shown[0]()
    assert world.workers.dead == []
