"""The dispatcher's poll: its descriptors, and a callback for each.

The dispatcher waits here and nowhere else. Whoever holds a descriptor for it gives it
in with a callback, and takes it out before closing it.
"""

from __future__ import annotations

import selectors
import typing as t

Callback = t.Callable[[], None]

#: The system calls take no more than 2**31 milliseconds; waking in vain once a
#: day costs nothing. In seconds.
_LONGEST = 86400.0


class Poller:
    """Level-triggered readiness to read, by the system's best call (:mod:`selectors`).

    What it reports is a hint: within one batch a callback may have closed the
    descriptor of a later one. So all callbacks read without blocking.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        # The selector's map answers in ten times the time.
        self._watched: set[int] = set()

    def watch(self, fd: int, callback: Callback) -> None:
        """Call back whenever the descriptor is readable or at its end.

        :raises OSError: There is no memory for one more (``epoll_ctl(2)``).
        """
        self._selector.register(fd, selectors.EVENT_READ, callback)
        self._watched.add(fd)

    def forget(self, fd: int) -> None:
        """Take the descriptor out; before it is closed."""
        if fd in self._watched:
            self._watched.remove(fd)
            self._selector.unregister(fd)

    def is_watched(self, fd: int) -> bool:
        """Whether the descriptor is in the set."""
        return fd in self._watched

    def wait(self, seconds: float | None) -> list[Callback]:
        """Wait for the next events.

        :param seconds: At most so long; ``None`` is for ever.
        :return: The callbacks of the descriptors that are ready.
        """
        if seconds is not None:
            # What is no number is no reason to sleep.
            seconds = min(seconds, _LONGEST) if seconds > 0 else 0.0
        return [key.data for key, _ in self._selector.select(seconds)]

    def close(self) -> None:
        """Close the poll set's own descriptor."""
        self._selector.close()
