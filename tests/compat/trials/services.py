"""What apps talk to: a database, a store, and stubs of what collects telemetry.

All of them listen on this machine only, and end with the trial.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import shutil
import socket
import subprocess
import threading
import typing as t
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path

from integration import postgresql
from integration.gate import DEADLINE
from integration.server import wait_for
from pg8000.native import Connection

from .base import NotHere
from .base import World


class _Server(ThreadingHTTPServer):
    #: Many workers connect at once.
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *args: t.Any) -> None:
        """Say nothing of clients that were killed: all else is missed in the end."""


class Collector:
    """An HTTP server that keeps what is posted to it, and answers 200.

    :ivar url: Its address.
    """

    def __init__(self) -> None:
        self._bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self._body()
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                # A list's append is atomic.
                collector._bodies.append(body)
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _body(self) -> bytes:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    parts = []
                    while size := int(self.rfile.readline(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _answer(self) -> None:
                # The connection, as the server sees it.
                said = f'{{"peer": {self.client_address[1]}}}'.encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *args: t.Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *args: t.Any) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def found(self, pattern: str) -> Counter[str]:
        """What of all that was posted matches, and how often.

        :param pattern: Of ASCII text, also if it is within protobuf.
        """
        matches = (re.findall(pattern.encode(), body) for body in self._bodies)
        return Counter(one.decode() for some in matches for one in some)


class Finds(t.Protocol):
    """Looks into all that was sent: :class:`Collector`, or another."""

    def found(self, pattern: str) -> Counter[str]: ...


def assert_none_lost(
    collector: Finds, kind: str, sent: list[str], *, once: bool = True
) -> None:
    """Check that all that an app has told of has arrived.

    :param kind: What each begins with, as ``span`` of ``span-0123``.
    :param sent: The IDs, without that.
    :param once: And that nothing has arrived twice.
    """
    arrived = collector.found(rf"{kind}-[0-9a-f]{{32}}")
    missing = {f"{kind}-{one}" for one in sent} - arrived.keys()
    assert sent
    assert not missing, f"{len(missing)} of {len(sent)} {kind}s have not arrived"
    if once:
        doubled = [one for one, count in arrived.items() if count > 1]
        assert not doubled, f"{len(doubled)} of {len(sent)} {kind}s have come twice"


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis server, in memory only.

    :return: Its URL.
    :raises NotHere: If Redis isn't installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise NotHere("redis-server isn't installed (apt install redis-server)")
    port = free_port()
    line = [program, "--port", str(port), "--bind", "127.0.0.1"]
    line += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: _listens(port))
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def open_redis(world: World) -> str | None:
    """A Redis server for a trial, or a remark that there is none.

    :return: Its URL, if there is one.
    """
    folder = world.folder / "redis"
    folder.mkdir()
    try:
        return world.stack.enter_context(redis(folder))
    except NotHere as e:
        world.remarks.append(f"without Redis: {e}")
        return None


def subscribers(url: str, channel: str) -> int:
    """How many listen to a channel of a Redis server."""
    parts = urllib.parse.urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), DEADLINE) as sock:
        sock.sendall(f"PUBSUB NUMSUB {channel}\r\n".encode())
        with sock.makefile("rb") as file:
            # An array of the channel's name and a number (RESP).
            lines = [file.readline().strip() for _ in range(4)]
    return int(lines[-1].removeprefix(b":"))


def open_postgres(world: World) -> str:
    """A PostgreSQL server for a trial.

    :return: Its URL.
    :raises NotHere: If PostgreSQL isn't installed.
    """
    if postgresql.find("initdb") is None:
        raise NotHere("PostgreSQL isn't installed (apt install postgresql)")
    return world.stack.enter_context(postgresql.postgresql(""))


@contextlib.contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A client of the database."""
    parts = urllib.parse.urlsplit(url)
    connection = Connection(
        parts.username,
        parts.hostname,
        database=parts.path.removeprefix("/"),
        port=parts.port,
    )
    with contextlib.closing(connection):
        yield connection
