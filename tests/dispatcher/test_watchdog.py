"""Requests that take too long, against one who looks all the time."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.dispatcher.pool import Slot
from flask_prefork.dispatcher.watchdog import Action
from flask_prefork.dispatcher.watchdog import GRACE
from flask_prefork.dispatcher.watchdog import RequestWatchdog
from flask_prefork.system.running_clock import RunningClock

PAUSE = 10.0
#: The precision of deadlines, in seconds.
GRAIN = 0.05 + 1e-6


class Account(t.NamedTuple):
    """What a worker says of itself."""

    requests: int = 0
    began: float = 0.0
    moved: float = 0.0
    upgraded: float = 0.0


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


def account_at(history: list[Served], now: float) -> Account:
    """What the scoreboard says at a moment."""
    requests, moved = 0, 0.0
    for begin, end, moves in history:
        moved = max([moved, *(move for move in moves if move <= now)])
        if begin <= now < end:
            return Account(requests, begin, moved)
        requests += end <= now
    return Account(requests, 0.0, moved)


def run(
    stalls: RequestWatchdog,
    worker: Slot,
    account: t.Callable[[float], Account],
    end: float,
) -> Iterator[tuple[float, Action]]:
    """Do as the dispatcher does, with a clock that jumps to the next deadline."""
    while (moment := stalls.deadline()) is not None and moment < end:
        due = stalls.due(moment)
        assert due == [worker], "a turn for nothing"
        verdict = stalls.judge(worker, moment, account(moment))
        if verdict is not None:
            yield moment, verdict
        if verdict is Action.KILL:
            stalls.forget(worker)
            return
    assert stalls.deadline() is not None, "nobody looks any more"


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
    stalls = RequestWatchdog(timeout, slow, PAUSE)
    worker = Slot(0, 0.0)
    stalls.watch(worker, 100.0)
    if not timeout and not slow:
        assert stalls.deadline() is None
        return
    seen: set[tuple[Action, float]] = set()
    aborted: dict[float, float] = {}
    end = history[-1][1]
    for now, verdict in run(stalls, worker, lambda at: account_at(history, at), end):
        account = account_at(history, now)
        assert account.began, "nothing is served"
        assert (verdict, account.began) not in seen, "twice"
        seen.add((verdict, account.began))
        still = now - max(account.began, account.moved)
        if verdict is Action.SHOW:
            assert slow
            assert now >= account.began + slow
        else:
            assert timeout
            assert still >= timeout
        if verdict is Action.ABORT:
            aborted[account.began] = now
        if verdict is Action.KILL:
            assert now >= aborted[account.began] + GRACE - 1e-6


@given(histories(), st.sampled_from([0.0, 3.0, 6.0]), st.sampled_from([0.0, 2.0, 9.0]))
def test_never_too_late(history: list[Served], timeout: float, slow: float) -> None:
    """Who is looked at only now and then isn't told of much later.

    A worker's next request under the same order is found at a check that was for
    the one before.
    """
    limits = [limit for limit in (timeout, slow) if limit]
    if not limits:
        return
    stalls = RequestWatchdog(timeout, slow, PAUSE)
    worker = Slot(0, 0.0)
    stalls.watch(worker, 100.0)
    end = history[-1][1]
    given_at = list(run(stalls, worker, lambda at: account_at(history, at), end))
    killed_at = next((at for at, one in given_at if one is Action.KILL), float("inf"))
    slack = 2 * GRAIN + max(min(limits), GRACE)
    for begin, until, wanted in naive(history, timeout, slow):
        if begin + slack >= min(until, killed_at):
            continue
        # An abort shows what a look at a slow request would have shown.
        fits = {wanted, Action.ABORT} if wanted is Action.SHOW else {wanted}
        assert any(one in fits and begin <= at <= begin + slack for at, one in given_at)


def test_a_stalled_request_is_aborted_then_killed() -> None:
    stalls, worker = RequestWatchdog(60.0, 0.0, PAUSE), Slot(0, 0.0)
    stalls.watch(worker, 100.0)
    stuck = Account(0, 100.0, 101.0)
    verdicts = list(run(stalls, worker, lambda at: stuck, 1000.0))
    assert [verdict for _, verdict in verdicts] == [Action.ABORT, Action.KILL]
    abort, kill = (at for at, _ in verdicts)
    assert 161.0 <= abort <= 161.0 + 2 * GRAIN
    assert abort + GRACE <= kill <= abort + GRACE + GRAIN


def test_an_aborted_request_that_moves_is_pardoned() -> None:
    """It writes its error page, say, to a slow client."""
    stalls, worker = RequestWatchdog(60.0, 0.0, PAUSE), Slot(0, 0.0)
    stalls.watch(worker, 100.0)
    assert stalls.judge(worker, 160.0, Account(0, 100.0, 0.0)) is Action.ABORT
    assert stalls.judge(worker, 165.0, Account(0, 100.0, 164.0)) is None
    deadline = stalls.deadline()
    assert deadline is not None
    assert 224.0 <= deadline <= 224.0 + GRAIN
    # It has had its chance.
    assert stalls.judge(worker, 224.0, Account(0, 100.0, 164.0)) is Action.KILL


def test_the_next_request_starts_anew() -> None:
    stalls, worker = RequestWatchdog(60.0, 10.0, PAUSE), Slot(0, 0.0)
    stalls.watch(worker, 100.0)
    assert stalls.judge(worker, 110.0, Account(0, 100.0, 0.0)) is Action.SHOW
    assert stalls.judge(worker, 160.0, Account(0, 100.0, 0.0)) is Action.ABORT
    # The same order, another request.
    assert stalls.judge(worker, 165.0, Account(1, 161.0, 161.0)) is None
    assert stalls.judge(worker, 171.0, Account(1, 161.0, 161.0)) is Action.SHOW
    assert stalls.judge(worker, 221.0, Account(1, 161.0, 161.0)) is Action.ABORT


def test_an_idle_worker_is_not_watched() -> None:
    stalls, worker = RequestWatchdog(60.0, 10.0, PAUSE), Slot(0, 0.0)
    stalls.watch(worker, 100.0)
    stalls.forget(worker)
    assert stalls.deadline() is None
    assert stalls.due(1e6) == []


class Machine:
    """A worker that is busy, and a dispatcher that is stopped at times.

    :ivar now: The machine's time, which the worker goes by.
    """

    def __init__(self, timeout: float) -> None:
        self.now = 100.0
        self.clock = RunningClock(lambda: self.now)
        self.stalls = RequestWatchdog(timeout, 0.0, PAUSE, at=self.clock.at)
        self.worker = Slot(0, 0.0)
        self.stalls.watch(self.worker, self.clock())

    def wait(self, seconds: float) -> None:
        """The dispatcher waits for so long."""
        self.clock.allow(seconds)
        self.now += seconds
        self.clock()

    def stop(self, seconds: float) -> None:
        """The dispatcher is stopped for so long."""
        self.now += seconds
        self.clock()

    def judge(self, account: Account) -> Action | None:
        return self.stalls.judge(self.worker, self.clock(), account)


def test_time_that_nobody_watched_does_not_count() -> None:
    machine = Machine(60.0)
    machine.wait(10.0)
    machine.stop(900.0)
    assert machine.stalls.due(machine.clock()) == []
    stuck = Account(0, 100.0, 105.0)
    assert machine.judge(stuck) is None
    machine.wait(54.0)
    assert machine.judge(stuck) is None
    machine.wait(1.0)
    assert machine.judge(stuck) is Action.ABORT
    machine.stop(900.0)
    assert machine.judge(stuck) is Action.KILL, "it is the same request"


def test_short_naps_do_not_hide_who_is_stuck() -> None:
    machine = Machine(10.0)
    stuck = Account(0, 100.0, 101.0)
    for _ in range(20):
        machine.wait(4.5)
        machine.stop(0.5)
        if machine.stalls.due(machine.clock()) and machine.judge(stuck):
            break
    # Ten seconds of its own, and half a second for each nap.
    assert 111.0 <= machine.now <= 120.0


def test_naps_without_end_do_not_hide_who_is_stuck() -> None:
    machine = Machine(10.0)
    stuck = Account(0, 100.0, 101.0)
    naps = 0
    while not (machine.stalls.due(machine.clock()) and machine.judge(stuck)):
        machine.stop(5.0)
        naps += 1
        assert naps <= 120


def test_a_nap_before_it_moved_is_no_excuse() -> None:
    machine = Machine(10.0)
    machine.wait(5.0)
    machine.stop(45.0)
    machine.wait(10.5)
    assert machine.judge(Account(0, 100.0, 150.0)) is Action.ABORT


# Busy, but between two requests


def test_a_worker_that_is_stuck_outside_of_a_request_is_killed() -> None:
    stalls, worker = RequestWatchdog(60.0, 0.0, PAUSE), Slot(0, 0.0)
    stalls.watch(worker, 100.0)
    verdicts = list(run(stalls, worker, lambda at: Account(5, 0.0, 99.0), 1000.0))
    ((killed_at, verdict),) = verdicts
    assert verdict is Action.KILL
    # A client may be silent for the pause, and that is no fault of the worker's.
    assert killed_at >= 100.0 + 60.0 + PAUSE


@pytest.mark.parametrize("what", ["requests", "moved"])
def test_a_worker_that_goes_from_request_to_request_is_left(what: str) -> None:
    stalls, worker = RequestWatchdog(60.0, 0.0, PAUSE), Slot(0, 0.0)
    stalls.watch(worker, 100.0)

    def account(at: float) -> Account:
        # It is always between two of them when somebody looks.
        return Account(int(at), 0.0, 0.0) if what == "requests" else Account(5, 0.0, at)

    assert list(run(stalls, worker, account, 2000.0)) == []


def test_without_a_timeout_nobody_is_killed_between_requests() -> None:
    stalls, worker = RequestWatchdog(0.0, 10.0, PAUSE), Slot(0, 0.0)
    stalls.watch(worker, 100.0)
    assert list(run(stalls, worker, lambda at: Account(5, 0.0, 99.0), 1000.0)) == []


def test_a_pause_that_nobody_watched_does_not_count() -> None:
    machine = Machine(60.0)
    between = Account(5, 0.0, 99.0)
    assert machine.judge(between) is None
    machine.stop(900.0)
    assert machine.judge(between) is None
    machine.wait(PAUSE + 59.5)
    assert machine.judge(between) is None
    machine.wait(0.5)
    assert machine.judge(between) is Action.KILL


@pytest.mark.parametrize(("timeout", "slow"), [(3.0, 2.0), (3.0, 0.0), (0.0, 0.0)])
def test_an_upgraded_connection_has_no_timeout(timeout: float, slow: float) -> None:
    stalls = RequestWatchdog(timeout, slow, PAUSE)
    worker = Slot(0, 0.0)
    stalls.watch(worker, 100.0)
    open_since = Account(0, 100.0, 101.0, 101.0)
    if not timeout:
        assert stalls.deadline() is None
        return
    assert not [*run(stalls, worker, lambda at: open_since, 1000.0)]
    # Who comes after it under the same order has.
    stuck = Account(1, 1000.0, 0.0)
    found = [verdict for _, verdict in run(stalls, worker, lambda at: stuck, 1100.0)]
    assert found[-2:] == [Action.ABORT, Action.KILL]


@pytest.mark.parametrize("timeout", [3.0, 0.0])
def test_silence_of_an_upgraded_connection(timeout: float) -> None:
    """The worker ends it, and is killed if that has no effect."""
    stalls = RequestWatchdog(timeout, 0.0, PAUSE, 10.0)
    worker = Slot(0, 0.0)
    stalls.watch(worker, 100.0)

    def account(now: float) -> Account:
        return Account(0, 100.0, min(now, 200.0), 101.0)

    ((moment, verdict),) = run(stalls, worker, account, 1000.0)
    assert verdict is Action.KILL
    assert 210.0 + GRACE <= moment <= 220.0 + GRACE + GRAIN
    assert stalls.describe(account(moment)).startswith("silent for 10 s")


def test_one_that_is_upgraded_when_it_was_to_be_aborted() -> None:
    stalls = RequestWatchdog(3.0, 0.0, PAUSE)
    worker = Slot(0, 0.0)
    stalls.watch(worker, 100.0)

    def account(now: float) -> Account:
        return Account(0, 100.0, 0.0, 103.5 if now > 103.5 else 0.0)

    ((_, verdict),) = run(stalls, worker, account, 1000.0)
    assert verdict is Action.ABORT
