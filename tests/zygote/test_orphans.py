"""Workers whose dispatcher is dead: who is shown, who is killed, what the log tells."""

from __future__ import annotations

import os
import signal
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.ipc import dumps
from flask_prefork.ipc.phase import LAST_MOMENT
from flask_prefork.ipc.records import Record
from flask_prefork.zygote.orphans import Orphan
from flask_prefork.zygote.orphans import Orphans

NOW = 100.0
WHY = "it did not finish within the graceful timeout"


class FakeBank:
    """What workers tell of themselves: one serves, the others don't."""

    generation = 1

    def read(self, slot: int) -> Record:
        if slot:
            return Record()
        return Record(began=NOW - 3, method="GET", target="/hang", client="10.0.0.1")


class World:
    """Workers that a test plays.

    :ivar sent: The signals that they were sent.
    :ivar gone: Those that are dead, and reaped by somebody else.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 2) -> None:
        self.sent: list[tuple[int, int]] = []
        self.gone: set[int] = set()
        monkeypatch.setattr(os, "kill", self._kill)
        # No process has such a pid (proc(5), pid_max).
        self.all = [Orphan(2**23 + n, n, dumps.create()) for n in range(count)]
        self.orphans = Orphans(self.all, t.cast(t.Any, FakeBank()), NOW)

    def _kill(self, pid: int, number: int) -> None:
        if pid in self.gone:
            raise ProcessLookupError
        self.sent.append((pid, number))

    def killed(self) -> list[int]:
        return [pid for pid, number in self.sent if number == signal.SIGKILL]

    def go_on(self) -> float:
        """Go on until something is to be done.

        :return: When that is.
        """
        moment = self.orphans.deadline()
        assert moment is not None
        self.orphans.step(moment)
        return moment


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(monkeypatch)
    yield world
    for one in world.all:
        os.close(one.dump)


def test_who_shows_where_it_is_is_killed_then(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = world.all
    assert world.sent == [(one.pid, signal.SIGUSR2) for one in world.all]
    os.write(first.dump, b"Thread 1: in hang\n")
    while not world.killed():
        assert world.go_on() < NOW + LAST_MOMENT
    assert world.killed() == [first.pid]
    world.orphans.reaped(first, -signal.SIGKILL)
    assert caplog.messages == [
        f"Worker 0 (pid {first.pid}) of generation 1 serves GET /hang for 3.0 s,"
        f" client 10.0.0.1, late: {WHY}; its threads:\nThread 1: in hang",
        f"Worker 0 (pid {first.pid}) while serving GET /hang was killed: {WHY}.",
    ]


def test_who_shows_nothing_is_killed_too(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    while world.orphans.deadline() is not None:
        world.go_on()
    assert world.killed() == [one.pid for one in world.all]
    second = world.all[1]
    world.orphans.reaped(second, -signal.SIGKILL)
    shown = f"Worker 1 (pid {second.pid}) of generation 1 is retiring, late: {WHY}"
    assert f"{shown}, and doesn't show its threads." in caplog.messages
    assert caplog.messages[-1] == f"Worker 1 (pid {second.pid}) was killed: {WHY}."


def test_who_ends_in_its_last_moment_is_not_killed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for one in world.all:
        world.orphans.reaped(one, 0)
    assert world.orphans.deadline() is None
    assert world.killed() == []
    assert "was killed" not in caplog.text


def test_whom_the_app_has_reaped(world: World) -> None:
    world.gone = {one.pid for one in world.all}
    while world.orphans.deadline() is not None:
        world.go_on()
    assert world.killed() == []
