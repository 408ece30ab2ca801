"""The kinds of load: what one client of each does, and what it must get."""

from __future__ import annotations

import random
import socket
import struct
import time
import typing as t
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass

from .account import ANSWERED
from .account import DOWNLOAD
from .account import LEFT
from .account import LIMITED
from .account import REFUSED
from .account import STATUS
from .account import WEBSOCKET
from .account import WRONG
from .exchange import Connection
from .exchange import head
from .exchange import Response
from .exchange import Target
from .exchange import WebSocket

DOWNLOADED = 6_000_000
"""Bytes of a download: more than the buffers of a connection hold."""

SPOOLED = 3_000_000
"""Bytes of an upload that is collected in a file on disk."""

LIMIT = 8_000_000
"""The server's ``--limit-request-body``."""


class Result(t.NamedTuple):
    outcome: str
    status: int
    detail: str = ""


class Turn:
    """A client's turn: it sends one request.

    :param kept: A connection that may be used again.
    """

    def __init__(
        self,
        target: Target,
        name: str,
        rng: random.Random,
        kept: Connection | None = None,
    ) -> None:
        self.target = target
        self.name = name
        self.rng = rng
        self.since = time.monotonic()
        self.was_kept = kept is not None
        self.connection = kept

        if kept is not None:
            self.since = kept.since

    def connect(self, buffer: int = 0) -> Connection:
        """The connection, a new one if none is kept.

        :raises OSError: There is none to be had.
        """
        if self.connection is None:
            self.connection = Connection(self.target, buffer)

        return self.connection

    def path(self, path: str, more: str = "") -> str:
        return f"{path}?id={self.name}{more}"


def judged(response: Response, body: bytes | None = None, status: int = 200) -> Result:
    """Whether a response is the right one.

    :param body: ``None`` is any.
    """
    if response.status == 503:
        return Result(REFUSED, 503)

    if response.status != status:
        return Result(WRONG, response.status, f"status {response.status}")

    if body is not None and response.body != body:
        return Result(WRONG, status, f"the body is {response.body[:60]!r}")

    return Result(ANSWERED, status)


def quick(turn: Turn) -> Result:
    response = turn.connect().ask("GET", turn.path("/quick"))
    return judged(response, turn.name.encode())


def kept(turn: Turn) -> Result:
    response = turn.connect().ask("GET", turn.path("/quick"), keep=True)
    return judged(response, turn.name.encode())


def slow(turn: Turn) -> Result:
    seconds = f"&seconds={turn.rng.uniform(0.1, 0.4):.2f}"
    response = turn.connect().ask("GET", turn.path("/slow", seconds))
    return judged(response, turn.name.encode())


def limited(turn: Turn) -> Result:
    response = turn.connect().ask("GET", turn.path("/limited"))
    return judged(response, turn.name.encode())


def growing(turn: Turn) -> Result:
    response = turn.connect().ask("GET", turn.path("/grow"))
    return judged(response, turn.name.encode())


def events(turn: Turn) -> Result:
    response = turn.connect().ask("GET", turn.path("/events"))
    wanted = "".join(f"data: {turn.name} {number}\n\n" for number in range(10))
    return judged(response, wanted.encode())


def websocket(turn: Turn) -> Result:
    """Messages back and forth for a second or two."""
    peer = WebSocket(turn.connect(), turn.path("/socket"))

    if peer.status != 101:
        return judged(Response(peer.status, b""))

    for number in range(turn.rng.randint(5, 15)):
        peer.send(str(number))
        message = peer.receive()

        if message != f"{turn.name} {number}":
            return Result(WRONG, 101, f"the message is {message[:60]!r}")

        time.sleep(0.1)

    peer.close()
    return Result(ANSWERED, 101)


def _receipt(turn: Turn, data: bytes) -> bytes:
    return f"{turn.name} {len(data)} {zlib.crc32(data)}".encode()


def upload(turn: Turn) -> Result:
    data = turn.rng.randbytes(2_000)
    response = turn.connect().ask(
        "POST", turn.path("/upload"), f"Content-Length: {len(data)}", body=[data]
    )
    return judged(response, _receipt(turn, data))


def _pieces(data: bytes, chunked: bool) -> Iterator[bytes]:
    """Parts of a body, with pauses between them."""
    size = 1 << 18

    for begin in range(0, len(data), size):
        piece = data[begin : begin + size]
        yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
        time.sleep(0.03)

    if chunked:
        yield b"0\r\n\r\n"


def spooled(turn: Turn) -> Result:
    data = turn.rng.randbytes(10_000) * (SPOOLED // 10_000)
    response = turn.connect().ask(
        "POST",
        turn.path("/upload"),
        f"Content-Length: {len(data)}",
        body=_pieces(data, chunked=False),
    )
    return judged(response, _receipt(turn, data))


def chunked(turn: Turn) -> Result:
    data = turn.rng.randbytes(10_000) * (SPOOLED // 20_000)
    response = turn.connect().ask(
        "POST",
        turn.path("/upload"),
        "Transfer-Encoding: chunked",
        body=_pieces(data, chunked=True),
    )
    return judged(response, _receipt(turn, data))


def too_large(turn: Turn) -> Result:
    """The body is announced, and not sent: the answer doesn't wait for it."""
    length = f"Content-Length: {LIMIT + 1}"
    response = turn.connect().ask("POST", turn.path("/upload"), length)
    return judged(response, status=413)


def download(turn: Turn) -> Result:
    """The response is read slowly, so that the sender sends it."""
    connection = turn.connect(buffer=1 << 15)
    response = connection.ask(
        "GET", turn.path("/download", f"&size={DOWNLOADED}"), pause=0.01
    )
    line = f"{turn.name}\n".encode()
    body = (line * (DOWNLOADED // len(line) + 1))[:DOWNLOADED]
    return judged(response, body)


def abort(turn: Turn) -> Result:
    """Leave before the answer, half of the times with a reset."""
    sock = turn.connect().sock
    whole = head("GET", turn.path("/slow", "&seconds=0.2"))
    # Whole, or without an id.
    sock.sendall(whole[: turn.rng.choice((len(whole), len(whole), 8))])
    time.sleep(turn.rng.uniform(0.0, 0.3))

    if turn.rng.random() < 0.5:
        linger = struct.pack("ii", 1, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    return Result(LEFT, 0)


def slow_head(turn: Turn) -> Result:
    """The header section comes in pieces."""
    connection = turn.connect()
    whole = head("GET", turn.path("/quick"), f"X-Padding: {'x' * 400}")

    for begin in range(0, len(whole), 100):
        connection.sock.sendall(whole[begin : begin + 100])
        time.sleep(0.1)

    return judged(connection.response(), turn.name.encode())


def half_head(turn: Turn) -> Result:
    """The rest of the header section never comes."""
    connection = turn.connect()
    connection.sock.sendall(head("GET", turn.path("/quick"))[:-2])
    return judged(connection.response(), status=408)


def status(turn: Turn) -> Result:
    """Ask the observer."""
    response = turn.connect().ask("GET", "/status.json")
    return judged(response)


@dataclass(frozen=True)
class Kind:
    """A kind of load.

    :param act: A client's turn.
    :param count: So many clients at a time.
    :param gap: Seconds between two turns, on average.
    :param keep: Whether connections are kept.
    """

    name: str
    about: str
    act: Callable[[Turn], Result]
    gap: float
    count: int = 1
    keep: bool = False
    server: str = "plain"


GROWING = Kind("growing", "views that grow", growing, 0.4)

KINDS = (
    Kind("quick", "quick, a connection each", quick, 0.05, 2),
    Kind("kept", "quick, kept connections", kept, 0.05, 2, keep=True),
    Kind("slow", "slow views", slow, 0.1, 2),
    Kind(WEBSOCKET, "WebSockets", websocket, 0.2, 2),
    Kind("events", "server-sent events", events, 0.2),
    Kind("upload", "small uploads", upload, 0.1),
    Kind("spooled", "uploads that are spooled", spooled, 0.3),
    Kind("chunked", "chunked uploads", chunked, 0.3),
    Kind("too-large", "uploads that are too large", too_large, 0.3),
    Kind(DOWNLOAD, "downloads by slow readers", download, 0.3, 2),
    Kind(LIMITED, "requests of a limited route", limited, 0.05, 5),
    GROWING,
    Kind("abort", "clients that leave", abort, 0.05),
    Kind("slow-head", "slow header sections", slow_head, 0.1),
    Kind("half-head", "header sections that never end", half_head, 0.1, 2),
    Kind("tls-quick", "TLS, a connection each", quick, 0.1, 1, server="tls"),
    Kind("tls-kept", "TLS, kept connections", kept, 0.05, 2, True, server="tls"),
    Kind("tls-upload", "TLS, uploads", spooled, 0.5, server="tls"),
    Kind("tls-websocket", "TLS, WebSockets", websocket, 0.5, server="tls"),
    Kind(STATUS, "the status, of the observer", status, 0.3, server="admin"),
)

OVERLOAD = Kind("overload", "bursts over capacity", slow, 0.0)

ABOUT = {kind.name: kind.about for kind in (*KINDS, OVERLOAD)}
