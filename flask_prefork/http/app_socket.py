"""The socket by which an app takes over a connection.

See ``takeover.py``.
"""

from __future__ import annotations

import errno
import os
import socket
import typing as t
import weakref
from collections.abc import Callable

from ..system import socket_state
from .errors import TakenOver
from .takeover import asks_for_upgrade
from .takeover import define_methods
from .takeover import lock
from .takeover import size_argument
from .takeover import TakeoverSocket

if t.TYPE_CHECKING:
    from .wire import Wire

#: Methods by which the connection becomes the app's.
_WRITES = ("send", "sendall", "sendfile", "sendmsg", "sendmsg_afalg", "sendto")
#: The same if they don't just peek, with the place of their flags.
_READS = {
    "recv": 1,
    "recv_into": 2,
    "recvfrom": 1,
    "recvfrom_into": 2,
    "recvmsg": 2,
    "recvmsg_into": 2,
}
_MODES = ("setblocking", "settimeout")
#: Those that were given a descriptor.
_duplicated: weakref.WeakSet[AppSocket] = weakref.WeakSet()


def duplicated_descriptors() -> list[int]:
    """The descriptors of connections that are still ours, by which the app might use
    them."""
    return [sock.native_fileno() for sock in _duplicated if not sock.belongs_to_app()]


class AppSocket(TakeoverSocket):
    """A plain connection: a descriptor of its own, made when anything is asked of it.

    So threads of the app that use it for longer than the request lasts never meet
    another connection under the same number.
    """

    _has_descriptor = False
    _mode_set = False
    #: What the kernel had taken of others than us when the app got the descriptor.
    _others: int | None = None

    def __del__(self) -> None:
        # Werkzeug's server would close it, so no warning that the app didn't. Not
        # earlier: a thread may still be in a call.
        if self._has_descriptor:
            socket.socket._real_close(self)  # type: ignore[attr-defined]

    def ensure_descriptor(self) -> None:
        """Have a descriptor.

        :raises OSError: The request is over.
        """
        with lock:
            if socket.socket.fileno(self) >= 0 or self._closed:
                return
            wire = self._wire
            if wire is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            sock = wire.sock
            if sock.gettimeout() == 0:
                # For sendfile(). That is a property that both descriptors share.
                sock.setblocking(True)
            fd = os.dup(sock.fileno())
            try:
                socket.socket.__init__(self, sock.family, sock.type, sock.proto, fd)
            except BaseException:
                os.close(fd)
                raise
            self._has_descriptor = True
            _duplicated.add(self)
            # Who has a copy of this one would keep the connection open.
            wire.is_last = False
            if self._wire is not wire or sock.fileno() < 0:
                # It was over meanwhile.
                self._closed = True
                socket.socket._real_close(self)  # type: ignore[attr-defined]
                return
            if socket.getdefaulttimeout() is not None:
                socket.socket.settimeout(self, None)

    def native_fileno(self) -> int:
        """Its descriptor, as it is; -1 if it has none any more."""
        return socket.socket.fileno(self)

    def belongs_to_app(self) -> bool:
        """As :meth:`is_taken`, but nothing is done about it; also when the request is
        over."""
        wire = self._wire
        return wire is None or wire.taken or self.is_written()

    def fileno(self) -> int:
        """Its descriptor. Whatever is done by that shows in the kernel's figures."""
        self.ensure_descriptor()
        wire = self._wire
        if wire is not None and not wire.taken and self._others is None:
            written = socket_state.bytes_written(wire.sock)
            if written is not None:
                self._others = written - wire.sent
                wire.before_write = self._before_write
                if asks_for_upgrade(self._fields):
                    self.start_watchdog()
        return socket.socket.fileno(self)

    def is_taken(self) -> bool:
        """Whether the connection is the app's."""
        if not super().is_taken() and self.is_written():
            self.take()
        return super().is_taken()

    def is_written(self) -> bool:
        """Whether somebody else than us has written to the connection."""
        wire = self._wire
        if wire is None or self._others is None:
            return False
        written = socket_state.bytes_written(wire.sock)
        return written is not None and written - wire.sent > self._others

    def _before_write(self) -> None:
        """Before we write for the first time."""
        wire = self._wire
        if wire is None or self.is_taken():
            raise TakenOver
        wire.before_write = None
        self._others = None

    def _prepare_for_app(self, wire: Wire) -> None:
        self.ensure_descriptor()
        if not self._mode_set:
            socket.socket.settimeout(self, None)

    def release(self) -> None:
        """See the base class."""
        wire = self._wire
        if not self._has_descriptor:
            # Nearly always.
            self._wire = None
            self._closed = True
            return
        super().release()
        if wire is not None and not wire.taken:
            wire.before_write = None
            # However many files of it the app has left open.
            self._closed = True
            socket.socket._real_close(self)  # type: ignore[attr-defined]

    def dup(self) -> socket.socket:  # type: ignore[override]
        """As the base class's; the result is no offer, but the app's own."""
        self.take()
        self.ensure_descriptor()
        fd = os.dup(socket.socket.fileno(self))
        own = socket.socket(self.family, self.type, self.proto, fd)
        own.settimeout(self.gettimeout())
        return own

    def detach(self) -> int:
        """As the base class's."""
        self.take()
        self.ensure_descriptor()
        return super().detach()


def _is_peek(args: tuple[t.Any, ...], more: dict[str, t.Any], place: int) -> bool:
    flags = args[place] if len(args) > place else more.get("flags", 0)
    return isinstance(flags, int) and bool(flags & socket.MSG_PEEK)


def _asking(name: str) -> Callable[..., t.Any]:
    """A method that leaves the connection ours."""
    native = getattr(socket.socket, name)

    def method(self: AppSocket, *args: t.Any, **more: t.Any) -> t.Any:
        self.ensure_descriptor()
        if name in _MODES:
            self._mode_set = True
        return native(self, *args, **more)

    return method


def _using(name: str) -> Callable[..., t.Any]:
    """A method by which the connection becomes the app's."""
    native = getattr(socket.socket, name)
    place = _READS.get(name)

    def method(self: AppSocket, *args: t.Any, **more: t.Any) -> t.Any:
        if place is not None and _is_peek(args, more, place):
            self.ensure_descriptor()
            return native(self, *args, **more)
        self.take()
        self.ensure_descriptor()
        if self._buffered and name == "recv":
            return self.read_buffered(args[0])
        if self._buffered and name == "recv_into":
            return self.read_buffered_into(args[0], size_argument(args, more))
        result = native(self, *args, **more)
        self.moved()
        return result

    return method


def _fact(name: str) -> property:
    """An attribute such as ``family``."""
    native = getattr(socket.socket, name)

    def get(self: AppSocket) -> t.Any:
        self.ensure_descriptor()
        return native.__get__(self, type(self))

    return property(get)


define_methods(AppSocket, ("close",), (*_READS, *_WRITES), _using, _asking, _fact)
