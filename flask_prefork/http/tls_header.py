"""The TLS proxy's header before a connection's first byte: whom it is from.

The server calls :func:`read_tls_header` before anything else is done with a connection
that a worker has accepted. The TLS proxy has sent the header in one piece, with the
client's first bytes behind it.
"""

from __future__ import annotations

import select
import socket
import time
import typing as t

from ..system.proxy_protocol import HEAD_SIZE
from ..system.proxy_protocol import MalformedHeader
from ..system.proxy_protocol import read_secured
from ..system.proxy_protocol import rest_size
from ..system.proxy_protocol import SECURED_SIZE

if t.TYPE_CHECKING:
    from ..system.proxy_protocol import Secured

#: The TLS proxy connects, and then sends: so long at most a worker may be in between,
#: in seconds.
_MOMENT = 1.0


def read_tls_header(connection: socket.socket) -> Secured | None:
    """Read the header.

    :return: ``None`` if the connection has ended, or there is no such header.
    """
    data = _receive(connection, SECURED_SIZE)
    try:
        missing = HEAD_SIZE + rest_size(data[:HEAD_SIZE]) - len(data)
        return read_secured(data + _receive(connection, missing))
    except MalformedHeader:
        return None


def _receive(connection: socket.socket, size: int) -> bytes:
    """So many bytes; fewer if they don't come."""
    data = b""
    poll, deadline = None, 0.0
    while len(data) < size:
        try:
            part = connection.recv(size - len(data), socket.MSG_DONTWAIT)
        except BlockingIOError:
            if poll is None:
                poll = select.poll()
                poll.register(connection, select.POLLIN)
                deadline = time.monotonic() + _MOMENT
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                break
            continue
        except OSError:
            break
        if not part:
            break
        data += part
    return data
