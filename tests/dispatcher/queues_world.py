"""A dispatcher's queues with clients, and with workers that do as they are told."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import typing as t
from collections.abc import Iterator

from flask_prefork.dispatcher.pool import Pool
from flask_prefork.dispatcher.pool import PoolWorker
from flask_prefork.dispatcher.queues import Queues
from flask_prefork.ipc.parked_connections import Connection
from flask_prefork.ipc.states import Event
from flask_prefork.settings.table import Settings
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.poller import Poller


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class FakeListener:
    """An accept queue: readable when somebody waits."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.sock = self.ours
        self.fd = self.ours.fileno()
        self.count = 0
        self.events: list[str] = []
        self.host = "somewhere"
        self.is_ended = False
        self.can_listen = True

    def arrive(self, count: int = 1) -> None:
        if not self.count and count:
            self.theirs.send(b"!")
        self.count += count

    def take(self, count: int = 1) -> None:
        self.count -= count
        if not self.count:
            self.ours.recv(1)

    tells_age = True

    def waiting(self) -> int:
        return self.count

    def is_shut(self) -> bool:
        return self.is_ended

    def listen_again(self) -> None:
        if not self.can_listen:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.events.append("listen")

    def shut(self) -> None:
        self.events.append("shut")

    def close(self) -> None:
        self.events.append("close")
        self.ours.close()
        self.theirs.close()


class FakeGeneration:
    """A pool of workers that do what they are told, when the test says so."""

    def __init__(self, size: int) -> None:
        self.number = 1
        self.settings: Settings | None = None
        self.pool = Pool(size)
        self.is_ordered = True
        self.ends = b""
        self.looks = False
        self.requests: list[float] = []
        self.told: list[bool] = []
        self.spooled = 0
        self.has_ready = False
        #: What each worker was given, in order: a listener's index, or a connection.
        self.given: list[tuple[int, int | Connection]] = []
        self.workers = [self.spawn() for _ in range(size)]

    def spawn(self) -> PoolWorker:
        worker = self.pool.spawn(0.0)
        assert worker is not None
        self.pool.report(worker, Event.IDLE, 0.0)
        return worker

    def about_to_accept(self) -> bytes:
        return self.ends

    def awaits_request(self) -> bool:
        return self.looks

    def begun(self) -> list[float]:
        return self.requests

    def order(self, count: int, queue: int) -> None:
        for worker in self.pool.order(count, 0.0, queue):
            self.given.append((worker.number, queue))

    def resume(self, connection: Connection) -> None:
        (worker,) = self.pool.order(1, 0.0, -1)
        self.given.append((worker.number, connection))

    def set_spooled(self, size: int) -> None:
        self.spooled = size

    def set_others_wait(self, wait: bool) -> None:
        self.told.append(wait)

    def set_ready(self, ready: bool) -> bool:
        before, self.has_ready = self.has_ready, ready
        return ready != before

    def busy(self, *slots: int) -> None:
        for slot in slots:
            assert self.pool.report(self.workers[slot], Event.BUSY, 0.0)

    def idle(self, *slots: int) -> None:
        for slot in slots:
            assert self.pool.report(self.workers[slot], Event.IDLE, 0.0)


class World:
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
        spool: int = -1,
        name: str = "",
        **more: t.Any,
    ) -> tuple[int, socket.socket]:
        """A worker hands a connection back.

        :param name: The limit that it waits for a permit of.
        :return: The dispatcher's descriptor, and the client's end.
        """
        ours, client = socket.socketpair()
        self.clients.append(client)
        client.setblocking(False)
        fd = ours.detach()
        state = self.state(wait, seconds, have=have, wakes=wakes, **more)
        self.queues.park(fd, 0, state, spool, name)
        return fd, client

    def state(self, wait: Wait, seconds: float = 60.0, **more: t.Any) -> Parked:
        """What a worker says of a connection."""
        return Parked(wait, self.now + seconds, **more)

    def take(self, slot: int) -> None:
        """A worker, "worker 0", has the connection that it was given last."""
        for number, given in reversed(self.generation.given):
            if number == slot and isinstance(given, Connection):
                self.queues.taken(given, f"worker {slot}")
                self.generation.given.remove((number, given))
                return
        raise AssertionError("it was given none")

    def close(self) -> None:
        self.queues.close()
        for _, given in self.generation.given:
            if isinstance(given, Connection):
                for fd in given.fds:
                    with contextlib.suppress(OSError):
                        os.close(fd)
        for listener in self.listeners:
            listener.close()
        for client in self.clients:
            client.close()
        self.poller.close()


class MakeWorld(t.Protocol):
    def __call__(
        self, workers: int, listeners: int = 1, descriptors: int = 1000
    ) -> World: ...


def worlds() -> Iterator[MakeWorld]:
    """For a fixture: makes worlds, and closes them at the end."""
    made: list[World] = []

    def make(workers: int, listeners: int = 1, descriptors: int = 1000) -> World:
        made.append(World(workers, listeners, descriptors))
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
