"""``wfile``: the connection as a file, for handlers that write past the WSGI response.

The handler makes one when a subclass asks for it, and closes the connection once it was
used.
"""

from __future__ import annotations

import io
import typing as t

from ..system.slow_client import SlowClientBudget
from .wire import Wire


class Writer(io.RawIOBase):
    """The response's side of a connection as a file, with its deadlines.

    :ivar used: Whether something was written.
    """

    used = False

    def __init__(self, wire: Wire, rate: float) -> None:
        self._wire = wire
        self._rate = rate
        self._budget: SlowClientBudget | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: t.Any) -> int:
        data = bytes(data)
        self.used = True
        self._budget = self._wire.write(data, self._budget, self._rate)
        return len(data)
