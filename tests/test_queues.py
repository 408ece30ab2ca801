"""What waits for a worker: whose turn it is, and what is polled meanwhile."""

from __future__ import annotations

import os
import socket
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork import parking
from flask_prefork import queues as queues_module
from flask_prefork.channel import Frame
from flask_prefork.channel import Kind
from flask_prefork.parking import Connection
from flask_prefork.parking import Wait
from flask_prefork.poller import Poller
from flask_prefork.pool import Event
from flask_prefork.pool import Pool
from flask_prefork.pool import Worker
from flask_prefork.queues import Queues
from flask_prefork.queues import raise_descriptor_limit

#: Longer than a connection is held back for anybody, or a listener unwatched.
LONG = 0.1
#: A bit above what deadlines are precise to.
LATE = 0.051


class FakeListener:
    """An accept queue: readable when somebody waits."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.fd = self.ours.fileno()
        self.count = 0
        self.events: list[str] = []

    def arrive(self, count: int = 1) -> None:
        if not self.count and count:
            self.theirs.send(b"!")
        self.count += count

    def take(self, count: int = 1) -> None:
        self.count -= count
        if not self.count:
            self.ours.recv(1)

    def waiting(self) -> int:
        return self.count

    def shut(self) -> None:
        self.events.append("shut")

    def close(self) -> None:
        self.events.append("close")
        self.ours.close()
        self.theirs.close()


class FakeGeneration:
    """A pool of workers that do what they are told, when the test says so."""

    def __init__(self, size: int) -> None:
        self.pool = Pool(size)
        self.is_ordered = True
        self.ends = b""
        self.looks = False
        self.told: list[bool] = []
        #: What each worker was given, in order: a listener's index, or a connection.
        self.given: list[tuple[int, int | Connection]] = []
        self.workers = [self.spawn() for _ in range(size)]

    def spawn(self) -> Worker:
        worker = self.pool.spawn(0.0)
        assert worker is not None
        self.pool.report(worker, Event.IDLE, 0.0)
        return worker

    def endings(self) -> bytes:
        return self.ends

    def is_looking(self) -> bool:
        return self.looks

    def order(self, count: int, queue: int) -> None:
        for worker in self.pool.order(count, 0.0, queue):
            self.given.append((worker.slot, queue))

    def resume(self, connection: Connection) -> None:
        (worker,) = self.pool.order(1, 0.0, -1)
        self.given.append((worker.slot, connection))

    def tell_others_wait(self, wait: bool) -> None:
        self.told.append(wait)

    def busy(self, *slots: int) -> None:
        for slot in slots:
            assert self.pool.report(self.workers[slot], Event.BUSY, 0.0)

    def idle(self, *slots: int) -> None:
        for slot in slots:
            assert self.pool.report(self.workers[slot], Event.IDLE, 0.0)


class Hall:
    """The queues with all that they deal with, and a clock that stands still."""

    def __init__(self, workers: int, listeners: int, descriptors: int) -> None:
        self.now = 1000.0
        self.poller = Poller()
        self.queues = Queues(self.poller, lambda: self.now, descriptors)
        self.listeners = [FakeListener() for _ in range(listeners)]
        self.queues.listeners = self.listeners  # type: ignore[assignment]
        self.generation = FakeGeneration(workers)
        self.clients: list[socket.socket] = []

    def turn(self) -> list[tuple[int, int | Connection]]:
        """One round of the dispatcher's loop.

        :return: What was given to whom.
        """
        for callback in self.poller.wait(0):
            callback()
        before = len(self.generation.given)
        self.queues.dispatch(self.generation)  # type: ignore[arg-type]
        return self.generation.given[before:]

    def is_quiet(self) -> bool:
        """Whether the dispatcher would sleep now, for a while at least."""
        deadline = self.queues.deadline()
        return not self.poller.wait(0) and (deadline is None or deadline > self.now)

    def is_watched(self, listener: int = 0) -> bool:
        return self.poller.is_watched(self.listeners[listener].fd)

    def park(
        self,
        wait: Wait = Wait.KEEP_ALIVE,
        *,
        wakes: int = 0,
        have: int = 0,
        seconds: float = 60.0,
    ) -> tuple[int, socket.socket]:
        """A worker hands a connection back.

        :return: The dispatcher's descriptor, and the client's end.
        """
        ours, client = socket.socketpair()
        self.clients.append(client)
        client.setblocking(False)
        flags = parking.flags(wait, wakes)
        end = self.now + seconds
        fd = ours.detach()
        self.queues.park(fd, Frame(Kind.PARK, 1, 0, have, 0, flags, end))
        return fd, client

    def close(self) -> None:
        self.queues.close()
        for _, given in self.generation.given:
            if isinstance(given, Connection):
                try:
                    os.close(given.fd)
                except OSError:
                    pass
        for listener in self.listeners:
            listener.close()
        for client in self.clients:
            client.close()
        self.poller.close()


class MakeHall(t.Protocol):
    def __call__(
        self, workers: int, listeners: int = 1, descriptors: int = 1000
    ) -> Hall: ...


@pytest.fixture
def hall() -> Iterator[MakeHall]:
    made: list[Hall] = []

    def make(workers: int, listeners: int = 1, descriptors: int = 1000) -> Hall:
        made.append(Hall(workers, listeners, descriptors))
        return made[-1]

    yield make
    for one in made:
        one.close()


def has_ended(client: socket.socket) -> bool:
    """Whether the server has closed it."""
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


# Accept queues


def test_nobody_knocks(hall: MakeHall) -> None:
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
    # It is readable until the worker has accepted, and would knock all the time.
    assert not room.is_watched()
    assert room.is_quiet()
    # Who comes meanwhile is seen without a knock.
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
    assert not room.is_watched(), "it would knock all the time"
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


def test_ready_ones_wait_for_an_idle_worker_and_others_are_told(
    hall: MakeHall,
) -> None:
    room = hall(1)
    room.park(Wait.WORKER, have=5)
    room.park(Wait.WORKER, have=5)
    assert len(room.turn()) == 1
    assert room.generation.told[-1] is True
    assert room.queues.unanswered(room.generation) == 1  # type: ignore[arg-type]
    room.generation.busy(0)
    assert room.turn() == []
    assert room.generation.told[-1] is True
    room.generation.idle(0)
    assert len(room.turn()) == 1
    assert room.generation.told[-1] is False


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


@pytest.mark.parametrize("slot_by_slot", [True, False])
def test_new_and_parked_connections_take_turns(
    hall: MakeHall, slot_by_slot: bool
) -> None:
    room = hall(1 if slot_by_slot else 12)
    room.listeners[0].arrive(6)
    for _ in range(6):
        room.park(Wait.WORKER, have=1)
    if slot_by_slot:
        given = [serve_one(room) for _ in range(12)]
    else:
        given = [what for _, what in room.turn()]
    kinds = [isinstance(what, Connection) for what in given]
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
    for _ in range(10):
        if isinstance(serve_one(room), Connection):
            resumed += 1
        else:
            room.listeners[0].arrive(1)
    assert resumed == 5


def test_without_new_connections_parked_ones_take_every_turn(hall: MakeHall) -> None:
    room = hall(4)
    for _ in range(4):
        room.park(Wait.WORKER, have=1)
    assert len(room.turn()) == 4


# Descriptors


@pytest.fixture
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues_module, "_RESERVE", 2)


@pytest.mark.usefixtures("small_reserve")
def test_the_longest_idle_are_closed_when_descriptors_run_out(
    hall: MakeHall, caplog: pytest.LogCaptureFixture
) -> None:
    room = hall(1, descriptors=6)
    _, head = room.park(Wait.HEAD, have=1)
    clients = [room.park()[1] for _ in range(8)]
    assert [has_ended(client) for client in clients] == [True] * 5 + [False] * 3
    assert not has_ended(head), "its request has begun"
    assert len(room.queues.lot) == 4
    assert caplog.text.count("All 6 descriptors are in use") == 1


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
    assert len(room.queues.lot) == 5


@pytest.mark.usefixtures("small_reserve")
def test_descriptors_may_be_kept_free_for_others(hall: MakeHall) -> None:
    room = hall(1, descriptors=20)
    room.queues.reserve(14)
    clients = [room.park()[1] for _ in range(6)]
    assert [has_ended(client) for client in clients] == [True] * 2 + [False] * 4


def test_the_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = queues_module.resource
    limits = [(100, 5000)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.append(new))
    assert raise_descriptor_limit() == 5000
    assert limits[-1] == (5000, 5000)


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_limit_that_stays(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    resource = queues_module.resource
    tried = []

    def refuse(which: int, new: tuple[int, int]) -> None:
        tried.append(new)
        raise error

    infinite = (100, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda which: infinite)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_descriptor_limit() == 100
    # The kernel has a maximum of its own (fs.nr_open in proc(5)).
    assert tried == [(1_048_576, 1_048_576)]


# The end


def test_is_served_when_nobody_waits(hall: MakeHall) -> None:
    room = hall(1)
    generation: t.Any = room.generation
    assert room.queues.is_served(generation)
    room.park()
    assert room.queues.is_served(generation), "no request has begun on it"

    room.listeners[0].arrive()
    assert not room.queues.is_served(generation), "it waits to be accepted"
    room.turn()
    room.listeners[0].take()
    assert not room.queues.is_served(generation), "the order is on its way"
    generation.busy(0)
    assert room.queues.is_served(generation)


@pytest.mark.parametrize("wait", [Wait.HEAD, Wait.WORKER])
def test_is_not_served_while_a_request_has_begun(hall: MakeHall, wait: Wait) -> None:
    room = hall(1)
    generation: t.Any = room.generation
    room.park(wait, have=3)
    assert not room.queues.is_served(generation)
    generation.pool.report(generation.workers[0], Event.EXIT, 0.0)
    assert room.queues.is_served(generation), "nobody is left who could serve"


def test_close(hall: MakeHall) -> None:
    room = hall(1)
    room.generation.order(1, 0)  # nobody is idle
    clients = [room.park(wait, have=1)[1] for wait in Wait]
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
