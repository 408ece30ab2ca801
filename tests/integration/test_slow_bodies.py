"""Clients that are slow to send their request's body cost no worker."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Serve
from .server import Request
from .server import Server

TWO = ("--min-idle", "2", "--max-workers", "2")
COUNT = 20
SIZE = 60_000
LARGE = 2_000_000


def post(body: bytes, chunked: bool, target: str = "/") -> bytes:
    """A request, with a Content-Length or in chunks of 10,000 bytes."""
    head = (
        f"POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
    )
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = [body[start : start + 10_000] for start in range(0, len(body), 10_000)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


class Upload:
    """A client that sends its request in parts."""

    def __init__(self, server: Server, number: int, size: int, chunked: bool) -> None:
        self.sock: socket.socket = server._connect()
        self.body = random.Random(number).randbytes(size)
        self._rest = post(self.body, chunked)

    def send(self, count: int) -> None:
        self.sock.sendall(self._rest[:count])
        self._rest = self._rest[count:]

    def finish(self) -> None:
        self.send(len(self._rest))

    def check_answer(self) -> None:
        answer = Request(self.sock).answer()
        assert answer.status == 200
        assert answer.body.decode() == hashlib.sha256(self.body).hexdigest()


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> Server:
    """A server of two workers."""
    host = f"unix://{tmp_path / 'sock'}" if request.param == "unix" else None
    return serve("uploads", *TWO, "--buffer-body", "16M", host=host)


@contextlib.contextmanager
def uploads(server: Server, size: int, chunked: bool) -> Iterator[list[Upload]]:
    """Clients that have sent a half of their bodies."""
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(COUNT):
            clients.append(Upload(server, number, size, chunked))
            stack.callback(clients[-1].sock.close)
        for client in clients:
            client.send(size // 2)
        yield clients


@pytest.mark.parametrize("size", [SIZE, LARGE])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_others_are_served_meanwhile(server: Server, size: int, chunked: bool) -> None:
    with uploads(server, size, chunked) as clients:
        for client in clients:
            assert server.get().body == b"index"
            client.send(1000)
        # The last ones first.
        for client in reversed(clients):
            client.finish()
            assert server.get().body == b"index"
            client.check_answer()
    assert len(server.workers()) == 2


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_clients_that_leave_cost_nothing(server: Server, chunked: bool) -> None:
    with uploads(server, SIZE, chunked):
        assert server.get().body == b"index"
    for _ in range(COUNT):
        assert server.get().body == b"index"
    with uploads(server, SIZE, chunked) as clients:
        for client in clients:
            client.finish()
        for client in clients:
            client.check_answer()


def test_a_route_that_streams_is_called_before_the_body_is_there(
    serve: Serve,
) -> None:
    server = serve("uploads", *TWO)
    with contextlib.closing(server._connect()) as sock:
        data = post(b"x" * SIZE, False, "/streamed")
        sock.sendall(data[:1000])
        assert Request(sock).answer().status == 403


def test_without_room_bodies_are_streamed(serve: Serve) -> None:
    server = serve("uploads", *TWO, "--buffer-total", "1M")
    body = random.Random(0).randbytes(LARGE)
    data = post(body, True)
    with contextlib.closing(server._connect()) as sock:
        for start in range(0, len(data), LARGE // 3):
            sock.sendall(data[start : start + LARGE // 3])
        answer = Request(sock).answer()
    assert answer.body.decode() == hashlib.sha256(body).hexdigest()
