"""A poll set: by ``epoll(7)``, or by ``poll(2)`` where there is none.

Both report the same events by the same names.
"""

from __future__ import annotations

import select
import typing as t

IN, OUT = select.POLLIN, select.POLLOUT
#: Both directions are at their end, or there is an error. Always reported.
GONE = select.POLLHUP | select.POLLERR
#: Wake up one of several processes only; where it isn't known, all wake up.
EXCLUSIVE: int = getattr(select, "EPOLLEXCLUSIVE", 0)


class Poll(t.Protocol):
    """What a poll set does; as :class:`select.epoll`."""

    def register(self, fd: int, events: int) -> None:
        """Poll a descriptor, too."""

    def modify(self, fd: int, events: int) -> None:
        """Poll it for other events."""

    def unregister(self, fd: int) -> None:
        """Poll it no more; before it is closed."""

    def poll(
        self, timeout: float | None = None, most: int = -1
    ) -> list[tuple[int, int]]:
        """Wait for events.

        :param timeout: In seconds; ``None`` is for ever.
        :param most: How many events are reported at a time; -1 leaves it to the system.
        :return: Descriptors and their events.
        """

    def close(self) -> None:
        """Close its own descriptor, if it has one."""


class SystemPoll:
    """``poll(2)``: all descriptors are looked at each time."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register = self._poll.register
        self.modify = self._poll.modify
        self.unregister = self._poll.unregister

    def poll(
        self, timeout: float | None = None, most: int = -1
    ) -> list[tuple[int, int]]:
        """See :class:`Poll`; those that are too many are reported next time."""
        events = self._poll.poll(None if timeout is None else timeout * 1000)
        return events if most < 0 else events[:most]

    def close(self) -> None:
        """See :class:`Poll`."""


def make() -> Poll:
    """Make a poll set, of the best kind that the system has."""
    if hasattr(select, "epoll"):
        return select.epoll()
    return SystemPoll()
