"""The sender with clients of all kinds; the test is the dispatcher."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.ipc.channel import Channel
from flask_prefork.ipc.frames import Deliver
from flask_prefork.ipc.frames import Delivered
from flask_prefork.ipc.frames import Ping
from flask_prefork.relay.sender import Sender
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Size
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.slow_client import CREDIT
from flask_prefork.system.slow_client import FIRST_CREDIT
from flask_prefork.system.slow_client import STALL

#: More than any socket's buffers hold.
LONG = 12 << 20


def noise(size: int) -> bytes:
    """Bytes that are no others' at any other place."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4))


def memory(data: bytes) -> int:
    fd = os.memfd_create("response")
    os.truncate(fd, 0)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


NOISE = noise(LONG)


class Answer(t.NamedTuple):
    """What the sender says of a response, and its connection."""

    frame: Delivered
    sock: socket.socket | None


class Relay:
    """A sender in this process, a turn at a time.

    :ivar pings: How many have come.
    :ivar answers: What has become of the responses, by their numbers.
    """

    def __init__(self, descriptors: int = 10_000) -> None:
        self.now = 1000.0
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        self.sender = Sender(Channel(theirs), descriptors, lambda: self.now)
        self.theirs = theirs
        self.number = 0
        self.pings = 0
        self.answers: dict[int, Answer] = {}

    def deliver(
        self,
        sock: socket.socket,
        spool: bytes = b"",
        file: int = -1,
        offset: int = 0,
        length: int = 0,
        *,
        sent: int = 0,
        rate: float = 240.0,
        seconds: float = 5.0,
        wait: Wait = Wait.KEEP_ALIVE,
        tag: bytes = b"",
    ) -> int:
        """Hand over a connection, which is closed here; the file stays open."""
        self.number += 1
        frame = Deliver(
            7,
            1,
            0,
            self.number,
            rate,
            Size(len(spool)),
            Size(sent),
            Size(offset),
            Size(length),
            seconds,
            Parked(wait, 0.0, tag=tag),
        )
        fds = [sock.fileno()]
        if spool:
            fds.append(memory(spool))
        if length:
            fds.append(file)
        assert self.channel.send(frame, fds)
        sock.close()
        if spool:
            os.close(fds[1])
        return self.number

    def turn(self) -> bool:
        """Let the sender do what it can do now, once."""
        alive = self.sender.step(0)
        while (received := self.channel.receive()) is not None and received[0]:
            frames, fds = received
            for frame in frames:
                if isinstance(frame, Ping):
                    self.pings += 1
                    continue
                assert isinstance(frame, Delivered)
                sock = None
                if frame.parked.deadline:
                    sock = socket.socket(fileno=fds.pop())
                self.answers[frame.number] = Answer(frame, sock)
            assert not fds
        return alive

    def until(self, number: int) -> Answer:
        """Let the sender go on until a response is done with."""
        while number not in self.answers:
            assert self.turn()
        return self.answers[number]

    def read(self, client: socket.socket, size: int) -> bytes:
        """Be a client: read so many bytes, or to the end."""
        client.setblocking(False)
        data = bytearray()
        while len(data) < size:
            self.turn()
            with contextlib.suppress(BlockingIOError):
                piece = client.recv(min(size - len(data), 1 << 20))
                if not piece:
                    break
                data += piece
        return bytes(data)

    def wait_until_full(self) -> None:
        """Let the sender go on until its clients take no more."""
        self.turn()
        before = -1
        while (sent := self.sent()) != before:
            before = sent
            self.turn()

    def sent(self) -> int:
        """How many bytes were sent on the connections that the sender has."""
        return sum(one.sent for one in self.sender._transfers.values())

    def close(self) -> None:
        for answer in self.answers.values():
            if answer.sock is not None:
                answer.sock.close()
        self.channel.close()
        while self.sender.step(0):
            pass
        for transfer in self.sender._transfers.values():
            transfer.close()
        self.sender._epoll.close()
        self.theirs.close()


@pytest.fixture
def relay() -> Iterator[Relay]:
    with contextlib.closing(Relay()) as relay:
        yield relay


Pair = t.Callable[[], tuple[socket.socket, socket.socket]]


def tcp() -> tuple[socket.socket, socket.socket]:
    """The server's end of a connection, and a client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
    return served, client


@pytest.fixture(params=[tcp, socket.socketpair], ids=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return t.cast(Pair, request.param)


@pytest.mark.parametrize("size", [4, 4096, 3 << 20])
def test_spool_and_file_arrive_in_their_order(
    relay: Relay, pair: Pair, size: int
) -> None:
    served, client = pair()
    data = noise(size)
    file = memory(b"before" + data + b"after")
    number = relay.deliver(served, data, file, 6, size)
    with client:
        assert relay.read(client, 2 * size) == data + data
        answer = relay.until(number)
    assert answer.frame.sent == 2 * size
    os.close(file)


@pytest.mark.parametrize("sent", [1, 99, 100])
def test_some_of_the_spool_was_sent_already(
    relay: Relay, pair: Pair, sent: int
) -> None:
    served, client = pair()
    file = memory(b"file")
    number = relay.deliver(served, NOISE[:100], file, 0, 4, sent=sent)
    with client:
        assert relay.read(client, 104 - sent) == NOISE[sent:100] + b"file"
        relay.until(number)
    assert relay.sender._used == 0
    os.close(file)


@pytest.mark.parametrize("parts", ["spool", "file"])
def test_there_may_be_only_one_of_them(relay: Relay, pair: Pair, parts: str) -> None:
    served, client = pair()
    data = noise(100_000)
    file = memory(data)
    if parts == "spool":
        relay.deliver(served, data)
    else:
        relay.deliver(served, file=file, length=len(data))
    with client:
        assert relay.read(client, len(data)) == data
    os.close(file)


def test_a_connection_comes_back_to_wait_for_the_next_request(
    relay: Relay, pair: Pair
) -> None:
    served, client = pair()
    served.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5000)
    number = relay.deliver(served, b"x", seconds=5.0, tag=b"who")
    frame, sock = relay.until(number)
    assert frame == Delivered(
        0, number, Size(1), Parked(Wait.KEEP_ALIVE, relay.now + 5, tag=b"who")
    )
    assert sock is not None
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    with client:
        client.setblocking(True)
        sock.setblocking(True)
        client.sendall(b"next")
        assert sock.recv(10) == b"next"
        sock.sendall(b"answer")
        assert client.recv(1) == b"x"
        assert client.recv(10) == b"answer"


def test_the_last_response_ends_the_connection(relay: Relay, pair: Pair) -> None:
    served, client = pair()
    with client:
        client.sendall(b"the body that nobody wanted")
        number = relay.deliver(served, b"x", seconds=2.0, wait=Wait.LINGER)
        assert relay.read(client, 10) == b"x", "and then the end"
        # The client's system may put its acknowledgement off for a moment.
        for transfer in relay.sender._transfers.values():
            while not transfer.is_acknowledged():
                pass
        relay.now += 0.1
        frame, sock = relay.until(number)
        assert frame.parked.wait is Wait.LINGER
        assert relay.now + 1.9 <= frame.parked.deadline <= relay.now + 2
        assert sock is not None
        assert sock.recv(5, socket.MSG_PEEK) == b"the b", "nothing of it was read"


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize(
    ("rate", "least", "most"), [(240.0, FIRST_CREDIT, CREDIT), (0.0, STALL - 1, STALL)]
)
def test_the_last_response_is_the_clients_before_its_connection_may_be_closed(
    relay: Relay, reads: bool, rate: float, least: float, most: float
) -> None:
    """Closed while something is unread, it would take the rest of it with it."""
    # By which the kernel knows at once what the client has read.
    served, client = socket.socketpair()
    data = NOISE[:50_000]
    with client:
        number = relay.deliver(served, data, rate=rate, wait=Wait.LINGER)
        while relay.sent() < len(data):
            relay.turn()
        before = relay.now
        while relay.now < before + least:
            assert number not in relay.answers
            relay.now += 0.5
            relay.turn()
            assert relay.sender._timeout() > 0, "it doesn't spin"
        if reads:
            assert relay.read(client, len(data) + 1) == data, "and then the end"
        while number not in relay.answers:
            relay.now += 0.5
            relay.turn()
        frame, sock = relay.answers[number]
        assert bool(sock) == reads
        assert frame.sent == len(data)
        assert relay.now <= before + most + 1
        assert not relay.sender._transfers


def test_a_client_that_is_slow_but_not_too_slow(relay: Relay) -> None:
    served, client = tcp()
    data = NOISE
    number = relay.deliver(served, data)
    received = b""
    with client:
        while len(received) < len(data):
            relay.wait_until_full()
            received += relay.read(client, 1 << 16)
            relay.now += FIRST_CREDIT - 0.1
        assert number not in relay.answers or relay.answers[number].sock
        assert received == data


@pytest.mark.parametrize(("rate", "seconds"), [(240.0, CREDIT), (0.0, STALL)])
def test_a_client_that_takes_nothing_more(
    relay: Relay, pair: Pair, rate: float, seconds: float
) -> None:
    served, client = pair()
    number = relay.deliver(served, NOISE, rate=rate)
    with client:
        relay.wait_until_full()
        before = relay.now
        while number not in relay.answers:
            relay.now += 0.5
            relay.turn()
        assert seconds <= relay.now - before <= seconds + 1
        frame, sock = relay.answers[number]
        assert sock is None
        assert 0 < frame.sent < LONG
        assert len(relay.read(client, LONG)) == frame.sent
    assert not relay.sender._transfers
    assert relay.sender._used == 0


def test_half_a_close_leaves_the_other_half(relay: Relay, pair: Pair) -> None:
    served, client = pair()
    data = NOISE
    relay.deliver(served, data)
    with client:
        relay.turn()
        client.shutdown(socket.SHUT_WR)
        assert relay.read(client, LONG) == data


def test_a_client_that_leaves(relay: Relay, pair: Pair) -> None:
    served, client = pair()
    number = relay.deliver(served, NOISE)
    relay.wait_until_full()
    client.close()
    answer = relay.until(number)
    assert answer.sock is None


def test_a_file_that_shrinks_meanwhile(relay: Relay, pair: Pair) -> None:
    served, client = pair()
    data = NOISE
    file = memory(data)
    number = relay.deliver(served, file=file, length=LONG)
    relay.wait_until_full()
    os.truncate(file, LONG // 2)
    os.close(file)
    with client:
        assert relay.read(client, LONG) == data[: LONG // 2], "and then the end"
    assert relay.until(number).sock is None


def test_a_file_that_cant_be_read(relay: Relay) -> None:
    served, client = tcp()
    file = os.open("/dev/null", os.O_WRONLY)
    number = relay.deliver(served, file=file, length=10)
    os.close(file)
    with client:
        assert relay.until(number).sock is None
        assert relay.read(client, 10) == b""


def test_a_file_that_the_kernel_cant_send_from(
    relay: Relay, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> t.NoReturn:
        raise OSError(22, "EINVAL")

    monkeypatch.setattr(os, "sendfile", refuse)
    served, client = pair()
    data = NOISE
    relay.deliver(served, data)
    with client:
        assert relay.read(client, LONG) == data


def test_a_thousand_clients(relay: Relay) -> None:
    """One after the other, all at a time; and none of them holds the others up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 1000 if hard == resource.RLIM_INFINITY or hard > 6000 else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    data = NOISE[:100_000]
    file = memory(data)
    clients = []
    try:
        for _ in range(count):
            served, client = socket.socketpair()
            served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            relay.deliver(served, data[:100], file, 100, len(data) - 100)
            clients.append(client)
            relay.turn()
        assert not relay.answers
        received = [b""] * count
        while any(len(one) < len(data) for one in received):
            for index, client in enumerate(clients):
                with contextlib.suppress(BlockingIOError):
                    received[index] += client.recv(1 << 16, socket.MSG_DONTWAIT)
            relay.turn()
        assert all(one == data for one in received)
        while len(relay.answers) < count:
            relay.turn()
        assert all(answer.sock for answer in relay.answers.values())
        assert relay.sender._used == 0
    finally:
        for client in clients:
            client.close()
        os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_pings_while_it_sends(relay: Relay) -> None:
    served, client = tcp()
    relay.deliver(served, NOISE)
    with client:
        relay.turn()
        assert relay.pings == 1
        for _ in range(10):
            relay.read(client, 1 << 20)
            relay.now += 1
        assert relay.pings >= 10


def test_what_the_dispatcher_doesnt_read_waits(relay: Relay) -> None:
    pairs = [socket.socketpair() for _ in range(300)]
    relay.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for served, _ in pairs:
        relay.deliver(served, b"x")
        relay.sender.step(0)
    while len(relay.sender._outgoing) < 200:
        relay.sender.step(0)
    while len(relay.answers) < len(pairs):
        relay.turn()
    assert all(answer.sock for answer in relay.answers.values())
    for _, client in pairs:
        client.close()


def test_while_descriptors_are_used_up_the_next_ones_wait() -> None:
    with contextlib.closing(Relay(descriptors=32 + 4)) as relay:
        clients = []
        for _ in range(5):
            served, client = tcp()
            relay.deliver(served, NOISE)
            clients.append(client)
        for _ in range(50):
            relay.turn()
        assert len(relay.sender._transfers) == 2
        # Those that have their turn make room.
        for client in clients:
            with client:
                assert len(relay.read(client, LONG)) == LONG
        while len(relay.answers) < 5:
            relay.turn()


def test_it_ends_with_the_dispatcher() -> None:
    """Even while it takes nothing more from it."""
    with contextlib.closing(Relay(descriptors=32 + 2)) as relay:
        served, client = tcp()
        with client:
            relay.deliver(served, NOISE)
            relay.turn()
            relay.wait_until_full()
            relay.channel.close()
            assert not relay.sender.step(0)
