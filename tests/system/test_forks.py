"""What a process has that the app forks, and what one of the server's own."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.system import forks

from .forked import in_child

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
        forks.when_app_forks(lambda: forks.redirect_to_null([ours.fileno(), -1]))
        null = os.stat(os.devnull).st_rdev
        assert in_child(lambda: os.fstat(ours.fileno()).st_rdev == null)
        assert in_child(lambda: os.fstat(theirs.fileno()).st_rdev != null)
        assert os.fstat(ours.fileno()).st_rdev != null


def test_a_callback_that_fails_keeps_nothing_else_from_its_end() -> None:
    done: list[str] = []

    def fail() -> None:
        done.append("failed")
        raise OSError("no more descriptors")

    forks.when_app_forks(lambda: done.append("first"))
    forks.when_app_forks(fail)
    forks.when_app_forks(lambda: done.append("last"))
    expected = [["first", "failed", "last"], False, False, True]
    assert in_child(lambda: [done, *state()]) == expected


def test_the_first_thing_in_the_servers_own_child_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forks, "_first", lambda: 1 / 0)
    monkeypatch.setattr(forks, "_forking", threading.get_ident())
    monkeypatch.setattr(forks, "_masks", {threading.get_ident(): set()})
    signal.pthread_sigmask(signal.SIG_BLOCK, [NUMBER])
    with pytest.raises(ZeroDivisionError):
        forks._after_in_child()
    assert not blocked()


def test_no_descriptors_are_left() -> None:
    ours, theirs = socket.socketpair()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ours, theirs, contextlib.ExitStack() as stack:
        forks.when_app_forks(lambda: forks.redirect_to_null([ours.fileno()]))
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 9, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        # As many as it takes to hear of the child.
        for fd in taken[-2:]:
            os.close(fd)
        for fd in taken[:-2]:
            stack.callback(os.close, fd)
        null = os.stat(os.devnull).st_rdev
        seen = in_child(lambda: [os.fstat(ours.fileno()).st_rdev == null, *state()])
    assert seen == [True, False, False, True]


@pytest.mark.parametrize("has_null", [True, False])
def test_descriptors_are_blinded_without_a_device(
    monkeypatch: pytest.MonkeyPatch, has_null: bool
) -> None:
    """Where there is none, and where there is none any more."""
    monkeypatch.setattr(forks, "_null", -1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if has_null:
            forks.when_app_forks(lambda: forks.redirect_to_null([ours.fileno()]))
        monkeypatch.setattr(os, "devnull", "/none")
        if not has_null:
            forks.when_app_forks(lambda: forks.redirect_to_null([ours.fileno()]))
        made = forks._null
        assert in_child(lambda: len(os.read(ours.fileno(), 1))) == 0
    os.close(made)


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
