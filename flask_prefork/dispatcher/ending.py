"""The steps by which the server stops, and when each is due. Pure.

The dispatcher passes on signals, asks in each turn for the next step, and takes it. No
process, however it hangs, keeps the server from its end: once it goes down there is a
deadline in each phase, after which the next harder step is due.
"""

from __future__ import annotations

import enum
import typing as t
from collections import deque

from ..ipc.phase import GRACE
from ..ipc.phase import LAST_MOMENT
from ..ipc.phase import Phase

#: How long workers may take to exit if they are asked to only when their time is over,
#: in seconds.
EXIT_TIME = 1.0
#: A worker that lives on for so long after SIGKILL, in a system call that nothing
#: interrupts, keeps its slot no longer, in seconds.
KILL_TIME = 5.0


class Step(enum.Enum):
    """What is to be done."""

    #: Let nobody new in; who waits is served.
    DRAIN = "drain"
    #: Accept nothing more; workers finish what they serve.
    CLOSE = "close"
    #: Log where workers are that should have ended.
    SHOW_WORKERS = "show workers"
    #: Accept nothing more; what is served is killed, other workers end by themselves.
    CUT = "cut"
    #: Kill every worker, and the sender.
    KILL_WORKERS = "kill workers"
    #: Let zygotes, observer, sender and TLS proxies end.
    RELEASE = "release"
    #: Log where zygotes are that should have ended.
    SHOW_ZYGOTES = "show zygotes"
    #: Kill whoever is left.
    KILL = "kill"


class Left(t.NamedTuple):
    """What is left of the server.

    :param served: Nobody waits any more.
    :param workers: How many workers there are.
    :param deliveries: How many responses are being sent without a worker.
    :param others: How many zygotes, observers, senders and TLS proxies there are.
    """

    served: bool
    workers: int
    deliveries: int
    others: int


#: How long to wait for what a step has done, in seconds.
_PAUSES = {
    Step.SHOW_WORKERS: LAST_MOMENT,
    Step.KILL_WORKERS: GRACE,
    Step.SHOW_ZYGOTES: LAST_MOMENT,
    Step.KILL: GRACE,
}


class Ending:
    """The server's phase, and its way to the end.

    :ivar phase: Where the server is in its life; :meth:`serve` begins to serve.
    :ivar drain_at: When draining begins, in seconds; ``None`` if it isn't wanted or
        has begun.
    """

    def __init__(self) -> None:
        self.phase = Phase.LOADING
        self.drain_at: float | None = None
        #: When the next harder step is due, and the steps of this phase.
        self._due: float | None = None
        self._harder: deque[Step] = deque()
        #: Until when all may take its time.
        self._until = 0.0
        self._graceful = True
        self._graceful_timeout = 0.0

    def serve(self) -> None:
        """The app is loaded, and the sockets are bound."""
        assert self.phase is Phase.LOADING
        self.phase = Phase.SERVING

    @property
    def is_hurried(self) -> bool:
        """Whether the server is to end at once."""
        return not self._graceful

    def deadline(self) -> float | None:
        """When to ask for the next step at the latest, in seconds.

        ``None`` only before the server goes down, and when it has ended.
        """
        return self.drain_at if self._due is None else self._due

    def term(self, now: float, delay: float, graceful: float) -> Step | None:
        """End gracefully (TERM); sent twice, at once.

        :param delay: Seconds to go on serving before.
        :param graceful: Seconds that running requests have to finish.
        :return: What is to be done now.
        """
        if self.phase is not Phase.SERVING or self.drain_at is not None:
            return self.interrupt(now)
        self._graceful_timeout = graceful
        self.drain_at = now + delay
        return self._drain(now) if not delay else None

    def _drain(self, now: float) -> Step:
        self.phase, self.drain_at = Phase.DRAINING, None
        self._due = self._until = now + self._graceful_timeout
        return Step.DRAIN

    def interrupt(self, now: float) -> Step | None:
        """End at once (INT); sent twice, this instant.

        :return: What is to be done now.
        """
        killed = self.phase is Phase.LEAVING and not self._harder
        if killed or self.phase is Phase.STOPPED:
            return None  # nothing is harder; and no signal puts the end off
        served = self.phase in (Phase.SERVING, Phase.DRAINING) or (
            # And not all workers are killed yet.
            self.phase is Phase.CLOSING and self._graceful and bool(self._harder)
        )
        self._graceful, self.drain_at = False, None
        self._due = self._until = now + GRACE
        if served:
            self.phase = Phase.CLOSING
            self._harder = deque([Step.KILL_WORKERS])
            return Step.CUT
        self.phase = Phase.LEAVING
        self._harder = deque()
        return Step.KILL

    def step(self, now: float, left: Left) -> Step | None:
        """What is to be done now; to be asked again until that is nothing."""
        if self.drain_at is not None and now >= self.drain_at:
            return self._drain(now)
        late = self._due is not None and now >= self._due
        if self.phase is Phase.DRAINING and (left.served or late):
            self.phase = Phase.CLOSING
            self._harder = deque([Step.SHOW_WORKERS, Step.KILL_WORKERS])
            # Those who are idle have to read of it yet, and report what they cut off.
            self._due = max(self._until, now + EXIT_TIME)
            return Step.CLOSE
        done = late and not self._harder
        unfinished = left.workers or left.deliveries
        if self.phase is Phase.CLOSING and (not unfinished or done):
            self.phase = Phase.LEAVING
            shows = [Step.SHOW_ZYGOTES] if self._graceful else []
            self._harder = deque([*shows, Step.KILL])
            self._due = max(self._until, now + GRACE)
            return Step.RELEASE
        if self.phase is Phase.LEAVING and (not left.others or done):
            self.phase, self._due = Phase.STOPPED, None
        elif late and self._harder:
            step = self._harder.popleft()
            self._due = now + _PAUSES[step]
            return step
        return None
