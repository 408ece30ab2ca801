"""Limits, and what this package calls of a worker, and returns to it.

The package calls its :class:`Monitor`, which is the worker, at the turns of a request;
what :meth:`.server.PreforkServer.serve` returns to the worker is a
:class:`~..system.parked.Parked`.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

#: For the Server field and SERVER_SOFTWARE. No version: that is nobody's business.
SOFTWARE = "flask_prefork"


@dataclass(frozen=True)
class Limits:
    """Bounds on what a client may send and for how long it may take.

    The head as a whole is bounded too: see :attr:`head`.
    """

    #: Bytes of the request line without its CRLF; 414 above.
    request_line: int = 8190
    #: How many field lines; 431 above.
    fields: int = 100
    #: Bytes of one field line without its CRLF; 431 above.
    field_size: int = 8190
    #: Bytes of the body, decoded; 413 above, 0 is no limit.
    body: int = 0
    #: Seconds for the whole head, from the accept or, on a connection that was
    #: kept alive, from the head's first byte; 408 above.
    header_timeout: float = 10.0
    #: Seconds a connection may wait for its next request; 0 keeps none alive.
    keep_alive: float = 15.0
    #: Bytes per second below which a client is too slow, for bodies in and
    #: responses out, after a grace; 0 is off.
    min_data_rate: float = 240.0
    #: Seconds that a connection which the app has taken over may be silent; 0 is for
    #: ever.
    upgrade_timeout: float = 0.0
    #: Seconds a kept-alive connection may hold its worker while others wait.
    slice: float = 0.005

    @property
    def head(self) -> int:
        """Bytes of a whole head; 431 above."""
        return max(65536, self.request_line + self.field_size)


class Monitor(t.Protocol):
    """How the worker watches its requests, and tells what goes on around it."""

    #: The worker's number, for the environ.
    slot: int
    #: The generation of the app it serves, for the environ.
    generation: int
    #: Set while the app runs: :exc:`~.errors.RequestTimeout` may be raised in it.
    abortable: bool

    def begin(self, method: str, path: str) -> None:
        """A request's head was read.

        :param path: The request target as it came: anything printable.
        """

    def progress(self) -> None:
        """Some of its body was read, or of its response sent."""

    def upgrade(self) -> None:
        """The app has taken its connection over: there will be no response, and no
        :exc:`~.errors.RequestTimeout` is to be raised. Any thread may call this and
        :meth:`progress`."""

    def end(self, status: int, sent: int) -> None:
        """Its response is over.

        :param status: The status sent, 0 if nothing could be sent.
        :param sent: Bytes sent, the head's included.
        """

    def about_to_accept(self) -> None:
        """The last byte of a response is about to be sent: unless the next request
        is there at once, the worker is free in a moment."""

    def draining(self) -> bool:
        """Whether the server stops, so that connections must end."""

    def retiring(self) -> bool:
        """Whether the worker is to end, so that connections must that the app has
        taken over."""

    def contended(self) -> bool:
        """Whether others wait for a worker."""


class NullMonitor:
    """A monitor for use without a pool: a lone worker that never stops."""

    slot = 0
    generation = 0
    abortable = False

    def begin(self, method: str, path: str) -> None:
        """Do nothing."""

    def progress(self) -> None:
        """Do nothing."""

    def upgrade(self) -> None:
        """Do nothing."""

    def end(self, status: int, sent: int) -> None:
        """Do nothing."""

    def about_to_accept(self) -> None:
        """Do nothing."""

    def draining(self) -> bool:
        """Never."""
        return False

    def retiring(self) -> bool:
        """Never."""
        return False

    def contended(self) -> bool:
        """Never."""
        return False
