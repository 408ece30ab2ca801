"""The request watchdog: which requests take too long, and what is to be done.

Pure. The dispatcher (``generation.py``) asks at :meth:`RequestWatchdog.deadline` about
the workers that are busy, passes what the scoreboard shows of their requests, and acts.
"""

from __future__ import annotations

import enum
import typing as t

from ..system.timers import Deadlines
from .pool import PoolWorker

if t.TYPE_CHECKING:
    from ..settings.table import Settings

#: How long a request that was aborted may take to do so, in seconds.
ABORT_TIME = 5.0


class Progress(t.Protocol):
    """What a worker shows of itself: :class:`.records.Record`."""

    @property
    def requests(self) -> int:
        """How many it has served."""

    @property
    def began(self) -> float:
        """When its request began, in seconds; 0 if it is between two requests."""

    @property
    def moved(self) -> float:
        """When something was last read or written."""

    @property
    def timeout(self) -> float:
        """The timeout of its request's route, in seconds; 0 if it has none."""

    @property
    def upgraded(self) -> float:
        """When the app took over its connection, in seconds; 0 if it hasn't."""


class Action(enum.Enum):
    """What is to be done about a request."""

    #: Write every thread's traceback to the log.
    SHOW = "show"
    #: The same, and let the request end with an error.
    ABORT = "abort"
    #: It did not: kill the process.
    KILL = "kill"


class RequestWatchdog:
    """Watches the requests of one generation.

    :param timeout: Seconds without progress after which a request is aborted; 0
        is never.
    :param slow: Seconds after which a request's traceback is logged; 0 is never.
    :param pause: How many seconds a worker may wait for a client outside of a
        request.
    :param upgrade: Seconds without progress after which the worker ends a connection
        that the app has taken over; 0 is never.
    :param at: Converts the workers' times to those of all calls,
        :meth:`.RunningClock.at`.
    :param routes: The timeouts of routes that have their own.
    """

    def __init__(
        self,
        timeout: float,
        slow: float,
        pause: float,
        upgrade: float = 0.0,
        at: t.Callable[[float], float] = float,
        routes: t.Iterable[float] = (),
    ) -> None:
        self.timeout = timeout
        self.slow = slow
        self.pause = pause
        self.upgrade = upgrade
        self._at = at
        #: The shortest of all timeouts, 0 if there is none: which of them counts is
        #: known only from the request.
        self._least = min((one for one in (timeout, *routes) if one), default=0.0)
        self._checks: Deadlines[PoolWorker] = Deadlines()
        # Requests that were dealt with, by the time they began.
        self._shown: dict[PoolWorker, float] = {}
        self._aborted: dict[PoolWorker, float] = {}
        # Between two requests: what was seen of it, and since when.
        self._between: dict[PoolWorker, tuple[int, float, float]] = {}

    @classmethod
    def of(cls, settings: Settings, at: t.Callable[[float], float]) -> RequestWatchdog:
        """What the settings want.

        :param at: See the class.
        """
        pause = settings.header_timeout + settings.keep_alive
        upgrade = settings.upgrade_timeout
        routes = [limit.timeout or 0.0 for limit in settings.limits]
        return cls(settings.timeout, settings.slow_log, pause, upgrade, at, routes)

    def watch(self, worker: PoolWorker, now: float) -> None:
        """The worker is busy."""
        limits = [one for one in (self._least, self.slow, self.upgrade) if one]
        if limits:
            self._checks.set(worker, now + min(limits))

    def forget(self, worker: PoolWorker) -> None:
        """It isn't any more."""
        self._checks.discard(worker)
        self._shown.pop(worker, None)
        self._aborted.pop(worker, None)
        self._between.pop(worker, None)

    def timeout_of(self, progress: Progress) -> float:
        """The timeout of a worker's request, in seconds; 0 is never."""
        return progress.timeout or self.timeout

    def _moved(self, progress: Progress) -> float:
        """When something moved last, by the clock of all calls."""
        return self._at(max(progress.began, progress.moved))

    def due(self, now: float) -> list[PoolWorker]:
        """The workers to :meth:`check` now."""
        return self._checks.pop(now)

    def deadline(self) -> float | None:
        """When to ask for :meth:`due` next, in seconds."""
        return self._checks.next()

    def check(
        self, worker: PoolWorker, now: float, progress: Progress
    ) -> Action | None:
        """Decide about a worker's request.

        :param progress: The worker's.
        """
        if not progress.began:
            self.watch(worker, now)
            return self._check_pause(worker, now, progress)
        self._between.pop(worker, None)
        if progress.upgraded:
            return self._check_upgraded(worker, now, progress)
        began = progress.began  # unconverted: it identifies the request
        # It can't be later than now, unless somebody else has written there; and one
        # that nobody looks at would never be late.
        moved = min(self._moved(progress), now)
        action = None
        timeout = self.timeout_of(progress)
        stalled = timeout and moved + timeout <= now
        if stalled and self._aborted.get(worker) == began:
            return Action.KILL
        if stalled:
            self._aborted[worker] = self._shown[worker] = began
            self._checks.set(worker, now + ABORT_TIME)
            return Action.ABORT
        times = [moved + timeout] if timeout else []
        if self._least and self._least != timeout:
            # For the next request of the same standing order.
            times.append(now + self._least)
        if self.upgrade:
            # It may be taken over.
            times.append(now + self.upgrade)
        slow = min(self._at(began), now) + self.slow
        if self.slow and self._shown.get(worker) != began and now < slow:
            times.append(slow)
        elif self.slow:
            if self._shown.get(worker) != began:
                self._shown[worker] = began
                action = Action.SHOW
            # For the next request of the same standing order.
            times.append(now + self.slow)
        self._checks.set(worker, min(times))
        return action

    def describe(self, progress: Progress) -> str:
        """Why :meth:`check` wants the worker killed, in words."""
        if progress.upgraded:
            return f"silent for {self.upgrade:g} s, and its view didn't end"
        if not progress.began:
            return "it was busy for too long without a request"
        timeout = self.timeout_of(progress)
        return f"no progress for {timeout:g} s, and it didn't end"

    def _check_upgraded(
        self, worker: PoolWorker, now: float, progress: Progress
    ) -> Action | None:
        """Decide about a worker whose app has the connection.

        The worker itself ends the connection, which the app should notice.
        """
        self.watch(worker, now)
        until = self._moved(progress) + self.upgrade + ABORT_TIME
        if self.upgrade and until <= now:
            return Action.KILL
        return None

    def _check_pause(
        self, worker: PoolWorker, now: float, progress: Progress
    ) -> Action | None:
        """Decide about a worker that is busy without a request."""
        requests, moved, since = self._between.get(worker, (-1, 0.0, 0.0))
        if (requests, moved) != (progress.requests, progress.moved):
            self._between[worker] = progress.requests, progress.moved, now
        elif self.timeout and since + self.pause + self.timeout <= now:
            return Action.KILL
        return None
