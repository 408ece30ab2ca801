"""A client that sends and reads when a test says so."""

from __future__ import annotations

import hashlib
import json
import socket
import types
import typing as t

from .gate import DEADLINE
from .server import Server

#: Bytes that the client's system takes before somebody reads them.
_RECEIVED = 65536


class SlowClient:
    """A connection to a server.

    :ivar sent: What was sent of the body.
    """

    def __init__(self, server: Server) -> None:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED)
        self.sock.settimeout(DEADLINE)
        self.sock.connect((host, int(port)))
        self.sent = hashlib.sha256()

    def __enter__(self) -> SlowClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.sock.close()

    def ask(self, path: str) -> None:
        """Send a request, and read nothing."""
        head = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        self.sock.sendall(head.encode())

    def begin_body(self, path: str, size: int) -> None:
        """Send the head of a request with a body."""
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n"
        self.sock.sendall(f"{head}Connection: close\r\n\r\n".encode())

    def send(self, size: int) -> None:
        """Send so much of the body."""
        data = bytes(size)
        self.sent.update(data)
        self.sock.sendall(data)

    def read(self) -> tuple[int, bytes]:
        """Read all of the response.

        :return: Its status and its body.
        """
        data = b"".join(iter(lambda: self.sock.recv(1 << 20), b""))
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body

    def was_read(self) -> bool:
        """Whether the app has read the body as it was sent."""
        status, body = self.read()
        found: t.Any = json.loads(body)
        return status == 200 and found["digest"] == self.sent.hexdigest()
