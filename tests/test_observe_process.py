"""The observer's threads and its dispatcher's pulse, without a server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import typing as t
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from flask_prefork.observe import process
from flask_prefork.observe.process import Door
from flask_prefork.observe.process import Pulse

needs_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="the system has no proc(5)"
)


def test_a_pulse() -> None:
    pulse = Pulse(os.getpid())
    assert pulse.is_felt()
    pulse.unanswered = process._PATIENCE - 1
    assert pulse.is_felt()
    pulse.unanswered = process._PATIENCE
    assert not pulse.is_felt()


@needs_proc
def test_the_pulse_of_who_is_stopped() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        pulse = Pulse(child.pid)
        try:
            assert pulse.is_felt()
            child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            assert not pulse.is_felt()
            child.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, child.pid, os.WCONTINUED)
            assert pulse.is_felt()
        finally:
            child.kill()


def test_who_cant_be_seen_may_live() -> None:
    """``hidepid`` hides processes of others (proc(5)); pings tell too."""
    assert Pulse(2**22 + 1).is_felt()


class Held:
    """A site whose requests wait until they are let go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = threading.Semaphore(0)

    def __call__(self, environ: object, start_response: t.Any) -> list[bytes]:
        self.inside.release()
        self.open.wait(20)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]


class Ended(Exception):
    """Of a thread that has none."""


class Listener(socket.socket):
    """A listening socket that can end the thread that accepts.

    :ivar last: The next connection is the sign for it.
    """

    last = False

    def accept(self) -> tuple[socket.socket, t.Any]:
        if self.last:
            raise Ended
        return super().accept()


@pytest.fixture
def site() -> Held:
    return Held()


@pytest.fixture
def door(site: Held) -> Iterator[Door]:
    """It lets clients in to the site."""
    with Listener() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.setblocking(False)
        door = Door(t.cast(t.Any, site), listener)

        def run() -> None:
            with contextlib.suppress(Ended):
                door.run()

        thread = threading.Thread(target=run)
        thread.start()
        yield door
        listener.last = True
        socket.create_connection(listener.getsockname()).close()
        thread.join()


@pytest.mark.parametrize("kept", [False, True])
def test_so_many_are_served_at_once(site: Held, door: Door, kept: bool) -> None:
    port = door._listener.getsockname()[1]
    headers = {} if kept else {"Connection": "close"}
    connections = []
    for _ in range(process._CROWD + 1):
        connections.append(HTTPConnection("127.0.0.1", port, timeout=20))
        connections[-1].request("GET", "/", headers=headers)
    for _ in range(process._CROWD):
        assert site.inside.acquire(timeout=20)
    assert door.crowded()
    assert not site.inside.acquire(blocking=False), "the last one waits"
    site.open.set()
    # The last one comes in although others could keep their places.
    for connection in connections:
        assert connection.getresponse().read() == b"ok"
    for connection in connections:
        connection.close()
