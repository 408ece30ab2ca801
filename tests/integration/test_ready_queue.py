"""While no worker is idle, whoever is free first serves the next, and loses nobody."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import typing as t
from collections.abc import Iterator

import psutil
import pytest

from .conftest import Serve
from .gate import Gate
from .gate import Held
from .kept_alive import ask_all
from .kept_alive import Client
from .kept_alive import Hammer
from .kept_alive import request
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.measured

TWO = ("--min-idle", "2", "--max-workers", "2")
COUNT = 20


class Crowd:
    """A server whose two workers are held, and clients that wait behind that.

    :ivar held: The requests that are held.
    :ivar slow: Their clients.
    :ivar clients: All others. Their connections were kept alive.
    """

    def __init__(self, server: Server, gate: Gate) -> None:
        self.server = server
        self.gate = gate
        self.clients = [Client(server) for _ in range(COUNT)]
        self.slow = [Client(server) for _ in range(2)]
        self.held: list[Held] = []

    def begin(self) -> None:
        """Hold the workers, then let all others ask."""
        ask_all([*self.clients, *self.slow])
        self.hold(2)
        for client in self.clients:
            client.send()
        wait_for(lambda: self.server.state().waiting == COUNT)

    def hold(self, count: int) -> None:
        """Hold so many workers more."""
        before = len(self.held)
        for client in self.slow[before : before + count]:
            client.send(request(self.gate.path))
        self.held += self.gate.wait_for(count)

    def read(self) -> list[t.Any]:
        """What all clients but the slow ones are answered."""
        answers = [client.read() for client in self.clients]
        assert {answer.status for answer in answers} == {200}
        return [answer.json for answer in answers]

    def close(self) -> None:
        for client in (*self.clients, *self.slow):
            client.close()


class MakeCrowd(t.Protocol):
    def __call__(self, *args: str) -> Crowd: ...


@pytest.fixture
def crowd(serve: Serve, gate: Gate) -> Iterator[MakeCrowd]:
    with contextlib.ExitStack() as stack:

        def make(*args: str) -> Crowd:
            crowd = Crowd(serve("held", *(args or TWO)), gate)
            stack.callback(crowd.close)
            return crowd

        yield make


def test_a_slow_request_holds_nobody_else(crowd: MakeCrowd) -> None:
    room = crowd()
    ask_all([*room.clients, *room.slow])
    hammer = Hammer(room.clients)
    thread = threading.Thread(target=hammer.run)
    thread.start()
    try:
        # Among all others that wait, then while they go on.
        wait_for(lambda: min(hammer.turns.values()) >= 5)
        room.hold(1)
        before = dict(hammer.answers)
        wait_for(lambda: all(hammer.answers[one] >= before[one] + 20 for one in before))
    finally:
        hammer.stop()
        thread.join()
    room.held[0].release()
    assert room.slow[0].read().status == 200


def test_the_first_that_is_free_serves_all(crowd: MakeCrowd) -> None:
    room = crowd()
    room.begin()
    room.held[1].release()
    assert {answer["pid"] for answer in room.read()} == {room.held[1].pid}
    room.held[0].release()
    assert {client.read().status for client in room.slow} == {200}


def test_killed_workers_take_nobody_with_them(crowd: MakeCrowd) -> None:
    room = crowd()
    room.begin()
    for held in room.held:
        psutil.Process(held.pid).kill()
    pids = {answer["pid"] for answer in room.read()}
    assert not pids & {held.pid for held in room.held}
    assert {client.wait_for_end() for client in room.slow} == {b""}
    assert room.server.zombies() == []


def test_a_new_worker_takes_them(crowd: MakeCrowd) -> None:
    """As when the pool grows: it is idle, and has no order."""
    room = crowd("--min-idle", "1", "--max-workers", "3")
    ask_all([*room.clients, *room.slow])
    room.hold(2)
    for client in room.clients:
        client.send()
    assert not {answer["pid"] for answer in room.read()} & {h.pid for h in room.held}
    for held in room.held:
        held.release()


def test_a_reload_takes_them_along(crowd: MakeCrowd) -> None:
    room = crowd()
    room.begin()
    room.server.signal(signal.SIGHUP)
    room.server.wait_for_log("Generation 2 serves")
    assert {answer["generation"] for answer in room.read()} == {2}
    for held in room.held:
        held.release()
    assert {client.read().status for client in room.slow} == {200}


def test_they_are_served_before_the_end(crowd: MakeCrowd) -> None:
    room = crowd()
    room.begin()
    room.server.signal(signal.SIGTERM)
    for held in room.held:
        held.release()
    room.read()
    for client in (*room.clients, *room.slow):
        client.wait_for_end()
    assert room.server.wait() == 0


def test_they_end_with_the_server(crowd: MakeCrowd) -> None:
    """At once, also if a process of the app's holds the queue's ends."""
    room = crowd()
    room.begin()
    room.server.signal(signal.SIGINT)
    room.server.wait()
    assert all(client.has_ended() for client in room.clients)


def test_who_waits_too_long_is_refused(crowd: MakeCrowd) -> None:
    room = crowd(*TWO, "--queue-timeout", "1")
    ask_all([*room.clients, *room.slow])
    room.hold(2)
    for client in room.clients:
        client.send()
    assert {client.read().status for client in room.clients} == {503}
    for held in room.held:
        held.release()
    assert {client.read().status for client in room.slow} == {200}


def test_no_more_than_may_wait(crowd: MakeCrowd) -> None:
    room = crowd(*TWO, "--max-queue", "5")
    # One after the other, because no more than five of them may wait yet either.
    for client in (*room.clients, *room.slow):
        ask_all([client])
    room.hold(2)
    for client in room.clients:
        client.send()
    wait_for(lambda: room.server.state().waiting == 5)
    for held in room.held:
        held.release()
    statuses = [client.read().status for client in room.clients]
    assert statuses == [503] * 15 + [200] * 5


def test_nothing_is_left_open(crowd: MakeCrowd) -> None:
    """Neither in the dispatcher nor in the workers."""
    room = crowd()
    ask_all([*room.clients, *room.slow])
    wait_for(lambda: room.server.state() == ("II", "", 0))
    pids = [room.server.pid, *room.server.workers()]

    def count() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

    before = count()
    turns = itertools.count()
    hammer = Hammer(room.clients)
    hammer.run(lambda: next(turns) > 500)
    wait_for(lambda: room.server.state() == ("II", "", 0))
    wait_for(lambda: count() == before)
