"""The ready queue: connections that any worker may take."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from flask_prefork.ipc import ready_queue
from flask_prefork.ipc.channel import close_all
from flask_prefork.ipc.frames import Busy
from flask_prefork.ipc.frames import encode
from flask_prefork.ipc.ready_queue import ReadyQueue
from flask_prefork.ipc.ready_queue import ReadyQueueOwner
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait


@pytest.fixture
def queue() -> Iterator[ReadyQueueOwner]:
    queue = ReadyQueueOwner()
    yield queue
    queue.close()


@pytest.fixture
def worker(queue: ReadyQueueOwner) -> Iterator[ReadyQueue]:
    """The same queue, as a worker has it."""
    receiver, sender = (socket.socket(fileno=os.dup(fd)) for fd in queue.fds)
    worker = ReadyQueue(receiver, sender)
    yield worker
    worker.close()


def put(queue: ReadyQueue, number: int) -> tuple[bool, socket.socket]:
    """Put a connection in that arrived at a second.

    :return: Whether there was room, and its client.
    """
    ours, client = socket.socketpair()
    client.settimeout(5)
    state = Parked(Wait.WORKER, 99.0, have=number, arrived=float(number))
    with ours:
        return queue.put(ours.fileno(), 3, state), client


def take(queue: ReadyQueue) -> int | None:
    """Take the next connection, and close it.

    :return: Its number, if there is one.
    """
    taken = queue.take()
    if taken is None:
        return None
    frame, fd = taken
    assert frame.listener == 3
    os.close(fd)
    return frame.parked.have


def test_in_their_order_and_each_to_one(
    queue: ReadyQueueOwner, worker: ReadyQueue
) -> None:
    clients = [put(queue, 0)[1], put(worker, 1)[1], put(queue, 2)[1]]
    for number, reader in enumerate((worker, queue, worker)):
        assert take(reader) == number
        assert clients[number].recv(9) == b"", "nobody else has it"
        clients[number].close()
    assert take(worker) is take(queue) is None


def test_who_is_in_it(queue: ReadyQueueOwner, worker: ReadyQueue) -> None:
    assert (len(queue), queue.oldest(), queue.count) == (0, None, 0)
    clients = [put(queue, 1)[1], put(worker, 2)[1], put(queue, 3)[1]]
    assert (queue.count, queue.oldest()) == (2, 1.0), "it knows of its own"
    assert (len(queue), queue.count, queue.oldest()) == (3, 3, 1.0)
    assert take(worker) == 1
    assert queue.count == 3, "it wasn't asked"
    assert (len(queue), queue.count, queue.oldest()) == (2, 2, 2.0)
    assert take(queue) == 2
    assert queue.count == 1
    assert take(worker) == 3
    assert take(queue) is None
    assert (queue.count, len(queue), queue.oldest()) == (0, 0, None)
    for client in clients:
        client.close()


def test_a_descriptor_stays_when_the_oldest_is_looked_at(
    queue: ReadyQueueOwner,
) -> None:
    _, client = put(queue, 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert queue.oldest() == 1.0
    assert len(os.listdir("/proc/self/fd")) == before
    assert take(queue) == 1
    client.close()


def test_it_is_full(queue: ReadyQueueOwner, worker: ReadyQueue) -> None:
    clients: list[socket.socket] = []
    has_room = True
    while has_room:
        has_room, client = put((queue, worker)[len(clients) % 2], len(clients))
        clients.append(client)
    assert len(queue) == len(clients) - 1 > 100
    assert take(worker) == 0
    has_room, client = put(queue, len(clients))
    assert has_room
    for one in (*clients, client):
        one.close()


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"\0" * 1000,
        encode(Busy(1, 0, False)),
        encode(Busy(1, 0, False)) * 2,
    ],
)
def test_garbage_is_left_out(
    queue: ReadyQueueOwner, worker: ReadyQueue, data: bytes
) -> None:
    """A worker's app may write to any descriptor."""
    with socket.socket(fileno=os.dup(worker.fds[1])) as sender:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(sender, [data], [ours.fileno()])
    _, client = put(queue, 1)
    assert take(queue) == 1
    client.close()


def test_a_connection_that_is_lost(
    queue: ReadyQueueOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process without descriptors loses one, and not all that wait."""
    clients = [put(queue, number)[1] for number in (1, 2)]
    receive = ready_queue.receive

    def lose(
        sock: socket.socket, size: int, flags: int
    ) -> tuple[bytes, list[int], bool]:
        data, fds, _ = receive(sock, size, flags)
        close_all(fds)
        return data, [], True

    monkeypatch.setattr(ready_queue, "receive", lose)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        queue.take()
    monkeypatch.undo()
    assert take(queue) == 2
    for client in clients:
        client.close()


def test_it_never_waits(queue: ReadyQueueOwner, worker: ReadyQueue) -> None:
    """Though an app has made all descriptors blocking, for all processes."""
    for fd in queue.fds:
        os.set_blocking(fd, True)
    assert take(queue) is take(worker) is queue.oldest() is None
    clients = []
    has_room = True
    while has_room:
        has_room, client = put(worker, 1)
        clients.append(client)
    for client in clients:
        client.close()


def test_its_end_is_that_of_all_in_it() -> None:
    queue = ReadyQueueOwner()
    # A process that an app has left behind.
    left_behind = [socket.socket(fileno=os.dup(fd)) for fd in queue.fds]
    clients = [put(queue, number)[1] for number in range(3)]
    queue.close()
    for client in clients:
        assert client.recv(1) == b""
        client.close()
    with pytest.raises(BlockingIOError):
        left_behind[0].recv(1)
    for one in left_behind:
        one.close()
    assert (len(queue), queue.oldest()) == (0, None)
    assert take(queue) is None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        state = Parked(Wait.WORKER, 99.0, have=1, arrived=1.0)
        assert not queue.put(ours.fileno(), 3, state)
