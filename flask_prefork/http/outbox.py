"""What of a response its client hasn't taken: the worker doesn't wait for it.

``response.py`` makes an :class:`Outbox` when the client's socket has been full for a
moment, and from then on ``wire.py`` gives it all that is to be sent. When the response
is over, ``connection.py`` takes what is left as a :class:`.Delivery`, for the sender.

Never done here: wait for the client, but for one that must be waited for: when the app
makes its response slowly, or when there is no room for more.
"""

from __future__ import annotations

import os
import time
import typing as t

from ..system.parked_state import Parked
from ..system.parked_state import Wait
from ..system.slow_client import SlowClientBudget
from ..system.spool import Spool
from .errors import ClientDisconnected
from .handback import Delivery

if t.TYPE_CHECKING:
    from .monitor import Monitor
    from .wire import Wire

#: Seconds after which an app that gives no next piece is slow: what it gave before is
#: to be sent at once, and not when its response is over. Server-sent events are so.
_SLOW_APP = 0.01


class Outbox:
    """What is to be sent when the client takes it.

    :param wire: Where to.
    :param limit: Bytes that may wait here.
    :param monitor: Knows how much room there is for spools.
    :param rate: Bytes per second that the client must take.
    :param budget: How long it may let us wait, if it is waited for.

    :ivar is_app_slow: Whether the app pauses while it makes its response.
    """

    __slots__ = (
        "_budget",
        "_file",
        "_limit",
        "_monitor",
        "_rate",
        "_sent",
        "_since",
        "_spool",
        "_wire",
        "is_app_slow",
    )

    def __init__(
        self,
        wire: Wire,
        limit: int,
        monitor: Monitor,
        rate: float,
        budget: SlowClientBudget,
    ) -> None:
        self._wire = wire
        self._limit = limit
        self._monitor = monitor
        self._rate = rate
        self._budget = budget
        self.is_app_slow = False
        self._spool: Spool | None = None
        #: Bytes of the spool that were sent already.
        self._sent = 0
        #: The app's file behind that: its descriptor, offset and length.
        self._file: tuple[int, int, int] | None = None
        #: When the app was given control last.
        self._since = 0.0

    def append(self, data: bytes | memoryview) -> bool:
        """Keep more.

        :return: ``False`` if there is no room; nothing was kept then.
        """
        spool = self._spool
        kept = spool.size - self._sent if spool is not None else 0
        room = min(self._limit - kept, self._monitor.spool_room())
        if self._file is not None or len(data) > room:
            return False
        try:
            if spool is None:
                spool = self._spool = Spool(len(data))
            spool.append(data)
        except OSError:
            return False  # the disk is full, or there are no descriptors
        self._wire.sent += len(data)
        self._wire.progress()
        self._since = time.monotonic()
        return True

    def append_file(self, fd: int, offset: int, length: int) -> bool:
        """Keep a part of a file, behind which nothing comes.

        :return: ``False`` if there are no descriptors left; nothing was kept then.
        """
        try:
            self._file = os.dup(fd), offset, length
        except OSError:
            return False
        self._wire.sent += length
        self._wire.progress()
        return True

    def write(self, data: bytes | memoryview) -> bool:
        """Send behind all that waits.

        :return: ``False`` if nothing waits any more: it is to be sent as usual.
        :raises ClientDisconnected: The client left, or is too slow.
        """
        if time.monotonic() > self._since + _SLOW_APP:
            self.is_app_slow = True
        try:
            if self._flush():
                return False
        except ClientDisconnected:
            self.close()
            raise
        if not self.is_app_slow and self.append(data):
            return True
        self.drain()
        return False

    def drain(self) -> None:
        """Wait until the client has taken all.

        :raises ClientDisconnected: The client left, or is too slow.
        """
        try:
            while not self._flush():
                self._wire.wait_for_room(self._budget)
        except ClientDisconnected:
            self.close()
            raise

    def _flush(self) -> bool:
        """Send what the client takes now.

        :return: Whether that was all.
        """
        self._wire.sock.setblocking(False)
        spool = self._spool
        if spool is not None:
            self._sent = self._send_file(spool.fd, self._sent, spool.size)
            if self._sent < spool.size:
                return False
        if self._file is not None:
            fd, offset, length = self._file
            end = offset + length
            offset = self._send_file(fd, offset, end)
            self._file = fd, offset, end - offset
            if offset < end:
                return False
        self.close()
        return True

    def _send_file(self, fd: int, offset: int, end: int) -> int:
        """Send from a file.

        :return: The offset of what the client doesn't take now.
        """
        while offset < end:
            try:
                count = os.sendfile(self._wire.sock.fileno(), fd, offset, end - offset)
            except BlockingIOError:
                break
            except OSError as e:
                raise ClientDisconnected(str(e)) from None
            if not count:
                raise ClientDisconnected("the file is shorter than it was")
            self._budget.account(0, count)
            offset += count
        return offset

    def close(self) -> None:
        """Give up what waits, and be no more in the way."""
        self._wire.outbox = None
        if self._spool is not None:
            self._spool.close()
        if self._file is not None:
            os.close(self._file[0])
        self._spool = self._file = None

    def deliver(self, wait: Wait, seconds: float) -> Delivery:
        """Let another process send it.

        :param wait: How the connection waits afterwards,
        :param seconds: and for how long.
        """
        fd, offset, length = self._file or (-1, 0, 0)
        spool = self._spool
        self._wire.outbox = self._spool = self._file = None
        parked = Parked(wait, 0.0)
        return Delivery(
            self._rate, spool, self._sent, fd, offset, length, seconds, parked
        )
