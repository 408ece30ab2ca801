"""Sockets for handlers that know no monitor: they tell of what is read and written.

The server makes one of an accepted connection for werkzeug's own handler, and for what
derives from that only. Whatever such a handler does with its ``connection``, ``rfile``
or ``wfile`` goes through here.
"""

from __future__ import annotations

import socket
import ssl
import typing as t
from collections.abc import Callable

if t.TYPE_CHECKING:
    _Base = socket.socket
else:
    _Base = object


class _Telling(_Base):
    #: Called when something was read or written.
    progress: Callable[[], None] = staticmethod(lambda: None)

    def recv(self, *args: t.Any) -> bytes:
        data = super().recv(*args)
        self.progress()
        return data

    def recv_into(self, *args: t.Any) -> int:
        count = super().recv_into(*args)
        self.progress()
        return count

    def send(self, *args: t.Any) -> int:
        count = super().send(*args)
        self.progress()
        return count

    def sendall(self, data: t.Any, flags: int = 0) -> None:
        """As of a socket, but the time-out is for each part: the client of a large
        response may take it slowly."""
        with memoryview(data) as view, view.cast("B") as rest:
            sent = 0
            while sent < len(rest):
                sent += self.send(rest[sent:], flags)

    def sendfile(self, file: t.Any, offset: int = 0, count: int | None = None) -> int:
        """As of a socket, without ``sendfile(2)``, which would tell of nothing before
        its end."""
        return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined, no-any-return]


class TellingSocket(_Telling, socket.socket):
    """A plain one."""

    @classmethod
    def of(
        cls, connection: socket.socket, progress: Callable[[], None]
    ) -> TellingSocket:
        """Take over a connection.

        :param connection: It has no descriptor any more afterwards.
        :param progress: Called when something was read or written.
        """
        told = cls(
            connection.family,
            connection.type,
            connection.proto,
            connection.detach(),
        )
        told.progress = progress
        return told


class TellingSSLSocket(_Telling, ssl.SSLSocket):
    """One of TLS; ``sslsocket_class`` of the context makes it."""
