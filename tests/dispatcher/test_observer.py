"""The observer as the dispatcher holds it, when the system refuses."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import subprocess
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.dispatcher.observer import ObserverHandle
from flask_prefork.system import origin
from flask_prefork.system import socket_modes
from flask_prefork.system.poller import Poller
from flask_prefork.system.reaper import Reaper
from flask_prefork.system.running_clock import RunningClock


class Outside:
    """Stands in for the service, and for what the process was started with."""

    scheme = "http"
    identity = None
    admin_address = None

    @property
    def start_options(self) -> Outside:
        return self

    @contextlib.contextmanager
    def rights(self) -> Iterator[None]:
        yield


class Room:
    """An observer, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.poller = Poller()
        outside = t.cast(t.Any, Outside())
        clock = RunningClock(lambda: self.now, math.inf)
        self.reaper = Reaper(lambda pid, status: None)
        self.observer = ObserverHandle(outside, self.poller, self.reaper, -1, clock)

    def turn(self) -> None:
        """The dispatcher sleeps until the observer wants something, and does it."""
        moment = self.observer.deadline()
        assert moment is not None
        self.now = max(self.now, moment)
        self.observer.step(self.now)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    room = Room()
    yield room
    room.observer.release()
    room.poller.close()


def refuse(*args: object, **more: object) -> t.NoReturn:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize(
    ("module", "name"), [(socket_modes, "pair"), (origin, "spawn")]
)
def test_it_is_tried_again_when_descriptors_run_out(
    room: Room,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    module: object,
    name: str,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, name, refuse)
        room.observer.open({}, None, [])
        room.turn()
    assert caplog.text.count("Can't start the observer: [Errno") == 2
    assert room.observer.pid == 0
    # There are some again.
    process = subprocess.Popen(["sleep", "60"])
    try:
        monkeypatch.setattr(origin, "spawn", lambda *args: process.pid)
        room.turn()
        assert room.observer.pid == process.pid
    finally:
        room.observer.kill()
        assert process.wait() == -signal.SIGKILL


def test_who_may_not_be_killed_ends_nobody_else(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    room.observer.pid = 2**30
    monkeypatch.setattr(os, "kill", kill)
    room.observer.kill()
