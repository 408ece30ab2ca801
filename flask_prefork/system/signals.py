"""Signals as events of a socket.

A handler may run between any two instructions, so none here does more than to note
the signal; the interpreter wakes the loop by a socket (:func:`signal.set_wakeup_fd`),
and it is looked at with all other news. Even logging in a handler crashed
SpamAssassin's parent (bugs 5422, 6745).
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

from . import socket_modes


class Signals:
    """Takes over the given signals of this process.

    :param numbers: The signals.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._noted: dict[int, bool] = {}
        self._ours, self._theirs = socket_modes.pair(blocking=False)
        # Only wakes the loop: what is written is lost when the socket is full.
        signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        # No call in here: in a flood, each would let another handler in.
        self._noted[number] = True

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._ours.fileno()

    def read(self) -> list[int]:
        """The signals that came; ten times the same are one."""
        try:
            self._ours.recv(4096)
        except BlockingIOError:
            pass
        # The interpreter calls handlers after each call, so also those of signals whose
        # wake-up was read just now.
        noted, self._noted = self._noted, {}
        return sorted(noted)

    def close(self) -> None:
        """Let signals no longer be told, and close the descriptors."""
        signal.set_wakeup_fd(-1)
        self._ours.close()
        self._theirs.close()
