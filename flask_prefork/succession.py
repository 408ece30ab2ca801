"""Generations: which one serves, which one is to follow, and which ones leave.

The dispatcher asks for reloads and reports zygotes that have ended; this module does
what follows from that. It doesn't know why a reload is wanted.
"""

from __future__ import annotations

import os
import signal
import typing as t
from collections.abc import Sequence

from . import launch
from .generation import Generation
from .launch import Zygote
from .log import logger
from .sockets import Listener
from .summary import Part
from .supervisor import Supervisor

#: A zygote that died is replaced after this, doubled with each that can't load
#: the app, up to the maximum, in seconds.
_RETRY = 0.5
_MAX_RETRY = 30.0


class Succession:
    """All generations.

    :param zygote: The first generation's, just started.
    :param adopt: Makes a generation of a zygote.
    :param supervisor: Hears of reloads, and has the rights to start zygotes.
    :param clock: Monotonic seconds.

    :ivar current: The generation that is ordered.
    :ivar coming: The one that is to follow it.
    :ivar leaving: Those that finish what they serve.
    :ivar retry_at: When a dead zygote is to be replaced.
    :ivar reloads: How many generations have taken over from another.
    """

    def __init__(
        self,
        zygote: Zygote,
        adopt: t.Callable[[Zygote], Generation],
        supervisor: Supervisor,
        clock: t.Callable[[], float],
    ) -> None:
        self._adopt = adopt
        self._supervisor = supervisor
        self._clock = clock
        self.current = adopt(zygote)
        self.coming: Generation | None = None
        self.leaving: list[Generation] = []
        self.retry_at: float | None = None
        self.reloads = 0
        self._retries = 0

    @property
    def zygotes(self) -> dict[int, Generation]:
        """All zygotes that aren't reaped, by pid."""
        return {one.pid: one for one in self.all() if one.pid and not one.reaped}

    def all(self) -> list[Generation]:
        """Every generation that there is something left of."""
        coming = [self.coming] if self.coming is not None else []
        return [*coming, self.current, *self.leaving]

    def parts(self) -> list[Part]:
        """What is told of the generations, the current one first."""
        parts = [Part(self.current.number, "current", self.current.opened)]
        if self.coming is not None:
            parts.append(Part(self.coming.number, "coming", self.coming.opened))
        for one in self.leaving:
            if len(one.pool):
                parts.append(Part(one.number, "leaving", one.opened))
        return parts

    def begin(self) -> None:
        """Load the app anew, in a generation that is to follow the current one.

        One that is still on its way is given up for it.
        """
        self.abandon()
        number = self._next_number()
        self._supervisor.reloading()
        try:
            with self._supervisor.rights():
                zygote = launch.by_exec(number)
        except OSError as e:
            logger.error("Can't start a zygote: %s.", e)
            self._give_up()
            return
        self.coming = self._adopt(zygote)
        logger.info("Generation %d is loading.", number)

    def refork(self) -> None:
        """Let a worker that has served enough leave the next zygote behind.

        The app isn't loaded anew then. A reload goes before.
        """
        if self.coming is not None or self.retry_at is not None:
            return
        worker = self.current.seasoned()
        if worker is None:
            return
        number = self._next_number()
        try:
            zygote, control = launch.by_promotion(number)
        except OSError as e:
            logger.error("Can't promote worker %d: %s.", worker.slot, e)
            return
        self.coming = self._adopt(zygote)
        with control:
            self.current.promote(worker, number, control.fileno())
        logger.info("Generation %d is to come from worker %d.", number, worker.slot)

    def _next_number(self) -> int:
        number = max(generation.number for generation in self.all()) + 1
        # The other half of the scoreboard than the current generation's.
        return number + (number - self.current.number + 1) % 2

    def abandon(self) -> None:
        """Give the coming generation up, if there is one, or will be."""
        self.retry_at = None
        generation, self.coming = self.coming, None
        if generation is None:
            return
        generation.kill_all("its generation is given up")
        generation.release()
        if generation.pid and not generation.reaped:
            os.kill(generation.pid, signal.SIGKILL)
        self.leaving.append(generation)

    def change(self, now: float, listeners: Sequence[Listener]) -> None:
        """Do what the state of the generations asks for."""
        coming = self.coming
        if coming is not None and coming.ready:
            self._promote(coming)
        elif coming is not None and (coming.hopeless or coming.lost):
            logger.error("Generation %d is given up.", coming.number)
            self.abandon()
            self._give_up()
        # Before the next one opens: it may wait for the place of who leaves now,
        # and nothing else may happen for long.
        self._dismiss()
        self._open(listeners)
        if self.current.outdated or (
            self.retry_at is not None and now >= self.retry_at
        ):
            self.current.outdated = False
            self.begin()

    def step(self, now: float, waiting: int) -> None:
        """Let each generation do what it wants now.

        :param waiting: Connections that nobody was ordered to take; the current
            generation is to.
        """
        for generation in self.all():
            # Of who comes, the first workers have to, however many the others are.
            others, memory = (0, 0)
            if generation is not self.coming:
                others, memory = self._others(generation)
            asked = waiting if generation is self.current else 0
            generation.step(now, asked, others, memory)

    def recycle(self, now: float) -> None:
        """Replace a worker of the current generation that has served for long."""
        if self.current.recycles:
            self.current.recycle(now, *self._others(self.current))

    def _others(self, generation: Generation) -> tuple[int, int]:
        """How many workers all others have, and bytes of memory."""
        others = [one for one in self.all() if one is not generation]
        return sum(g.pool.total for g in others), sum(g.memory for g in others)

    def _open(self, listeners: Sequence[Listener]) -> None:
        """Let the coming generation start workers, as soon as there is a place."""
        coming = self.coming
        if coming is not None and coming.loaded and not coming.opened:
            # Its half of the scoreboard may still be in use.
            parities = [g.number % 2 for g in (self.current, *self.leaving)]
            if coming.number % 2 not in parities:
                # The app's settings are what they were, and nobody asked for a reload.
                coming.open(
                    listeners, self.current.policy if coming.is_promoted else None
                )

    def _promote(self, coming: Generation) -> None:
        logger.info("Generation %d serves.", coming.number)
        coming.tell_ready(follows=True)
        old, self.current, self.coming = self.current, coming, None
        self._retries = 0
        self.reloads += 1
        if coming.is_promoted:
            old.hand_on()
        old.retire()
        self.leaving.append(old)
        self._supervisor.ready(f"generation {coming.number} serves")

    def _dismiss(self) -> None:
        """Part with generations that have no worker left."""
        for generation in list(self.leaving):
            if not len(generation.pool):
                generation.release()
                if generation.pid not in self.zygotes:
                    generation.close()
                    self.leaving.remove(generation)

    def reap(self) -> list[tuple[Generation, int]]:
        """Take in which zygotes have ended.

        :return: Their generations, with the exit status, or the signal's number
            below 0.
        """
        ended: list[tuple[Generation, int]] = []
        for pid, generation in self.zygotes.items():
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                found, status = pid, 0
            if found:
                generation.reaped = True
                ended.append((generation, os.waitstatus_to_exitcode(status)))
        return ended

    def bereaved(self, generation: Generation) -> None:
        """While the server serves, a generation's zygote has ended."""
        if generation is self.coming:
            logger.error(
                "Generation %d could not be loaded; generation %d serves on.",
                generation.number,
                self.current.number,
            )
            self.abandon()
            self._give_up()
        elif generation is self.current:
            logger.error("The zygote (pid %d) died; loading another.", self.current.pid)
            self.current.release()
            self._retry()

    def _give_up(self) -> None:
        """A reload has failed, and the current generation serves on."""
        self._supervisor.ready(f"generation {self.current.number} serves on")
        self._retry()

    def _retry(self) -> None:
        """If the current generation's zygote is dead, load another in a while."""
        if not self.current.alive and self.coming is None:
            pause = min(_RETRY * 2**self._retries, _MAX_RETRY) if self._retries else 0
            self._retries = min(self._retries + 1, 30)
            self.retry_at = self._clock() + pause

    def deadline(self) -> float | None:
        """When to look again if nothing happens before."""
        times = [self.retry_at, *(generation.deadline() for generation in self.all())]
        return min((moment for moment in times if moment is not None), default=None)

    def close(self) -> None:
        """Close all that is left of them here."""
        for generation in self.all():
            generation.close()
