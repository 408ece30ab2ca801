"""The state of a connection that waits for its client while no process serves it.

It goes from the worker that parks a connection to the dispatcher, and on to the worker
that resumes it. Pure.
"""

from __future__ import annotations

import enum
import typing as t

#: Wakes are counted no further: the delay doesn't grow any more.
MAX_WAKES = 15


class Wait(enum.IntEnum):
    """What a parked connection waits for."""

    #: The rest of a head, or the first byte of a new connection.
    HEAD = 0
    #: The first byte of the next request.
    KEEP_ALIVE = 1
    #: A worker: its next request is there, but others wait longer.
    WORKER = 2


class Parked(t.NamedTuple):
    """How to go on with a parked connection."""

    wait: Wait
    #: When to give it up, as :func:`time.monotonic` tells it; that clock is the
    #: system's, so other processes can compare.
    deadline: float
    #: Bytes that wait in the kernel's buffer; ``SO_RCVLOWAT`` set to one more
    #: lets a poll fire on news only.
    have: int = 0
    #: How often it was woken and had to wait on, up to :data:`MAX_WAKES`.
    wakes: int = 0
    #: A few bytes to be kept with it and given back as they are. Whom a proxy's header
    #: has named (``http/proxy_protocol.py``) is in no other place: the header was read,
    #: and the socket knows the proxy only.
    tag: bytes = b""

    def after(self, before: Parked | None) -> Parked:
        """Count the wakes of one that is parked again.

        One that was woken for no whole head is looked at less and less often.

        :param before: What it was parked as before, if it was.
        """
        if before is None or not (before.wait is self.wait is Wait.HEAD):
            return self._replace(wakes=0)
        return self._replace(wakes=min(before.wakes + 1, MAX_WAKES))
