"""Connections that wait for a permit of their route's limit."""

from __future__ import annotations

import socket
import struct
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.ipc.parked_connections import Connection
from flask_prefork.settings.limits import RouteLimit
from flask_prefork.settings.table import resolve
from flask_prefork.system.parked_state import Wait

from .waiting import Hall
from .waiting import halls
from .waiting import has_ended
from .waiting import MakeHall

LIMITS = (RouteLimit("/a", 1), RouteLimit("/b", 2, queue_timeout=5.0))


@pytest.fixture
def hall() -> Iterator[MakeHall]:
    yield from halls()


def configure(room: Hall, *limits: RouteLimit, queue_timeout: float = 0.0) -> None:
    settings = resolve({"queue_timeout": queue_timeout})
    object.__setattr__(settings, "limits", limits)
    room.generation.settings = settings


def park(room: Hall, number: int = 1, arrived: float = 0.0) -> tuple[int, t.Any]:
    moment = arrived or room.now
    return room.park(
        Wait.PERMIT, have=20, arrived=moment, limit=number, name=LIMITS[number - 1].name
    )


def served(room: Hall) -> list[tuple[int, int]]:
    """Who is given what in a turn: a worker's slot and a connection's descriptor."""
    return [(n, one.fd) for n, one in room.turn() if isinstance(one, Connection)]


def test_one_at_a_time(hall: MakeHall) -> None:
    room = hall(3)
    configure(room, *LIMITS)
    (first, _), (second, _), (third, _) = park(room), park(room), park(room)
    assert served(room) == [(0, first)]
    assert served(room) == []
    room.take(0)
    assert served(room) == []
    room.queues.release_permit("worker 0")
    assert served(room) == [(1, second)]
    assert len(room.queues.permits) == 1
    assert not room.queues.is_served(room.generation)  # type: ignore[arg-type]
    assert third


def test_who_waits_for_a_permit_keeps_nobody_else_waiting(hall: MakeHall) -> None:
    room = hall(2)
    configure(room, *LIMITS)
    first, _ = park(room)
    park(room)
    other, _ = room.park(Wait.WORKER, have=5, arrived=room.now)
    assert {fd for _, fd in served(room)} == {first, other}
    assert room.generation.told[-1:] == [False]
    assert room.queues.unanswered(room.generation) == 0  # type: ignore[arg-type]


def test_who_has_waited_longer_comes_first(hall: MakeHall) -> None:
    room = hall(1)
    configure(room, *LIMITS)
    later, _ = room.park(Wait.WORKER, have=5, arrived=room.now)
    earlier, _ = park(room, arrived=room.now - 1)
    assert served(room) == [(0, earlier)]
    room.generation.busy(0)
    room.generation.idle(0)
    assert served(room) == [(0, later)]


def test_who_has_a_permit_is_not_refused(hall: MakeHall) -> None:
    """It waits for a worker by its route's queue timeout, and comes first."""
    room = hall(1)
    configure(room, RouteLimit("/a", 1, queue_timeout=30.0), queue_timeout=1.0)
    room.generation.pool.order(1, 0.0)
    room.generation.busy(0)
    room.park(Wait.WORKER, have=5, arrived=room.now - 10)
    first, _ = park(room, arrived=room.now - 5)
    served(room)
    room.now += 1
    served(room)
    room.now += 1
    assert [one.fd for one in room.queues.parked.granted] == [first]
    assert not room.queues.parked.ready, "who has none was refused"
    room.generation.idle(0)
    assert served(room) == [(0, first)]


def test_nobody_waits_for_a_permit_without_descriptors(hall: MakeHall) -> None:
    room = hall(1, descriptors=65)
    configure(room, *LIMITS)
    park(room)
    served(room)
    _, second = park(room)
    _, third = park(room)
    assert not has_ended(second)
    assert third.recv(12) == b"HTTP/1.1 503"
    assert room.queues.permits.rows()[0].refused == 1


def test_a_client_that_has_left(hall: MakeHall) -> None:
    room = hall(1)
    configure(room, *LIMITS)
    park(room)
    room.turn()
    _, client = park(room)
    assert room.queues.permits.rows()[0].waiting == 1
    client.close()
    room.turn()
    assert room.queues.permits.rows()[0][2:] == (1, 0, 0)


def test_a_client_that_only_sends_no_more_is_served(hall: MakeHall) -> None:
    room = hall(2)
    configure(room, *LIMITS)
    park(room)
    room.turn()
    fd, client = park(room)
    client.shutdown(socket.SHUT_WR)
    assert served(room) == []
    assert not has_ended(client)
    room.take(0)
    room.queues.release_permit("worker 0")
    assert served(room) == [(1, fd)]


def test_a_reset_over_tcp(hall: MakeHall) -> None:
    room = hall(1)
    configure(room, *LIMITS)
    park(room)
    room.turn()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
    room.listeners[0].sock = connection
    room.queues.listeners = room.listeners  # type: ignore[assignment]
    client.sendall(b"GET")
    limit = LIMITS[0].name
    state = room.state(Wait.PERMIT, have=3, arrived=room.now, limit=1)
    room.queues.park(connection.detach(), 0, state, -1, limit)
    assert len(room.queues.permits) == 1
    linger = struct.pack("ii", 1, 0)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.close()
    room.turn()
    assert len(room.queues.permits) == 0


def test_the_end(hall: MakeHall) -> None:
    room = hall(1)
    configure(room, *LIMITS)
    park(room)
    _, client = park(room)
    room.turn()
    room.queues.close()
    assert has_ended(client)
    assert len(room.queues.permits) == 0


def test_a_reload_without_the_limit(hall: MakeHall) -> None:
    room = hall(2)
    configure(room, *LIMITS)
    park(room)
    room.turn()
    fd, _ = park(room)
    assert served(room) == []
    configure(room)
    assert served(room) == [(1, fd)]


def test_who_cannot_be_parked_asks(hall: MakeHall) -> None:
    room = hall(2)
    configure(room, *LIMITS)
    room.turn()
    assert room.queues.ask_for_permit("one", "/a")
    assert not room.queues.ask_for_permit("two", "/a")
    room.queues.release_permit("one")
    assert room.queues.ask_for_permit("two", "/a")
