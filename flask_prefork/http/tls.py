"""TLS on a client's socket: the handshake, and the wire after it.

The server shakes hands before it makes a handler, in the worker and under the deadline
of a request's head.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from collections.abc import Callable

from .errors import ClientDisconnected
from .wire import CHUNK
from .wire import READABLE
from .wire import Wire


class TLSWire(Wire):
    """A socket after its handshake, non-blocking."""

    plain = False
    sock: ssl.SSLSocket

    def __init__(
        self,
        sock: ssl.SSLSocket,
        local: bool = False,
        progress: Callable[[], None] = lambda: None,
        contended: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(sock, local, progress, contended)
        self.buffered = bytearray()

    def _receive(self, size: int, flags: int = 0) -> bytes | None:
        try:
            return self.sock.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""
        except (OSError, ValueError) as e:
            raise ClientDisconnected(str(e)) from None

    def _receive_into(self, view: memoryview) -> int | None:
        try:
            return self.sock.recv_into(view)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return 0
        except (OSError, ValueError) as e:
            raise ClientDisconnected(str(e)) from None

    def _send(self, data: bytes | memoryview, flags: int = 0) -> int:
        try:
            # A bigger piece is written as a whole or not at all, as it seems from
            # here: a client that takes it all the time would pass for one that
            # doesn't.
            return self.sock.send(data[:CHUNK])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except (OSError, ValueError) as e:
            raise ClientDisconnected(str(e)) from None

    def wait(self, seconds: float, events: int = READABLE) -> bool:
        # A record may be decrypted already, then the kernel has no news of it.
        if events == READABLE and not self.finished and self.sock.pending():
            return True
        return super().wait(seconds, events)

    def _drop(self, scratch: memoryview) -> int | None:
        # Below TLS: what comes after our last word needs no decryption.
        try:
            return socket.socket.recv_into(self.sock, scratch, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as e:
            raise ClientDisconnected(str(e)) from None

    def finish(self) -> None:
        """Send close_notify, so that the client can tell the end from a cut."""
        if self.finished:
            return
        self.finished = True
        try:
            # The app's protocol has an end of its own, and a thread may be reading.
            if not self.taken:
                self.sock.unwrap()
        except (OSError, ValueError):
            # Unwrapping wants the client's close_notify too; ours is on its way.
            pass
        try:
            # SSLSocket.shutdown() would drop the session.
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
        except OSError:
            pass


def do_tls_handshake(
    sock: socket.socket, context: ssl.SSLContext, deadline: float
) -> ssl.SSLSocket:
    """Do a TLS handshake.

    :param sock: An accepted connection; it is closed if this fails.
    :param deadline: As :func:`time.monotonic` tells it.
    :return: The :class:`ssl.SSLSocket`, non-blocking.
    :raises OSError: :class:`ssl.SSLError` for what is no TLS,
        :class:`TimeoutError` at the deadline.
    """
    sock.setblocking(False)
    wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    try:
        poll = select.poll()
        while True:
            try:
                wrapped.do_handshake()
                return wrapped
            except ssl.SSLWantReadError:
                poll.register(wrapped, select.POLLIN)
            except ssl.SSLWantWriteError:
                poll.register(wrapped, select.POLLOUT)
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(math.ceil(left * 1000)):
                raise TimeoutError("the TLS handshake took too long")
    except BaseException:
        _close(wrapped)
        raise


def _close(sock: ssl.SSLSocket) -> None:
    """Close what has no TLS. Take what is there, since what was left unread would make
    a reset of it, but wait for nothing."""
    try:
        # Not SSLSocket's own, which want an end of the handshake.
        socket.socket.shutdown(sock, socket.SHUT_WR)
        socket.socket.recv(sock, CHUNK, socket.MSG_DONTWAIT)
    except OSError:
        pass
    sock.close()
