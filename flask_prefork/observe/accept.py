"""Connections to the observer, one after the other.

Its threads that accept wait here (:mod:`.process`, :mod:`.agent`).
"""

from __future__ import annotations

import select
import socket
import time
import typing as t
from collections.abc import Iterator

#: How long to wait when no descriptor is left, in seconds: others will leave.
_PAUSE = 1.0


def accept_forever(listener: socket.socket) -> Iterator[tuple[socket.socket, t.Any]]:
    """Wait for each next connection, for ever.

    :param listener: A listening socket; several processes may hold it.
    :return: The connection, and where it comes from.
    """
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        poll.poll()
        try:
            accepted = listener.accept()
        except (BlockingIOError, ConnectionError):
            continue  # it left, or another process was quicker
        except OSError:
            time.sleep(_PAUSE)
            continue
        yield accepted
