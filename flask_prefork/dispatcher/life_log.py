"""What is logged of the server's life after its start: reloads, and its end."""

from __future__ import annotations

import typing as t

from ..system.log import logger


class LifeLog:
    """Logs what begins and what ends, and how long it took.

    :param clock: The machine's monotonic seconds.
    """

    def __init__(self, clock: t.Callable[[], float]) -> None:
        self._clock = clock
        self._begun = clock()
        #: Why the server stops; empty while it doesn't.
        self._reason = ""
        self._stop_begun: float | None = None
        self._drain_begun: float | None = None
        self._parked = self._resumed = 0
        self._parking_at = 0.0

    def signalled(self, name: str, what: str) -> None:
        """A signal came, and something follows.

        :param name: As in ``signal(7)``.
        :param what: What follows.
        """
        logger.info("%s: %s.", name, what)

    def stops(self, reason: str) -> None:
        """The server is to stop.

        :param reason: Why: a signal's name, or what has failed. The first one is told
            at the end.
        """
        if not self._reason:
            self._reason = reason
            self._stop_begun = self._clock()

    def drains(self, running: int, waiting: int, seconds: float) -> None:
        """Nobody new is let in.

        :param running: Requests that are served.
        :param waiting: Connections that wait for a worker.
        :param seconds: How long they may take.
        """
        self._drain_begun = self._clock()
        logger.info(
            "Draining for %g s at most; requests being served: %d, connections waiting:"
            " %d.",
            seconds,
            running,
            waiting,
        )

    def cuts(self, running: int) -> None:
        """What is served is cut off.

        :param running: Requests that are served.
        """
        logger.info("Stopping at once; requests that are cut off: %d.", running)

    def ended(self, status: int) -> None:
        """The server has stopped.

        :param status: Its exit status.
        """
        now = self._clock()
        took = ""
        if self._drain_begun is not None:
            took = f" The drain took {now - self._drain_begun:.1f} s."
        elif self._stop_begun is not None:
            took = f" The stop took {now - self._stop_begun:.1f} s."
        log = logger.error if status else logger.info
        log(
            "Stopped after %.1f s, exit status %d; the reason: %s.%s",
            now - self._begun,
            status,
            self._reason or "a failure of the dispatcher",
            took,
        )

    def parking(self, parked: int, resumed: int, waiting: int) -> None:
        """At most once a second, and only at level ``debug``: what is parked.

        :param parked: How many connections have been parked so far.
        :param resumed: How many of these a worker was handed again.
        :param waiting: How many are parked now.
        """
        now = self._clock()
        is_new = (parked, resumed) != (self._parked, self._resumed)
        if not is_new or now < self._parking_at:
            return
        logger.debug(
            "Connections parked since the last such line: %d, resumed: %d; parked now:"
            " %d.",
            parked - self._parked,
            resumed - self._resumed,
            waiting,
        )
        self._parked, self._resumed = parked, resumed
        self._parking_at = now + 1.0
