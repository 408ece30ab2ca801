"""The dispatcher's loop: what it decides itself, with stand-ins for all others."""

from __future__ import annotations

import typing as t

import pytest

from flask_prefork.dispatcher.ending import Ending
from flask_prefork.dispatcher.generation import MAX_FAILURES
from flask_prefork.dispatcher.life_log import LifeLog
from flask_prefork.dispatcher.loop import _LONGEST_WAIT
from flask_prefork.dispatcher.loop import Dispatcher
from flask_prefork.dispatcher.permits import Permits
from flask_prefork.ipc.parked_connections import ParkedConnections
from flask_prefork.ipc.phase import Phase
from flask_prefork.settings.table import resolve
from flask_prefork.system.log import base
from flask_prefork.system.running_clock import RunningClock


class Part:
    """Any other part of the dispatcher: notes its calls, and has nothing to say.

    :param name: What it is noted as.
    :param calls: Where.
    :param facts: What it answers, and its attributes.
    """

    def __init__(self, name: str, calls: list[str], **facts: t.Any) -> None:
        self._name = name
        self._calls = calls
        self._facts = facts

    def __getattr__(self, name: str) -> t.Any:
        if name in self._facts:
            return self._facts[name]

        def call(*args: object, **more: object) -> None:
            self._calls.append(f"{self._name}.{name}")

        return call

    def set(self, **facts: t.Any) -> None:
        self._facts.update(facts)


class World(Dispatcher):
    """A dispatcher that has a generation, no sockets and no signals."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[str] = []
        self.status = 0
        self.clock = RunningClock(lambda: self.now)
        self.ending = Ending()
        self.life_log = LifeLog(lambda: self.now)
        self._announced = False
        self._first_idle = None
        self._is_unmanaged, self._manage_at = False, 0.0
        self.part = self._part("generation", number=1, settings=resolve({}))
        self.part.set(loaded=False, ready=False, failed_to_start=False)
        self.part.set(pool=self._part("pool", idle=0, letters=lambda: "I"))
        self.part.set(policy=self._part("policy", failures=0))
        none: t.Any = lambda *args: None  # noqa: E731
        generations = self._part("generations", current=self.part, attempts=0)
        generations.set(deadline=none, max_workers=2, all=lambda: [self.part])
        generations.set(reloads=0, parts=lambda: [], zygotes={})
        queues = self._part("queues", deadline=none, listeners=())
        queues.set(parked=ParkedConnections(), permits=Permits(), spooled=0)
        queues.set(ready_queue=self._part("ready queue", count=0))
        queues.set(
            all_waiting=lambda: 3, waiting=lambda: 3, unanswered=lambda generation: 0
        )
        service = self._part("service", deadline=none, admin_listeners=dict)
        options = self._part("start options", certificates=())
        service.set(listen=lambda *args: ["listener"], start_options=options)
        self.generations: t.Any = generations
        self.queues: t.Any = queues
        self.service: t.Any = service
        self.observer: t.Any = self._part("observer", deadline=none)
        self.sender: t.Any = self._part("sender", deadline=none, count=0)
        tls = self._part("tls", deadline=none, connections=0)
        tls.set(is_ready=True, is_refused=False)
        self.tls: t.Any = tls
        self.shutdown: t.Any = self._part("shutdown")
        self._log: t.Any = self._part("log", deadline=none)
        self.summary: t.Any = self
        self.published: list[Phase] = []

    def _part(self, name: str, **facts: t.Any) -> Part:
        return Part(name, self.calls, **facts)

    def write_limits(self, rows: list[t.Any]) -> None:
        assert rows == []

    def write(self, now: float, phase: Phase, *rest: object) -> None:
        """Be the summary."""
        self.published.append(phase)

    def turn(self) -> list[str]:
        """One turn of the loop, after the poll.

        :return: What was called, in order.
        """
        self.calls.clear()
        self._turn(self.clock())
        return list(self.calls)

    def serve(self) -> None:
        """The app is loaded, the first workers are idle, and it was announced."""
        self.part.set(loaded=True, ready=True)
        self.part._facts["pool"].set(idle=1)
        self._announced = True
        self.ending.serve()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("flask_prefork.dispatcher.banner.show", lambda *args: None)
    return World()


# The order of a turn


def test_decisions_come_in_their_order(world: World) -> None:
    world.serve()
    assert world.turn() == [
        "queues.reserve",
        "generations.advance",
        "generations.refork",
        "tls.configure",
        "generations.recycle",
        "queues.dispatch",
        "generations.step",
        "queues.serve_left_behind",
        "observer.step",
        "sender.step",
        "tls.step",
        "shutdown.step",
        "log.step",
    ]


def test_while_the_app_loads_nobody_is_served(world: World) -> None:
    calls = world.turn()
    assert "queues.dispatch" not in calls
    assert "generations.advance" not in calls
    assert "generations.step" in calls, "its zygote has deadlines"
    assert world.published == [Phase.LOADING]


def test_while_it_drains_it_serves_and_reloads_no_more(world: World) -> None:
    world.serve()
    world.ending.term(world.clock(), 0.0, 10.0)
    calls = world.turn()
    assert "queues.dispatch" in calls
    assert "generations.advance" not in calls
    assert "generations.refork" not in calls


# Start


def test_the_app_is_loaded(world: World) -> None:
    world.part.set(loaded=True)
    calls = world.turn()
    assert "generation.open" in calls
    assert world.phase is Phase.SERVING
    assert "queues.dispatch" not in calls, "nobody is idle yet"
    assert world.published == [Phase.LOADING], "nor is anybody to send requests"


def test_first_connections_wait_for_the_first_workers(world: World) -> None:
    world.part.set(loaded=True)
    world.turn()
    assert world._timeout() is None
    world.part._facts["pool"].set(idle=1)
    assert "queues.dispatch" not in world.turn()
    timeout = world._timeout()
    assert timeout is not None
    world.clock.allow(timeout)
    world.now += timeout
    assert "queues.dispatch" in world.turn(), "the others take long"
    assert world.published[-1] is Phase.SERVING


def test_first_connections_wait_no_longer_than_for_them(world: World) -> None:
    world.part.set(loaded=True)
    world.turn()
    world.part._facts["pool"].set(idle=2)
    world.part.set(ready=True)
    calls = world.turn()
    assert "generation.notify_ready" in calls
    assert "queues.dispatch" in calls
    assert "generation.notify_ready" not in world.turn(), "once"


def test_no_worker_ever_becomes_idle(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.part.set(loaded=True, failed_to_start=True)
    world.part._facts["policy"].set(failures=5)
    assert "shutdown.interrupt" in world.turn()
    assert world.status == 1
    assert "No worker became ready in 5 starts" in caplog.text


@pytest.mark.parametrize("announced", [False, True])
def test_zygotes_that_die_before_anybody_serves(world: World, announced: bool) -> None:
    world.serve()
    world._announced = announced
    world.part.set(ready=False)
    world.part._facts["pool"].set(idle=0)
    world.generations.set(attempts=MAX_FAILURES)
    assert "shutdown.interrupt" not in world.turn()
    world.generations.set(attempts=MAX_FAILURES + 1)
    # Later on it is tried for ever: what serves may be there again.
    assert ("shutdown.interrupt" in world.turn()) is not announced


# Zygotes' exits


@pytest.mark.parametrize(("status", "expected"), [(3, 3), (0, 1), (-9, 1)])
def test_a_zygote_that_can_not_load_the_app(
    world: World, status: int, expected: int
) -> None:
    world._zygote_exited(t.cast(t.Any, world.part), status)
    assert world.status == expected
    assert world.calls == ["shutdown.interrupt"]


def test_a_zygote_that_exits_later(world: World) -> None:
    world.serve()
    world._zygote_exited(t.cast(t.Any, world.part), 3)
    assert world.calls == ["generations.zygote_exited"]
    assert world.status == 0
    world.calls.clear()
    world.ending.term(world.clock(), 0.0, 10.0)
    world._zygote_exited(t.cast(t.Any, world.part), 0)
    assert world.calls == [], "when the server ends, that is as it should be"


# Signals


def test_a_reload_is_for_who_serves(world: World) -> None:
    world.reload()
    assert world.calls == []
    world.serve()
    world.reload()
    assert world.calls == ["generations.reload", "tls.reload"]
    world.calls.clear()
    world.ending.term(world.clock(), 5.0, 10.0)
    world.reload()
    assert world.calls == [], "it will drain soon"


def test_load_balancers_see_the_end_when_it_is_known(world: World) -> None:
    world.serve()
    world.ending.term(world.clock(), 5.0, 10.0)
    assert "queues.dispatch" in world.turn()
    assert world.published == [Phase.DRAINING]


def test_the_time_to_drain_is_the_apps(world: World) -> None:
    terms: list[tuple[float, ...]] = []
    world.shutdown.set(term=lambda *times: terms.append(times))
    world.drain()
    world.serve()
    world.part.set(settings=resolve({"drain_delay": 4, "graceful_timeout": 9}))
    world.drain()
    assert terms == [(100.0, 0.0, 0.0), (100.0, 4.0, 9.0)]


# How long to wait


def test_the_next_deadline_of_two_clocks(world: World) -> None:
    assert world._timeout() is None
    world.now += 50.0
    paused = world.clock.machine() - world.clock()
    assert paused > 49
    world.generations.set(deadline=lambda: 103.0)
    assert world._timeout() == _LONGEST_WAIT
    world.generations.set(deadline=lambda: world.clock() + 0.125)
    assert world._timeout() == pytest.approx(0.125)
    world.generations.set(deadline=lambda: None)
    world.observer.set(deadline=lambda: 103.0)
    timeout = world._timeout()
    assert timeout == pytest.approx(103.0 - world.clock())
    # What clients wait for goes on meanwhile.
    world.queues.set(deadline=lambda: 151.0)
    assert world._timeout() == pytest.approx(1.0)
    world.service.set(deadline=lambda: 150.5)
    assert world._timeout() == pytest.approx(0.5)


# Stops


STOP = 10.0
#: Longer than a turn, and shorter or longer than the stop.
TIMEOUTS = [1.0, 100.0]
TURNS = 4


class Time:
    """A clock that goes on by a millisecond with each look, and once by a stop."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.now = 100.0
        self.looks = 0
        self.stop_before = stop_before

    def __call__(self) -> float:
        self.now += STOP if self.looks == self.stop_before else 0.001
        self.looks += 1
        return self.now


class Turning(Dispatcher):
    """The dispatcher's loop, around one worker that has its time."""

    phase = Phase.SERVING  # type: ignore[assignment]

    def __init__(self, time: Time, timeout: float) -> None:
        self.time = time
        self.clock = RunningClock(time)
        self.status = 0
        self.poller = self.reaper = self  # type: ignore[assignment]
        self.turns = 0
        self.begun = self.clock()
        self.until = self.begun + timeout
        self.left: list[float] = []
        self.ending = Ending()
        self._first_idle = None
        self._is_unmanaged = False
        self.generations = Part("", [], deadline=lambda: self.until)  # type: ignore
        nothing = Part("", [], deadline=lambda: None)
        self.observer = self.sender = self.tls = nothing  # type: ignore[assignment]
        self.queues = self.service = self._log = nothing  # type: ignore[assignment]

    def reap(self) -> None:
        """There are no processes."""

    def wait(self, seconds: float | None) -> list[object]:
        """Something happens at once; then the time is looked at once more."""
        return [self.clock]

    def _turn(self, now: float) -> None:
        self.left.append(self.until - now)
        self.clock()
        self.turns += 1
        if self.turns == TURNS:
            self.phase = Phase.STOPPED

    def _clean_up(self) -> None:
        """There is nothing."""


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_a_stop_before_any_look_at_the_clock_takes_hardly_any_time(
    timeout: float,
) -> None:
    time = Time()
    Turning(time, timeout).run()
    assert time.looks > 3 * TURNS
    last = time.looks - 1  # in the last turn, after which nobody is checked
    for look in range(2, last):
        loop = Turning(Time(stop_before=look), timeout)
        assert loop.run() == 0
        assert min(loop.left) > 0, f"stopped before look {look}"
        took = timeout - loop.left[-1]
        assert took < 0.5, f"stopped before look {look}"


def test_a_failure_is_logged_before_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "propagate", True)
    world = World()
    ended: list[tuple[int, int]] = []

    def fail() -> t.NoReturn:
        raise LookupError("a bug")

    def clean_up() -> None:
        ended.append((world.status, len(caplog.records)))

    monkeypatch.setattr(world, "_clean_up", clean_up)
    monkeypatch.setattr(world, "reaper", world._part("reaper", reap=fail), False)
    assert world.run() == 1
    # The log is at its end after that.
    assert ended == [(1, 1)]
    assert caplog.messages == ["The dispatcher has failed:"]
