"""Clients that keep their connections: that idle, trickle, or ask without a pause."""

from __future__ import annotations

import itertools
import json
import select
import selectors
import socket
import threading
import typing as t
from collections import Counter
from collections.abc import Callable

from .gate import DEADLINE
from .server import Server

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: The start of a head that goes on as long as one likes, and its end.
BEGUN = b"GET / HTTP/1.1\r\nHost: localhost\r\nSlow: "
END = b"\r\n\r\n"


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Answer(t.NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> t.Any:
        return json.loads(self.body)


class Client:
    """A connection that is kept alive."""

    def __init__(self, server: Server) -> None:
        scheme, _, address = server.url.partition("://")
        if scheme == "unix":
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(DEADLINE)
            self.sock.connect(address)
        else:
            host, _, port = address.rpartition(":")
            self.sock = socket.create_connection((host, int(port)), DEADLINE)
        self.file: t.BinaryIO = self.sock.makefile("rb")

    def send(self, data: bytes = GET) -> None:
        self.sock.sendall(data)

    def read(self) -> Answer:
        """Read one response.

        :raises ConnectionError: If the connection ends instead.
        """
        line = self.file.readline()
        if not line:
            raise ConnectionAbortedError("closed without an answer")
        fields = {}
        while field := self.file.readline().strip().decode():
            name, _, value = field.partition(":")
            fields[name.lower()] = value.strip()
        body = self.file.read(int(fields["content-length"]))
        return Answer(int(line.split()[1]), fields, body)

    def ask(self, data: bytes = GET) -> Answer:
        self.send(data)
        return self.read()

    def has_ended(self) -> bool:
        """Whether the server has closed it, after all answers."""
        self.sock.setblocking(False)
        try:
            return self.sock.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self.sock.settimeout(DEADLINE)

    def is_answered(self) -> bool:
        """Whether there is something to read within a moment."""
        return bool(select.select([self.sock], [], [], 0.05)[0])

    def wait_for_end(self) -> bytes:
        """Wait for the server's close.

        :return: What came before.
        """
        return self.file.read()

    def close(self) -> None:
        self.file.close()
        self.sock.close()


def ask_all(clients: list[Client]) -> None:
    """Send a request on each, some at a time, and leave them idle."""
    for start in range(0, len(clients), 100):
        some = clients[start : start + 100]
        for client in some:
            client.send()
        assert {client.read().status for client in some} == {200}


class Tricklers(threading.Thread):
    """Clients that send a byte of their head each second.

    :ivar rounds: How many bytes each has sent.
    """

    def __init__(self, clients: list[Client]) -> None:
        super().__init__()
        self.clients = clients
        self.rounds = 0
        self._end = threading.Event()
        for client in clients:
            client.send(BEGUN)

    def run(self) -> None:
        # Ten times a second a tenth of them.
        for turn in itertools.count():
            for client in self.clients[turn % 10 :: 10]:
                client.send(b"x")
            self.rounds = turn // 10
            if self._end.wait(0.1):
                return

    def stop(self) -> None:
        self._end.set()
        self.join()


class Hammer:
    """Clients that send a request as soon as they have the answer to the last.

    A turn is a run of requests that a worker serves to the same client.
    """

    def __init__(self, clients: list[Client]) -> None:
        self.turns: Counter[int] = Counter(dict.fromkeys(range(len(clients)), 0))
        self.answers: Counter[int] = Counter()
        self._clients = clients
        self._last: dict[int, int] = {}
        self._end = threading.Event()

    def run(self, done: Callable[[], bool] = lambda: False) -> None:
        """Hammer until done; every client gets its last answer."""
        with selectors.DefaultSelector() as selector:
            for number, client in enumerate(self._clients):
                selector.register(client.sock, selectors.EVENT_READ, number)
                client.send()
            open_requests = len(self._clients)
            while open_requests:
                events = selector.select(DEADLINE)
                assert events, "nobody is answered any more"
                going_on = not (done() or self._end.is_set())
                for key, _ in events:
                    self._take(key.data)
                    if going_on:
                        self._clients[key.data].send()
                    else:
                        open_requests -= 1

    def _take(self, number: int) -> None:
        answer = self._clients[number].read()
        assert answer.status == 200
        slot = answer.json["slot"]
        self.answers[number] += 1
        if self._last.get(slot) != number:
            self._last[slot] = number
            self.turns[number] += 1

    def stop(self) -> None:
        self._end.set()
