"""How long a process was stopped without knowing it. Pure.

The dispatcher (``dispatcher/loop.py``) laps one at each step of its loop. SIGSTOP, a
frozen container or a suspended machine may come between any two lines of it, and stop
its workers for as long.
"""

from __future__ import annotations

import typing as t

#: A step that takes so much longer than it should was stopped, in seconds.
_JUMP = 0.1


class PauseDetector:
    """Accounts for all time: each lap begins where the one before has ended.

    :param clock: Monotonic seconds.
    :ivar now: When the last lap ended.
    """

    def __init__(self, clock: t.Callable[[], float]) -> None:
        self._clock = clock
        self.now = clock()

    def lap(self, allowed: float | None = 0.0) -> float:
        """End a lap and begin the next.

        :param allowed: How many seconds it may have taken for its own reasons;
            ``None`` is any number.
        :return: How long it took if it was stopped, in seconds, else 0. The time that
            it was allowed counts, for it may have been stopped all along.
        """
        begun, self.now = self.now, self._clock()
        took = self.now - begun
        if allowed is None or took <= max(allowed, 0.0) + _JUMP:
            return 0.0
        return took
