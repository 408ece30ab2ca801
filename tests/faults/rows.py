"""What the rows about apps, clients and resources have in common."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from integration.gate import DEADLINE
from integration.server import Answer
from integration.server import Request
from integration.server import Server

from .load import Load

#: A request's head for a path, to be followed by an empty line or by more fields.
HEAD = b"GET %b HTTP/1.1\r\nHost: localhost\r\n"


@contextlib.contextmanager
def load(server: Server, clients: int = 2) -> Iterator[Load]:
    """Clients that ask all the while, and notice nothing.

    Leaving checks that the server serves on, and that all were answered with 200.
    They pause between requests: the processors are for what the row is about.
    """
    with Load(server.url, clients, gap=lambda: 0.01) as running:
        running.wait_for_more()
        yield running
        running.wait_for_more()
        running.stop().assert_all_served()


def connect(server: Server) -> socket.socket:
    """A TCP connection to the server."""
    host, _, port = server.url.rpartition("/")[2].rpartition(":")
    return socket.create_connection((host, int(port)), DEADLINE)


def exchange(server: Server, data: bytes) -> bytes:
    """Send bytes, and read to the end of the connection."""
    with connect(server) as sock:
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def lose(server: Server, path: str) -> None:
    """Send a request that is to end without an answer."""
    try:
        answer = server.get(path)
    except ConnectionError:
        return
    raise AssertionError(f"answered with {answer.status}")


class _Once(Request):
    """A request that must be answered with exactly one response."""

    def read(self) -> bytes:
        data = super().read()
        assert data.count(b"HTTP/1.1 ") == 1, data
        return data


def get(server: Server, path: str) -> Answer:
    """Send a request, and check that exactly one response comes."""
    return _Once(server.send(path).sock).answer()
