"""Clients that speak TLS, in a process of their own.

``python tls_client.py handshakes --port PORT``: each request on a new connection, with
full handshakes or, with ``--resume``, with the session of the one before.
``latency``: a few kept-alive connections at a fixed rate. ``idle``: many connections
that are open and silent until the standard input ends. All print a line of JSON.

wrk doesn't resume sessions, and sends as fast as it can. These clients are Python and
take more of the machine than wrk, but the same for each server.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import sys
import threading
import time
import typing as t
from collections import Counter
from collections.abc import Callable

from certificate import untrusting
from certificate import VERSIONS
from slow import raise_descriptors
from slow import Response

THREADS = 4
"""Clients at the same time, where each request has a connection."""

CONNECTIONS = 2
"""Kept-alive connections, for the latency."""

RATE = 100
"""Requests per second on these together."""

TIMEOUT = 10.0
"""Seconds that a handshake or a response may take."""

PER_ADDRESS = 20_000
"""Connections from one address of the loopback network. Its ports are 28,232, see
``ip_local_port_range`` in ip(7).
"""

MOST_FAILED = 3
"""Failures in a row after which no more idle clients connect."""

_BUFFER = 65_536
_HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
KEEPING = _HEAD + b"\r\n"
CLOSING = _HEAD + b"Connection: close\r\n\r\n"


def source(number: int) -> str:
    """The address that a client of many connects from."""
    return f"127.0.0.{1 + number // PER_ADDRESS}"


def connect(
    port: int,
    context: ssl.SSLContext | None,
    session: ssl.SSLSession | None = None,
    number: int = 0,
) -> socket.socket:
    """A connection after its handshake, if it has one.

    :raises OSError: There is no connection.
    """
    address = ("127.0.0.1", port)
    sock = socket.create_connection(address, TIMEOUT, (source(number), 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    if context is None:
        return sock

    try:
        return context.wrap_socket(sock, session=session)
    except BaseException:
        sock.close()
        raise


def ask(sock: socket.socket, request: bytes) -> int:
    """Send a request and read its response.

    :return: The status.
    :raises OSError: The response isn't whole.
    """
    sock.sendall(request)
    response = Response()

    while True:
        data = sock.recv(_BUFFER)

        if not data:
            raise ConnectionError("closed before the end of its response")

        if response.take(data):
            return response.status


class Handshakes:
    """Each request on a connection of its own.

    :param resume: Offer the last session that the server gave.
    """

    def __init__(self, port: int, version: str, resume: bool) -> None:
        self._port = port
        self._context = untrusting(version)
        self._resume = resume
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def run(self, seconds: float, threads: int = THREADS) -> dict[str, t.Any]:
        """Go on for so long, each at least once.

        :return: What came of it.
        """
        began = time.monotonic()
        end = began + seconds
        started = [
            threading.Thread(target=self._repeat, args=(end,)) for _ in range(threads)
        ]

        for thread in started:
            thread.start()

        for thread in started:
            thread.join()

        return {
            "seconds": time.monotonic() - began,
            "requests": self.counts["answered"],
            "resumed": self.counts["resumed"],
            "tickets": self.counts["tickets"],
            "failed": self.counts["failed"],
        }

    def _repeat(self, end: float) -> None:
        session = None

        while True:
            try:
                given = self._once(session)
            except OSError:
                self._count("failed")
            else:
                session = (given or session) if self._resume else None

            if time.monotonic() >= end:
                return

    def _once(self, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        with connect(self._port, self._context, session) as sock:
            assert isinstance(sock, ssl.SSLSocket)
            status = ask(sock, CLOSING)
            # In TLS 1.3, tickets come after the handshake.
            given = sock.session
            reused = bool(sock.session_reused)

        if status != 200:
            raise ConnectionError(f"status {status}")

        ticket = given is not None and given.has_ticket
        self._count(
            "answered", *["resumed"] * bool(reused), *["tickets"] * bool(ticket)
        )
        return given

    def _count(self, *names: str) -> None:
        with self._lock:
            self.counts.update(names)


def latency(
    port: int, seconds: float, context: ssl.SSLContext | None
) -> dict[str, t.Any]:
    """Ask at a fixed rate on a few kept-alive connections, in turn.

    :return: Microseconds from a request's first byte to its response's last.
    """
    sockets = [connect(port, context) for _ in range(CONNECTIONS)]
    took: list[float] = []
    again = 0

    # The first request of a connection isn't like the others.
    for sock in sockets:
        ask(sock, KEEPING)

    start = time.perf_counter()
    number = 0

    while (planned := start + number / RATE) < start + seconds:
        time.sleep(max(0.0, planned - time.perf_counter()))
        which = number % CONNECTIONS
        number += 1
        began = time.perf_counter()

        try:
            ask(sockets[which], KEEPING)
        except OSError:
            again += 1
            sockets[which].close()
            sockets[which] = connect(port, context)
            continue

        took.append((time.perf_counter() - began) * 1e6)

    for sock in sockets:
        sock.close()

    return {"latencies": took, "again": again}


def idle(
    port: int,
    count: int,
    request: bool,
    wait: Callable[[], object],
    report: Callable[[dict[str, t.Any]], None],
) -> None:
    """Be so many clients that are connected and silent.

    :param request: Each has asked once, and may ask again.
    :param wait: Returns when they may leave.
    :param report: Called when all are connected, and again before they leave.
    """
    context = untrusting()
    kept: list[int] = []
    failed = in_a_row = 0
    began = time.monotonic()

    while len(kept) + failed < count and in_a_row < MOST_FAILED:
        try:
            sock = connect(port, context, number=len(kept))

            try:
                if request:
                    ask(sock, KEEPING)
            except BaseException:
                sock.close()
                raise
        except OSError:
            failed += 1
            in_a_row += 1
            continue

        in_a_row = 0
        # The descriptor is enough, so this process doesn't grow.
        kept.append(sock.detach())

    found = {"connected": len(kept), "failed": failed}
    report({**found, "seconds": time.monotonic() - began})
    wait()
    report({**found, "closed": sum(map(_is_closed, kept))})

    for fd in kept:
        os.close(fd)


def _is_closed(fd: int) -> bool:
    """Whether the server has ended a connection."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setblocking(False)

        try:
            # Sessions and close_notify are data as well.
            while sock.recv(_BUFFER):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass

        return True


def say(found: dict[str, t.Any]) -> None:
    print(json.dumps(found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Be clients that speak TLS.")
    add = parser.add_argument
    add("kind", choices=["handshakes", "latency", "idle"])
    add("--port", type=int, required=True)
    add("--seconds", type=float, default=3.0)
    add("--version", choices=VERSIONS, default="1.3", help="of TLS, for handshakes")
    add("--resume", action="store_true", help="sessions, for handshakes")
    add("--plain", action="store_true", help="no TLS, for latency")
    add("--count", type=int, default=10_000, help="of idle clients")
    add("--request", action="store_true", help="each idle client has asked once")
    options = parser.parse_args()

    if options.kind == "handshakes":
        clients = Handshakes(options.port, options.version, options.resume)
        say(clients.run(options.seconds))
    elif options.kind == "latency":
        context = None if options.plain else untrusting()
        say(latency(options.port, options.seconds, context))
    else:
        raise_descriptors()
        idle(options.port, options.count, options.request, sys.stdin.read, say)


if __name__ == "__main__":
    main()
