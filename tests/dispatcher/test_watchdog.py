"""Requests that take too long, against one who looks all the time."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.dispatcher.pool import PoolWorker
from flask_prefork.dispatcher.watchdog import ABORT_TIME
from flask_prefork.dispatcher.watchdog import Action
from flask_prefork.dispatcher.watchdog import RequestWatchdog
from flask_prefork.ipc.records import NEVER
from flask_prefork.system.running_clock import RunningClock

PAUSE = 10.0
#: The precision of deadlines, in seconds.
GRAIN = 0.05 + 1e-6


class FakeProgress(t.NamedTuple):
    """What a worker says of itself."""

    requests: int = 0
    began: float = 0.0
    moved: float = 0.0
    upgraded: float = 0.0
    timeout: float = 0.0


class Served(t.NamedTuple):
    """A request.

    :param begin: When it began, in seconds.
    :param end: When it ended, heeding no verdict.
    :param moves: When something was read or written in between.
    """

    begin: float
    end: float
    moves: list[float]


@st.composite
def histories(draw: st.DrawFn) -> list[Served]:
    """Requests that a worker serves one after the other, under the same order."""
    now = 100.0
    found = []
    for _ in range(draw(st.integers(1, 4))):
        begin = now
        moves = []
        for _ in range(draw(st.integers(0, 4))):
            now += draw(st.floats(0.1, 8))
            moves.append(now)
        now += draw(st.floats(0.1, 12))
        found.append(Served(begin, now, moves))
        now += draw(st.floats(0.1, 1))
    return found


def progress_at(history: list[Served], now: float) -> FakeProgress:
    """What the scoreboard says at a moment."""
    requests, moved = 0, 0.0
    for begin, end, moves in history:
        moved = max([moved, *(move for move in moves if move <= now)])
        if begin <= now < end:
            return FakeProgress(requests, begin, moved)
        requests += end <= now
    return FakeProgress(requests, 0.0, moved)


def run(
    watchdog: RequestWatchdog,
    worker: PoolWorker,
    progress: t.Callable[[float], FakeProgress],
    end: float,
) -> Iterator[tuple[float, Action]]:
    """Do as the dispatcher does, with a clock that jumps to the next deadline."""
    while (moment := watchdog.deadline()) is not None and moment < end:
        due = watchdog.due(moment)
        assert due == [worker], "a turn for nothing"
        action = watchdog.check(worker, moment, progress(moment))
        if action is not None:
            yield moment, action
        if action is Action.KILL:
            watchdog.forget(worker)
            return
    assert watchdog.deadline() is not None, "nobody looks any more"


def naive(
    history: list[Served], timeout: float, slow: float
) -> Iterator[tuple[float, float, Action]]:
    """Who sees everything.

    :return: Verdicts, each with the times at which its reason begins and ends.
    """
    for begin, end, moves in history:
        stalls_at = stalls_until = end
        for since, until in zip([begin, *moves], [*moves, end], strict=True):
            if timeout and since + timeout < until:
                stalls_at, stalls_until = since + timeout, until
                break
        if slow and begin + slow < stalls_at:
            yield begin + slow, end, Action.SHOW
        if stalls_at < end:
            yield stalls_at, stalls_until, Action.ABORT


@given(histories(), st.sampled_from([0.0, 3.0, 6.0]), st.sampled_from([0.0, 2.0, 9.0]))
def test_never_without_a_reason(
    history: list[Served], timeout: float, slow: float
) -> None:
    watchdog = RequestWatchdog(timeout, slow, PAUSE)
    worker = PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)
    if not timeout and not slow:
        assert watchdog.deadline() is None
        return
    seen: set[tuple[Action, float]] = set()
    aborted: dict[float, float] = {}
    end = history[-1][1]
    for now, action in run(watchdog, worker, lambda at: progress_at(history, at), end):
        progress = progress_at(history, now)
        assert progress.began, "nothing is served"
        assert (action, progress.began) not in seen, "twice"
        seen.add((action, progress.began))
        still = now - max(progress.began, progress.moved)
        if action is Action.SHOW:
            assert slow
            assert now >= progress.began + slow
        else:
            assert timeout
            assert still >= timeout
        if action is Action.ABORT:
            aborted[progress.began] = now
        if action is Action.KILL:
            assert now >= aborted[progress.began] + ABORT_TIME - 1e-6


@given(histories(), st.sampled_from([0.0, 3.0, 6.0]), st.sampled_from([0.0, 2.0, 9.0]))
def test_never_too_late(history: list[Served], timeout: float, slow: float) -> None:
    """Who is looked at only now and then isn't told of much later.

    A worker's next request under the same order is found at a check that was for
    the one before.
    """
    limits = [limit for limit in (timeout, slow) if limit]
    if not limits:
        return
    watchdog = RequestWatchdog(timeout, slow, PAUSE)
    worker = PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)
    end = history[-1][1]
    given_at = list(run(watchdog, worker, lambda at: progress_at(history, at), end))
    killed_at = next((at for at, one in given_at if one is Action.KILL), float("inf"))
    slack = 2 * GRAIN + max(min(limits), ABORT_TIME)
    for begin, until, wanted in naive(history, timeout, slow):
        if begin + slack >= min(until, killed_at):
            continue
        # An abort shows what a look at a slow request would have shown.
        fits = {wanted, Action.ABORT} if wanted is Action.SHOW else {wanted}
        assert any(one in fits and begin <= at <= begin + slack for at, one in given_at)


def test_a_stalled_request_is_aborted_then_killed() -> None:
    watchdog, worker = RequestWatchdog(60.0, 0.0, PAUSE), PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)
    stuck = FakeProgress(0, 100.0, 101.0)
    actions = list(run(watchdog, worker, lambda at: stuck, 1000.0))
    assert [action for _, action in actions] == [Action.ABORT, Action.KILL]
    abort, kill = (at for at, _ in actions)
    assert 161.0 <= abort <= 161.0 + 2 * GRAIN
    assert abort + ABORT_TIME <= kill <= abort + ABORT_TIME + GRAIN


def test_an_aborted_request_that_moves_is_pardoned() -> None:
    """It writes its error page, say, to a slow client."""
    watchdog, worker = RequestWatchdog(60.0, 0.0, PAUSE), PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)
    assert watchdog.check(worker, 160.0, FakeProgress(0, 100.0, 0.0)) is Action.ABORT
    assert watchdog.check(worker, 165.0, FakeProgress(0, 100.0, 164.0)) is None
    deadline = watchdog.deadline()
    assert deadline is not None
    assert 224.0 <= deadline <= 224.0 + GRAIN
    # It has had its chance.
    assert watchdog.check(worker, 224.0, FakeProgress(0, 100.0, 164.0)) is Action.KILL


def test_the_next_request_starts_anew() -> None:
    watchdog, worker = RequestWatchdog(60.0, 10.0, PAUSE), PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)
    assert watchdog.check(worker, 110.0, FakeProgress(0, 100.0, 0.0)) is Action.SHOW
    assert watchdog.check(worker, 160.0, FakeProgress(0, 100.0, 0.0)) is Action.ABORT
    # The same order, another request.
    assert watchdog.check(worker, 165.0, FakeProgress(1, 161.0, 161.0)) is None
    assert watchdog.check(worker, 171.0, FakeProgress(1, 161.0, 161.0)) is Action.SHOW
    assert watchdog.check(worker, 221.0, FakeProgress(1, 161.0, 161.0)) is Action.ABORT


def test_an_idle_worker_is_not_watched() -> None:
    watchdog, worker = RequestWatchdog(60.0, 10.0, PAUSE), PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)
    watchdog.forget(worker)
    assert watchdog.deadline() is None
    assert watchdog.due(1e6) == []


@pytest.mark.parametrize("timeout", [0.0, 60.0])
def test_a_route_with_a_timeout_of_its_own(timeout: float) -> None:
    watchdog = RequestWatchdog(timeout, 0.0, PAUSE, routes=[5.0])
    worker = PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)
    stuck = FakeProgress(0, 100.0, timeout=5.0)
    actions = list(run(watchdog, worker, lambda at: stuck, 300.0))
    assert [action for _, action in actions] == [Action.ABORT, Action.KILL]
    assert actions[0][0] <= 105.0 + GRAIN
    assert "no progress for 5 s" in watchdog.describe(stuck)


def test_other_routes_have_the_general_timeout() -> None:
    watchdog, worker = (
        RequestWatchdog(60.0, 0.0, PAUSE, routes=[5.0]),
        PoolWorker(0, 0.0),
    )
    watchdog.watch(worker, 100.0)
    stuck = FakeProgress(0, 100.0)
    actions = list(run(watchdog, worker, lambda at: stuck, 300.0))
    assert [action for _, action in actions] == [Action.ABORT, Action.KILL]
    assert 160.0 <= actions[0][0] <= 160.0 + GRAIN


def test_a_route_that_may_take_as_long_as_it_likes() -> None:
    watchdog, worker = (
        RequestWatchdog(60.0, 0.0, PAUSE, routes=[0.0]),
        PoolWorker(0, 0.0),
    )
    watchdog.watch(worker, 100.0)
    long = FakeProgress(0, 100.0, timeout=NEVER)
    assert list(run(watchdog, worker, lambda at: long, 1000.0)) == []


class Machine:
    """A worker that is busy, and a dispatcher that is stopped at times.

    :ivar now: The machine's time, which the worker goes by.
    """

    def __init__(self, timeout: float) -> None:
        self.now = 100.0
        self.clock = RunningClock(lambda: self.now)
        self.watchdog = RequestWatchdog(timeout, 0.0, PAUSE, at=self.clock.at)
        self.worker = PoolWorker(0, 0.0)
        self.watchdog.watch(self.worker, self.clock())

    def wait(self, seconds: float) -> None:
        """The dispatcher waits for so long."""
        self.clock.allow(seconds)
        self.now += seconds
        self.clock()

    def stop(self, seconds: float) -> None:
        """The dispatcher is stopped for so long."""
        self.now += seconds
        self.clock()

    def check(self, progress: FakeProgress) -> Action | None:
        return self.watchdog.check(self.worker, self.clock(), progress)


def test_time_that_nobody_watched_does_not_count() -> None:
    machine = Machine(60.0)
    machine.wait(10.0)
    machine.stop(900.0)
    assert machine.watchdog.due(machine.clock()) == []
    stuck = FakeProgress(0, 100.0, 105.0)
    assert machine.check(stuck) is None
    machine.wait(54.0)
    assert machine.check(stuck) is None
    machine.wait(1.0)
    assert machine.check(stuck) is Action.ABORT
    machine.stop(900.0)
    assert machine.check(stuck) is Action.KILL, "it is the same request"


def test_short_naps_do_not_hide_who_is_stuck() -> None:
    machine = Machine(10.0)
    stuck = FakeProgress(0, 100.0, 101.0)
    for _ in range(20):
        machine.wait(4.5)
        machine.stop(0.5)
        if machine.watchdog.due(machine.clock()) and machine.check(stuck):
            break
    # Ten seconds of its own, and half a second for each nap.
    assert 111.0 <= machine.now <= 120.0


def test_naps_without_end_do_not_hide_who_is_stuck() -> None:
    machine = Machine(10.0)
    stuck = FakeProgress(0, 100.0, 101.0)
    naps = 0
    while not (machine.watchdog.due(machine.clock()) and machine.check(stuck)):
        machine.stop(5.0)
        naps += 1
        assert naps <= 120


def test_a_nap_before_it_moved_is_no_excuse() -> None:
    machine = Machine(10.0)
    machine.wait(5.0)
    machine.stop(45.0)
    machine.wait(10.5)
    assert machine.check(FakeProgress(0, 100.0, 150.0)) is Action.ABORT


# Busy, but between two requests


def test_a_worker_that_is_stuck_outside_of_a_request_is_killed() -> None:
    watchdog, worker = RequestWatchdog(60.0, 0.0, PAUSE), PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)
    actions = list(run(watchdog, worker, lambda at: FakeProgress(5, 0.0, 99.0), 1000.0))
    ((killed_at, action),) = actions
    assert action is Action.KILL
    # A client may be silent for the pause, and that is no fault of the worker's.
    assert killed_at >= 100.0 + 60.0 + PAUSE


@pytest.mark.parametrize("what", ["requests", "moved"])
def test_a_worker_that_goes_from_request_to_request_is_left(what: str) -> None:
    watchdog, worker = RequestWatchdog(60.0, 0.0, PAUSE), PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)

    def progress(at: float) -> FakeProgress:
        # It is always between two of them when somebody looks.
        return (
            FakeProgress(int(at), 0.0, 0.0)
            if what == "requests"
            else FakeProgress(5, 0.0, at)
        )

    assert list(run(watchdog, worker, progress, 2000.0)) == []


def test_without_a_timeout_nobody_is_killed_between_requests() -> None:
    watchdog, worker = RequestWatchdog(0.0, 10.0, PAUSE), PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)
    assert (
        list(run(watchdog, worker, lambda at: FakeProgress(5, 0.0, 99.0), 1000.0)) == []
    )


def test_a_pause_that_nobody_watched_does_not_count() -> None:
    machine = Machine(60.0)
    between = FakeProgress(5, 0.0, 99.0)
    assert machine.check(between) is None
    machine.stop(900.0)
    assert machine.check(between) is None
    machine.wait(PAUSE + 59.5)
    assert machine.check(between) is None
    machine.wait(0.5)
    assert machine.check(between) is Action.KILL


@pytest.mark.parametrize(("timeout", "slow"), [(3.0, 2.0), (3.0, 0.0), (0.0, 0.0)])
def test_an_upgraded_connection_has_no_timeout(timeout: float, slow: float) -> None:
    watchdog = RequestWatchdog(timeout, slow, PAUSE)
    worker = PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)
    open_since = FakeProgress(0, 100.0, 101.0, 101.0)
    if not timeout:
        assert watchdog.deadline() is None
        return
    assert not [*run(watchdog, worker, lambda at: open_since, 1000.0)]
    # Who comes after it under the same order has.
    stuck = FakeProgress(1, 1000.0, 0.0)
    found = [action for _, action in run(watchdog, worker, lambda at: stuck, 1100.0)]
    assert found[-2:] == [Action.ABORT, Action.KILL]


@pytest.mark.parametrize("timeout", [3.0, 0.0])
def test_silence_of_an_upgraded_connection(timeout: float) -> None:
    """The worker ends it, and is killed if that has no effect."""
    watchdog = RequestWatchdog(timeout, 0.0, PAUSE, 10.0)
    worker = PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)

    def progress(now: float) -> FakeProgress:
        return FakeProgress(0, 100.0, min(now, 200.0), 101.0)

    ((moment, action),) = run(watchdog, worker, progress, 1000.0)
    assert action is Action.KILL
    assert 210.0 + ABORT_TIME <= moment <= 220.0 + ABORT_TIME + GRAIN
    assert watchdog.describe(progress(moment)).startswith("silent for 10 s")


def test_one_that_is_upgraded_when_it_was_to_be_aborted() -> None:
    watchdog = RequestWatchdog(3.0, 0.0, PAUSE)
    worker = PoolWorker(0, 0.0)
    watchdog.watch(worker, 100.0)

    def progress(now: float) -> FakeProgress:
        return FakeProgress(0, 100.0, 0.0, 103.5 if now > 103.5 else 0.0)

    ((_, action),) = run(watchdog, worker, progress, 1000.0)
    assert action is Action.ABORT
