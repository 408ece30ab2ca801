"""Reaping children, and telling whose they are.

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
from flask_prefork.system.reaper import Reaper
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


def reaped(*owned: int) -> list[tuple[int, int]]:
    """Reap all that have ended.

    :param owned: Children that have an owner, who must not hear anything.
    :return: The orphans that were reported, with their status.
    """
    found: list[tuple[int, int]] = []
    reaper = Reaper(lambda pid, status: found.append((pid, status)))
    for pid in owned:
        reaper.add(pid, lambda status: found.append((-1, status)))
    reaper.reap()
    return found


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
        return [adopts, parents, reaped() == [(orphan, 7)], reaped()]

    assert in_child(do) == [True, 0, True, []]


def test_system_without_subreapers(monkeypatch: pytest.MonkeyPatch) -> None:
    # What an interpreter without the module has.
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert not become_subreaper()


def test_no_children() -> None:
    assert in_child(reaped) == []


def test_living_children_are_left() -> None:
    def do() -> object:
        owned, first = alive()
        orphan, second = alive()
        found = reaped(owned)
        os.close(first)
        os.close(second)
        return [found, exit_status(owned), exit_status(orphan)]

    assert in_child(do) == [[], 0, 0]


def test_all_dead_ones_are_reaped() -> None:
    def do() -> object:
        pids = [dead(status) for status in range(20)]
        return sorted(reaped()) == sorted(zip(pids, range(20), strict=True))

    assert in_child(do)


def test_death_by_a_signal() -> None:
    def do() -> object:
        pid, gate = alive()
        os.kill(pid, signal.SIGKILL)
        await_death(pid)
        os.close(gate)
        return reaped() == [(pid, -signal.SIGKILL)]

    assert in_child(do)


def test_each_is_reported_to_its_owner_once() -> None:
    def do() -> object:
        orphans: list[tuple[int, int]] = []
        owned: list[tuple[str, int]] = []
        reaper = Reaper(lambda pid, status: orphans.append((pid, status)))
        before = dead(1)
        reaper.add(one := dead(2), lambda status: owned.append(("one", status)))
        living, gate = alive()
        reaper.add(living, lambda status: owned.append(("living", status)))
        behind = dead(3)
        reaper.reap()
        first = sorted(orphans) == sorted([(before, 1), (behind, 3)])
        known = [one in reaper, living in reaper]
        os.close(gate)
        await_death(living)
        reaper.reap()
        return [first, known, owned, len(orphans), living in reaper]

    expected = [True, [False, True], [["one", 2], ["living", 0]], 2, False]
    assert in_child(do) == expected


def test_one_that_ends_while_others_are_reaped() -> None:
    def do() -> object:
        owned: list[int] = []
        living, gate = alive()

        def exited(pid: int, status: int) -> None:
            os.close(gate)
            await_death(living)

        reaper = Reaper(exited)
        reaper.add(living, owned.append)
        dead(1)
        reaper.reap()
        return owned

    assert in_child(do) == [0]


def test_one_that_somebody_else_has_reaped() -> None:
    def do() -> object:
        owned: list[int] = []
        reaper = Reaper(lambda pid, status: owned.append(-1000))
        living, gate = alive()
        reaper.add(gone := dead(3), owned.append)
        exit_status(gone)
        reaper.reap()
        os.close(gate)
        exit_status(living)
        return [owned, gone in reaper]

    assert in_child(do) == [[0], False]


def test_nobody_waits_for_one_any_more() -> None:
    def do() -> object:
        found: list[tuple[int, int]] = []
        reaper = Reaper(lambda pid, status: found.append((pid, status)))
        reaper.add(pid := dead(4), lambda status: found.append((0, status)))
        reaper.remove(pid)
        reaper.reap()
        return found == [(pid, 4)]

    assert in_child(do)


def test_adoption() -> None:
    def do() -> object:
        owned: list[int] = []
        orphans: list[int] = []
        reaper = Reaper(lambda pid, status: orphans.append(status))
        living, gate = alive()
        reaper.adopt(living, owned.append)
        refused = []
        for pid in (living, dead(5), os.getppid(), 0, -1):
            try:
                reaper.adopt(pid, owned.append)
            except ValueError:
                refused.append(pid)
        os.close(gate)
        await_death(living)
        reaper.reap()
        return [len(refused), orphans, owned]

    assert in_child(do) == [5, [5], [0]]


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
