"""Time that stands still while a process is stopped without knowing it. Pure.

SIGSTOP, a frozen container or a suspended machine may come between any two lines of
the dispatcher, and stop its workers for as long. All its deadlines for processes are on
this clock, so what was stopped has as much time left as before.

Other processes' times, and what is sent to others, are on the machine's monotonic clock
(``CLOCK_MONOTONIC``, ``clock_gettime(2)``): :meth:`RunningClock.at` and
:meth:`RunningClock.machine_at` convert them.
"""

from __future__ import annotations

import math
import typing as t
from collections import deque

#: The process was stopped if it looks at the clock so much later than it should, in
#: seconds. The clock goes on by so much in each pause: one that is stopped over and
#: over again can't put a deadline off for ever.
_JUMP = 0.1
#: How many pauses are remembered, to convert the machine's times.
_MAX_PAUSES = 100


class RunningClock:
    """Monotonic seconds without the pauses of this process.

    Each call finds out whether the process was stopped since the last one, so it must
    be called at least each tenth of a second, but for waits (:meth:`allow`). It never
    goes back.

    A wait always counts for as long as it may take: on a machine that is merely busy
    each one ends late, and deadlines still have to come. So a stop in the midst of a
    wait counts as well, for no longer than that, and waits should be short.

    :param machine: The machine's monotonic seconds.
    :param jump: A look that comes so much later than it should ends a pause, in
        seconds.

    :ivar machine: The same.
    """

    def __init__(self, machine: t.Callable[[], float], jump: float = _JUMP) -> None:
        self.machine = machine
        self._jump = jump
        self._last = machine()
        self._allowed = 0.0
        self._paused = 0.0
        # When each has ended, on the machine's clock, and its seconds.
        self._pauses: deque[tuple[float, float]] = deque(maxlen=_MAX_PAUSES)

    def __call__(self) -> float:
        """The time, in seconds."""
        now = self.machine()
        pause = now - self._last - self._allowed - self._jump
        if pause > 0:
            self._paused += pause
            self._pauses.append((now, pause))
        self._last, self._allowed = now, 0.0
        return now - self._paused

    def allow(self, seconds: float | None) -> None:
        """The process is about to wait.

        :param seconds: How long it may take until the next look at the clock; ``None``
            is any number.
        """
        self()
        self._allowed = math.inf if seconds is None else max(seconds, 0.0)

    def at(self, moment: float) -> float:
        """Convert a time of the machine's clock.

        Of pauses, only the last hundred are taken into account: before these, times
        seem longer ago than they are.
        """
        later = (min(seconds, ended - moment) for ended, seconds in self._pauses)
        return moment - self._paused + sum(part for part in later if part > 0)

    def machine_at(self, moment: float) -> float:
        """Convert a time that is yet to come to the machine's clock."""
        return moment + self._paused
