"""Parked connections: whose turn it is, who is given up, and when all are served."""

from __future__ import annotations

import math
import os
import socket
import tempfile
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.dispatcher import parking
from flask_prefork.ipc.parked_connections import Connection
from flask_prefork.ipc.states import Event
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Size
from flask_prefork.system.parked_state import Wait

from .waiting import Hall
from .waiting import halls
from .waiting import has_ended
from .waiting import is_open
from .waiting import MakeHall

#: Longer than a connection is held back for anybody, or a listener unwatched.
LONG = 0.1
#: A bit above what deadlines are precise to.
LATE = 0.051


@pytest.fixture
def hall() -> Iterator[MakeHall]:
    yield from halls()


# Parked connections


def test_one_that_speaks_again_goes_to_the_lowest_idle_worker(hall: MakeHall) -> None:
    room = hall(2)
    fd, client = room.park(have=0)
    assert room.turn() == []
    client.send(b"G")
    ((slot, connection),) = room.turn()
    assert slot == 0
    assert isinstance(connection, Connection)
    assert connection.fd == fd
    assert not room.poller.is_watched(fd)
    assert room.is_quiet()


def test_one_that_ends_is_woken_too(hall: MakeHall) -> None:
    room = hall(1)
    _, client = room.park()
    client.close()
    assert len(room.turn()) == 1


def test_one_that_was_woken_for_nothing_rests(hall: MakeHall) -> None:
    room = hall(1)
    fd, client = room.park(Wait.HEAD, wakes=1, have=3)
    client.send(b"GET")
    assert room.turn() == []
    assert not room.poller.is_watched(fd)
    room.now += LONG
    assert room.turn() == []
    assert room.poller.is_watched(fd)
    assert len(room.turn()) == 1


def test_an_idle_one_is_closed_at_its_deadline(hall: MakeHall) -> None:
    room = hall(1)
    fd, client = room.park(seconds=15)
    room.now += 14.9
    room.turn()
    assert not has_ended(client)
    room.now += 0.1 + LATE
    assert room.turn() == []
    assert has_ended(client)
    assert not room.poller.is_watched(fd)


def test_a_late_head_goes_to_a_worker_and_is_not_polled_any_more(
    hall: MakeHall,
) -> None:
    room = hall(1)
    fd, client = room.park(Wait.HEAD, have=3, seconds=10)
    room.turn()
    room.now += 10 + LATE
    ((_, connection),) = room.turn()
    assert isinstance(connection, Connection)
    assert not room.poller.is_watched(fd)
    # The worker holds the same socket: news on it is none for the dispatcher.
    client.send(b"more")
    assert room.is_quiet()


def test_while_nobody_is_idle_ready_ones_are_for_any_worker(hall: MakeHall) -> None:
    room = hall(1)
    room.park(Wait.WORKER, have=5)
    room.park(Wait.WORKER, have=6)
    assert len(room.turn()) == 1
    assert room.generation.has_ready
    assert room.generation.told[-1] is False, "they don't wait for a report"
    assert room.queues.unanswered(room.generation) == 1  # type: ignore[arg-type]
    room.generation.busy(0)
    assert room.turn() == []
    assert room.generation.has_ready
    room.generation.idle(0)
    ((_, given),) = room.turn()
    assert isinstance(given, Connection) and given.state.have == 6
    assert not room.generation.has_ready


def test_who_was_taken_from_the_ready_queue_waits_no_more(hall: MakeHall) -> None:
    room = hall(1)
    for have in (5, 6, 7):
        room.park(Wait.WORKER, have=have)
    room.turn()
    room.generation.busy(0)
    taken = room.queues.ready_queue.take()
    assert taken is not None and taken[0].parked.have == 6
    os.close(taken[1])
    assert room.queues.unanswered(room.generation) == 1  # type: ignore[arg-type]
    assert room.queues.all_waiting() == 1
    room.turn()
    assert room.generation.has_ready
    taken = room.queues.ready_queue.take()
    assert taken is not None and taken[0].parked.have == 7
    os.close(taken[1])
    room.turn()
    assert not room.generation.has_ready


def test_new_connections_come_before_the_ready_queue(hall: MakeHall) -> None:
    """Whoever is done with them goes on with that, and not the other way round."""
    room = hall(1)
    for _ in range(3):
        room.park(Wait.WORKER, have=5)
    room.turn()
    room.listeners[0].arrive()
    for given in (0, None):
        room.generation.busy(0)
        room.generation.idle(0)
        ((_, found),) = room.turn()
        assert found == given if given is not None else isinstance(found, Connection)
        if given == 0:
            room.listeners[0].take()
            assert len(room.queues.ready_queue) == 2, "nobody lost its place"
    assert len(room.queues.ready_queue) == 1


def test_garbage_in_the_ready_queue_keeps_nobody_waiting(hall: MakeHall) -> None:
    """The first is no connection; the next one is for who is idle."""
    room = hall(1)
    for have in (5, 6):
        room.park(Wait.WORKER, have=have)
    room.turn()
    room.generation.busy(0)
    with open(os.devnull) as file:
        state = room.state(Wait.WORKER, have=9)
        assert room.queues.ready_queue.put(file.fileno(), 0, state)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        spooled = state._replace(wait=Wait.BODY, spooled=Size(1))
        for listener, wrong in ((0, spooled), (5, state)):
            assert room.queues.ready_queue.put(ours.fileno(), listener, wrong)
    first = room.queues.ready_queue.take()
    assert first is not None
    assert room.queues.ready_queue.put(first[1], 0, first[0].parked)
    os.close(first[1])
    room.generation.idle(0)
    ((_, given),) = room.turn()
    assert isinstance(given, Connection) and given.state.have == 6


def test_those_that_find_no_room_need_no_report(hall: MakeHall) -> None:
    room = hall(1, descriptors=5000)
    while not room.queues.parked.ready:
        for _ in range(100):
            room.park(Wait.WORKER, have=5)
        room.turn()
    assert room.generation.has_ready
    assert room.generation.told[-1] is False


def test_a_ready_queue_that_takes_nobody_is_of_no_use(
    hall: MakeHall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app has shut it down, say: workers have to report."""
    room = hall(1)
    monkeypatch.setattr(room.queues.ready_queue, "put", lambda *args: False)
    for _ in range(2):
        room.park(Wait.WORKER, have=5)
    room.turn()
    assert not room.generation.has_ready
    assert room.generation.told[-1] is True


def test_who_was_put_there_in_the_last_moment(
    hall: MakeHall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a worker that saw the flag, just before it was cleared."""
    room = hall(2)
    for _ in range(3):
        room.park(Wait.WORKER, have=5)
    room.turn()
    room.generation.busy(0, 1)
    taken = room.queues.ready_queue.take()
    assert taken is not None
    frame, fd = taken
    set_ready = room.generation.set_ready

    def set_late(ready: bool) -> bool:
        if not ready and room.generation.has_ready:
            assert room.queues.ready_queue.put(fd, 0, frame.parked)
            room.queues.ready_queue.count = 0
        return set_ready(ready)

    monkeypatch.setattr(room.generation, "set_ready", set_late)
    room.generation.idle(1)
    assert room.turn() == []
    os.close(fd)
    assert room.generation.has_ready and not room.is_quiet()
    ((slot, given),) = room.turn()
    assert slot == 1 and isinstance(given, Connection)


def test_whom_the_dispatcher_accounts_for_waits_for_a_report(hall: MakeHall) -> None:
    """Who has a spool is not for any worker, and nor are those behind it."""
    room = hall(1)
    for _ in range(2):
        room.park(Wait.WORKER, have=5)
    room.queues.parked.ready[1].spool = os.open(os.devnull, os.O_RDONLY)
    room.park(Wait.WORKER, have=6)
    assert len(room.turn()) == 1
    assert not room.generation.has_ready
    assert room.generation.told[-1] is True
    for _ in range(2):
        room.generation.busy(0)
        room.generation.idle(0)
        assert len(room.turn()) == 1
    assert room.generation.told[-1] is False


def test_the_ready_queue_is_part_of_what_is_served_at_the_end(hall: MakeHall) -> None:
    room = hall(1)
    for _ in range(2):
        room.park(Wait.WORKER, have=5)
    room.turn()
    room.generation.busy(0)
    room.generation.looks = False
    assert not room.queues.is_served(room.generation)  # type: ignore[arg-type]
    taken = room.queues.ready_queue.take()
    assert taken is not None
    os.close(taken[1])
    assert room.queues.is_served(room.generation)  # type: ignore[arg-type]


def test_a_callback_of_a_closed_one_does_nothing(hall: MakeHall) -> None:
    room = hall(1)
    _, client = room.park(seconds=5)
    client.send(b"G")
    callbacks = room.poller.wait(0)
    room.now += 5 + LATE
    room.queues.dispatch(room.generation)  # type: ignore[arg-type]
    for callback in callbacks:
        callback()
    assert room.turn() == []


def test_one_whose_worker_died_is_the_next_ones_at_once(hall: MakeHall) -> None:
    room = hall(2)
    _, first = room.park(Wait.WORKER, have=5)
    room.park(Wait.WORKER, have=5)
    room.park(Wait.WORKER, have=5)
    (_, taken), _ = room.turn()
    assert isinstance(taken, Connection)
    room.generation.pool.report(room.generation.workers[0], Event.EXIT, 0.0)
    room.queues.put_back(taken)
    room.generation.busy(1)
    room.generation.idle(1)
    assert room.turn() == [(1, taken)], "before those that came later"
    assert not has_ended(first)


# Turns


def serve_one(room: Hall) -> int | Connection:
    """The only worker serves what it is given, and is idle again."""
    ((_, given),) = room.turn()
    if isinstance(given, int):
        room.listeners[given].take()
    room.generation.busy(0)
    room.generation.idle(0)
    return given


def take_ready(room: Hall) -> bool:
    """Let a worker take the next connection from the ready queue, as it does after an
    order.

    :return: Whether there was one.
    """
    taken = room.queues.ready_queue.take()
    if taken is not None:
        os.close(taken[1])
    return taken is not None


@pytest.mark.parametrize("slot_by_slot", [True, False])
def test_new_and_parked_connections_take_turns(
    hall: MakeHall, slot_by_slot: bool
) -> None:
    room = hall(1 if slot_by_slot else 12)
    room.listeners[0].arrive(6)
    for _ in range(6):
        room.park(Wait.WORKER, have=1)
    if slot_by_slot:
        kinds = []
        while len(kinds) < 12:
            kinds.append(isinstance(serve_one(room), Connection))
            if not kinds[-1] and take_ready(room):
                kinds.append(True)
    else:
        kinds = [isinstance(what, Connection) for _, what in room.turn()]
    assert kinds.count(True) == 6
    for first, second in zip(kinds[::2], kinds[1::2], strict=True):
        assert first is not second


def test_busy_parked_connections_do_not_starve_the_accept_queue(
    hall: MakeHall,
) -> None:
    room = hall(1)
    room.park(Wait.WORKER, have=1)
    room.listeners[0].arrive(5)
    accepted = 0
    for _ in range(10):
        given = serve_one(room)
        if isinstance(given, Connection):
            # It has had its slice and has its next request there already.
            room.park(Wait.WORKER, have=1)
        else:
            accepted += 1
    assert accepted == 5


def test_a_full_accept_queue_does_not_starve_parked_connections(
    hall: MakeHall,
) -> None:
    room = hall(1)
    room.listeners[0].arrive(1)
    for _ in range(5):
        room.park(Wait.WORKER, have=1)
    resumed = 0
    for _ in range(5):
        if isinstance(serve_one(room), Connection):
            resumed += 1
        else:
            room.listeners[0].arrive(1)
        resumed += take_ready(room)
    assert resumed == 5


def test_without_new_connections_parked_ones_take_every_turn(hall: MakeHall) -> None:
    room = hall(4)
    for _ in range(4):
        room.park(Wait.WORKER, have=1)
    assert len(room.turn()) == 4


# Descriptors


@pytest.fixture
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "_RESERVE", 2)


@pytest.mark.usefixtures("small_reserve")
def test_the_longest_idle_are_closed_when_descriptors_run_out(
    hall: MakeHall, caplog: pytest.LogCaptureFixture
) -> None:
    room = hall(1, descriptors=6)
    _, head = room.park(Wait.HEAD, have=1)
    clients = [room.park()[1] for _ in range(8)]
    assert [has_ended(client) for client in clients] == [True] * 5 + [False] * 3
    assert not has_ended(head), "its request has begun"
    assert len(room.queues.parked) == 4
    assert caplog.text.count("connections that wait, the limit is 6") == 1


@pytest.mark.parametrize(
    ("reserved", "told"), [(864, False), (873, True), (1200, True)]
)
def test_a_low_limit_of_descriptors(
    hall: MakeHall, caplog: pytest.LogCaptureFixture, reserved: int, told: int
) -> None:
    room = hall(1, descriptors=1000)
    for _ in range(2):
        room.queues.reserve(reserved)
    room_left = max(1000 - 64 - reserved, 0)
    line = f"Only {room_left} connections can wait without a worker: of 1000 desc"
    assert caplog.text.count(line) == told


@pytest.mark.usefixtures("small_reserve")
def test_begun_requests_are_given_up_last(hall: MakeHall) -> None:
    room = hall(1, descriptors=4)
    _, first = room.park(Wait.HEAD, have=1)
    _, idle = room.park()
    _, second = room.park(Wait.HEAD, have=1)
    assert [has_ended(c) for c in (first, idle, second)] == [False, True, False]
    room.park()
    assert has_ended(first)


@pytest.mark.usefixtures("small_reserve")
def test_ready_ones_are_never_given_up(hall: MakeHall) -> None:
    room = hall(1, descriptors=3)
    clients = [room.park(Wait.WORKER, have=1)[1] for _ in range(5)]
    assert not any(has_ended(client) for client in clients)
    assert len(room.queues.parked) == 5


@pytest.mark.usefixtures("small_reserve")
def test_descriptors_may_be_kept_free_for_others(hall: MakeHall) -> None:
    room = hall(1, descriptors=20)
    room.queues.reserve(14)
    clients = [room.park()[1] for _ in range(6)]
    assert [has_ended(client) for client in clients] == [True] * 2 + [False] * 4


@pytest.mark.usefixtures("small_reserve")
def test_room_is_made_as_soon_as_others_need_it(hall: MakeHall) -> None:
    """Before they are opened, not when the next connection is parked."""
    room = hall(1, descriptors=20)
    room.queues.reserve(8)
    clients = [room.park()[1] for _ in range(9)]
    assert not any(has_ended(client) for client in clients)
    room.queues.reserve(12)
    assert [has_ended(client) for client in clients] == [True] * 4 + [False] * 5
    room.queues.reserve(8)
    clients += [room.park()[1] for _ in range(4)]
    assert not any(has_ended(client) for client in clients[4:])


# The end


def test_is_served_when_nobody_waits(hall: MakeHall) -> None:
    room = hall(1)
    generation: t.Any = room.generation
    assert room.queues.is_served(generation)
    room.park()
    room.now += 1
    assert room.queues.is_served(generation), "no request has begun on it"

    room.listeners[0].arrive()
    assert not room.queues.is_served(generation), "it waits to be accepted"
    room.turn()
    room.listeners[0].take()
    assert not room.queues.is_served(generation), "the order is on its way"
    generation.busy(0)
    assert room.queues.is_served(generation)


def test_what_was_parked_before_a_request_is_read_first(hall: MakeHall) -> None:
    """The worker's last frames may have come after its channel was read."""
    room = hall(1)
    generation: t.Any = room.generation
    generation.requests = [5.0]
    for _ in range(2):
        assert not room.queues.is_served(generation)
        assert room.queues.deadline() == pytest.approx(room.now + 0.02)
    # Its channel is read in between, and it serves the same request.
    room.turn()
    assert room.queues.is_served(generation)
    generation.requests = [6.0]
    assert not room.queues.is_served(generation), "it has parked one since, perhaps"
    generation.requests = []
    assert room.queues.is_served(generation)


@pytest.mark.parametrize("wait", [Wait.HEAD, Wait.WORKER])
def test_is_not_served_while_a_request_has_begun(hall: MakeHall, wait: Wait) -> None:
    room = hall(1)
    generation: t.Any = room.generation
    room.park(wait, have=3)
    assert not room.queues.is_served(generation)
    generation.pool.report(generation.workers[0], Event.EXIT, 0.0)
    assert room.queues.is_served(generation), "nobody is left who could serve"


def test_is_not_served_while_a_request_may_be_on_its_way(hall: MakeHall) -> None:
    room = hall(1)
    generation: t.Any = room.generation
    room.park()
    room.now += 0.5
    _, last = room.park()
    room.now += 0.7
    assert not room.queues.is_served(generation), "it has only been told to go on"
    assert room.queues.deadline() == pytest.approx(room.now + 0.3)
    last.send(b"G")
    assert len(room.turn()) == 1
    generation.busy(0)
    assert room.queues.is_served(generation), "the other one had a second"


def test_close(hall: MakeHall) -> None:
    room = hall(1)
    room.generation.order(1, 0)  # nobody is idle
    waits = [wait for wait in Wait if wait is not Wait.PERMIT]
    clients = [room.park(wait, have=1)[1] for wait in waits]
    (fd, resting) = room.park(Wait.HEAD, wakes=3, have=1)
    room.turn()
    room.queues.close()
    assert all(has_ended(client) for client in (*clients, resting))
    assert not room.poller.is_watched(fd)
    assert [listener.events for listener in room.listeners] == [["shut", "close"]]
    assert room.queues.waiting() == 0
    assert room.queues.deadline() is None
    room.queues.close()
    assert room.listeners[0].events == ["shut", "close"]


# Bodies


@pytest.fixture
def spool() -> int:
    """The descriptor of a file, owned by whom it is given to."""
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 1000)
        file.flush()
        return os.dup(file.fileno())


def test_a_body_wakes_a_worker_when_it_is_there(hall: MakeHall) -> None:
    room = hall(1)
    fd, client = room.park(Wait.BODY, rate=240.0, need=1)
    assert room.turn() == []
    client.send(b"x")
    ((_, connection),) = room.turn()
    assert isinstance(connection, Connection)
    assert connection.fds == (fd,)


def test_a_slow_body_may_go_on_as_far_as_its_rate_carries(hall: MakeHall) -> None:
    room = hall(1)
    # As if it were not woken by little: a unix socket would be.
    fd, client = room.park(Wait.BODY, rate=100.0, have=0, wakes=15, seconds=0.5)
    client.send(b"x" * 300)
    room.now += 0.5 + LATE
    assert room.turn() == []
    assert room.queues.parked.bodies == 1
    # 300 bytes are three seconds.
    room.poller.forget(fd)
    room.now += 2.9
    assert room.turn() == []
    room.poller.forget(fd)
    room.now += 0.1 + LATE
    ((_, connection),) = room.turn()
    assert isinstance(connection, Connection)
    assert connection.state.have == 300
    assert not room.poller.is_watched(fd)


def test_a_spool_goes_with_its_connection(hall: MakeHall, spool: int) -> None:
    room = hall(1)
    fd, client = room.park(Wait.BODY, spool=spool, spooled=Size(7))
    assert room.turn() == []
    assert room.generation.spooled == 1000, "what the kernel says counts"
    client.send(b"x")
    ((_, connection),) = room.turn()
    assert isinstance(connection, Connection)
    assert connection.fds == (fd, spool)
    assert connection.state.spooled == 1000
    room.queues.put_back(connection)
    room.generation.idle(0)
    room.queues.dispatch(room.generation)  # type: ignore[arg-type]
    room.queues.taken(connection, "worker")
    assert not is_open(fd)
    assert not is_open(spool)
    room.turn()
    assert room.generation.spooled == 0


def test_a_spool_is_closed_with_its_connection(hall: MakeHall, spool: int) -> None:
    room = hall(1)
    fd, client = room.park(Wait.BODY, spool=spool, spooled=Size(7))
    room.queues.close()
    assert has_ended(client)
    assert not is_open(spool)


def test_a_spool_is_given_up_with_a_connection_nobody_can_serve(
    hall: MakeHall, spool: int
) -> None:
    room = hall(1)
    ours, client = socket.socketpair()
    room.queues.listeners = ()
    room.queues.park(ours.detach(), 0, Parked(Wait.BODY, room.now + 1), spool)
    with client:
        assert client.recv(1) == b""
    assert not is_open(spool)


@pytest.mark.parametrize(
    "more",
    [
        {"rate": math.nan},
        {"rate": math.inf},
        {"rate": -1.0},
        {"wait": Wait.LINGER, "spooled": Size(1)},
        {"wait": Wait.KEEP_ALIVE, "spooled": Size(1)},
    ],
)
def test_what_a_worker_says_of_a_body_is_checked(
    hall: MakeHall, more: dict[str, t.Any]
) -> None:
    room = hall(1)
    state = Parked(**{"wait": Wait.BODY, "deadline": room.now + 1, **more})
    ours, client = socket.socketpair()
    with ours, client, pytest.raises(ValueError):
        room.queues.park(ours.fileno(), 0, state)


def test_what_is_no_file_is_no_spool(hall: MakeHall) -> None:
    room = hall(1)
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="no file"):
        room.park(Wait.BODY, spool=reader, spooled=Size(1))
    os.close(reader)
    os.close(writer)


def test_spools_count_when_descriptors_run_out(hall: MakeHall, spool: int) -> None:
    room = hall(1, descriptors=64 + 4)
    _, body = room.park(Wait.BODY, spool=spool, spooled=Size(1))
    _, idle = room.park()
    room.park(Wait.HEAD)
    assert not has_ended(idle)
    room.park(Wait.HEAD)
    assert has_ended(idle), "those between two requests go first"
    assert not has_ended(body)
    assert is_open(spool)


# Lingering


def test_one_that_has_had_its_last_response_is_closed_when_it_ends(
    hall: MakeHall,
) -> None:
    room = hall(1)
    fd, client = room.park(Wait.LINGER, seconds=2)
    client.send(b"what nobody reads")
    assert room.turn() == []
    assert room.is_quiet(), "unread bytes wake nobody"
    assert is_open(fd)
    client.shutdown(socket.SHUT_WR)
    assert room.turn() == []
    assert not is_open(fd)
    assert len(room.queues.parked) == 0


def test_one_that_lingers_is_closed_at_its_deadline(hall: MakeHall) -> None:
    room = hall(1)
    fd, client = room.park(Wait.LINGER, seconds=2)
    room.now += 2 + LATE
    assert room.turn() == []
    assert not is_open(fd)
    assert room.is_quiet()


@pytest.mark.parametrize("wait", [Wait.BODY, Wait.LINGER])
def test_the_end_waits_for_bodies_and_for_those_that_linger(
    hall: MakeHall, wait: Wait
) -> None:
    room = hall(1)
    _, client = room.park(wait, seconds=2, rate=240.0)
    assert not room.queues.is_served(room.generation)  # type: ignore[arg-type]
    client.close()
    if room.turn():
        room.generation.busy(0)
    assert room.queues.is_served(room.generation)  # type: ignore[arg-type]
