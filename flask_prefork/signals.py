"""Signals as news of a socket.

A handler may run between any two instructions, so none here does more than to note
the signal and to wake the loop, by a socket, which reads it with all other news
(:func:`signal.set_wakeup_fd`). Even logging in a handler crashed SpamAssassin's parent
(bugs 5422, 6745).
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterable


class Signals:
    """Takes over the given signals of this process.

    :param numbers: The signals.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._noted: set[int] = set()
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        # Wakes the loop if a signal comes after the interpreter has looked for one
        # and before it waits. What is written is lost when the socket is full, so
        # what has come isn't read from it.
        signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self._noted.add(number)
        # It may have been read already that there is something to read.
        with contextlib.suppress(OSError):
            self._theirs.send(b"\0")

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._ours.fileno()

    def read(self) -> list[int]:
        """The signals that came; ten times the same are one."""
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(4096)
        noted, self._noted = self._noted, set()
        return sorted(noted)

    def close(self) -> None:
        """Let signals no longer be told, and close the descriptors."""
        signal.set_wakeup_fd(-1)
        self._ours.close()
        self._theirs.close()
