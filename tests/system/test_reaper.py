"""Reaping children that nobody has started.

All is done in a forked process: it must not reap what the test runner has
started, nor have the runner adopt anything.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import typing as t

import pytest

from flask_prefork.ipc.spawn import Inherited
from flask_prefork.settings.table import resolve
from flask_prefork.system.reaper import become_subreaper
from flask_prefork.system.reaper import reap_orphans
from flask_prefork.zygote.lifecycle import Lifecycle
from flask_prefork.zygote.process import Zygote

from .forked import in_child

needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has subreapers"
)


def dead(status: int) -> int:
    """Have a child that has ended.

    :return: Its pid.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(status)
    await_death(pid)
    return pid


def await_death(pid: int) -> None:
    """Wait until a child is a zombie."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def alive() -> tuple[int, int]:
    """Have a child that lives.

    :return: Its pid, and the descriptor whose end ends it.
    """
    gate, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.read(gate, 1)
        os._exit(0)
    os.close(gate)
    return pid, ours


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@needs_linux
def test_orphan_is_adopted_and_reaped() -> None:
    def do() -> object:
        adopts = become_subreaper()
        read, write = os.pipe()
        parent = os.fork()
        if parent == 0:
            orphan = os.fork()
            if orphan == 0:
                os._exit(7)
            os.write(write, str(orphan).encode())
            os._exit(0)
        parents = exit_status(parent)
        orphan = int(os.read(read, 20))
        await_death(orphan)
        return [adopts, parents, reap_orphans(()) == [(orphan, 7)], reap_orphans(())]

    assert in_child(do) == [True, 0, True, []]


def test_system_without_subreapers(monkeypatch: pytest.MonkeyPatch) -> None:
    # What an interpreter without the module has.
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert not become_subreaper()


def test_no_children() -> None:
    assert in_child(lambda: reap_orphans(())) == []


def test_living_children_are_left() -> None:
    def do() -> object:
        known, first = alive()
        unknown, second = alive()
        reaped = reap_orphans({known})
        os.close(first)
        os.close(second)
        return [reaped, exit_status(known), exit_status(unknown)]

    assert in_child(do) == [[], 0, 0]


def test_all_dead_ones_are_reaped() -> None:
    def do() -> object:
        pids = [dead(status) for status in range(20)]
        return sorted(reap_orphans(())) == sorted(zip(pids, range(20), strict=True))

    assert in_child(do)


def test_death_by_a_signal() -> None:
    def do() -> object:
        pid, gate = alive()
        os.kill(pid, signal.SIGKILL)
        await_death(pid)
        os.close(gate)
        return reap_orphans(()) == [(pid, -signal.SIGKILL)]

    assert in_child(do)


def test_dead_child_of_somebody_is_left_and_hides_nobody() -> None:
    def do() -> object:
        before = dead(1)
        known = dead(2)
        living, gate = alive()
        behind = [dead(3), dead(4)]
        reaped = reap_orphans({known, living})
        os.close(gate)
        expected = [(before, 1), (behind[0], 3), (behind[1], 4)]
        return [
            sorted(reaped) == sorted(expected),
            reap_orphans({known, living}),
            exit_status(known),
            exit_status(living),
        ]

    assert in_child(do) == [True, [], 2, 0]


def test_system_that_does_not_list_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> t.NoReturn:
        raise FileNotFoundError(path)

    def do() -> object:
        known = dead(1)
        behind = dead(2)
        monkeypatch.setattr(os, "listdir", refuse)
        first = reap_orphans({known})
        status = exit_status(known)
        return [first, status, reap_orphans(()) == [(behind, 2)]]

    assert in_child(do) == [[], 1, True]


def test_system_that_can_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "waitid")
    assert reap_orphans(()) == []


def test_a_watcher_that_the_app_has_reaped() -> None:
    ours, theirs = socket.socketpair()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitpid(pid, 0)
    none: t.Any = None
    with ours, theirs:
        begin, settings = Inherited(ours, 1), resolve({})
        one = Zygote(begin, settings, none, none, none, Lifecycle(none, 1))
        one._watcher = pid
        one._reap()
        # Nor is it looked for again.
        assert not one._watcher
