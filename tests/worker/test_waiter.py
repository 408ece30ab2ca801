"""What a worker waits by."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.worker.waiter import Waiter


class Place:
    """A waiter at a listener, with both ends of its channel."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        listener.setblocking(False)
        self.ours, theirs = socket.socketpair()
        self._theirs = theirs
        self.waiter = Waiter(theirs, [listener])
        self.clients: list[socket.socket] = []

    def connect(self) -> None:
        client = socket.socket(self.listener.family)
        client.connect(self.listener.getsockname())
        self.clients.append(client)

    def close(self) -> None:
        for one in (self.listener, self.ours, self._theirs, *self.clients):
            one.close()


@pytest.fixture(params=["tcp", "unix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "tcp":
        listener = socket.create_server(("127.0.0.1", 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
    place = Place(listener)
    yield place
    place.close()


def test_a_connection_or_a_frame(place: Place) -> None:
    place.connect()
    assert place.waiter.wait() == 0
    place.ours.send(b"x")
    assert place.waiter.wait() is None, "a frame comes first"


def test_a_listener_that_is_shut_is_not_waited_at(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polls tell of it all the time; a worker would spin."""
    looks: list[float] = []
    enough = threading.Event()

    def look(seconds: float) -> bool:
        looks.append(seconds)
        if len(looks) == 3:
            enough.set()
            place.ours.send(b"x")
        return False

    monkeypatch.setattr(place.waiter, "is_readable", look)
    place.listener.shutdown(socket.SHUT_RDWR)
    assert place.waiter.wait() is None
    assert enough.is_set() and min(looks) > 0, "it pauses between two looks"


def test_one_that_listens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    name = listener.getsockname()
    place = Place(listener)
    listener.shutdown(socket.SHUT_RDWR)

    def look(seconds: float) -> bool:
        if not place.clients:
            listener.bind(name)
            listener.listen()
            place.connect()
        return False

    monkeypatch.setattr(place.waiter, "is_readable", look)
    assert place.waiter.wait() == 0
    place.close()
