"""Connections that the app takes over by ``environ["werkzeug.socket"]``.

WebSocket libraries use the socket that werkzeug's development server puts there, and
speak their protocol on it. So the handler makes a socket for each request, and asks
:meth:`TakeoverSocket.is_taken` whether the app has the connection. If so, the wire's
``before_write`` keeps us from writing. ``app_socket.py`` has that socket.
"""

from __future__ import annotations

import socket
import threading
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterable

from ..system import socket_state
from .errors import RequestTimeout
from .errors import TakenOver

if t.TYPE_CHECKING:
    from .limits import Limits
    from .monitor import Monitor
    from .wire import Wire

Fields = Iterable[tuple[bytes, bytes]]

#: How a view ends whose client has left, or whose library has no response to give.
ENDS = (
    ConnectionError,
    TimeoutError,
    RequestTimeout,
)
#: Seconds between looks at a connection that was taken over.
CHECK_INTERVAL = 0.25
#: Whoever didn't look for so many seconds was stopped: that is nobody's silence.
_STOPPED = 5.0
#: Seconds to wait for threads that are about to end.
JOIN_TIMEOUT = 1.0
#: Seconds between looks at what they do.
_JOIN_STEP = 0.01
#: TCP asks a silent peer whether it is still there: seconds before the first time and
#: between two, and how often (``tcp(7)``).
_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}

lock = threading.Lock()


class TakeoverSocket(socket.socket):
    """What the sockets that the app is given have in common."""

    #: ``None`` when the request is over.
    _wire: Wire | None
    _watchdog: _Watchdog | None = None
    #: What was read ahead of the app.
    _buffered = b""
    #: How often it was used.
    moves = 0
    #: Who was there when it was taken over.
    _threads: t.AbstractSet[threading.Thread] = frozenset()

    def __init__(
        self, wire: Wire, monitor: Monitor, limits: Limits, fields: Fields
    ) -> None:
        # Not the base class's: most apps never look at it, and it has no descriptor
        # until they do.
        self._io_refs = 0
        self._closed = False
        self._wire = wire
        self._monitor = monitor
        self._limits = limits
        self._fields = fields

    def is_taken(self) -> bool:
        """Whether the connection is the app's."""
        wire = self._wire
        return wire is not None and wire.taken

    def is_written(self) -> bool:
        """Whether somebody else than us has written to the connection."""
        return False

    def take(self) -> None:
        """Let the connection be the app's from now on."""
        wire = self._wire
        if wire is None:
            return
        with lock:
            if wire.taken:
                return
            wire.taken = True
            wire.before_write = _refuse
        if wire.buffered:
            self._buffered = bytes(wire.buffered)
            wire.buffered.clear()
        self._threads = {*threading.enumerate()}
        self._monitor.upgrade()
        self._prepare_for_app(wire)
        _keep_alive(wire.sock)
        self.start_watchdog()

    def _prepare_for_app(self, wire: Wire) -> None:
        """Be as a socket that was just accepted, but for what the app has set."""
        raise NotImplementedError

    def start_watchdog(self) -> None:
        """Have a thread look at the connection until the request is over."""
        wire = self._wire
        if self._watchdog is None and wire is not None:
            self._watchdog = _Watchdog(self, wire, self._monitor, self._limits)
            self._watchdog.start()

    def wait_for_threads(self, seconds: float) -> None:
        """Let threads that the app has started since end the connection: the view may
        have returned before the last word of its library.

        :param seconds: For at most so long.
        """
        deadline = time.monotonic() + seconds
        started = {*threading.enumerate()} - self._threads
        while not self._closed and (started := {*filter(_is_alive, started)}):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            next(iter(started)).join(min(left, _JOIN_STEP))

    def stop_watchdog(self) -> None:
        """Look no more: the app has returned."""
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.stop()

    def release(self) -> None:
        """The request is over. If the connection is still ours, it isn't to be used
        by this socket any more: it may bring another request."""
        self.stop_watchdog()
        self._wire = None

    def moved(self) -> None:
        """Something was read or written, as far as is known."""
        self.moves += 1
        if self._wire is not None:
            self._monitor.progress()

    def read_buffered(self, size: int) -> bytes:
        data, self._buffered = self._buffered[:size], self._buffered[size:]
        return data

    def read_buffered_into(self, buffer: t.Any, size: int) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read_buffered(min(size, len(view)) if size else len(view))
        view[: len(data)] = data
        return len(data)


def define_methods(
    kind: type[TakeoverSocket],
    inherited: tuple[str, ...],
    using: Iterable[str],
    use: Callable[[str], t.Any],
    ask: Callable[[str], t.Any],
    fact: Callable[[str], property],
) -> None:
    """Define all that a socket has in this version of Python, as far as the class
    doesn't itself.

    :param kind: The class.
    :param inherited: What is good as it is.
    :param using: What takes the connection over.
    :param use: Makes such a method.
    :param ask: Makes any other.
    :param fact: Makes an attribute.
    """
    for name in dir(kind):
        own = any(name in vars(one) for one in (kind, TakeoverSocket))
        if name.startswith("_") or own or name in inherited:
            continue
        if not callable(getattr(kind, name)):
            setattr(kind, name, fact(name))
        else:
            setattr(kind, name, (use if name in using else ask)(name))


def _is_alive(thread: threading.Thread) -> bool:
    return thread.is_alive()


def size_argument(args: tuple[t.Any, ...], more: dict[str, t.Any]) -> int:
    """The size that ``recv_into`` is called with."""
    return int((args[1] if len(args) > 1 else more.get("nbytes", 0)) or 0)


def asks_for_upgrade(fields: Fields) -> bool:
    """Whether a client wants another protocol (RFC 9110, 7.8)."""
    options = [value for name, value in fields if name.lower() == b"connection"]
    names = b",".join(options).lower().split(b",")
    return any(name.strip(b" \t") == b"upgrade" for name in names)


def shut(sock: socket.socket, how: int) -> None:
    """Shut a connection that the app has, as far as the system goes.

    :param how: As ``shutdown(2)`` takes it.
    """
    try:
        sock.shutdown(how)
    except OSError:
        pass


def _refuse() -> t.NoReturn:
    raise TakenOver


def _keep_alive(sock: socket.socket) -> None:
    """Let the kernel find out when the peer's machine or network is gone, unless the
    app has taken care of it."""
    if sock.family == socket.AF_UNIX:
        return
    try:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            # macOS has no TCP_KEEPIDLE.
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError:
        # The connection is broken; whoever reads will see it.
        pass


class _Watchdog(threading.Thread):
    """Looks at a connection that the app has taken over, or may be about to.

    The app may sit in a read for as long as it likes. What ends that is a shutdown:
    for reading when the worker is to end, so that the app can still say goodbye, and
    altogether if the connection is silent for too long.
    """

    def __init__(
        self, offered: TakeoverSocket, wire: Wire, monitor: Monitor, limits: Limits
    ) -> None:
        super().__init__(name="flask_prefork upgraded connection", daemon=True)
        self._offered = offered
        self._wire = wire
        self._monitor = monitor
        self._limit = limits.upgrade_timeout
        self._over = threading.Event()
        self._seen: tuple[int, int | None] | None = None
        self._written = 0

    def stop(self) -> None:
        """End. Nothing of the connection is touched after that."""
        self._over.set()
        if self is not threading.current_thread():
            self.join(JOIN_TIMEOUT)

    def run(self) -> None:
        """Look until told to stop, or until nothing is left to do."""
        last = moved = time.monotonic()
        is_shut = False
        while not self._over.wait(CHECK_INTERVAL):
            now = time.monotonic()
            if now - last > _STOPPED:
                moved += now - last
            last = now
            if not self._wire.taken:
                self._look_for_writes()
                continue
            if self._has_moved():
                moved = now
            if not is_shut and self._monitor.retiring():
                is_shut = True
                shut(self._wire.sock, socket.SHUT_RD)
            if self._limit and now - moved >= self._limit:
                shut(self._wire.sock, socket.SHUT_RDWR)
                return

    def _look_for_writes(self) -> None:
        """Twice in a row: what we write ourselves is counted a moment later."""
        if self._offered.is_written():
            self._written += 1
            if self._written > 1:
                self._offered.take()
        else:
            self._written = 0

    def _has_moved(self) -> bool:
        seen = self._offered.moves, socket_state.bytes_moved(self._wire.sock)
        moved = seen != self._seen
        if moved:
            self._monitor.progress()
        self._seen = seen
        return moved
