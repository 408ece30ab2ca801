"""The socket by which an app takes over a TLS connection.

See ``takeover.py``.
"""

from __future__ import annotations

import errno
import os
import ssl
import threading
import typing as t
from collections.abc import Callable

from .takeover import define_methods
from .takeover import JOIN_TIMEOUT
from .takeover import size_argument
from .takeover import TakeoverSocket

if t.TYPE_CHECKING:
    from .limits import Limits
    from .monitor import Monitor
    from .takeover import Fields
    from .wire import Wire

#: Methods by which the connection becomes the app's.
_USES = (
    "read", "recv", "recv_into", "send", "sendall", "sendfile", "unwrap", "write",
)  # fmt: skip


class TLSAppSocket(TakeoverSocket, ssl.SSLSocket):
    """A TLS connection: its state can't be copied, so this stands for the socket.

    Who is still in a call when the request is over gets its connection's end, and
    nobody gets into one after that.
    """

    def __init__(
        self, wire: Wire, monitor: Monitor, limits: Limits, fields: Fields
    ) -> None:
        super().__init__(wire, monitor, limits, fields)
        self._connection: t.Any = wire.sock
        self._calls = 0
        self._over = False
        self._mode: float | None = None
        self._settled = threading.Condition()

    def __getattr__(self, name: str) -> t.Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._connection, name)

    def call(self, name: str, *args: t.Any, **more: t.Any) -> t.Any:
        """Call a method of the connection.

        :raises OSError: The request is over, or this was closed.
        """
        with self._settled:
            if self._over:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._calls += 1
        try:
            return getattr(self._connection, name)(*args, **more)
        finally:
            with self._settled:
                self._calls -= 1
                self._settled.notify_all()

    def use(self, name: str, *args: t.Any, **more: t.Any) -> t.Any:
        """The same; the connection becomes the app's."""
        self.take()
        if self._buffered and name in ("recv", "read", "recv_into"):
            return self._use_buffered(name, *args, **more)
        result = self.call(name, *args, **more)
        self.moved()
        return result

    def _use_buffered(self, name: str, *args: t.Any, **more: t.Any) -> t.Any:
        if name == "recv_into":
            return self.read_buffered_into(args[0], size_argument(args, more))
        size = args[0] if args else more.get("len", 1024)
        buffer = args[1] if len(args) > 1 else more.get("buffer")
        if buffer is not None:
            return self.read_buffered_into(buffer, size)
        return self.read_buffered(size)

    def set_mode(self, seconds: float | None) -> None:
        """Set the timeout: the wire's is another one."""
        if self.is_taken():
            self.call("settimeout", seconds)
        self._mode = seconds

    def _prepare_for_app(self, wire: Wire) -> None:
        wire.sock.settimeout(self._mode)

    def release(self) -> None:
        """See the base class."""
        super().release()
        with self._settled:
            self._over = True
            self._settled.wait_for(lambda: not self._calls, JOIN_TIMEOUT)

    def _real_close(self) -> None:
        self._over = True

    # What isn't just passed on.

    def settimeout(self, value: float | None) -> None:
        """As the base class's."""
        self.set_mode(value)

    def setblocking(self, flag: bool) -> None:
        """As the base class's."""
        self.set_mode(None if flag else 0.0)

    def gettimeout(self) -> float | None:
        """As the base class's."""
        return self._mode

    def getblocking(self) -> bool:
        """As the base class's."""
        return self._mode != 0

    @property
    def timeout(self) -> float | None:
        """As the base class's."""
        return self._mode

    def fileno(self) -> int:
        """As the base class's."""
        return -1 if self._over else int(self._connection.fileno())

    def pending(self) -> int:
        """As the base class's."""
        return len(self._buffered) + int(self.call("pending"))

    def detach(self) -> int:
        """As the base class's; but the connection ends with the request."""
        self.take()
        fd = os.dup(self.call("fileno"))
        self._over = True
        return fd


def _passing(name: str) -> Callable[..., t.Any]:
    def method(self: TLSAppSocket, *args: t.Any, **more: t.Any) -> t.Any:
        return self.call(name, *args, **more)

    return method


def _passing_use(name: str) -> Callable[..., t.Any]:
    def method(self: TLSAppSocket, *args: t.Any, **more: t.Any) -> t.Any:
        return self.use(name, *args, **more)

    return method


def _passing_fact(name: str) -> property:
    return property(lambda self: getattr(self._connection, name))


# The two that are inherited make objects around this one, and count them.
define_methods(
    TLSAppSocket,
    ("close", "makefile"),
    _USES,
    _passing_use,
    _passing,
    _passing_fact,
)
