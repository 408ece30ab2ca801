"""What is said of the dead, and signals for the living."""

from __future__ import annotations

import logging
import os
import signal
import socket
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.dispatcher.pool import PoolWorker
from flask_prefork.dispatcher.worker_handle import WorkerHandle
from flask_prefork.ipc.channel import Channel
from flask_prefork.ipc.exits import ExitedWorker
from flask_prefork.ipc.exits import ExitLog
from flask_prefork.ipc.exits import Reason
from flask_prefork.ipc.exits import settle
from flask_prefork.ipc.exits import Statuses
from flask_prefork.ipc.exits import Why
from flask_prefork.ipc.scoreboard import Record
from flask_prefork.ipc.states import State

AT_REST = Record(42, requests=3, moved=9.0)
STALLED = Why(Reason.TIMEOUT, "no progress for 1 s")
GARBLED = Why(Reason.GARBAGE, "it sent garbage")
SERVING = Record(42, began=10.0, moved=11.0, method="POST", target="/form?x=1")


@pytest.fixture
def exit_log(kills: list[int]) -> ExitLog:
    return ExitLog()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> t.Any:
    """What was logged, as level and text, since the last call."""
    logger = logging.getLogger("flask_prefork")
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, "flask_prefork")

    def take() -> list[tuple[str, str]]:
        taken = [(r.levelname, r.getMessage()) for r in caplog.records]
        caplog.clear()
        return taken

    return take


def exited(
    state: State = State.IDLE, why: Why | None = None, record: Record = AT_REST
) -> ExitedWorker:
    return ExitedWorker(3, state, why, record)


@pytest.mark.parametrize(
    ("one", "status", "text"),
    [
        (exited(), 0, "Worker 3 (pid 42) died: exit status 0."),
        (exited(State.STARTING), 4, "Worker 3 (pid 42) died: exit status 4."),
        (exited(State.RETIRING), 1, "Worker 3 (pid 42) died: exit status 1."),
        (
            exited(State.BUSY, None, SERVING),
            -signal.SIGSEGV,
            "Worker 3 (pid 42) while serving POST /form?x=1 died: SIGSEGV.",
        ),
        (
            exited(State.RETIRING, None, SERVING),
            -signal.SIGABRT,
            "Worker 3 (pid 42) while serving POST /form?x=1 died: SIGABRT.",
        ),
        (
            exited(State.BUSY, None, SERVING),
            -signal.SIGKILL,
            "Worker 3 (pid 42) while serving POST /form?x=1 died: SIGKILL.",
        ),
        # One that has no name of its own (signal(7)).
        (exited(), -(signal.SIGRTMIN + 3), "Worker 3 (pid 42) died: signal 37.")
        if hasattr(signal, "SIGRTMIN") and signal.SIGRTMIN == 34
        else (exited(), -99, "Worker 3 (pid 42) died: signal 99."),
    ],
)
def test_deaths_that_are_nobodys_order(
    exit_log: ExitLog, lines: t.Any, one: ExitedWorker, status: int, text: str
) -> None:
    exit_log.note(42, one)
    reason = exit_log.report(42, status)
    assert reason is (Reason.SIGNAL if status < 0 else Reason.EXIT)
    assert lines() == [("ERROR", text)]


@pytest.mark.parametrize("status", [-signal.SIGKILL, -signal.SIGSEGV, 0, 3, None])
def test_deaths_by_our_hand_name_the_reason(
    exit_log: ExitLog, lines: t.Any, kills: list[int], status: int | None
) -> None:
    # Whatever it died of in the end, and whoever else was killing.
    kills[0] += 1
    exit_log.note(42, exited(State.BUSY, STALLED, SERVING))
    if status is None:
        assert exit_log.close() == [Reason.TIMEOUT]
    else:
        assert exit_log.report(42, status) is Reason.TIMEOUT
    who = "Worker 3 (pid 42) while serving POST /form?x=1"
    assert lines() == [("WARNING", f"{who} was killed: no progress for 1 s.")]


@pytest.mark.parametrize(
    "one",
    [
        exited(),
        exited(State.RETIRING),
        exited(State.RETIRING, None, SERVING),
        exited(State.BUSY, STALLED, SERVING),
        exited(State.RETIRING, STALLED),
        exited(State.KILLED),
    ],
)
@pytest.mark.parametrize("status", [0, 3, -signal.SIGKILL, -signal.SIGSEGV, None])
def test_the_app_is_told_the_same_reason(
    exit_log: ExitLog, one: ExitedWorker, status: int | None
) -> None:
    assert exit_log.expected(42) == ("", False)
    exit_log.note(42, one)
    told = settle(exit_log.expected(42), status, Statuses())
    assert exit_log.report(42, status) is told


def test_retiring_is_no_news(exit_log: ExitLog, lines: t.Any) -> None:
    exit_log.note(42, exited(State.RETIRING))
    assert exit_log.report(42, 0) is Reason.RETIRED
    assert lines() == []


def test_one_that_was_late_is_told_of_whoever_is_left(
    exit_log: ExitLog, lines: t.Any
) -> None:
    """Its zygote may have ended before it told how the worker ended."""
    late = Why(Reason.GRACEFUL_TIMEOUT, "it did not finish")
    exit_log.note(42, exited(State.RETIRING, late))
    assert exit_log.report(42, None) is Reason.GRACEFUL_TIMEOUT
    assert lines() == [("WARNING", "Worker 3 (pid 42) was killed: it did not finish.")]
    # In its last moment it has ended by itself.
    exit_log.note(42, exited(State.RETIRING, late))
    assert exit_log.report(42, 0) is Reason.RETIRED
    assert lines() == []


def test_out_of_memory(exit_log: ExitLog, lines: t.Any, kills: list[int]) -> None:
    for pid in (42, 43, 44):
        exit_log.note(pid, exited())
    kills[0] = 8
    assert exit_log.report(42, -signal.SIGKILL) is Reason.MEMORY
    # The kernel isn't to blame twice for one that it has killed.
    assert exit_log.report(43, -signal.SIGKILL) is Reason.SIGNAL
    kills[0] = 9
    # It kills by SIGKILL only.
    assert exit_log.report(44, -signal.SIGBUS) is Reason.SIGNAL
    assert [text.partition(" died: ")[2] for _, text in lines()] == [
        "SIGKILL, by the kernel, which ran out of memory.",
        "SIGKILL.",
        "SIGBUS.",
    ]


def test_kills_before_us_are_not_ours(lines: t.Any, kills: list[int]) -> None:
    kills[0] = 1000
    exit_log = ExitLog()
    exit_log.note(42, exited())
    exit_log.report(42, -signal.SIGKILL)
    assert lines() == [("ERROR", "Worker 3 (pid 42) died: SIGKILL.")]


def test_each_death_is_told_once(exit_log: ExitLog, lines: t.Any) -> None:
    exit_log.note(42, exited(State.BUSY, GARBLED, SERVING))
    # The signs that come later know less.
    exit_log.note(42, exited(State.KILLED))
    exit_log.report(42, -signal.SIGKILL)
    exit_log.report(42, -signal.SIGKILL)
    exit_log.close()
    ((_, text),) = lines()
    assert text.endswith("/form?x=1 was killed: it sent garbage.")


def test_a_death_of_which_nothing_was_noted(exit_log: ExitLog, lines: t.Any) -> None:
    assert exit_log.report(42, -signal.SIGKILL) is None
    assert lines() == []


def test_a_pid_that_is_used_again(exit_log: ExitLog, lines: t.Any) -> None:
    for status in (1, 2):
        exit_log.note(42, exited())
        exit_log.report(42, status)
    assert [text[-14:] for _, text in lines()] == ["exit status 1.", "exit status 2."]


@pytest.mark.parametrize(
    ("one", "is_told"),
    [
        # It was told to exit, and no request was lost by it.
        (exited(State.RETIRING), False),
        (exited(State.RETIRING, None, SERVING), True),
        (exited(State.IDLE), True),
    ],
)
def test_who_would_tell_the_cause_is_gone(
    exit_log: ExitLog, lines: t.Any, one: ExitedWorker, is_told: bool
) -> None:
    exit_log.note(42, one)
    reason = Reason.UNKNOWN if is_told else Reason.RETIRED
    assert exit_log.close() == [reason]
    texts = [text.partition(" died: ")[2] for _, text in lines()]
    assert texts == ["the exit status is not known."] * is_told


# Signals


@pytest.fixture
def process() -> Iterator[WorkerHandle]:
    ours, theirs = socket.socketpair()
    process = WorkerHandle(PoolWorker(0, 0.0), Channel(ours), -1)
    yield process
    process.channel.close()
    theirs.close()
    if process.pidfd >= 0:
        os.close(process.pidfd)


def test_a_signal_waits_for_the_pid(process: WorkerHandle) -> None:
    assert process.signal(signal.SIGKILL)
    assert process.wanted == signal.SIGKILL


def test_without_a_pidfd_only_the_parent_may(process: WorkerHandle) -> None:
    process.pid = os.getpid()
    assert not process.signal(signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has pidfds")
def test_by_pidfd(process: WorkerHandle) -> None:
    process.pid = os.fork()
    if process.pid == 0:
        signal.pause()
        os._exit(0)
    process.pidfd = os.pidfd_open(process.pid)
    assert process.signal(signal.SIGKILL)
    _, status = os.waitpid(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    # Whoever has the number now is safe.
    assert process.signal(signal.SIGKILL)
