"""The state of a connection that waits for its client while no process serves it.

It goes from the worker that parks a connection to the dispatcher, and on to the worker
that resumes it. Pure.
"""

from __future__ import annotations

import enum
import typing as t

#: Bytes of a file; they may be more than a frame's other numbers hold.
Size = t.NewType("Size", int)

#: Wakes are counted no further: the delay doesn't grow any more.
MAX_WAKES = 15
#: So many bytes of a body are worth waking a worker for.
_ENOUGH = 65536


class Wait(enum.IntEnum):
    """What a parked connection waits for."""

    #: The rest of a head, or the first byte of a new connection.
    HEAD = 0
    #: The first byte of the next request.
    KEEP_ALIVE = 1
    #: A worker: its next request is there, but others wait longer.
    WORKER = 2
    #: The rest of a request's body. Its head is good; it is in the kernel's buffer
    #: still, or in the spool that goes with the connection.
    BODY = 3
    #: The client's end: it has had its last response, and may still be sending.
    LINGER = 4
    #: A permit of the limit of its request's route. All of the request is there, or as
    #: much of it as is collected before the app is called.
    PERMIT = 5


class Parked(t.NamedTuple):
    """How to go on with a parked connection."""

    wait: Wait
    #: When to give it up, as :func:`time.monotonic` tells it; that clock is the
    #: system's, so other processes can compare. With :attr:`rate`, when it has used up
    #: its time if nothing comes: what came meanwhile puts it off.
    deadline: float
    #: Bytes that wait in the kernel's buffer; ``SO_RCVLOWAT`` set to one more
    #: lets a poll fire on news only.
    have: int = 0
    #: How often it was woken and had to wait on, up to :data:`MAX_WAKES`.
    wakes: int = 0
    #: A few bytes to be kept with it and given back as they are. Whom a proxy's header
    #: has named (``proxy_protocol.py``) is in no other place: the header was read,
    #: and the socket knows the proxy only.
    tag: bytes = b""
    #: Bytes that must be in the kernel's buffer before a worker is of use; 0 is one
    #: more than :attr:`have`.
    need: int = 0
    #: Bytes per second that the client must send, 0 for any.
    rate: float = 0.0
    #: Bytes of the spool that goes with the connection; 0 is none.
    spooled: Size = Size(0)
    #: When its request had arrived, as :func:`time.monotonic` tells it: when it became
    #: ready for a worker; 0 if it isn't. It stays while the request waits for more than
    #: one thing.
    arrived: float = 0.0
    #: The limit that it waits for a permit of, or has a permit of when it is resumed;
    #: its number in the generation's settings, from 1.
    limit: int = 0

    @property
    def mark(self) -> int:
        """From how many bytes on a poll is to fire (``socket(7)``, SO_RCVLOWAT)."""
        return self.need or self.have + 1

    def after(self, before: Parked | None) -> Parked:
        """Count the wakes of one that is parked again.

        One that was woken for no whole head, or for little of a body, is looked at less
        and less often.

        :param before: What it was parked as before, if it was.
        """
        if before is None or before.wait is not self.wait or self._was_worth(before):
            return self._replace(wakes=0)
        return self._replace(wakes=min(before.wakes + 1, MAX_WAKES))

    def _was_worth(self, before: Parked) -> bool:
        """Whether enough has come since to have woken a worker for it."""
        if self.wait is not Wait.BODY:
            return self.wait is not Wait.HEAD
        wanted = before.need - before.have if before.need else _ENOUGH
        came = self.spooled + self.have - before.spooled - before.have
        return came >= min(wanted, _ENOUGH)
