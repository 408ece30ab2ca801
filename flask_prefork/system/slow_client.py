"""How slow a client may be: the time that it has, and what earns it more.

Workers wait for clients by it, and so do the dispatcher and the sender for those that
no worker waits for. Pure.
"""

from __future__ import annotations

#: Seconds of pause that a client has at first, before it was fast or slow.
FIRST_CREDIT = 5.0
#: While others wait for a worker, whoever holds one has to be so many times as fast.
HURRY = 16
#: Seconds of pause that a client can have earned by being fast.
CREDIT = 10.0
#: Seconds that a client may pause when no rate is asked for.
STALL = 60.0


class SlowClientBudget:
    """How long a client may still let us wait: a leaky bucket.

    Only the time spent waiting counts, so a slow app is nobody's fault. What was
    moved earns time, up to a bound: without one, a client could be fast for a
    gigabyte and then stay away for days.

    :param rate: Bytes per second that are asked for, 0 for any.
    :param left: Seconds that it still has, if it was waited for before.
    """

    __slots__ = ("_asked", "_counted", "_left", "_rate")

    def __init__(self, rate: float, left: float | None = None) -> None:
        self._rate = self._asked = rate
        self._left = FIRST_CREDIT if left is None else min(left, CREDIT)
        #: Bytes that have left the send queue and were counted then.
        self._counted = 0

    def hurry(self, others_wait: bool) -> None:
        """Ask for more from now on, or for no more than before.

        :param others_wait: Whether others wait for the worker that waits for this
            client.
        """
        self._rate = self._asked * HURRY if others_wait else self._asked

    def seconds_left(self) -> float:
        """Seconds to wait now; 0 or less when the client is too slow."""
        return self._left if self._rate else STALL

    def account(self, waited: float, moved: int) -> None:
        """Take note of seconds waited and bytes moved since."""
        if self._rate:
            again = min(moved, self._counted)
            self._counted -= again
            earned = (moved - again) / self._rate
            self._left = min(CREDIT, self._left - waited + earned)

    def account_queue(self, waited: float, taken: int) -> None:
        """Take note of bytes that the client has taken of the send queue meanwhile.
        What takes their place there doesn't count again."""
        if self._rate:
            self._left = min(CREDIT, self._left - waited + taken / self._rate)
            self._counted += taken
