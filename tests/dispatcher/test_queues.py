"""The accept queues: who is ordered, and what is polled meanwhile."""

from __future__ import annotations

import errno
import os
import socket
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.ipc.parked_connections import Connection
from flask_prefork.ipc.states import Event

from .queues_world import FakeGeneration
from .queues_world import MakeWorld
from .queues_world import World
from .queues_world import worlds

#: Longer than a connection is held back for anybody, or a listener unwatched.
LONG = 0.1


@pytest.fixture
def make_world() -> Iterator[MakeWorld]:
    yield from worlds()


# Accept queues


def test_nobody_connects(make_world: MakeWorld) -> None:
    world = make_world(2)
    assert world.turn() == []
    assert world.is_watched()
    assert world.is_quiet()


def test_as_many_orders_as_connections(make_world: MakeWorld) -> None:
    world = make_world(4)
    world.turn()
    world.listeners[0].arrive(3)
    assert world.turn() == [(0, 0), (1, 0), (2, 0)]
    assert world.turn() == []


def test_a_queue_with_orders_outstanding_is_not_polled(make_world: MakeWorld) -> None:
    world = make_world(3)
    world.turn()
    world.listeners[0].arrive()
    assert world.turn() == [(0, 0)]
    # It is readable until the worker has accepted, so polls would return at once.
    assert not world.is_watched()
    assert world.is_quiet()
    # Who comes meanwhile is seen without being polled.
    world.listeners[0].arrive()
    world.now += LONG
    assert world.turn() == [(1, 0)]
    world.listeners[0].take(2)
    world.generation.busy(0, 1)
    assert world.turn() == []
    assert world.is_watched()
    assert world.is_quiet()


def test_a_full_pool_polls_no_queue(make_world: MakeWorld) -> None:
    world = make_world(1)
    world.turn()
    world.listeners[0].arrive(2)
    assert world.turn() == [(0, 0)]
    world.listeners[0].take()
    world.generation.busy(0)
    assert world.turn() == []
    assert not world.is_watched()
    assert world.queues.deadline() is None, "only a worker can bring news"
    assert world.queues.unanswered(world.generation) == 1  # type: ignore[arg-type]
    world.generation.idle(0)
    assert world.queues.unanswered(world.generation) == 0  # type: ignore[arg-type]
    assert world.turn() == [(0, 0)]


def test_listeners_take_turns(make_world: MakeWorld) -> None:
    world = make_world(1, listeners=3)
    for listener in world.listeners:
        listener.arrive(10)
    served = []
    for _ in range(9):
        ((_, index),) = world.turn()
        assert isinstance(index, int)
        served.append(index)
        world.listeners[index].take()
        world.generation.busy(0)
        world.generation.idle(0)
    assert sorted(served) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert set(served[:3]) == {0, 1, 2}


def test_with_blocking_dispatch_only_parked_connections_are_handed_out(
    make_world: MakeWorld,
) -> None:
    world = make_world(2)
    world.generation.is_ordered = False
    world.listeners[0].arrive()
    _, client = world.park()
    assert world.turn() == []
    client.send(b"G")
    ((slot, connection),) = world.turn()
    assert slot == 0
    assert isinstance(connection, Connection)
    assert not world.is_watched()


def serve_left_behind(world: World, *others: FakeGeneration) -> list[object]:
    """What is given to whom once the dispatcher has slept for as long as it would."""
    before = len(world.generation.given)
    for _ in range(2):
        generations = [world.generation, *others]
        world.queues.serve_left_behind(world.generation, generations)  # type: ignore[arg-type]
        deadline = world.queues.deadline()
        if deadline is not None:
            world.now = max(world.now, deadline)
    return [*world.generation.given[before:]]


def test_with_blocking_dispatch_nobody_looks_at_queues(make_world: MakeWorld) -> None:
    world = make_world(2)
    world.generation.is_ordered = False
    assert serve_left_behind(world) == []
    # For the first time: how many have ended is news.
    assert serve_left_behind(world) == []
    world.listeners[0].arrive()
    assert serve_left_behind(world) == []
    assert world.queues.deadline() is None


@pytest.mark.parametrize("can_listen", [True, False])
def test_with_blocking_dispatch_the_end_of_a_listener_is_seen(
    make_world: MakeWorld,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    can_listen: bool,
) -> None:
    """Even if it couldn't be watched at first, as many descriptors are."""
    world = make_world(1)
    world.generation.is_ordered = False
    (listener,) = world.listeners
    watch = world.poller.watch_hang_up

    def refuse(*args: object, **more: object) -> t.NoReturn:
        monkeypatch.setattr(world.poller, "watch_hang_up", watch)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(world.poller, "watch_hang_up", refuse)
    world.turn()
    world.turn()
    ours = socket.socket(fileno=os.dup(listener.fd))
    with ours:
        ours.shutdown(socket.SHUT_RDWR)
    listener.is_ended, listener.can_listen = True, can_listen
    world.turn()
    assert listener.events.count("listen") == can_listen
    assert caplog.text.count("shut down the listening socket") == 1
    listener.is_ended = False
    world.turn()
    # Nobody polls what is useless from now on.
    assert bool(world.poller.wait(0)) is can_listen


@pytest.mark.parametrize("event", [Event.RETIRE, Event.EXIT])
def test_what_a_blocking_worker_was_woken_for_and_left_behind(
    make_world: MakeWorld, event: Event
) -> None:
    world = make_world(2, listeners=2)
    world.generation.is_ordered = False
    serve_left_behind(world)
    serve_left_behind(world)
    world.listeners[1].arrive()
    assert world.generation.pool.report(world.generation.workers[0], event, 0.0)
    assert serve_left_behind(world) == [(1, 1)]
    # Ordered once, though it hasn't accepted yet.
    assert serve_left_behind(world) == []


def test_what_was_left_behind_is_the_next_generations(make_world: MakeWorld) -> None:
    world = make_world(1)
    world.generation.is_ordered = False
    before = FakeGeneration(1)
    before.number = 0
    serve_left_behind(world, before)
    serve_left_behind(world, before)
    world.listeners[0].arrive()
    assert before.pool.report(before.workers[0], Event.RETIRE, 0.0)
    assert serve_left_behind(world, before) == [(0, 0)]
    assert before.given == []
    world.listeners[0].take()
    world.generation.busy(0)
    # It is looked at until the last one has ended, and once more then.
    assert world.queues.deadline() is not None
    assert before.pool.report(before.workers[0], Event.EXIT, 0.0)
    serve_left_behind(world)
    serve_left_behind(world)
    assert world.queues.deadline() is None


# Holding back


def test_a_connection_is_kept_for_a_worker_that_is_about_to_accept(
    make_world: MakeWorld,
) -> None:
    world = make_world(3)
    world.turn()
    world.generation.order(1, 0)
    world.generation.busy(0)
    world.generation.ends = b"\x07"
    world.listeners[0].arrive()
    assert world.turn() == []
    assert not world.is_watched(), "polls would return at once"
    assert world.is_quiet()
    world.listeners[0].take()  # slot 0 has it
    world.generation.ends = b"\0"
    world.now += LONG
    assert world.turn() == []
    assert world.is_watched()


def test_only_for_a_moment(make_world: MakeWorld) -> None:
    world = make_world(3)
    world.turn()
    world.generation.order(1, 0)
    world.generation.busy(0)
    world.generation.ends = b"\x07"
    world.listeners[0].arrive()
    assert world.turn() == []
    deadline = world.queues.deadline()
    assert deadline is not None
    world.now = deadline
    assert world.turn() == [(1, 0)]


def test_a_worker_that_ends_one_after_another_is_waited_for_anew(
    make_world: MakeWorld,
) -> None:
    world = make_world(2)
    world.turn()
    world.generation.order(1, 0)
    world.generation.busy(0)
    world.listeners[0].arrive()
    for ending in range(1, 6):
        world.generation.ends = bytes([ending])
        assert world.turn() == []
        deadline = world.queues.deadline()
        assert deadline is not None
        world.now = (world.now + deadline) / 2


def test_only_as_many_are_held_back_as_workers_are_about_to_accept(
    make_world: MakeWorld,
) -> None:
    world = make_world(4)
    world.turn()
    world.generation.order(2, 0)
    world.generation.busy(0, 1)
    world.generation.ends = b"\x01\0"
    world.listeners[0].arrive(2)
    assert world.turn() == [(2, 0)]
