"""What all spools take, which ``--buffer-total`` bounds. Pure.

Whoever holds spools in the dispatcher counts them here; workers read the sum from the
scoreboard, and stop at the bound.
"""

from __future__ import annotations


class SpoolTotal:
    """The spools that are held.

    :ivar count: How many.
    :ivar size: Their bytes together.
    """

    def __init__(self) -> None:
        self.count = self.size = 0

    def add(self, size: int) -> None:
        """Count one more."""
        self.count += 1
        self.size += size

    def remove(self, size: int) -> None:
        """Count one less.

        :param size: As it was added.
        """
        self.count -= 1
        self.size -= size
