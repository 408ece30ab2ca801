"""Clients of all kinds at once, each in a thread, and the ledger that they write."""

from __future__ import annotations

import random
import selectors
import socket
import threading
import time
import typing as t
from collections import Counter
from collections.abc import Mapping

from .account import LOST
from .account import Request
from .exchange import Connection
from .exchange import FAILURES
from .exchange import head
from .exchange import Response
from .exchange import Target
from .kinds import judged
from .kinds import Kind
from .kinds import OVERLOAD
from .kinds import Turn

WAIT = 120.0
"""Seconds that anything may take that is waited for."""

_NOBODY = ("ConnectionRefusedError", "FileNotFoundError")
"""Nobody listens on the port, or on the unix socket."""

_PAUSE = 0.5
"""Seconds until who lost a request sends the next one."""


class Ledger:
    """All requests that have ended. For any thread."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._requests: list[Request] = []
        self._number = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        """By kind and outcome, since the beginning."""

    def name(self, kind: str) -> str:
        """The next request's id."""
        with self._news:
            self._number += 1
            return f"{kind}-{self._number}"

    def note(self, request: Request) -> None:
        with self._news:
            self._requests.append(request)
            self.counts[request.kind, request.outcome] += 1
            self._news.notify_all()

    def take(self) -> list[Request]:
        """What was noted since the last time."""
        with self._news:
            taken, self._requests = self._requests, []
            return taken

    def wait_for(self, kind: str, outcome: str = "", more: int = 1) -> None:
        """Wait for so many more of these.

        :param outcome: Empty is any.
        :raises TimeoutError: They don't come.
        """

        def count() -> int:
            return sum(
                count
                for (name, how), count in self.counts.items()
                if name == kind and outcome in ("", how)
            )

        with self._news:
            wanted = count() + more

            if not self._news.wait_for(lambda: count() >= wanted, WAIT):
                raise TimeoutError(f"no more {kind} requests are {outcome or 'over'}")


class Load:
    """The clients, from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        kinds: t.Iterable[Kind],
        targets: Mapping[str, Target],
        ledger: Ledger,
        rng: random.Random,
    ) -> None:
        self._ledger = ledger
        self._targets = targets
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run, args=(kind, random.Random(rng.random())), daemon=True
            )
            for kind in kinds
            for _ in range(kind.count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each client finish its request.

        :raises TimeoutError: One doesn't.
        """
        self._stopped.set()

        for thread in self._threads:
            thread.join(2 * WAIT)

            if thread.is_alive():
                raise TimeoutError("a client is neither answered nor cut off")

    def _run(self, kind: Kind, rng: random.Random) -> None:
        connection = None

        while not self._stopped.is_set():
            before = self._ledger.counts[kind.name, LOST]
            connection = self._turn(kind, rng, connection)
            lost = self._ledger.counts[kind.name, LOST] > before
            # Who was cut off doesn't come again at once.
            pause = _PAUSE if lost else kind.gap
            self._stopped.wait(pause * rng.uniform(0.5, 1.5))

        if connection is not None:
            connection.close()

    def _turn(
        self, kind: Kind, rng: random.Random, connection: Connection | None
    ) -> Connection | None:
        """Send a request.

        :return: The connection for the next one.
        """
        turn = Turn(
            self._targets[kind.server], self._ledger.name(kind.name), rng, connection
        )
        outcome, status, detail = LOST, 0, ""

        try:
            outcome, status, detail = kind.act(turn)
        except FAILURES as error:
            detail = f"{type(error).__name__}: {error}"

        made = turn.connection
        ended = time.monotonic()
        self._ledger.note(
            Request(
                turn.name,
                kind.name,
                "plain" if kind.server == "admin" else kind.server,
                turn.since,
                ended,
                outcome,
                status,
                detail,
                not detail.startswith(_NOBODY),
                turn.was_kept,
            )
        )

        if made is not None and kind.keep and made.open and outcome != LOST:
            return made

        if made is not None:
            made.close()

        return None


class _Burst:
    """One request of an overload episode."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.sock = sock
        self.name = name
        self.since = time.monotonic()
        self.data = b""

    def ended(self, server: str, error: str = "") -> Request:
        """What became of it."""
        outcome, status, detail = LOST, 0, error
        top, _, body = self.data.partition(b"\r\n\r\n")
        words = top.split(b" ", 2)

        if len(words) == 3 and not error:
            told = Response(int(words[1]), body)
            outcome, status, detail = judged(told, self.name.encode())

        return Request(
            self.name,
            OVERLOAD.name,
            server,
            self.since,
            time.monotonic(),
            outcome,
            status,
            detail,
        )


def overload(target: Target, ledger: Ledger, count: int) -> None:
    """Send many slow requests at once, and wait until each has ended."""
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            name = ledger.name(OVERLOAD.name)
            sock = socket.create_connection(target.address, WAIT)  # type: ignore[arg-type]
            burst = _Burst(sock, name)

            try:
                sock.sendall(head("GET", f"/slow?id={name}&seconds=0.2"))
            except OSError as error:
                ledger.note(burst.ended(target.name, str(error)))
                sock.close()
                continue

            selector.register(sock, selectors.EVENT_READ, burst)

        end = time.monotonic() + WAIT

        while selector.get_map():
            for key, _ in selector.select(max(0.0, end - time.monotonic())):
                burst, error = key.data, ""

                try:
                    if data := burst.sock.recv(65536):
                        burst.data += data
                        continue
                except OSError as e:
                    error = str(e)

                selector.unregister(burst.sock)
                burst.sock.close()
                ledger.note(burst.ended(target.name, error))

            if time.monotonic() >= end:
                break

        for key in list(selector.get_map().values()):
            ledger.note(key.data.ended(target.name, "no answer"))
            key.data.sock.close()
