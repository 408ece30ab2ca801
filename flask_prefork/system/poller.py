"""The dispatcher's poll: its descriptors, and a callback for each.

The dispatcher waits here and nowhere else. Whoever holds a descriptor for it gives it
in with a callback, and takes it out before closing it.
"""

from __future__ import annotations

import math
import select
import typing as t

Callback = t.Callable[[], None]

#: The system calls take no more than 2**31 milliseconds; waking in vain once a
#: day costs nothing. In seconds.
_LONGEST = 86400.0


class Poller:
    """Level-triggered readiness to read, by ``epoll(7)`` or else ``poll(2)``.

    What it reports is a hint: within one batch a callback may have closed the
    descriptor of a later one. So all callbacks read without blocking.
    """

    def __init__(self) -> None:
        self._callbacks: dict[int, Callback] = {}
        self._poll: t.Any
        if hasattr(select, "epoll"):
            self._poll = select.epoll()
            self._unit = 1.0
        else:
            self._poll = select.poll()
            self._unit = 1000.0

    def watch(self, fd: int, callback: Callback) -> None:
        """Call back whenever the descriptor is readable or at its end."""
        self._poll.register(fd, select.POLLIN)
        self._callbacks[fd] = callback

    def forget(self, fd: int) -> None:
        """Take the descriptor out; before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def is_watched(self, fd: int) -> bool:
        """Whether the descriptor is in the set."""
        return fd in self._callbacks

    def wait(self, seconds: float | None) -> list[Callback]:
        """Wait for the next events.

        :param seconds: At most so long; ``None`` is for ever.
        :return: The callbacks of the descriptors that are ready.
        """
        if seconds is None:
            events = self._poll.poll()
        else:
            # Rounded up to what the system call counts in, lest the loop
            # spins through the last fraction.
            # What is no number is no reason to sleep.
            seconds = min(seconds, _LONGEST) if seconds > 0 else 0.0
            seconds = math.ceil(seconds * 1000) / 1000
            events = self._poll.poll(seconds * self._unit)
        callbacks = self._callbacks
        return [callbacks[fd] for fd, _ in events if fd in callbacks]

    def close(self) -> None:
        """Close the poll set's own descriptor."""
        if hasattr(self._poll, "close"):
            self._poll.close()
