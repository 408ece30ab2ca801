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

from .queues_world import has_ended
from .queues_world import MakeWorld
from .queues_world import World
from .queues_world import worlds

LIMITS = (RouteLimit("/a", 1), RouteLimit("/b", 2, queue_timeout=5.0))


@pytest.fixture
def make_world() -> Iterator[MakeWorld]:
    yield from worlds()


def configure(world: World, *limits: RouteLimit, queue_timeout: float = 0.0) -> None:
    settings = resolve({"queue_timeout": queue_timeout})
    object.__setattr__(settings, "limits", limits)
    world.generation.settings = settings


def park(world: World, number: int = 1, arrived: float = 0.0) -> tuple[int, t.Any]:
    moment = arrived or world.now
    return world.park(
        Wait.PERMIT, have=20, arrived=moment, limit=number, name=LIMITS[number - 1].name
    )


def served(world: World) -> list[tuple[int, int]]:
    """Who is given what in a turn: a worker's slot and a connection's descriptor."""
    return [(n, one.fd) for n, one in world.turn() if isinstance(one, Connection)]


def test_one_at_a_time(make_world: MakeWorld) -> None:
    world = make_world(3)
    configure(world, *LIMITS)
    (first, _), (second, _), (third, _) = park(world), park(world), park(world)
    assert served(world) == [(0, first)]
    assert served(world) == []
    world.take(0)
    assert served(world) == []
    world.queues.release_permit("worker 0")
    assert served(world) == [(1, second)]
    assert len(world.queues.permits) == 1
    assert not world.queues.is_served(world.generation)  # type: ignore[arg-type]
    assert third


def test_who_waits_for_a_permit_keeps_nobody_else_waiting(
    make_world: MakeWorld,
) -> None:
    world = make_world(2)
    configure(world, *LIMITS)
    first, _ = park(world)
    park(world)
    other, _ = world.park(Wait.WORKER, have=5, arrived=world.now)
    assert {fd for _, fd in served(world)} == {first, other}
    assert world.generation.told[-1:] == [False]
    assert world.queues.unanswered(world.generation) == 0  # type: ignore[arg-type]


def test_who_has_waited_longer_comes_first(make_world: MakeWorld) -> None:
    world = make_world(1)
    configure(world, *LIMITS)
    later, _ = world.park(Wait.WORKER, have=5, arrived=world.now)
    earlier, _ = park(world, arrived=world.now - 1)
    assert served(world) == [(0, earlier)]
    world.generation.busy(0)
    world.generation.idle(0)
    assert served(world) == [(0, later)]


def test_who_has_a_permit_is_not_refused(make_world: MakeWorld) -> None:
    """It waits for a worker by its route's queue timeout, and comes first."""
    world = make_world(1)
    configure(world, RouteLimit("/a", 1, queue_timeout=30.0), queue_timeout=1.0)
    world.generation.pool.order(1, 0.0)
    world.generation.busy(0)
    world.park(Wait.WORKER, have=5, arrived=world.now - 10)
    first, _ = park(world, arrived=world.now - 5)
    served(world)
    world.now += 1
    served(world)
    world.now += 1
    assert [one.fd for one in world.queues.parked.granted] == [first]
    assert not world.queues.parked.ready, "who has none was refused"
    world.generation.idle(0)
    assert served(world) == [(0, first)]


def test_nobody_waits_for_a_permit_without_descriptors(make_world: MakeWorld) -> None:
    world = make_world(1, descriptors=65)
    configure(world, *LIMITS)
    park(world)
    served(world)
    _, second = park(world)
    _, third = park(world)
    assert not has_ended(second)
    assert third.recv(12) == b"HTTP/1.1 503"
    assert world.queues.permits.rows()[0].refused == 1


def test_a_client_that_has_left(make_world: MakeWorld) -> None:
    world = make_world(1)
    configure(world, *LIMITS)
    park(world)
    world.turn()
    _, client = park(world)
    assert world.queues.permits.rows()[0].waiting == 1
    client.close()
    world.turn()
    assert world.queues.permits.rows()[0][2:] == (1, 0, 0)


def test_a_client_that_only_sends_no_more_is_served(make_world: MakeWorld) -> None:
    world = make_world(2)
    configure(world, *LIMITS)
    park(world)
    world.turn()
    fd, client = park(world)
    client.shutdown(socket.SHUT_WR)
    assert served(world) == []
    assert not has_ended(client)
    world.take(0)
    world.queues.release_permit("worker 0")
    assert served(world) == [(1, fd)]


def test_a_reset_over_tcp(make_world: MakeWorld) -> None:
    world = make_world(1)
    configure(world, *LIMITS)
    park(world)
    world.turn()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
    world.listeners[0].sock = connection
    world.queues.listeners = world.listeners  # type: ignore[assignment]
    client.sendall(b"GET")
    limit = LIMITS[0].name
    state = world.state(Wait.PERMIT, have=3, arrived=world.now, limit=1)
    world.queues.park(connection.detach(), 0, state, -1, limit)
    assert len(world.queues.permits) == 1
    linger = struct.pack("ii", 1, 0)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.close()
    world.turn()
    assert len(world.queues.permits) == 0


def test_the_end(make_world: MakeWorld) -> None:
    world = make_world(1)
    configure(world, *LIMITS)
    park(world)
    _, client = park(world)
    world.turn()
    world.queues.close()
    assert has_ended(client)
    assert len(world.queues.permits) == 0


def test_a_reload_without_the_limit(make_world: MakeWorld) -> None:
    world = make_world(2)
    configure(world, *LIMITS)
    park(world)
    world.turn()
    fd, _ = park(world)
    assert served(world) == []
    configure(world)
    assert served(world) == [(1, fd)]


def test_who_cannot_be_parked_asks(make_world: MakeWorld) -> None:
    world = make_world(2)
    configure(world, *LIMITS)
    world.turn()
    assert world.queues.ask_for_permit("one", "/a")
    assert not world.queues.ask_for_permit("two", "/a")
    world.queues.release_permit("one")
    assert world.queues.ask_for_permit("two", "/a")
