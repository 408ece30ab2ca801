"""One response on its way to a slow client: what is left, and the client's time."""

from __future__ import annotations

import contextlib
import os
import socket
import typing as t

from ..system import socket_modes
from ..system.parked_state import Parked
from ..system.slow_client import SlowClientBudget
from ..system.socket_state import bytes_queued

#: Bytes that one call sends at most: others have their turn, and a disk that is slow
#: keeps them waiting for no more than that.
PIECE = 1 << 20
#: After so many seconds the kernel is asked for the first time whether the client has
#: acknowledged all; then it is doubled, up to a second.
_FIRST_ACK_PAUSE = 0.05
#: Bytes that are read by a call where the kernel can't send from a file.
_READ_SIZE = 1 << 16


class FileRange(t.NamedTuple):
    """What is to be sent of a file.

    :param fd: Its descriptor, owned by the transfer.
    :param start: The first byte.
    :param end: Behind the last one.
    """

    fd: int
    start: int
    end: int


class Transfer:
    """A response, its connection, and how much of it was sent.

    :param sock: The connection, non-blocking.
    :param number: What the dispatcher calls it.
    :param parts: What is to be sent, in this order.
    :param rate: Bytes per second that the client must take, 0 for any.
    :param parked: How the connection is to wait afterwards, its deadline excepted.
    :param seconds: For how long.
    :param now: The machine's monotonic seconds.

    :ivar sent: Bytes that the client's system was given.
    """

    __slots__ = (
        "_ack_pause",
        "_ahead",
        "_budget",
        "_can_sendfile",
        "_offset",
        "_parts",
        "_queued",
        "_rate",
        "_waits_since",
        "number",
        "parked",
        "seconds",
        "sent",
        "sock",
    )

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        parts: list[FileRange],
        rate: float,
        parked: Parked,
        seconds: float,
        now: float,
    ) -> None:
        self.sock = sock
        self.number = number
        self.parked = parked
        self.seconds = seconds
        self.sent = 0
        #: None of them is empty.
        self._parts = parts
        self._offset = parts[0].start
        #: Up to where the kernel was asked to read ahead.
        self._ahead = self._offset
        self._can_sendfile = hasattr(os, "sendfile")
        self._rate = rate
        self._budget = SlowClientBudget(rate)
        #: Since when the client is waited for, and the length of the send queue then.
        #: Always: who takes a whole piece may be slow to take the next.
        self._waits_since = now
        self._queued = bytes_queued(sock) or 0
        self._ack_pause = _FIRST_ACK_PAUSE

    @property
    def descriptors(self) -> int:
        """How many descriptors it takes."""
        return 1 + len(self._parts)

    @property
    def is_done(self) -> bool:
        """Whether all was given to the kernel."""
        return not self._parts

    def advance(self, now: float) -> None:
        """Send what the socket takes, at most :data:`PIECE`.

        :raises OSError: The client has gone, or a file can't be read.
        :raises EOFError: A file is shorter than it was.
        """
        room = PIECE
        while room and self._parts:
            part = self._parts[0]
            try:
                count = self._send(part, min(room, part.end - self._offset))
            except BlockingIOError:
                break
            if not count:
                raise EOFError
            room -= count
            self._offset += count
            if self._offset == part.end:
                self._next_part()
        self.sent += PIECE - room
        self._budget.account(now - self._waits_since, PIECE - room)
        self._waits_since = now
        self._queued = bytes_queued(self.sock) or 0

    def _send(self, part: FileRange, count: int) -> int:
        if not self._can_sendfile:
            data = os.pread(part.fd, min(count, _READ_SIZE), self._offset)
            return self.sock.send(data) if data else 0
        self._read_ahead(part)
        try:
            return os.sendfile(self.sock.fileno(), part.fd, self._offset, count)
        except BlockingIOError:
            raise
        except OSError as e:
            # Some file systems can't (sendfile(2), EINVAL and ENOSYS). If it is the
            # client that can't, sending fails as well.
            if isinstance(e, ConnectionError):
                raise
            self._can_sendfile = False
            return self._send(part, count)

    def _read_ahead(self, part: FileRange) -> None:
        """Have the kernel read what comes next while others have their turn."""
        if self._offset < self._ahead or not hasattr(os, "posix_fadvise"):
            return
        self._ahead = self._offset + PIECE
        with contextlib.suppress(OSError):
            os.posix_fadvise(part.fd, self._ahead, PIECE, os.POSIX_FADV_WILLNEED)

    def _next_part(self) -> None:
        os.close(self._parts.pop(0).fd)
        self._can_sendfile = hasattr(os, "sendfile")
        if self._parts:
            self._ahead = self._offset = self._parts[0].start

    def deadline(self) -> float:
        """When the client has used up its time if it takes nothing more."""
        return self._waits_since + max(self._budget.seconds_left(), 0.0)

    def is_acknowledged(self) -> bool:
        """Whether the client's system has all that was sent."""
        return not bytes_queued(self.sock)

    def ack_deadline(self, now: float) -> float:
        """When to ask again whether it has: no poll tells that."""
        pause, self._ack_pause = self._ack_pause, min(2 * self._ack_pause, 1.0)
        return min(now + pause, self.deadline())

    def is_too_slow(self, now: float) -> bool:
        """Whether the client has used up its time.

        What its system has acknowledged since is progress, though the socket isn't
        writable yet.
        """
        left = bytes_queued(self.sock) or 0
        taken = max(self._queued - left, 0)
        self._queued = left
        self._budget.account_queue(now - self._waits_since, taken)
        if taken or self._rate:
            # Without a rate, what counts is how long it has taken nothing.
            self._waits_since = now
        return self.deadline() <= now

    def cut(self) -> None:
        """Give it up, so that the client sees that something is missing."""
        with contextlib.suppress(OSError):
            # Others may hold it, as children of the app do.
            self.sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close all that it has."""
        # The app may have told it to wait for its client.
        socket_modes.close(self.sock.detach())
        while self._parts:
            os.close(self._parts.pop().fd)
