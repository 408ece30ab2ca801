"""Clients that ask until they are told to stop, and account for every request."""

from __future__ import annotations

import json
import random
import socket
import ssl
import threading
import time
import typing as t
from collections import Counter
from collections.abc import Callable
from http.client import HTTPException
from http.client import HTTPResponse

import patience

#: No answer takes so long, in seconds, unless something is broken.
TIMEOUT = 20.0 * patience.factor
#: How long a client that was refused waits before it connects again, in seconds.
_PAUSE = 0.005
_RNG = random.Random(50)


def now_and_then() -> float:
    """A gap of random length, 20 ms on average, for clients that ask all the while.

    Clients without gaps take the processors from what the test waits for meanwhile.
    Some gaps are as good as none, so that requests come at any moment.
    """
    return _RNG.expovariate(50)


class Answered(t.NamedTuple):
    """A request that was answered to the end.

    :param status: The response's.
    :param told: What the app said of itself, if it was JSON.
    :param took: Seconds from the connection's begin, or from the request's on a
        kept one.
    """

    status: int
    told: dict[str, t.Any]
    took: float


class Report(t.NamedTuple):
    """What became of the requests.

    :param answered: Those that were answered.
    :param refused: How many didn't get a connection.
    :param lost: The errors of all others.
    :param renewed: How many were sent again because the server had closed a kept
        connection before it read them (RFC 9112, section 9.3.1).
    """

    answered: list[Answered]
    refused: int
    lost: list[Exception]
    renewed: int

    @property
    def statuses(self) -> Counter[int]:
        return Counter(one.status for one in self.answered)

    @property
    def slowest(self) -> float:
        """The longest time that an answer took, in seconds."""
        return max(one.took for one in self.answered)

    def seen(self, name: str) -> set[t.Any]:
        """All values that the app told under this name."""
        return {one.told[name] for one in self.answered if name in one.told}

    def assert_all_served(self) -> None:
        """Check that nobody noticed anything."""
        assert self.answered
        assert self.lost == []
        assert self.refused == 0
        assert set(self.statuses) == {200}


class Closed(Exception):
    """The server closed a kept connection instead of reading the request."""


class Client:
    """One client. Not for two threads.

    :param url: Where the server is, as its banner says.
    :param keep_alive: Send all requests on one connection, as long as it's kept.
    :param body: What to post with each, in a segment of its own, instead of a GET.
    """

    def __init__(self, url: str, keep_alive: bool = False, body: bytes = b"") -> None:
        scheme, _, self.address = url.partition("://")
        self.unix = scheme == "unix"
        self.keep_alive = keep_alive
        self.body = body
        self._sock: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        if scheme == "https":
            self._context = ssl.create_default_context()
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE

    @property
    def is_kept(self) -> bool:
        """Whether there is a connection for the next request."""
        return self._sock is not None

    def connect(self) -> None:
        """Connect before the first request.

        :raises OSError: There is no connection to be had.
        """
        self._sock = self._sock or self._connect()

    def ask(self, path: str = "/") -> Answered:
        """Send a request and wait for its answer.

        :raises ConnectionRefusedError: If there is no connection to be had.
        :raises Closed: If a kept connection was closed before.
        :raises OSError: If it got lost otherwise; or :exc:`HTTPException`.
        """
        begun = time.monotonic()
        kept = self._sock is not None
        connection = "keep-alive" if self.keep_alive else "close"
        method = "POST" if self.body else "GET"
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}"
        )
        if self.body:
            head += f"\r\nContent-Length: {len(self.body)}"
        try:
            sock = self._sock = self._sock or self._connect()
            # It holds the socket open, too.
            with HTTPResponse(sock) as response:
                try:
                    sock.sendall(f"{head}\r\n\r\n".encode())
                    if self.body:
                        # Nothing at all is an error once a unix socket's end is closed.
                        sock.sendall(self.body)
                    response.begin()
                except ConnectionError:
                    if kept:
                        raise Closed from None
                    raise
                body = response.read()
                kind = response.getheader("Content-Type", "")
            if response.will_close:
                self.close()
        except BaseException:
            self.close()
            raise
        took = time.monotonic() - begun
        told = json.loads(body) if kind == "application/json" else {}
        return Answered(response.status, told, took)

    def _connect(self) -> socket.socket:
        if self.unix:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(TIMEOUT)
            try:
                sock.connect(self.address)
            except FileNotFoundError as e:
                sock.close()
                raise ConnectionRefusedError(*e.args) from None
            except BaseException:
                sock.close()
                raise
            return sock
        host, _, port = self.address.rpartition(":")
        sock = socket.create_connection((host.strip("[]"), int(port)), TIMEOUT)
        if self._context is None:
            return sock
        try:
            return self._context.wrap_socket(sock)
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Close the connection that was kept, if there is one."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Load:
    """So many clients, each in a thread, from entering the context to leaving it.

    :param url: Where the server is.
    :param clients: How many.
    :param keep_alive: See :class:`Client`.
    :param path: What they ask for.
    :param body: See :class:`Client`.
    :param gap: How long a client waits between two requests, in seconds.
    """

    def __init__(
        self,
        url: str,
        clients: int = 4,
        *,
        keep_alive: bool = False,
        path: str = "/",
        body: bytes = b"",
        gap: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._path = path
        self._gap = gap
        self._stopped = threading.Event()
        self._news = threading.Condition()
        self._report = Report([], 0, [], 0)
        self._threads = [
            threading.Thread(target=self._run, args=(Client(url, keep_alive, body),))
            for _ in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    def _run(self, client: Client) -> None:
        while not self._stopped.is_set():
            try:
                answered = client.ask(self._path)
            except ConnectionRefusedError:
                self._note(refused=1)
                self._stopped.wait(_PAUSE)
            except Closed:
                self._note(renewed=1)
            except (OSError, HTTPException) as e:
                self._note(lost=e)
            else:
                self._note(answered)
                gap = self._gap()
                if gap:
                    self._stopped.wait(gap)
        client.close()

    def _note(
        self,
        answered: Answered | None = None,
        refused: int = 0,
        lost: Exception | None = None,
        renewed: int = 0,
    ) -> None:
        with self._news:
            report = self._report
            if answered is not None:
                report.answered.append(answered)
            if lost is not None:
                report.lost.append(lost)
            self._report = report._replace(
                refused=report.refused + refused, renewed=report.renewed + renewed
            )
            self._news.notify_all()

    @property
    def report(self) -> Report:
        """What became of the requests so far."""
        with self._news:
            return self._report._replace(answered=list(self._report.answered))

    def wait_for(self, condition: Callable[[Report], t.Any]) -> None:
        """Wait until a condition holds for all that was noted so far."""
        with self._news:
            held = self._news.wait_for(lambda: condition(self._report), TIMEOUT)
        assert held, "waited in vain"

    def wait_until_seen(self, name: str, value: t.Any) -> None:
        """Wait until the app told this value under this name."""
        checked = 0

        # Only what is new: it is asked at each answer, of which there are thousands.
        def is_seen(report: Report) -> bool:
            nonlocal checked
            new = report.answered[checked:]
            checked += len(new)
            return any(one.told.get(name) == value for one in new)

        self.wait_for(is_seen)

    def wait_for_more(self, count: int = 20) -> None:
        """Wait until so many more requests are answered."""
        with self._news:
            before = len(self._report.answered)
        self.wait_for(lambda report: len(report.answered) >= before + count)

    def stop(self) -> Report:
        """Let every client finish its request, and tell what became of all."""
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        return self._report
