"""``wfile``: the response's side of a connection as a file.

For handlers that write past the WSGI response.
"""

from __future__ import annotations

import io
import typing as t

if t.TYPE_CHECKING:
    from .wire import Pace
    from .wire import Wire


class Writer(io.RawIOBase):
    """Writes with the client's deadlines.

    :param wire: The connection.
    :param rate: Bytes per second that the client must take; 0 for any.
    """

    def __init__(self, wire: Wire, rate: float) -> None:
        self._wire = wire
        self._rate = rate
        self._pace: Pace | None = None

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: t.Any) -> int:
        """Send all of it.

        :raises ClientDisconnected: The client left, or doesn't take it in time.
        :raises TakenOver: The connection isn't ours any more.
        """
        data = bytes(data)
        self._pace = self._wire.write(data, self._pace, self._rate)
        return len(data)
