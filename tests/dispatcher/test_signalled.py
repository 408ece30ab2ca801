"""Processes that the app has made another user's: no signal reaches them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.dispatcher.pool import PoolWorker
from flask_prefork.dispatcher.worker_handle import WorkerHandle
from flask_prefork.dispatcher.zygote_handle import ZygoteControl
from flask_prefork.ipc import dumps
from flask_prefork.ipc.channel import Channel
from flask_prefork.ipc.spawn import ZygoteHandle
from flask_prefork.system.poller import Poller
from flask_prefork.system.reaper import Reaper

#: Above any (proc(5), pid_max).
PID = 2**30


def refuse(*args: object) -> t.NoReturn:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def ignore(*args: object) -> None:
    """Stands for a callback that nobody waits for."""


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def test_a_zygote_that_may_not_be_killed_is_given_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "kill", refuse)
    poller, reaper, lost = Poller(), Reaper(ignore), []
    control = ZygoteControl(
        ZygoteHandle(PID, pair[0], 1),
        poller,
        lambda: 100.0,
        reaper,
        lambda frame, fds: None,
        lambda: lost.append(True),
        ignore,
    )
    assert PID in reaper
    control.show("is late")
    assert "The zygote of generation 1 is late." in caplog.text, "it can't show more"
    control.kill("It is to end.")
    assert lost == [True]
    while not control.reaped:
        moment = control.deadline()
        assert moment is not None
        control.step(moment)
    assert f"(pid {PID}) lives on after SIGKILL" in caplog.text
    assert PID not in reaper, "its end is an orphan's"
    poller.close()


def test_a_zygotes_threads_are_one_record(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it shows is its own file's, and what it has shown by its end."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    poller, reaper, now = Poller(), Reaper(ignore), 100.0
    dump = dumps.create()
    control = ZygoteControl(
        ZygoteHandle(PID, pair[0], 1, dump),
        poller,
        lambda: now,
        reaper,
        lambda frame, fds: None,
        lambda: None,
        ignore,
    )
    now = 103.0
    control.show_busy()
    assert sent == [(PID, signal.SIGUSR2)]
    assert not caplog.messages
    text = '  File "/srv/shop/views.py", line 7 in <module>'
    os.write(dump, f"Current thread 0x01 (most recent call first):\n{text}\n".encode())
    while not caplog.messages:
        moment = control.deadline()
        assert moment is not None
        assert moment < 103.0 + dumps.TIMEOUT
        control.step(moment)
    assert caplog.messages == [
        f"The zygote of generation 1 (pid {PID}) has been loading for 3.0 s; its"
        f" threads:\nMain thread (most recent call first):\n{text}"
    ]
    # It doesn't react any more.
    caplog.clear()
    control.show("did not end")
    control.kill("It is killed.")
    assert caplog.messages == [
        f"The zygote of generation 1 (pid {PID}) did not end, and doesn't show its"
        " threads.",
        "It is killed.",
    ]
    control._reaped(-signal.SIGKILL)
    with pytest.raises(OSError):
        os.fstat(dump)
    assert control.deadline() is None
    poller.close()


def test_nobody_is_said_to_be_killed_whose_pid_is_unknown(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    poller = Poller()
    control = ZygoteControl(
        ZygoteHandle(0, pair[0], 1),
        poller,
        lambda: 100.0,
        Reaper(ignore),
        lambda frame, fds: None,
        lambda: None,
        ignore,
    )
    control.watchdog.hurry(100.0, 1.0)
    while not control.reaped:
        moment = control.deadline()
        assert moment is not None
        control.step(moment)
    assert "was killed" not in caplog.text
    assert "never sent its pid: it did not come up" in caplog.text
    poller.close()


def test_a_worker_that_may_not_be_killed_was_tried(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "pidfd_send_signal", refuse, raising=False)
    process = WorkerHandle(PoolWorker(0, 0.0), Channel(pair[0]), -1)
    process.pid, process.pidfd = PID, 0
    assert process.signal(signal.SIGKILL), "its zygote can't do it either"
