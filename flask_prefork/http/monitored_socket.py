"""Sockets for handlers that know no monitor: they report what is read and written, and
bound how long a client may take.

The server makes one of an accepted connection for werkzeug's own handler, and for what
derives from that only. Whatever such a handler does with its ``connection``, ``rfile``
or ``wfile`` goes through here. Until the request is there one deadline holds for all of
its head, and afterwards the same rates as with the server's own handler.
"""

from __future__ import annotations

import math
import select
import socket
import time
import typing as t
from collections.abc import Callable

from ..system.slow_client import SlowClientBudget
from .wire import CHUNK
from .wire import PARK_DELAY
from .wire import wait_for_room

if t.TYPE_CHECKING:
    from .wire import Wire

#: Seconds to wait for a client with no budget left: what is there can still be read.
_MIN_TIMEOUT = 0.001


class MonitoredSocket(socket.socket):
    """A connection whose use is reported, and bounded."""

    #: Called when something of a request or response was read or written.
    progress: Callable[[], None] = staticmethod(lambda: None)
    #: Tells whether others wait for the worker.
    contended: Callable[[], bool] = staticmethod(lambda: False)
    #: The request's, by which the app may take the connection over.
    wire: Wire | None = None
    #: When the client must have sent its request, or must be gone after it; ``None``
    #: meanwhile.
    _deadline: float | None = None
    #: As :meth:`begin_request` takes it, for who answers without the app.
    rate = 0.0
    _over = False
    _reading: SlowClientBudget
    _writing: SlowClientBudget

    @classmethod
    def of(cls, connection: socket.socket) -> MonitoredSocket:
        """Take over a connection.

        :param connection: It has no descriptor any more afterwards.
        """
        return cls(
            connection.family,
            connection.type,
            connection.proto,
            connection.detach(),
        )

    def expect_request(self, deadline: float) -> None:
        """A request is to come.

        :param deadline: For its whole head, as :func:`time.monotonic` tells it.
        """
        self._deadline = deadline
        self.settimeout(None)

    def begin_request(self, wire: Wire | None, rate: float) -> None:
        """Its head is there.

        :param wire: Of this connection.
        :param rate: Bytes per second below which the client is too slow with its body
            or the response; 0 for any.
        """
        self.wire = wire
        self._deadline = None
        self._over = False
        self._reading = SlowClientBudget(rate)
        self._writing = SlowClientBudget(rate)

    def end_request(self, deadline: float) -> None:
        """Its response is over. What comes now is a rest that nobody wants, or the
        next head.

        :param deadline: For all of it, as :func:`time.monotonic` tells it.
        """
        self._over = True
        self._deadline = deadline

    def _call(
        self,
        use: Callable[..., t.Any],
        budget: SlowClientBudget | None,
        *args: t.Any,
        **more: t.Any,
    ) -> t.Any:
        """Read or write, for as long as the client may take.

        :raises TimeoutError: It takes longer.
        """
        own = self.gettimeout()
        if own == 0 or (self._deadline is None and self.wire and self.wire.taken):
            # Nothing waits, or for as long as the app likes.
            return self._report_progress(use(*args, **more))
        if self._deadline is None:
            assert budget is not None
            limit = max(budget.seconds_left(), _MIN_TIMEOUT)
        else:
            limit = self._deadline - time.monotonic()
            if limit <= 0:
                raise TimeoutError("the client took too long")
        super().settimeout(limit if own is None else min(own, limit))
        start = time.monotonic()
        moved = 0
        try:
            result = use(*args, **more)
            moved = _size(result)
        finally:
            if budget is not None:
                waited = time.monotonic() - start
                if waited > PARK_DELAY:
                    budget.hurry(self.contended())
                budget.account(waited, moved)
            if self.fileno() >= 0:
                super().settimeout(own)
        return self._report_progress(result)

    def _report_progress(self, result: t.Any) -> t.Any:
        if self._deadline is None:
            self.progress()
        return result

    def _read(self, use: Callable[..., t.Any], *args: t.Any, **more: t.Any) -> t.Any:
        budget = self._reading if self._deadline is None else None
        return self._call(use, budget, *args, **more)

    def _write(self, use: Callable[..., t.Any], *args: t.Any, **more: t.Any) -> t.Any:
        wire = self.wire
        if wire is not None and wire.before_write is not None:
            # The app has a socket of its own, and may have written by that.
            wire.before_write()
        if self._deadline is not None and not self._over:
            # A handler that answers by itself: it has its request.
            self.begin_request(None, self.rate)
        budget = None
        if self._deadline is None:
            budget = self._writing
            # Else nothing waits, or for as long as the app likes.
            if self.gettimeout() != 0 and not (self.wire and self.wire.taken):
                self._wait_for_room(budget)
        result = self._call(use, budget, *args, **more)
        if self.wire is not None:
            self.wire.sent += result
        return result

    def _wait_for_room(self, budget: SlowClientBudget) -> None:
        """Wait until something can be written, as long as the client may take.

        :raises TimeoutError: It takes longer.
        """
        poll = select.poll()
        poll.register(self, select.POLLOUT)

        def wait(seconds: float) -> bool:
            return bool(poll.poll(math.ceil(seconds * 1000)))

        own = self.gettimeout()
        limit = math.inf if own is None else own
        if not wait(0) and not wait_for_room(
            self, budget, wait, self.progress, limit, self.contended
        ):
            raise TimeoutError("the client takes its response too slowly")

    def recv(self, *args: t.Any, **more: t.Any) -> bytes:
        data: bytes = self._read(super().recv, *args, **more)
        return data

    def recv_into(self, *args: t.Any, **more: t.Any) -> int:
        count: int = self._read(super().recv_into, *args, **more)
        return count

    def recvfrom(self, *args: t.Any, **more: t.Any) -> t.Any:
        return self._read(super().recvfrom, *args, **more)

    def recvfrom_into(self, *args: t.Any, **more: t.Any) -> t.Any:
        return self._read(super().recvfrom_into, *args, **more)

    def recvmsg(self, *args: t.Any, **more: t.Any) -> t.Any:
        return self._read(super().recvmsg, *args, **more)

    def recvmsg_into(self, *args: t.Any, **more: t.Any) -> t.Any:
        return self._read(super().recvmsg_into, *args, **more)

    def send(self, *args: t.Any, **more: t.Any) -> int:
        count: int = self._write(super().send, *args, **more)
        return count

    def sendmsg(self, *args: t.Any, **more: t.Any) -> int:
        count: int = self._write(super().sendmsg, *args, **more)
        return count

    def sendto(self, *args: t.Any, **more: t.Any) -> int:
        count: int = self._write(super().sendto, *args, **more)
        return count

    def sendall(self, data: t.Any, flags: int = 0) -> None:
        """As of a socket, but the client of a large response may take it slowly."""
        with memoryview(data) as view, view.cast("B") as rest:
            sent = 0
            while sent < len(rest):
                sent += self.send(rest[sent : sent + CHUNK], flags)

    def sendfile(self, file: t.Any, offset: int = 0, count: int | None = None) -> int:
        """As of a socket, without ``sendfile(2)``, which would tell of nothing before
        its end."""
        return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined, no-any-return]


def _size(result: t.Any) -> int:
    """How many bytes a call has moved, by what it returned."""
    if isinstance(result, tuple):
        result = result[0]
    return result if isinstance(result, int) else len(result)
