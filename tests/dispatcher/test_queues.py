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

from .waiting import FakeGeneration
from .waiting import Hall
from .waiting import halls
from .waiting import MakeHall

#: Longer than a connection is held back for anybody, or a listener unwatched.
LONG = 0.1


@pytest.fixture
def hall() -> Iterator[MakeHall]:
    yield from halls()


# Accept queues


def test_nobody_connects(hall: MakeHall) -> None:
    room = hall(2)
    assert room.turn() == []
    assert room.is_watched()
    assert room.is_quiet()


def test_as_many_orders_as_connections(hall: MakeHall) -> None:
    room = hall(4)
    room.turn()
    room.listeners[0].arrive(3)
    assert room.turn() == [(0, 0), (1, 0), (2, 0)]
    assert room.turn() == []


def test_a_queue_with_orders_outstanding_is_not_polled(hall: MakeHall) -> None:
    room = hall(3)
    room.turn()
    room.listeners[0].arrive()
    assert room.turn() == [(0, 0)]
    # It is readable until the worker has accepted, so polls would return at once.
    assert not room.is_watched()
    assert room.is_quiet()
    # Who comes meanwhile is seen without being polled.
    room.listeners[0].arrive()
    room.now += LONG
    assert room.turn() == [(1, 0)]
    room.listeners[0].take(2)
    room.generation.busy(0, 1)
    assert room.turn() == []
    assert room.is_watched()
    assert room.is_quiet()


def test_a_full_pool_polls_no_queue(hall: MakeHall) -> None:
    room = hall(1)
    room.turn()
    room.listeners[0].arrive(2)
    assert room.turn() == [(0, 0)]
    room.listeners[0].take()
    room.generation.busy(0)
    assert room.turn() == []
    assert not room.is_watched()
    assert room.queues.deadline() is None, "only a worker can bring news"
    assert room.queues.unanswered(room.generation) == 1  # type: ignore[arg-type]
    room.generation.idle(0)
    assert room.queues.unanswered(room.generation) == 0  # type: ignore[arg-type]
    assert room.turn() == [(0, 0)]


def test_listeners_take_turns(hall: MakeHall) -> None:
    room = hall(1, listeners=3)
    for listener in room.listeners:
        listener.arrive(10)
    served = []
    for _ in range(9):
        ((_, index),) = room.turn()
        assert isinstance(index, int)
        served.append(index)
        room.listeners[index].take()
        room.generation.busy(0)
        room.generation.idle(0)
    assert sorted(served) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert set(served[:3]) == {0, 1, 2}


def test_with_blocking_dispatch_only_parked_connections_are_handed_out(
    hall: MakeHall,
) -> None:
    room = hall(2)
    room.generation.is_ordered = False
    room.listeners[0].arrive()
    _, client = room.park()
    assert room.turn() == []
    client.send(b"G")
    ((slot, connection),) = room.turn()
    assert slot == 0
    assert isinstance(connection, Connection)
    assert not room.is_watched()


def serve_left_behind(room: Hall, *others: FakeGeneration) -> list[object]:
    """What is given to whom once the dispatcher has slept for as long as it would."""
    before = len(room.generation.given)
    for _ in range(2):
        generations = [room.generation, *others]
        room.queues.serve_left_behind(room.generation, generations)  # type: ignore[arg-type]
        deadline = room.queues.deadline()
        if deadline is not None:
            room.now = max(room.now, deadline)
    return [*room.generation.given[before:]]


def test_with_blocking_dispatch_nobody_looks_at_queues(hall: MakeHall) -> None:
    room = hall(2)
    room.generation.is_ordered = False
    assert serve_left_behind(room) == []
    # For the first time: how many have ended is news.
    assert serve_left_behind(room) == []
    room.listeners[0].arrive()
    assert serve_left_behind(room) == []
    assert room.queues.deadline() is None


@pytest.mark.parametrize("can_listen", [True, False])
def test_with_blocking_dispatch_the_end_of_a_listener_is_seen(
    hall: MakeHall,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    can_listen: bool,
) -> None:
    """Even if it couldn't be watched at first, as many descriptors are."""
    room = hall(1)
    room.generation.is_ordered = False
    (listener,) = room.listeners
    watch = room.poller.watch_hang_up

    def refuse(*args: object, **more: object) -> t.NoReturn:
        monkeypatch.setattr(room.poller, "watch_hang_up", watch)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room.poller, "watch_hang_up", refuse)
    room.turn()
    room.turn()
    ours = socket.socket(fileno=os.dup(listener.fd))
    with ours:
        ours.shutdown(socket.SHUT_RDWR)
    listener.is_ended, listener.can_listen = True, can_listen
    room.turn()
    assert listener.events.count("listen") == can_listen
    assert caplog.text.count("shut down the listening socket") == 1
    listener.is_ended = False
    room.turn()
    # Nobody polls what is useless from now on.
    assert bool(room.poller.wait(0)) is can_listen


@pytest.mark.parametrize("event", [Event.RETIRE, Event.EXIT])
def test_what_a_blocking_worker_was_woken_for_and_left_behind(
    hall: MakeHall, event: Event
) -> None:
    room = hall(2, listeners=2)
    room.generation.is_ordered = False
    serve_left_behind(room)
    serve_left_behind(room)
    room.listeners[1].arrive()
    assert room.generation.pool.report(room.generation.workers[0], event, 0.0)
    assert serve_left_behind(room) == [(1, 1)]
    # Ordered once, though it hasn't accepted yet.
    assert serve_left_behind(room) == []


def test_what_was_left_behind_is_the_next_generations(hall: MakeHall) -> None:
    room = hall(1)
    room.generation.is_ordered = False
    before = FakeGeneration(1)
    before.number = 0
    serve_left_behind(room, before)
    serve_left_behind(room, before)
    room.listeners[0].arrive()
    assert before.pool.report(before.workers[0], Event.RETIRE, 0.0)
    assert serve_left_behind(room, before) == [(0, 0)]
    assert before.given == []
    room.listeners[0].take()
    room.generation.busy(0)
    # It is looked at until the last one has ended, and once more then.
    assert room.queues.deadline() is not None
    assert before.pool.report(before.workers[0], Event.EXIT, 0.0)
    serve_left_behind(room)
    serve_left_behind(room)
    assert room.queues.deadline() is None


# Holding back


def test_a_connection_is_kept_for_a_worker_that_is_about_to_accept(
    hall: MakeHall,
) -> None:
    room = hall(3)
    room.turn()
    room.generation.order(1, 0)
    room.generation.busy(0)
    room.generation.ends = b"\x07"
    room.listeners[0].arrive()
    assert room.turn() == []
    assert not room.is_watched(), "polls would return at once"
    assert room.is_quiet()
    room.listeners[0].take()  # slot 0 has it
    room.generation.ends = b"\0"
    room.now += LONG
    assert room.turn() == []
    assert room.is_watched()


def test_only_for_a_moment(hall: MakeHall) -> None:
    room = hall(3)
    room.turn()
    room.generation.order(1, 0)
    room.generation.busy(0)
    room.generation.ends = b"\x07"
    room.listeners[0].arrive()
    assert room.turn() == []
    deadline = room.queues.deadline()
    assert deadline is not None
    room.now = deadline
    assert room.turn() == [(1, 0)]


def test_a_worker_that_ends_one_after_another_is_waited_for_anew(
    hall: MakeHall,
) -> None:
    room = hall(2)
    room.turn()
    room.generation.order(1, 0)
    room.generation.busy(0)
    room.listeners[0].arrive()
    for ending in range(1, 6):
        room.generation.ends = bytes([ending])
        assert room.turn() == []
        deadline = room.queues.deadline()
        assert deadline is not None
        room.now = (room.now + deadline) / 2


def test_only_as_many_are_held_back_as_workers_are_about_to_accept(
    hall: MakeHall,
) -> None:
    room = hall(4)
    room.turn()
    room.generation.order(2, 0)
    room.generation.busy(0, 1)
    room.generation.ends = b"\x01\0"
    room.listeners[0].arrive(2)
    assert room.turn() == [(2, 0)]
