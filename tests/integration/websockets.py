"""Clients of WebSockets, and of Socket.IO over them."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import typing as t
from collections.abc import Iterator

from wsproto import ConnectionType
from wsproto import WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection
from wsproto.events import BytesMessage
from wsproto.events import CloseConnection
from wsproto.events import Event
from wsproto.events import Ping
from wsproto.events import Pong
from wsproto.events import Request
from wsproto.events import TextMessage

from .server import Server


class WebSocket:
    """A client, without threads.

    :param sock: Connected.
    :param path: What is asked for.
    """

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.sock = sock
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events = self._come()
        self._send(Request(host="localhost", target=path))
        assert isinstance(next(self._events), AcceptConnection)

    def _send(self, event: Event) -> None:
        self.sock.sendall(self._protocol.send(event))

    def _come(self) -> Iterator[Event]:
        while True:
            yield from self._protocol.events()
            data = self.sock.recv(65536)
            # Whatever isn't a frame is an error of the protocol, raised here.
            self._protocol.receive_data(data or None)

    def send(self, data: str | bytes) -> None:
        """Send a message."""
        message = TextMessage if isinstance(data, str) else BytesMessage
        self._send(message(data))

    def receive(self) -> t.Any:
        """The next message, which must come."""
        whole = None
        for event in self._events:
            if isinstance(event, Ping):
                self._send(event.response())
                continue
            assert isinstance(event, (TextMessage, BytesMessage)), event
            whole = event.data if whole is None else whole + event.data
            if event.message_finished:
                return whole
        raise AssertionError("no message has come")

    def receive_end(self) -> tuple[int, str | None]:
        """The code and the reason of the connection's end, which must come."""
        for event in self._events:
            if isinstance(event, Ping):
                self._send(event.response())
            elif isinstance(event, CloseConnection):
                if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                    self._send(event.response())
                return event.code, event.reason
        raise AssertionError("no end has come")

    def rest(self) -> bytes:
        """What comes after the end, until the connection's."""
        return b"".join(iter(lambda: self.sock.recv(65536), b""))

    def ping(self) -> None:
        """Ask the server whether it is there, and wait for its answer."""
        self._send(Ping(b"there?"))
        pong = next(self._events)
        assert isinstance(pong, Pong)
        assert pong.payload == b"there?"

    def close(self) -> None:
        """Say goodbye, and wait for the answer."""
        self._send(CloseConnection(1000))
        assert self.receive_end()[0] == 1000


@contextlib.contextmanager
def websocket(
    server: Server, path: str, context: ssl.SSLContext | None = None
) -> Iterator[WebSocket]:
    """A client's connection."""
    with server._connect() as plain:
        if context is None:
            yield WebSocket(plain, path)
            return
        with context.wrap_socket(plain, server_hostname="localhost") as sock:
            yield WebSocket(sock, path)


#: Where Socket.IO is, without the polling that goes before by default.
SOCKET_IO = "/socket.io/?EIO=4&transport=websocket"


class SocketIO:
    """A client of Socket.IO: packets of its protocol, version 5, as text."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        opened = socket.receive()
        assert opened.startswith("0{"), opened
        self._socket.send("40")
        assert self.receive().startswith("40{")

    def receive(self) -> str:
        """The next packet that is no ping."""
        while (packet := str(self._socket.receive())) == "2":
            self._socket.send("3")
        return packet

    def say(self, *event: str, number: str = "") -> None:
        """Send an event."""
        self._socket.send(f"42{number}{json.dumps(event)}")
