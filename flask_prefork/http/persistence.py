"""Whether a connection goes on after a response (RFC 9112, 9.3), and where it may wait.

A connection makes one for itself and hands it to its responses, which ask when they
make their heads. Asking changes nothing.
"""

from __future__ import annotations

import time
import typing as t

if t.TYPE_CHECKING:
    from .context import HandlerContext
    from .wire import Wire


class Persistence:
    """What decides that about one connection.

    :param context: Of its server.
    :param wire: The connection.

    :ivar slice_end: Until when it has its worker though others wait.
    """

    __slots__ = ("_context", "_wire", "slice_end")

    def __init__(self, context: HandlerContext, wire: Wire) -> None:
        self._context = context
        self._wire = wire
        self.slice_end = 0.0

    def can_park(self) -> bool:
        """Whether the connection can move to another process: nothing of what the
        client has sent is kept here."""
        wire = self._wire
        return self._context.can_park and not wire.buffered

    def may_persist(self) -> bool:
        """Whether the connection may go on after the response that begins now.

        Asked when its head is made, which tells the client (RFC 9112, 9.6): from then
        on it ends only if the client doesn't use it for a while.
        """
        context = self._context
        monitor = context.monitor
        if context.limits.keep_alive <= 0 or monitor.draining():
            return False
        if self.can_park():
            return True
        # It has its worker until the next request comes. If that is there, the
        # connection has its slice as any other.
        if self._wire.buffered and time.monotonic() <= self.slice_end:
            return True
        return not monitor.contended()
