"""Signals as bytes on a socket.

A handler may run between any two instructions, so none here does anything:
the interpreter writes the signal's number to a socket
(:func:`signal.set_wakeup_fd`), and the loop reads it with all other news. Even
logging in a handler crashed SpamAssassin's parent (bugs 5422, 6745).
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable


class Signals:
    """Takes over the given signals of this process.

    :param numbers: The signals.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        # A full socket holds enough to wake the loop.
        signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _pass)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._ours.fileno()

    def read(self) -> list[int]:
        """The signals that came; ten times the same are one."""
        try:
            return sorted(set(self._ours.recv(4096)))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Let signals no longer be told, and close the descriptors."""
        signal.set_wakeup_fd(-1)
        self._ours.close()
        self._theirs.close()


def _pass(number: int, frame: object) -> None:
    pass
