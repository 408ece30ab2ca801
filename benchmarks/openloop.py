"""Send requests at times that are fixed before, whether or not others have finished.

``python openloop.py --port 8000 --rate 500 --seconds 5`` is a separate process that
prints one line of JSON. A client that waits for a response before it sends its next
request sends fewer requests to a slow server, and the time that it waits is in no
figure: "coordinated omission". Here a request's latency is measured from the planned
time. How late the request was really sent is measured as well. If that isn't small,
the figures are about this program and not about the server.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import heapq
import json
import select
import socket
import time
import typing as t
from collections import Counter
from dataclasses import dataclass

from arrivals import poisson
from histogram import Histogram

REQUEST = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n"
CLOSE = b"Connection: close\r\n"

MOST_OPEN = 4000
"""Connections at the same time; then the server doesn't follow at all."""

OK = "200"
"""How a request has ended that was answered; otherwise it is an error's name."""

LATE = 2_000
"""Microseconds: with more, in one of a hundred requests, it doesn't keep up."""


@dataclass(eq=False)
class Exchange:
    """A connection, and the request that is on it.

    :param sock: Not blocking.
    :param due: When the request was to be sent.
    """

    sock: socket.socket
    due: float
    sent: bool = False
    received: bytes = b""
    missing: int | None = None
    """Bytes of the body; ``None`` before the head's end."""

    def take(self, data: bytes) -> bool:
        """Take in what came.

        :return: Whether the response is complete.
        :raises ValueError: It isn't one that we take.
        """
        if self.missing is None:
            self.received += data
            head, end, data = self.received.partition(b"\r\n\r\n")

            if not end:
                return False

            self.missing = _length(head)

        self.missing -= len(data)
        return self.missing <= 0


def _length(head: bytes) -> int:
    """The length of the body, of a response that says so and is no failure."""
    if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
        raise ValueError(f"status {head[9:12].decode('latin-1')}")

    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])

    raise ValueError("length")


class Generator:
    """One run.

    :param port: Of the loopback interface.
    :param moments: When each request is to be sent, in seconds from the start.
    :param keep_alive: Keep connections and use them again.
    :param timeout: Seconds until a request is given up.
    :param path: What is asked for.
    """

    def __init__(
        self,
        port: int,
        moments: t.Sequence[float],
        keep_alive: bool,
        timeout: float,
        path: str = "/",
    ) -> None:
        self.address = ("127.0.0.1", port)
        self.keep_alive = keep_alive
        self.timeout = timeout
        self.request = REQUEST % (path.encode(), b"" if keep_alive else CLOSE)
        self.latencies: list[float] = []
        #: When each request was to be sent, in seconds from the start; how many seconds
        #: later it had ended, and how.
        self.trace: list[tuple[float, float, str]] = []
        #: By the clock that all processes of the machine share.
        self.began = 0.0
        self.lags: list[float] = []
        self.errors: Counter[str] = Counter()
        self._moments = moments
        self._poll = select.epoll()
        self._open: dict[int, Exchange] = {}
        #: Kept connections, the one that was used last at the end.
        self._kept: list[socket.socket] = []
        self._overdue: list[tuple[float, int, Exchange]] = []

    def run(self) -> None:
        """Send all, and wait for what is on its way."""
        begin = self.began = time.perf_counter() + 0.01

        for number, moment in enumerate(self._moments):
            due = begin + moment

            while not self._serve_until(due):
                pass

            self._give_up()
            self._send(due, number)

        while self._open:
            self._serve_until(self._overdue[0][0])
            self._give_up()

        for sock in self._kept:
            sock.close()

        self._poll.close()

    def _serve_until(self, due: float) -> bool:
        """Take in what has come, or comes next.

        :return: Whether it is time.
        """
        left = due - time.perf_counter()

        # epoll's own timeout is in milliseconds, select's in microseconds.
        if left > 0 and not select.select([self._poll], [], [], left)[0]:
            return True

        for fd, _ in self._poll.poll(0):
            self._proceed(self._open[fd])

        return left <= 0

    def _send(self, due: float, number: int) -> None:
        if len(self._open) >= MOST_OPEN:
            self._fail(due, "too many open")
            return

        try:
            sock = self._kept_one() or self._connect()
        except OSError as error:
            self._fail(due, _name(error))
            return

        exchange = Exchange(sock, due)
        self._open[sock.fileno()] = exchange
        heapq.heappush(self._overdue, (due + self.timeout, number, exchange))
        self.lags.append((time.perf_counter() - due) * 1e6)
        self._poll.register(sock, select.EPOLLIN | select.EPOLLOUT)
        self._proceed(exchange)

    def _kept_one(self) -> socket.socket | None:
        """A kept connection that the server hasn't closed meanwhile."""
        while self._kept:
            sock = self._kept.pop()

            try:
                sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return sock
            except OSError:
                pass

            sock.close()

        return None

    def _connect(self) -> socket.socket:
        sock = socket.socket()

        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            problem = sock.connect_ex(self.address)

            if problem not in (0, errno.EINPROGRESS):
                raise OSError(problem, "connect")
        except OSError:
            sock.close()
            raise

        return sock

    def _proceed(self, exchange: Exchange) -> None:
        """Send, or receive."""
        try:
            if not exchange.sent:
                exchange.sock.send(self.request)
                exchange.sent = True
                self._poll.modify(exchange.sock, select.EPOLLIN)
                return

            data = exchange.sock.recv(65536)

            if not data:
                raise ValueError("closed early")

            if exchange.take(data):
                latency = self._end(exchange.due, OK)
                self.latencies.append(latency * 1e6)
                self._finish(exchange, keep=self.keep_alive)
        except BlockingIOError:
            pass  # Or not connected yet: then send() says EAGAIN as well.
        except (OSError, ValueError) as error:
            self._fail(exchange.due, _name(error))
            self._finish(exchange, keep=False)

    def _end(self, due: float, how: str) -> float:
        """Note how a request has ended.

        :return: Its seconds.
        """
        seconds = time.perf_counter() - due
        self.trace.append((round(due - self.began, 4), round(seconds, 4), how))
        return seconds

    def _fail(self, due: float, how: str) -> None:
        self.errors[how] += 1
        self._end(due, how)

    def _finish(self, exchange: Exchange, keep: bool) -> None:
        del self._open[exchange.sock.fileno()]
        self._poll.unregister(exchange.sock)

        if keep and b"connection: close" not in exchange.received.lower():
            self._kept.append(exchange.sock)
        else:
            exchange.sock.close()

    def _give_up(self) -> None:
        """Count as failed what takes too long."""
        now = time.perf_counter()

        while self._overdue and self._overdue[0][0] <= now:
            exchange = heapq.heappop(self._overdue)[2]

            if self._open.get(exchange.sock.fileno()) is exchange:
                self._fail(exchange.due, "timeout")
                self._finish(exchange, keep=False)

    def report(self) -> dict[str, t.Any]:
        """What the run gave, as JSON has it."""
        lag = sorted(self.lags)[int(0.99 * len(self.lags))] if self.lags else 0.0
        return {
            "planned": len(self._moments),
            "answered": len(self.latencies),
            "errors": dict(self.errors),
            "latencies": Histogram.of(self.latencies).json(),
            "lag_p99": round(lag),
            "kept_up": lag <= LATE,
        }


def _name(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))

    return str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals")
    parser.add_argument("--keep-alive", action="store_true", help="use them again")
    parser.add_argument("--timeout", type=float, default=10.0, help="of a request")
    parser.add_argument("--path", default="/", help="what is asked for")
    parser.add_argument("--trace", action="store_true", help="report each request")
    options = parser.parse_args()
    moments = poisson(options.rate, options.seconds, options.seed)
    generator = Generator(
        options.port, moments, options.keep_alive, options.timeout, options.path
    )
    # A collection would come between a moment and its request.
    gc.disable()

    with contextlib.suppress(KeyboardInterrupt):
        generator.run()

    report = generator.report()

    if options.trace:
        report |= {"begin": generator.began, "trace": generator.trace}

    print(json.dumps(report))


if __name__ == "__main__":
    main()
