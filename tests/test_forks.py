"""What a process has that the app forks, and what one of the server's own."""

from __future__ import annotations

import os
import signal
import socket
import typing as t
from collections.abc import Iterator

import pytest
from forked import in_child

from flask_prefork import forks

NUMBER = signal.SIGUSR1


def handler(number: int, frame: object) -> None:
    """The server's own."""


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    before = signal.getsignal(NUMBER)
    forks.handle(NUMBER, handler)
    yield
    signal.signal(NUMBER, before)
    forks._handlers.clear()
    forks._callbacks.clear()


def blocked() -> bool:
    return NUMBER in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def state() -> list[t.Any]:
    return [signal.getsignal(NUMBER) is handler, blocked(), forks.is_foreign()]


def test_the_apps_child() -> None:
    assert in_child(state) == [False, False, True]
    assert state() == [True, False, False]


def test_a_signal_that_comes_before_the_child_runs_is_not_lost() -> None:
    def kill_itself() -> None:
        os.kill(os.getpid(), NUMBER)

    forks.when_app_forks(kill_itself)
    pid = os.fork()
    if not pid:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -NUMBER


def test_a_handler_of_the_apps_stays() -> None:
    signal.signal(NUMBER, signal.SIG_IGN)
    assert in_child(lambda: signal.getsignal(NUMBER) is signal.SIG_IGN)


def test_descriptors_of_the_servers() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        forks.when_app_forks(lambda: forks.blind([ours.fileno(), -1]))
        null = os.stat(os.devnull).st_rdev
        assert in_child(lambda: os.fstat(ours.fileno()).st_rdev == null)
        assert in_child(lambda: os.fstat(theirs.fileno()).st_rdev != null)
        assert os.fstat(ours.fileno()).st_rdev != null


def test_the_servers_own_child(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    forks.when_app_forks(lambda: called.append("app"))
    original = os.fork

    def fork() -> int:
        # As :func:`in_child` calls it.
        monkeypatch.setattr(os, "fork", original)
        return forks.fork(lambda: called.append("first"))

    monkeypatch.setattr(os, "fork", fork)
    assert in_child(lambda: [called, *state()]) == [["first"], True, False, False]
    assert called == []
