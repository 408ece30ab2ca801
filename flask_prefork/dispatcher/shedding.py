"""Load shedding: who has waited too long for a worker, or waits behind too many. Pure.

While no worker is idle, requests wait in the accept queues and as ready parked
connections. With a queue timeout those that have waited for longer are refused without
a worker: their clients may have given up, and while they are served all others get as
late. With a bound on the queue those that have waited longest are refused while more
wait.

The kernel tells the age of a connection only to who has accepted it. So the front of
each accept queue is accepted here and held as ready, in its place by arrival; then the
next moment to look is known. ``shedder.py`` does all that:

1. :meth:`Shedding.configure` when a generation begins to serve.
2. :meth:`Shedding.is_due` in each turn, with whether a worker is idle. If it is,
   :meth:`Shedding.next` until there is nothing more to do, then
   :meth:`Shedding.looked`.
3. :meth:`Shedding.deadline` is when the next turn is due.
"""

from __future__ import annotations

import enum
import math
import typing as t
from collections.abc import Sequence

#: Between two looks at who waits: this part of the queue timeout, within these bounds,
#: in seconds.
_PART = 0.125
_SHORTEST, _LONGEST = 0.02, 0.5
#: The same for a bound on the queue.
_QUEUE_INTERVAL = 0.05
#: An episode has ended when nobody was refused for so long, in seconds.
EPISODE = 10.0
#: The longest time after which a client is asked to try again, in seconds.
_LATEST_RETRY = 10


class ShedReason(enum.Enum):
    """Why somebody is refused, as in :data:`.figures.SHED_REASONS`."""

    QUEUE_TIMEOUT = "queue-timeout"
    MAX_QUEUE = "max-queue"
    LIMIT = "limit"


class Queue(t.NamedTuple):
    """An accept queue.

    :param length: Connections that nobody has accepted.
    :param is_held: Whether its front was accepted here and waits as ready.
    :param tells_age: Whether the age of its connections is known once they are
        accepted. Otherwise they are as old as is known from when they were seen, so all
        of them are accepted.
    """

    length: int
    is_held: bool
    tells_age: bool


class Accept(t.NamedTuple):
    """Accept the front of a queue and hold it as ready.

    :param queue: The queue's index.
    """

    queue: int


class Shed(t.NamedTuple):
    """Refuse the ready connection that has waited longest."""

    reason: ShedReason


class Shedding:
    """Decides who is refused.

    :param now: The time, in seconds, by the clock of all later calls.
    """

    def __init__(self, now: float) -> None:
        self.queue_timeout = 0.0
        self.max_queue = 0
        self._interval = 0.0
        #: When to look next; ``None`` while a worker is idle.
        self._look_at: float | None = None
        self._is_episode = False
        #: How many were refused in this episode, and when the last.
        self._refused = 0
        self._refused_at = now

    def configure(self, queue_timeout: float, max_queue: int) -> None:
        """Go by the settings of the generation that serves from now on.

        :param queue_timeout: Seconds, 0 is never.
        :param max_queue: Requests, 0 is any number.
        """
        self.queue_timeout, self.max_queue = queue_timeout, max_queue
        interval = min(max(queue_timeout * _PART, _SHORTEST), _LONGEST)
        if max_queue and not queue_timeout:
            interval = _QUEUE_INTERVAL
        elif max_queue:
            interval = min(interval, _QUEUE_INTERVAL)
        self._interval = interval
        self._look_at = None

    @property
    def retry_after(self) -> int:
        """Seconds after which a refused client may try again."""
        return min(max(math.ceil(self.queue_timeout), 1), _LATEST_RETRY)

    # Looks

    def is_due(self, now: float, is_idle: bool) -> bool:
        """Whether to look now.

        :param is_idle: Whether a worker is idle: then nobody waits.
        """
        if is_idle or not (self.queue_timeout or self.max_queue):
            self._look_at = None
            return False
        if self._look_at is None:
            self._look_at = now + self._interval
        return now >= self._look_at

    def next(
        self, now: float, queues: Sequence[Queue], ready: int, oldest: float | None
    ) -> Accept | Shed | None:
        """What to do next in this look.

        :param queues: The accept queues, in the order in which they are served.
        :param ready: Connections that are ready for a worker.
        :param oldest: When the first of these had arrived, in seconds.
        """
        waiting = ready + sum(queue.length for queue in queues)
        is_full = 0 < self.max_queue < waiting
        if self.queue_timeout or is_full:
            for index, queue in enumerate(queues):
                if queue.length > 0 and not (queue.is_held and queue.tells_age):
                    return Accept(index)
        if oldest is None:
            return None
        if self.queue_timeout and oldest + self.queue_timeout <= now:
            return Shed(ShedReason.QUEUE_TIMEOUT)
        return Shed(ShedReason.MAX_QUEUE) if is_full else None

    def looked(self, now: float, oldest: float | None, is_done: bool) -> None:
        """A look is over.

        :param oldest: See :meth:`next`.
        :param is_done: Whether all was done; if not, the rest is for the next turn.
        """
        self._look_at = now + self._interval if is_done else now
        if self.queue_timeout and oldest is not None:
            self._look_at = min(self._look_at, max(oldest + self.queue_timeout, now))

    def deadline(self) -> float | None:
        """When to ask again, in seconds."""
        times = [self._look_at]
        if self._is_episode:
            times.append(self._refused_at + EPISODE)
        return min((moment for moment in times if moment is not None), default=None)

    # Episodes

    def refused(self, now: float) -> bool:
        """Somebody was refused.

        :return: Whether that begins an episode.
        """
        begins = not self._is_episode
        self._refused = 1 if begins else self._refused + 1
        self._is_episode, self._refused_at = True, now
        return begins

    def ended(self, now: float) -> int:
        """How many were refused in an episode that has just ended; 0 if none has."""
        if not self._is_episode or now < self._refused_at + EPISODE:
            return 0
        self._is_episode = False
        return self._refused
