"""The dispatcher's poll: its descriptors, and a callback for each.

The dispatcher waits here and nowhere else. Whoever holds a descriptor for it gives it
in with a callback, and takes it out before closing it.
"""

from __future__ import annotations

import contextlib
import select
import typing as t

from . import polling
from .log import logger

Callback = t.Callable[[], None]

#: The system calls take no more than 2**31 milliseconds; waking in vain once a
#: day costs nothing. In seconds.
_LONGEST = 86400.0
#: When it is tried again to register a descriptor, in seconds.
_RETRY = 0.1


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
        #: Those that the system had no room for yet.
        self._unregistered: dict[int, Callback] = {}

    def watch(self, fd: int, callback: Callback) -> None:
        """Call back whenever the descriptor is readable or at its end.

        While the system has no room for one more, this is tried again and again: for
        descriptors that the process can't do without.
        """
        try:
            self.try_watch(fd, callback)
        except OSError as e:
            if not self._unregistered:
                logger.error("Can't poll a descriptor, and try again: %s.", e.strerror)
            self._unregistered[fd] = callback

    def try_watch(self, fd: int, callback: Callback) -> None:
        """See :meth:`watch`; for descriptors that can be given up.

        :raises OSError: There is no memory for one more, or the user has too many
            (ENOMEM and ENOSPC in ``epoll_ctl(2)``).
        """
        self._poll.register(fd, polling.IN)
        self._callbacks[fd] = callback

    def _watch_again(self) -> None:
        for fd, callback in list(self._unregistered.items()):
            try:
                self.try_watch(fd, callback)
            except OSError:
                return
            del self._unregistered[fd]

    def watch_hang_up(
        self, fd: int, callback: Callback, half_closed: bool = True
    ) -> None:
        """Call back when a connection's peer has ended it. What it has sent before, and
        nobody reads, doesn't count.

        Only Linux has that (EPOLLRDHUP in ``epoll_ctl(2)``); elsewhere it is never
        called.

        :param half_closed: Also when it only sends no more. Without that, when both
            directions are at their end: a reset, or a unix socket that was closed.
        :raises OSError: See :meth:`try_watch`.
        """
        if not hasattr(select, "EPOLLRDHUP"):
            return
        if self._hang_up_poll is None:
            poll = select.epoll()
            try:
                self.try_watch(poll.fileno(), self._read_hang_ups)
            except OSError:
                poll.close()
                raise
            self._hang_up_poll = poll
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
        self._unregistered.pop(fd, None)
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
        if self._unregistered:
            self._watch_again()
            seconds = _RETRY if seconds is None else min(seconds, _RETRY)
        found = (self._callbacks.get(fd) for fd, _ in self._poll.poll(seconds))
        return [callback for callback in found if callback is not None]

    def close(self) -> None:
        """Close the poll set's own descriptors."""
        self._poll.close()
        if self._hang_up_poll is not None:
            self._hang_up_poll.close()
