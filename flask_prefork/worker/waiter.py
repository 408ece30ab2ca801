"""What a worker waits by when it waits for more than its back channel."""

from __future__ import annotations

import select
import socket
import typing as t
from collections.abc import Sequence

#: How long a worker waits before it looks again at listening sockets that were shut
#: down, in seconds.
_SHUT_PAUSE = 0.05


class Waiter:
    """Waits for a connection on any listener, or news on the channel."""

    def __init__(
        self, channel: socket.socket, listeners: Sequence[socket.socket]
    ) -> None:
        self._channel = channel.fileno()
        self._indexes = {sock.fileno(): i for i, sock in enumerate(listeners)}
        self._poll: t.Any
        flags = select.POLLIN
        if hasattr(select, "epoll"):
            self._poll, self._second = select.epoll(), 1
            flags = select.EPOLLIN | select.EPOLLEXCLUSIVE
        else:
            self._poll, self._second = select.poll(), 1000
        self._poll.register(self._channel, select.POLLIN)
        self._news = select.poll()
        self._news.register(self._channel, select.POLLIN)
        for fd in self._indexes:
            self._poll.register(fd, flags)

    def fileno(self) -> int:
        """The descriptor by which it waits; -1 where it needs none."""
        return self._poll.fileno() if hasattr(self._poll, "fileno") else -1

    def wait(self) -> int | None:
        """The index of a listener at which somebody waits, ``None`` for a frame."""
        while True:
            found = dict(self._poll.poll())
            if self._channel in found:
                return None
            for fd, events in found.items():
                if not events & select.POLLHUP:
                    return self._indexes[fd]
            # The app has shut them down. Until the dispatcher listens again, if it can,
            # polls tell it all the time.
            if self.is_readable(_SHUT_PAUSE):
                return None

    def is_readable(self, seconds: float) -> bool:
        """Whether news come on the channel within so many seconds."""
        return bool(self._news.poll(seconds * 1000))

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing happens for so long."""
        return not self._poll.poll(seconds * self._second)
