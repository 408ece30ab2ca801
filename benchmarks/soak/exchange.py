"""A connection of a client: requests, responses and WebSockets, checked."""

from __future__ import annotations

import socket
import ssl
import time
import typing as t
from http.client import HTTPException
from http.client import HTTPResponse

from wsproto import ConnectionType
from wsproto import WSConnection
from wsproto.events import AcceptConnection
from wsproto.events import CloseConnection
from wsproto.events import Event
from wsproto.events import RejectConnection
from wsproto.events import Request
from wsproto.events import TextMessage
from wsproto.utilities import ProtocolError

PATIENCE = 60.0
"""Seconds after which a request that has no answer is lost."""

PIECE = 1 << 16


class Lost(Exception):
    """A connection ended early."""


FAILURES = (OSError, HTTPException, ProtocolError, Lost)
"""What a request ends with that gets no answer."""


class Target(t.NamedTuple):
    """Where a server is.

    :param address: Of the loopback interface, or the path of a unix socket.
    :param context: For TLS.
    """

    name: str
    address: tuple[str, int] | str
    context: ssl.SSLContext | None = None


class Response(t.NamedTuple):
    status: int
    body: bytes


class Connection:
    """One connection.

    :param buffer: Bytes of its receive buffer, for who reads slowly.
    :raises OSError: There is none to be had.
    """

    def __init__(self, target: Target, buffer: int = 0) -> None:
        self.since = time.monotonic()
        self.used = False
        self.open = True
        unix = isinstance(target.address, str)
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)

        try:
            sock.settimeout(PATIENCE)

            if buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)

            sock.connect(target.address)

            if target.context is not None:
                sock = target.context.wrap_socket(sock, server_hostname="localhost")
        except BaseException:
            sock.close()
            raise

        self.sock: socket.socket = sock

    def close(self) -> None:
        self.open = False
        self.sock.close()

    def ask(
        self,
        method: str,
        path: str,
        *fields: str,
        body: t.Iterable[bytes] = (),
        keep: bool = False,
        pause: float = 0.0,
    ) -> Response:
        """Send a request, and read its response to the end.

        :param fields: More of its header section.
        :param keep: Keep the connection.
        :param pause: Seconds between two pieces of the response.
        :raises OSError: As any of :data:`FAILURES`, if the connection ends before.
        """
        try:
            self.sock.sendall(head(method, path, *fields, keep=keep))

            for piece in body:
                self.sock.sendall(piece)
        except ConnectionError as error:
            # It may have been refused before all was sent (RFC 9112, 9.5).
            try:
                return self.response(pause)
            except FAILURES:
                raise error from None

        return self.response(pause)

    def response(self, pause: float = 0.0) -> Response:
        """Read a response.

        :raises OSError: As above.
        """
        with HTTPResponse(self.sock) as response:
            response.begin()
            pieces = []

            while data := response.read(PIECE):
                pieces.append(data)

                if pause:
                    time.sleep(pause)

            if response.length:
                raise Lost(f"cut short, {response.length} bytes are missing")

            if response.will_close:
                self.close()
            else:
                self.used = True

            self.since = time.monotonic()
            return Response(response.status, b"".join(pieces))


def head(method: str, path: str, *fields: str, keep: bool = False) -> bytes:
    """A request's header section."""
    connection = "keep-alive" if keep else "close"
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    return "\r\n".join([*lines, f"Connection: {connection}", *fields, "", ""]).encode()


class WebSocket:
    """A client's side of a WebSocket, without a thread.

    :raises OSError: As any of :data:`FAILURES`, if it isn't opened.
    """

    def __init__(self, connection: Connection, path: str) -> None:
        self._sock = connection.sock
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: t.Iterator[Event] = iter(())
        self._sock.sendall(self._protocol.send(Request(host="localhost", target=path)))
        event = self._next()
        self.status = 101

        if isinstance(event, RejectConnection):
            self.status = event.status_code
        elif not isinstance(event, AcceptConnection):
            raise Lost(f"no handshake but {event}")

    def _next(self) -> Event:
        while True:
            for event in self._events:
                return event

            data = self._sock.recv(PIECE)

            if not data:
                raise Lost("ended without a close")

            self._protocol.receive_data(data)
            self._events = self._protocol.events()

    def send(self, text: str) -> None:
        self._sock.sendall(self._protocol.send(TextMessage(text)))

    def receive(self) -> str:
        """The next message.

        :raises Lost: There is none.
        """
        event = self._next()

        if isinstance(event, CloseConnection):
            raise Lost(f"closed with {event.code}")

        if not isinstance(event, TextMessage) or not event.message_finished:
            raise Lost(f"no message but {event}")

        return event.data

    def close(self) -> None:
        """Close it, and wait for the server's close.

        :raises Lost: That doesn't come.
        """
        self._sock.sendall(self._protocol.send(CloseConnection(1000)))
        event = self._next()

        if not isinstance(event, CloseConnection):
            raise Lost(f"no close but {event}")
