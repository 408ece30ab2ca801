"""The policy: how many workers there should be.

Pure, like :mod:`.pool`: the dispatcher tells what is, with the time, and is
told how many workers to start or to retire. Asked after every event that
changed a state and at :meth:`Policy.deadline`, never on a tick.

Growth follows Apache's prefork (``idle_spawn_rate`` in mpm_prefork: 1, 2, 4
... 32 while it keeps being short), with a step of a tenth of a second. Apache's
step is a second; with it, eight requests at once wait three.

Shrinking goes by the smallest number of idle workers in a window of time:
what was idle at every moment of it was needed at none. SpamAssassin looked at
one moment, and killed in the trough what it had started for the peak.
"""

from __future__ import annotations

from collections import deque

#: Seconds between two steps of growth.
STEP = 0.1
#: At most this many new workers a step.
MAX_RATE = 32
#: After failed starts wait this long, doubled with each, up to the maximum.
BACK_OFF = 0.2
MAX_BACK_OFF = 30.0


class Policy:
    """Decides the size of one generation.

    :param min_idle: Keep this many idle.
    :param max_idle: Above this idle workers are surplus if they weren't
        needed for ``idle_timeout``.
    :param min_workers: Never fewer.
    :param max_workers: Never more.
    :param idle_timeout: The window for shrinking, in seconds.
    :param now: The time, in seconds, by the clock of all later calls.
    """

    def __init__(
        self,
        min_idle: int,
        max_idle: int,
        min_workers: int,
        max_workers: int,
        idle_timeout: float,
        now: float,
    ) -> None:
        self.min_idle = min_idle
        self.max_idle = max(max_idle, min_idle)
        self.min_workers = min_workers
        self.max_workers = max_workers
        self.idle_timeout = idle_timeout
        #: Starts that failed since one succeeded.
        self.failures = 0
        #: Whether more workers are wanted than are allowed.
        self.saturated = False
        #: How often it came to that.
        self.episodes = 0
        self._saturated_until = now - idle_timeout
        self._rate = 1
        self._not_before = now
        self._short = False
        self._idle = 0
        # Numbers of idle workers with the time when they ended to be true,
        # both ascending: a number that was followed by a smaller one can't
        # be the smallest of any window any more.
        self._past: deque[tuple[float, int]] = deque([(now, 0)])

    def adjust(self, step: int) -> int:
        """Raise or lower min-idle (TTIN, TTOU) within 1 and max-workers.

        :return: The new min-idle. max-idle keeps its distance.
        """
        distance = self.max_idle - self.min_idle
        self.min_idle = min(max(self.min_idle + step, 1), self.max_workers)
        self.max_idle = self.min_idle + distance
        return self.min_idle

    def first(self) -> int:
        """How many workers a new generation starts with."""
        return max(self.min_idle, self.min_workers)

    def started(self, now: float) -> None:
        """A worker became idle for the first time: what failed before is over."""
        self.failures = 0
        self._not_before = min(self._not_before, now + STEP)

    def failed(self, now: float) -> None:
        """A worker died before it was ever idle, or couldn't be forked."""
        pause = min(BACK_OFF * 2**self.failures, MAX_BACK_OFF)
        self.failures = min(self.failures + 1, 30)
        self._not_before = max(self._not_before, now + pause)

    def grow(
        self,
        now: float,
        *,
        idle: int,
        starting: int,
        total: int,
        waiting: int = 0,
        others: int = 0,
    ) -> int:
        """How many workers to start now.

        :param idle: Workers that wait for orders.
        :param starting: Workers that will.
        :param total: All of the generation's processes.
        :param waiting: Connections that nobody was ordered to take.
        :param others: Processes of another generation, which count too.
        """
        wanted = max(self.min_idle, waiting) - idle - starting
        wanted = max(wanted, self.min_workers - total)
        self._short = wanted > 0
        if not self._short:
            self._rate = 1
            self._saturate(now, False)
            return 0
        room = self.max_workers - total - others
        self._saturate(now, room <= 0 and idle + starting == 0)
        if room <= 0:
            # A free place is told by an event.
            self._short = False
            return 0
        if now < self._not_before:
            return 0
        count = min(wanted, room, self._rate)
        self._rate = min(self._rate * 2, MAX_RATE)
        self._not_before = now + STEP
        return count

    def _saturate(self, now: float, saturated: bool) -> None:
        if saturated and not self.saturated:
            # Shorter breaks are of the same episode.
            if now - self._saturated_until >= self.idle_timeout:
                self.episodes += 1
        elif self.saturated and not saturated:
            self._saturated_until = now
        self.saturated = saturated

    def shrink(self, now: float, *, idle: int, total: int) -> int:
        """How many idle workers to retire now.

        The caller does so; the next call sees fewer idle ones.
        """
        self._observe(now, idle)
        smallest = self._past[0][1] if self._past else idle
        count = min(smallest - self.max_idle, total - self.min_workers)
        if count <= 0:
            return 0
        # At those moments, too, the ones that retire now were among the idle.
        self._past = deque((ended, n - count) for ended, n in self._past)
        self._idle = idle - count
        return count

    def _observe(self, now: float, idle: int) -> None:
        past = self._past
        if idle != self._idle:
            while past and past[-1][1] >= self._idle:
                past.pop()
            past.append((now, self._idle))
            self._idle = idle
        while past and past[-1][1] >= idle:
            past.pop()
        while past and past[0][0] + self.idle_timeout <= now:
            past.popleft()

    def deadline(self) -> float | None:
        """When to ask again if nothing happens before, in seconds."""
        times = []
        if self._short:
            times.append(self._not_before)
        if self._idle > self.max_idle and self._past:
            times.append(self._past[0][0] + self.idle_timeout)
        return min(times, default=None)
