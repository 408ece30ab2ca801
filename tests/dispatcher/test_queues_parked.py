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

from .queues_world import has_ended
from .queues_world import is_open
from .queues_world import MakeWorld
from .queues_world import World
from .queues_world import worlds

#: Longer than a connection is held back for anybody, or a listener unwatched.
LONG = 0.1
#: A bit above what deadlines are precise to.
LATE = 0.051


@pytest.fixture
def make_world() -> Iterator[MakeWorld]:
    yield from worlds()


# Parked connections


def test_one_that_speaks_again_goes_to_the_lowest_idle_worker(
    make_world: MakeWorld,
) -> None:
    world = make_world(2)
    fd, client = world.park(have=0)
    assert world.turn() == []
    client.send(b"G")
    ((slot, connection),) = world.turn()
    assert slot == 0
    assert isinstance(connection, Connection)
    assert connection.fd == fd
    assert not world.poller.is_watched(fd)
    assert world.is_quiet()


def test_one_that_ends_is_woken_too(make_world: MakeWorld) -> None:
    world = make_world(1)
    _, client = world.park()
    client.close()
    assert len(world.turn()) == 1


def test_one_that_was_woken_for_nothing_rests(make_world: MakeWorld) -> None:
    world = make_world(1)
    fd, client = world.park(Wait.HEAD, wakes=1, have=3)
    client.send(b"GET")
    assert world.turn() == []
    assert not world.poller.is_watched(fd)
    world.now += LONG
    assert world.turn() == []
    assert world.poller.is_watched(fd)
    assert len(world.turn()) == 1


def test_an_idle_one_is_closed_at_its_deadline(make_world: MakeWorld) -> None:
    world = make_world(1)
    fd, client = world.park(seconds=15)
    world.now += 14.9
    world.turn()
    assert not has_ended(client)
    world.now += 0.1 + LATE
    assert world.turn() == []
    assert has_ended(client)
    assert not world.poller.is_watched(fd)


def test_a_late_head_goes_to_a_worker_and_is_not_polled_any_more(
    make_world: MakeWorld,
) -> None:
    world = make_world(1)
    fd, client = world.park(Wait.HEAD, have=3, seconds=10)
    world.turn()
    world.now += 10 + LATE
    ((_, connection),) = world.turn()
    assert isinstance(connection, Connection)
    assert not world.poller.is_watched(fd)
    # The worker holds the same socket: news on it is none for the dispatcher.
    client.send(b"more")
    assert world.is_quiet()


def test_while_nobody_is_idle_ready_ones_are_for_any_worker(
    make_world: MakeWorld,
) -> None:
    world = make_world(1)
    world.park(Wait.WORKER, have=5)
    world.park(Wait.WORKER, have=6)
    assert len(world.turn()) == 1
    assert world.generation.has_ready
    assert world.generation.told[-1] is False, "they don't wait for a report"
    assert world.queues.unanswered(world.generation) == 1  # type: ignore[arg-type]
    world.generation.busy(0)
    assert world.turn() == []
    assert world.generation.has_ready
    world.generation.idle(0)
    ((_, given),) = world.turn()
    assert isinstance(given, Connection) and given.state.have == 6
    assert not world.generation.has_ready


def test_who_was_taken_from_the_ready_queue_waits_no_more(
    make_world: MakeWorld,
) -> None:
    world = make_world(1)
    for have in (5, 6, 7):
        world.park(Wait.WORKER, have=have)
    world.turn()
    world.generation.busy(0)
    taken = world.queues.ready_queue.take()
    assert taken is not None and taken[0].parked.have == 6
    os.close(taken[1])
    assert world.queues.unanswered(world.generation) == 1  # type: ignore[arg-type]
    assert world.queues.all_waiting() == 1
    world.turn()
    assert world.generation.has_ready
    taken = world.queues.ready_queue.take()
    assert taken is not None and taken[0].parked.have == 7
    os.close(taken[1])
    world.turn()
    assert not world.generation.has_ready


def test_new_connections_come_before_the_ready_queue(make_world: MakeWorld) -> None:
    """Whoever is done with them goes on with that, and not the other way round."""
    world = make_world(1)
    for _ in range(3):
        world.park(Wait.WORKER, have=5)
    world.turn()
    world.listeners[0].arrive()
    for given in (0, None):
        world.generation.busy(0)
        world.generation.idle(0)
        ((_, found),) = world.turn()
        assert found == given if given is not None else isinstance(found, Connection)
        if given == 0:
            world.listeners[0].take()
            assert len(world.queues.ready_queue) == 2, "nobody lost its place"
    assert len(world.queues.ready_queue) == 1


def test_garbage_in_the_ready_queue_keeps_nobody_waiting(make_world: MakeWorld) -> None:
    """The first is no connection; the next one is for who is idle."""
    world = make_world(1)
    for have in (5, 6):
        world.park(Wait.WORKER, have=have)
    world.turn()
    world.generation.busy(0)
    with open(os.devnull) as file:
        state = world.state(Wait.WORKER, have=9)
        assert world.queues.ready_queue.put(file.fileno(), 0, state)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        spooled = state._replace(wait=Wait.BODY, spooled=Size(1))
        for listener, wrong in ((0, spooled), (5, state)):
            assert world.queues.ready_queue.put(ours.fileno(), listener, wrong)
    first = world.queues.ready_queue.take()
    assert first is not None
    assert world.queues.ready_queue.put(first[1], 0, first[0].parked)
    os.close(first[1])
    world.generation.idle(0)
    ((_, given),) = world.turn()
    assert isinstance(given, Connection) and given.state.have == 6


def test_those_that_find_no_room_need_no_report(make_world: MakeWorld) -> None:
    world = make_world(1, descriptors=5000)
    while not world.queues.parked.ready:
        for _ in range(100):
            world.park(Wait.WORKER, have=5)
        world.turn()
    assert world.generation.has_ready
    assert world.generation.told[-1] is False


def test_a_ready_queue_that_takes_nobody_is_of_no_use(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app has shut it down, say: workers have to report."""
    world = make_world(1)
    monkeypatch.setattr(world.queues.ready_queue, "put", lambda *args: False)
    for _ in range(2):
        world.park(Wait.WORKER, have=5)
    world.turn()
    assert not world.generation.has_ready
    assert world.generation.told[-1] is True


def test_who_was_put_there_in_the_last_moment(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a worker that saw the flag, just before it was cleared."""
    world = make_world(2)
    for _ in range(3):
        world.park(Wait.WORKER, have=5)
    world.turn()
    world.generation.busy(0, 1)
    taken = world.queues.ready_queue.take()
    assert taken is not None
    frame, fd = taken
    set_ready = world.generation.set_ready

    def set_late(ready: bool) -> bool:
        if not ready and world.generation.has_ready:
            assert world.queues.ready_queue.put(fd, 0, frame.parked)
            world.queues.ready_queue.count = 0
        return set_ready(ready)

    monkeypatch.setattr(world.generation, "set_ready", set_late)
    world.generation.idle(1)
    assert world.turn() == []
    os.close(fd)
    assert world.generation.has_ready and not world.is_quiet()
    ((slot, given),) = world.turn()
    assert slot == 1 and isinstance(given, Connection)


def test_whom_the_dispatcher_accounts_for_waits_for_a_report(
    make_world: MakeWorld,
) -> None:
    """Who has a spool is not for any worker, and nor are those behind it."""
    world = make_world(1)
    for _ in range(2):
        world.park(Wait.WORKER, have=5)
    world.queues.parked.ready[1].spool = os.open(os.devnull, os.O_RDONLY)
    world.park(Wait.WORKER, have=6)
    assert len(world.turn()) == 1
    assert not world.generation.has_ready
    assert world.generation.told[-1] is True
    for _ in range(2):
        world.generation.busy(0)
        world.generation.idle(0)
        assert len(world.turn()) == 1
    assert world.generation.told[-1] is False


def test_the_ready_queue_is_part_of_what_is_served_at_the_end(
    make_world: MakeWorld,
) -> None:
    world = make_world(1)
    for _ in range(2):
        world.park(Wait.WORKER, have=5)
    world.turn()
    world.generation.busy(0)
    world.generation.looks = False
    assert not world.queues.is_served(world.generation)  # type: ignore[arg-type]
    taken = world.queues.ready_queue.take()
    assert taken is not None
    os.close(taken[1])
    assert world.queues.is_served(world.generation)  # type: ignore[arg-type]


def test_a_callback_of_a_closed_one_does_nothing(make_world: MakeWorld) -> None:
    world = make_world(1)
    _, client = world.park(seconds=5)
    client.send(b"G")
    callbacks = world.poller.wait(0)
    world.now += 5 + LATE
    world.queues.dispatch(world.generation)  # type: ignore[arg-type]
    for callback in callbacks:
        callback()
    assert world.turn() == []


def test_one_whose_worker_died_is_the_next_ones_at_once(make_world: MakeWorld) -> None:
    world = make_world(2)
    _, first = world.park(Wait.WORKER, have=5)
    world.park(Wait.WORKER, have=5)
    world.park(Wait.WORKER, have=5)
    (_, taken), _ = world.turn()
    assert isinstance(taken, Connection)
    world.generation.pool.report(world.generation.workers[0], Event.EXIT, 0.0)
    world.queues.put_back(taken)
    world.generation.busy(1)
    world.generation.idle(1)
    assert world.turn() == [(1, taken)], "before those that came later"
    assert not has_ended(first)


# Turns


def serve_one(world: World) -> int | Connection:
    """The only worker serves what it is given, and is idle again."""
    ((_, given),) = world.turn()
    if isinstance(given, int):
        world.listeners[given].take()
    world.generation.busy(0)
    world.generation.idle(0)
    return given


def take_ready(world: World) -> bool:
    """Let a worker take the next connection from the ready queue, as it does after an
    order.

    :return: Whether there was one.
    """
    taken = world.queues.ready_queue.take()
    if taken is not None:
        os.close(taken[1])
    return taken is not None


@pytest.mark.parametrize("slot_by_slot", [True, False])
def test_new_and_parked_connections_take_turns(
    make_world: MakeWorld, slot_by_slot: bool
) -> None:
    world = make_world(1 if slot_by_slot else 12)
    world.listeners[0].arrive(6)
    for _ in range(6):
        world.park(Wait.WORKER, have=1)
    if slot_by_slot:
        kinds = []
        while len(kinds) < 12:
            kinds.append(isinstance(serve_one(world), Connection))
            if not kinds[-1] and take_ready(world):
                kinds.append(True)
    else:
        kinds = [isinstance(what, Connection) for _, what in world.turn()]
    assert kinds.count(True) == 6
    for first, second in zip(kinds[::2], kinds[1::2], strict=True):
        assert first is not second


def test_busy_parked_connections_do_not_starve_the_accept_queue(
    make_world: MakeWorld,
) -> None:
    world = make_world(1)
    world.park(Wait.WORKER, have=1)
    world.listeners[0].arrive(5)
    accepted = 0
    for _ in range(10):
        given = serve_one(world)
        if isinstance(given, Connection):
            # It has had its slice and has its next request there already.
            world.park(Wait.WORKER, have=1)
        else:
            accepted += 1
    assert accepted == 5


def test_a_full_accept_queue_does_not_starve_parked_connections(
    make_world: MakeWorld,
) -> None:
    world = make_world(1)
    world.listeners[0].arrive(1)
    for _ in range(5):
        world.park(Wait.WORKER, have=1)
    resumed = 0
    for _ in range(5):
        if isinstance(serve_one(world), Connection):
            resumed += 1
        else:
            world.listeners[0].arrive(1)
        resumed += take_ready(world)
    assert resumed == 5


def test_without_new_connections_parked_ones_take_every_turn(
    make_world: MakeWorld,
) -> None:
    world = make_world(4)
    for _ in range(4):
        world.park(Wait.WORKER, have=1)
    assert len(world.turn()) == 4


# Descriptors


@pytest.fixture
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "_RESERVE", 2)


@pytest.mark.usefixtures("small_reserve")
def test_the_longest_idle_are_closed_when_descriptors_run_out(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(1, descriptors=6)
    _, head = world.park(Wait.HEAD, have=1)
    clients = [world.park()[1] for _ in range(8)]
    assert [has_ended(client) for client in clients] == [True] * 5 + [False] * 3
    assert not has_ended(head), "its request has begun"
    assert len(world.queues.parked) == 4
    assert caplog.text.count("connections that wait, the limit is 6") == 1


@pytest.mark.parametrize(
    ("reserved", "told"), [(864, False), (873, True), (1200, True)]
)
def test_a_low_limit_of_descriptors(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture, reserved: int, told: int
) -> None:
    world = make_world(1, descriptors=1000)
    for _ in range(2):
        world.queues.reserve(reserved)
    room_left = max(1000 - 64 - reserved, 0)
    line = f"Only {room_left} connections can wait without a worker: of 1000 desc"
    assert caplog.text.count(line) == told


@pytest.mark.usefixtures("small_reserve")
def test_begun_requests_are_given_up_last(make_world: MakeWorld) -> None:
    world = make_world(1, descriptors=4)
    _, first = world.park(Wait.HEAD, have=1)
    _, idle = world.park()
    _, second = world.park(Wait.HEAD, have=1)
    assert [has_ended(c) for c in (first, idle, second)] == [False, True, False]
    world.park()
    assert has_ended(first)


@pytest.mark.usefixtures("small_reserve")
def test_ready_ones_are_never_given_up(make_world: MakeWorld) -> None:
    world = make_world(1, descriptors=3)
    clients = [world.park(Wait.WORKER, have=1)[1] for _ in range(5)]
    assert not any(has_ended(client) for client in clients)
    assert len(world.queues.parked) == 5


@pytest.mark.usefixtures("small_reserve")
def test_descriptors_may_be_kept_free_for_others(make_world: MakeWorld) -> None:
    world = make_world(1, descriptors=20)
    world.queues.reserve(14)
    clients = [world.park()[1] for _ in range(6)]
    assert [has_ended(client) for client in clients] == [True] * 2 + [False] * 4


@pytest.mark.usefixtures("small_reserve")
def test_room_is_made_as_soon_as_others_need_it(make_world: MakeWorld) -> None:
    """Before they are opened, not when the next connection is parked."""
    world = make_world(1, descriptors=20)
    world.queues.reserve(8)
    clients = [world.park()[1] for _ in range(9)]
    assert not any(has_ended(client) for client in clients)
    world.queues.reserve(12)
    assert [has_ended(client) for client in clients] == [True] * 4 + [False] * 5
    world.queues.reserve(8)
    clients += [world.park()[1] for _ in range(4)]
    assert not any(has_ended(client) for client in clients[4:])


# The end


def test_is_served_when_nobody_waits(make_world: MakeWorld) -> None:
    world = make_world(1)
    generation: t.Any = world.generation
    assert world.queues.is_served(generation)
    world.park()
    world.now += 1
    assert world.queues.is_served(generation), "no request has begun on it"

    world.listeners[0].arrive()
    assert not world.queues.is_served(generation), "it waits to be accepted"
    world.turn()
    world.listeners[0].take()
    assert not world.queues.is_served(generation), "the order is on its way"
    generation.busy(0)
    assert world.queues.is_served(generation)


def test_what_was_parked_before_a_request_is_read_first(make_world: MakeWorld) -> None:
    """The worker's last frames may have come after its channel was read."""
    world = make_world(1)
    generation: t.Any = world.generation
    generation.requests = [5.0]
    for _ in range(2):
        assert not world.queues.is_served(generation)
        assert world.queues.deadline() == pytest.approx(world.now + 0.02)
    # Its channel is read in between, and it serves the same request.
    world.turn()
    assert world.queues.is_served(generation)
    generation.requests = [6.0]
    assert not world.queues.is_served(generation), "it has parked one since, perhaps"
    generation.requests = []
    assert world.queues.is_served(generation)


@pytest.mark.parametrize("wait", [Wait.HEAD, Wait.WORKER])
def test_is_not_served_while_a_request_has_begun(
    make_world: MakeWorld, wait: Wait
) -> None:
    world = make_world(1)
    generation: t.Any = world.generation
    world.park(wait, have=3)
    assert not world.queues.is_served(generation)
    generation.pool.report(generation.workers[0], Event.EXIT, 0.0)
    assert world.queues.is_served(generation), "nobody is left who could serve"


def test_is_not_served_while_a_request_may_be_on_its_way(make_world: MakeWorld) -> None:
    world = make_world(1)
    generation: t.Any = world.generation
    world.park()
    world.now += 0.5
    _, last = world.park()
    world.now += 0.7
    assert not world.queues.is_served(generation), "it has only been told to go on"
    assert world.queues.deadline() == pytest.approx(world.now + 0.3)
    last.send(b"G")
    assert len(world.turn()) == 1
    generation.busy(0)
    assert world.queues.is_served(generation), "the other one had a second"


def test_close(make_world: MakeWorld) -> None:
    world = make_world(1)
    world.generation.order(1, 0)  # nobody is idle
    waits = [wait for wait in Wait if wait is not Wait.PERMIT]
    clients = [world.park(wait, have=1)[1] for wait in waits]
    (fd, resting) = world.park(Wait.HEAD, wakes=3, have=1)
    world.turn()
    world.queues.close()
    assert all(has_ended(client) for client in (*clients, resting))
    assert not world.poller.is_watched(fd)
    assert [listener.events for listener in world.listeners] == [["shut", "close"]]
    assert world.queues.waiting() == 0
    assert world.queues.deadline() is None
    world.queues.close()
    assert world.listeners[0].events == ["shut", "close"]


# Bodies


@pytest.fixture
def spool() -> int:
    """The descriptor of a file, owned by whom it is given to."""
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 1000)
        file.flush()
        return os.dup(file.fileno())


def test_a_body_wakes_a_worker_when_it_is_there(make_world: MakeWorld) -> None:
    world = make_world(1)
    fd, client = world.park(Wait.BODY, rate=240.0, need=1)
    assert world.turn() == []
    client.send(b"x")
    ((_, connection),) = world.turn()
    assert isinstance(connection, Connection)
    assert connection.fds == (fd,)


def test_a_slow_body_may_go_on_as_far_as_its_rate_carries(
    make_world: MakeWorld,
) -> None:
    world = make_world(1)
    # As if it were not woken by little: a unix socket would be.
    fd, client = world.park(Wait.BODY, rate=100.0, have=0, wakes=15, seconds=0.5)
    client.send(b"x" * 300)
    world.now += 0.5 + LATE
    assert world.turn() == []
    assert world.queues.parked.bodies == 1
    # 300 bytes are three seconds.
    world.poller.forget(fd)
    world.now += 2.9
    assert world.turn() == []
    world.poller.forget(fd)
    world.now += 0.1 + LATE
    ((_, connection),) = world.turn()
    assert isinstance(connection, Connection)
    assert connection.state.have == 300
    assert not world.poller.is_watched(fd)


def test_a_spool_goes_with_its_connection(make_world: MakeWorld, spool: int) -> None:
    world = make_world(1)
    fd, client = world.park(Wait.BODY, spool=spool, spooled=Size(7))
    assert world.turn() == []
    assert world.generation.spooled == 1000, "what the kernel says counts"
    client.send(b"x")
    ((_, connection),) = world.turn()
    assert isinstance(connection, Connection)
    assert connection.fds == (fd, spool)
    assert connection.state.spooled == 1000
    world.queues.put_back(connection)
    world.generation.idle(0)
    world.queues.dispatch(world.generation)  # type: ignore[arg-type]
    world.queues.taken(connection, "worker")
    assert not is_open(fd)
    assert not is_open(spool)
    world.turn()
    assert world.generation.spooled == 0


def test_a_spool_is_closed_with_its_connection(
    make_world: MakeWorld, spool: int
) -> None:
    world = make_world(1)
    fd, client = world.park(Wait.BODY, spool=spool, spooled=Size(7))
    world.queues.close()
    assert has_ended(client)
    assert not is_open(spool)


def test_a_spool_is_given_up_with_a_connection_nobody_can_serve(
    make_world: MakeWorld, spool: int
) -> None:
    world = make_world(1)
    ours, client = socket.socketpair()
    world.queues.listeners = ()
    world.queues.park(ours.detach(), 0, Parked(Wait.BODY, world.now + 1), spool)
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
    make_world: MakeWorld, more: dict[str, t.Any]
) -> None:
    world = make_world(1)
    state = Parked(**{"wait": Wait.BODY, "deadline": world.now + 1, **more})
    ours, client = socket.socketpair()
    with ours, client, pytest.raises(ValueError):
        world.queues.park(ours.fileno(), 0, state)


def test_what_is_no_file_is_no_spool(make_world: MakeWorld) -> None:
    world = make_world(1)
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="no file"):
        world.park(Wait.BODY, spool=reader, spooled=Size(1))
    os.close(reader)
    os.close(writer)


def test_spools_count_when_descriptors_run_out(
    make_world: MakeWorld, spool: int
) -> None:
    world = make_world(1, descriptors=64 + 4)
    _, body = world.park(Wait.BODY, spool=spool, spooled=Size(1))
    _, idle = world.park()
    world.park(Wait.HEAD)
    assert not has_ended(idle)
    world.park(Wait.HEAD)
    assert has_ended(idle), "those between two requests go first"
    assert not has_ended(body)
    assert is_open(spool)


# Lingering


def test_one_that_has_had_its_last_response_is_closed_when_it_ends(
    make_world: MakeWorld,
) -> None:
    world = make_world(1)
    fd, client = world.park(Wait.LINGER, seconds=2)
    client.send(b"what nobody reads")
    assert world.turn() == []
    assert world.is_quiet(), "unread bytes wake nobody"
    assert is_open(fd)
    client.shutdown(socket.SHUT_WR)
    assert world.turn() == []
    assert not is_open(fd)
    assert len(world.queues.parked) == 0


def test_one_that_lingers_is_closed_at_its_deadline(make_world: MakeWorld) -> None:
    world = make_world(1)
    fd, client = world.park(Wait.LINGER, seconds=2)
    world.now += 2 + LATE
    assert world.turn() == []
    assert not is_open(fd)
    assert world.is_quiet()


@pytest.mark.parametrize("wait", [Wait.BODY, Wait.LINGER])
def test_the_end_waits_for_bodies_and_for_those_that_linger(
    make_world: MakeWorld, wait: Wait
) -> None:
    world = make_world(1)
    _, client = world.park(wait, seconds=2, rate=240.0)
    assert not world.queues.is_served(world.generation)  # type: ignore[arg-type]
    client.close()
    if world.turn():
        world.generation.busy(0)
    assert world.queues.is_served(world.generation)  # type: ignore[arg-type]
