"""The dispatcher's poll: its descriptors, and a callback for each.

The dispatcher waits here and nowhere else. Whoever holds a descriptor for it gives it
in with a callback, and takes it out before closing it.
"""

from __future__ import annotations

import contextlib
import select
import typing as t

from . import polling

Callback = t.Callable[[], None]

#: The system calls take no more than 2**31 milliseconds; waking in vain once a
#: day costs nothing. In seconds.
_LONGEST = 86400.0


class Poller:
    """Level-triggered readiness to read.

    What it reports is a hint: within one batch a callback may have closed the
    descriptor of a later one. So all callbacks read without blocking.
    """

    def __init__(self) -> None:
        self._poll = polling.make()
        self._callbacks: dict[int, Callback] = {}
        #: Those that are watched for their end only, in a poll set of their own.
        self._hang_ups: dict[int, Callback] = {}
        self._hang_up_poll: t.Any = None

    def watch(self, fd: int, callback: Callback) -> None:
        """Call back whenever the descriptor is readable or at its end.

        :raises OSError: There is no memory for one more (``epoll_ctl(2)``).
        """
        self._poll.register(fd, polling.IN)
        self._callbacks[fd] = callback

    def watch_hang_up(
        self, fd: int, callback: Callback, half_closed: bool = True
    ) -> None:
        """Call back when a connection's peer has ended it. What it has sent before, and
        nobody reads, doesn't count.

        Only Linux has that (EPOLLRDHUP in ``epoll_ctl(2)``); elsewhere it is never
        called.

        :param half_closed: Also when it only sends no more. Without that, when both
            directions are at their end: a reset, or a unix socket that was closed.
        :raises OSError: See :meth:`watch`.
        """
        if not hasattr(select, "EPOLLRDHUP"):
            return
        if self._hang_up_poll is None:
            self._hang_up_poll = select.epoll()
            self.watch(self._hang_up_poll.fileno(), self._read_hang_ups)
        # EPOLLHUP and EPOLLERR are always reported.
        self._hang_up_poll.register(fd, select.EPOLLRDHUP if half_closed else 0)
        self._hang_ups[fd] = callback

    def _read_hang_ups(self) -> None:
        for fd, _ in self._hang_up_poll.poll(0):
            callback = self._hang_ups.get(fd)
            if callback is not None:  # not closed by another one's
                callback()

    def forget(self, fd: int) -> None:
        """Take the descriptor out; before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            with contextlib.suppress(OSError):  # it was closed already
                self._poll.unregister(fd)
        elif self._hang_ups.pop(fd, None) is not None:
            self._hang_up_poll.unregister(fd)

    def is_watched(self, fd: int) -> bool:
        """Whether the descriptor is in the set, to be read."""
        return fd in self._callbacks

    def wait(self, seconds: float | None) -> list[Callback]:
        """Wait for the next events.

        :param seconds: At most so long; ``None`` is for ever.
        :return: The callbacks of the descriptors that are ready.
        """
        if seconds is not None:
            # What is no number is no reason to sleep.
            seconds = min(seconds, _LONGEST) if seconds > 0 else 0.0
        found = (self._callbacks.get(fd) for fd, _ in self._poll.poll(seconds))
        return [callback for callback in found if callback is not None]

    def close(self) -> None:
        """Close the poll set's own descriptors."""
        self._poll.close()
        if self._hang_up_poll is not None:
            self._hang_up_poll.close()
