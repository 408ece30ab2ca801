"""Requests that are refused without a worker."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
import typing as t
from collections import deque
from collections.abc import Iterator

import pytest

from flask_prefork.dispatcher import shedder
from flask_prefork.dispatcher.queues import Queues
from flask_prefork.dispatcher.shedding import EPISODE
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.listener import bind
from flask_prefork.ipc.parked_connections import Connection
from flask_prefork.ipc.stats import Reader
from flask_prefork.ipc.stats import Summary
from flask_prefork.settings.table import resolve
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.poller import Poller
from flask_prefork.system.socket_state import Arrival
from flask_prefork.system.socket_state import arrival

from .queues_world import FakeGeneration

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#: Longer than between two looks, in seconds.
LOOK = 0.6


class World:
    """Queues with a real listener, whose workers are all busy."""

    def __init__(self, host: str, descriptors: int = 1000) -> None:
        self.board = scoreboard.create()
        self.summary = Summary(self.board)
        self.poller = Poller()
        #: Seconds that the dispatcher's clock is ahead of the kernel's.
        self.ahead = 0.0
        self.queues = Queues(self.poller, self.clock, descriptors, self.summary)
        self.listener = bind(host, 0, 100)
        self.queues.listeners = [self.listener]
        self.generation = FakeGeneration(1)
        self.generation.pool.order(1, 0.0)
        self.generation.busy(0)
        self.clients: list[socket.socket] = []
        #: When those came that are in the accept queue.
        self.came: deque[float] = deque()

    def arrival(self, sock: socket.socket) -> Arrival:
        """What the kernel would say by the dispatcher's clock."""
        found = arrival(sock)
        age = self.clock() - self.came.popleft()
        return found if sock.family == socket.AF_UNIX else found._replace(age=age)

    def clock(self) -> float:
        return time.monotonic() + self.ahead

    def set(self, **values: t.Any) -> None:
        self.generation.settings = resolve(values)

    def connect(self, data: bytes = GET) -> socket.socket:
        if self.listener.path:
            client = socket.socket(socket.AF_UNIX)
            client.connect(self.listener.path)
        else:
            client = socket.create_connection(("127.0.0.1", self.listener.port))
        client.settimeout(10)
        client.sendall(data)
        self.clients.append(client)
        self.came.append(self.clock())
        return client

    def wait_for(self, waiting: int) -> None:
        """Until so many are in the accept queue: data makes them come (tcp(7))."""
        deadline = time.monotonic() + 10
        while self.listener.waiting() < waiting:
            assert time.monotonic() < deadline

    def turn(self) -> None:
        for callback in self.poller.wait(0):
            callback()
        self.queues.dispatch(self.generation)  # type: ignore[arg-type]

    def look(self) -> None:
        """A turn, and another one when it is time to look."""
        self.turn()
        self.ahead += LOOK
        self.turn()

    def close(self) -> None:
        self.queues.close()
        for _, given in self.generation.given:
            if isinstance(given, Connection):
                os.close(given.fd)
        for client in self.clients:
            client.close()
        with contextlib.suppress(OSError):
            self.listener.close()
        self.poller.close()
        self.summary.close()
        os.close(self.board)


class Make(t.Protocol):
    def __call__(self, host: str = "127.0.0.1", **more: t.Any) -> World: ...


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[World] = []

    def world(host: str = "127.0.0.1", **more: t.Any) -> World:
        made.append(World(host, **more))
        monkeypatch.setattr(shedder, "arrival", made[-1].arrival)
        return made[-1]

    yield world
    for one in made:
        one.close()


def answer(client: socket.socket) -> bytes:
    """All that the server sends."""
    data = b""
    while part := client.recv(4096):
        data += part
    return data


def test_who_has_waited_too_long_is_refused(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    world = make()
    world.set(queue_timeout=3)
    clients = [world.connect() for _ in range(3)]
    world.wait_for(3)
    world.look()
    assert world.listener.waiting() == 2, "the front is held"
    assert len(world.queues.parked.ready) == 1
    world.ahead += 3
    world.turn()
    for client in clients:
        data = answer(client)
        assert data.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 3\r\n" in data
        assert b"\r\nConnection: close\r\n" in data
        assert b"\r\nContent-Length: 0\r\n" in data
        assert data.endswith(b"\r\n\r\n")
    assert world.summary.shed == {"queue-timeout": 3, "max-queue": 0, "limit": 0}
    assert caplog.text.count("Overload: requests are refused with 503") == 1
    assert "waited for 3 s (--queue-timeout)" in caplog.text
    world.ahead += EPISODE + 0.1
    world.turn()
    assert "has ended. Requests refused without a worker: 3." in caplog.text


def test_who_was_refused_lingers(make: Make) -> None:
    """What it still sends doesn't reset the connection before it has seen all."""
    world = make()
    world.set(queue_timeout=1)
    client = world.connect()
    world.wait_for(1)
    world.ahead += 2
    world.look()
    client.sendall(b"x" * 1000)
    assert answer(client).startswith(b"HTTP/1.1 503")
    assert world.queues.parked.lingering == 1
    client.close()
    world.turn()
    assert world.queues.parked.lingering == 0


def test_the_fresh_are_kept_in_their_order(make: Make) -> None:
    world = make()
    world.set(queue_timeout=5)
    first, second = world.connect(), world.connect()
    world.wait_for(2)
    world.look()
    world.generation.idle(0)
    world.turn()
    ((_, front),) = world.generation.given
    assert isinstance(front, Connection)
    assert front.state.wait is Wait.HEAD
    assert os.fstat(front.fd)
    world.generation.busy(0)
    world.generation.idle(0)
    world.turn()
    assert world.generation.given[1:] == [(0, 0)], "the rest is for a worker to accept"
    assert world.summary.shed["queue-timeout"] == 0
    assert first
    assert second


def test_the_bound_on_the_queue(make: Make) -> None:
    world = make()
    world.set(queue_timeout=0, max_queue=2)
    clients = [world.connect() for _ in range(2)]
    world.wait_for(2)
    world.look()
    assert world.listener.waiting() == 2
    clients += [world.connect() for _ in range(3)]
    world.wait_for(5)
    world.look()
    for client in clients[:3]:
        assert answer(client).startswith(b"HTTP/1.1 503")
    assert world.summary.shed["max-queue"] == 3
    assert world.listener.waiting() + len(world.queues.parked.ready) == 2


def test_parked_ones(make: Make) -> None:
    world = make()
    world.set(queue_timeout=2)
    world.turn()
    pairs = [socket.socketpair() for _ in range(2)]
    with pairs[0][1], pairs[1][1]:
        world.queues._families |= {socket.AF_UNIX}
        states = [
            Parked(Wait.WORKER, world.clock() + 60, 3),
            Parked(Wait.KEEP_ALIVE, world.clock() + 60),
        ]
        for (ours, _), state in zip(pairs, states, strict=True):
            world.queues.parked.park(Connection(ours.detach(), 0, state), world.clock())
        world.look()
        world.ahead += 3
        world.turn()
        assert pairs[0][1].recv(12) == b"HTTP/1.1 503"
        assert world.queues.parked.idle == 1, "its client has nothing to wait for"


def test_who_was_held_has_all_the_time_for_its_head(make: Make) -> None:
    world = make()
    world.set(queue_timeout=60, header_timeout=1)
    world.connect(b"GET")
    world.wait_for(1)
    world.look()
    assert len(world.queues.parked.ready) == 1
    world.ahead += 5
    world.generation.idle(0)
    world.turn()
    ((_, connection),) = world.generation.given
    assert connection.state.deadline == pytest.approx(world.clock() + 1, abs=0.5)


def test_idle_connections_make_room_for_who_is_to_be_refused(make: Make) -> None:
    world = make(descriptors=66)
    world.set(queue_timeout=1)
    pairs = [socket.socketpair() for _ in range(2)]
    for ours, _ in pairs:
        state = Parked(Wait.KEEP_ALIVE, world.clock() + 60)
        world.queues.parked.park(Connection(ours.detach(), 0, state), world.clock())
    client = world.connect()
    world.wait_for(1)
    world.ahead += 2
    world.look()
    assert answer(client).startswith(b"HTTP/1.1 503")
    for _, theirs in pairs:
        theirs.close()


def test_nothing_is_due_when_nobody_can_come(make: Make) -> None:
    """While workers finish, nothing is looked at that no turn would do."""
    world = make()
    world.set(queue_timeout=1)
    world.connect()
    world.wait_for(1)
    world.look()
    assert world.queues.deadline() is not None
    world.queues.close()
    assert world.queues.deadline() is None


def test_unix(make: Make, tmp_path: t.Any) -> None:
    """The kernel tells no ages: they count from when they were seen."""
    world = make(f"unix://{tmp_path}/sock")
    world.set(queue_timeout=4)
    clients = [world.connect() for _ in range(3)]
    world.look()
    assert len(world.queues.parked.ready) == 3
    world.ahead += 2
    clients.append(world.connect())
    world.look()
    world.ahead += 2
    world.look()
    for client in clients[:3]:
        assert answer(client).startswith(b"HTTP/1.1 503")
    assert not has_ended_or_answered(clients[3])


def has_ended_or_answered(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        client.recv(1)
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_client_that_has_left(make: Make, tmp_path: t.Any, kind: str) -> None:
    world = make(f"unix://{tmp_path}/sock" if kind == "unix" else "127.0.0.1")
    world.set(queue_timeout=5)
    gone, stays = world.connect(), world.connect()
    if kind == "tcp":
        world.wait_for(2)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()
    stays.shutdown(socket.SHUT_WR)
    world.look()
    assert len(world.queues.parked.ready) == 1
    assert world.summary.shed["queue-timeout"] == 0


def test_a_turn_does_a_bounded_part(make: Make) -> None:
    world = make()
    world.set(queue_timeout=1)
    for _ in range(90):
        world.connect()
    world.wait_for(90)
    world.ahead += 2
    world.look()
    before = world.summary.shed["queue-timeout"]
    assert 0 < before < 90
    deadline = world.queues.deadline()
    assert deadline is not None
    assert deadline <= world.clock()
    for _ in range(4):
        world.turn()
    assert world.summary.shed["queue-timeout"] == 90


def test_short_of_descriptors(make: Make) -> None:
    world = make(descriptors=70)
    world.set(queue_timeout=1)
    for _ in range(20):
        world.connect()
    world.wait_for(20)
    world.ahead += 2
    for _ in range(40):
        world.look()
        # Those that linger are closed first.
        assert len(world.queues.parked) <= 7
    assert world.summary.shed["queue-timeout"] == 20


def test_accepted_ones_are_counted(make: Make) -> None:
    world = make()
    world.set(queue_timeout=5)
    world.connect()
    world.wait_for(1)
    world.look()
    reader = Reader(world.board)
    assert reader.exited().sums.connections == 1
    reader.close()


def test_nothing_is_accepted_without_a_bound(make: Make) -> None:
    world = make()
    world.set(queue_timeout=0)
    world.connect()
    world.wait_for(1)
    world.ahead += 1000
    world.look()
    assert world.listener.waiting() == 1
    assert world.queues.deadline() is None


def test_a_worker_that_is_idle_takes_it(make: Make) -> None:
    world = make()
    world.set(queue_timeout=1)
    world.generation.idle(0)
    client = world.connect()
    world.wait_for(1)
    world.ahead += 100
    world.turn()
    assert world.generation.given == [(0, 0)]
    assert not has_ended_or_answered(client)
