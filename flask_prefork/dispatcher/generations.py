"""Generations: which one serves, which one is next, and which ones retire.

In the dispatcher. The loop (``loop.py``) calls :meth:`Generations.reload` on HUP. In
each turn it calls :meth:`Generations.advance`, which switches to the next generation
when that is ready, releases retired ones and opens the next; then
:meth:`Generations.refork`, :meth:`Generations.recycle` and, once connections were
dispatched, :meth:`Generations.step`. When the reaper reports a zygote's exit while the
server serves, it calls :meth:`Generations.zygote_exited`. ``shutdown.py`` calls
:meth:`Generations.abandon` before it lets all generations drain.

A generation is opened only after the app is loaded, and while no other one of its
parity is left: both would have the same half of the scoreboard.

Never here: reaping, or waiting for a zygote. Why a reload is wanted is not known here.
"""

from __future__ import annotations

import typing as t
from collections.abc import Sequence

from ..ipc import spawn
from ..ipc.listener import Listener
from ..ipc.spawn import ZygoteHandle
from ..ipc.stats import Part
from ..system import process_title
from ..system.log import logger
from .generation import Generation
from .service import ServiceHost

#: A zygote that died is replaced after this, doubled with each that can't load
#: the app, up to the maximum, in seconds.
_RETRY = 0.5
_MAX_RETRY = 30.0
#: When another worker may be promoted after one couldn't be, in seconds.
_REFORK_PAUSE = 1.0


class Generations:
    """All generations.

    :param zygote: The first generation's, just started.
    :param adopt: Makes a generation of a zygote.
    :param service: Is notified of reloads, and has the rights to start zygotes.
    :param clock: Monotonic seconds.

    :ivar current: The generation that is ordered.
    :ivar next: The one that is to follow it.
    :ivar retiring: Those that finish what they serve.
    :ivar retry_at: When a dead zygote is to be replaced.
    :ivar reloads: How many generations have taken over from another.
    """

    def __init__(
        self,
        zygote: ZygoteHandle,
        adopt: t.Callable[[ZygoteHandle], Generation],
        service: ServiceHost,
        clock: t.Callable[[], float],
    ) -> None:
        self._adopt = adopt
        self._service = service
        self._clock = clock
        self.current = adopt(zygote)
        self.next: Generation | None = None
        self.retiring: list[Generation] = []
        self.retry_at: float | None = None
        self.reloads = 0
        self._retries = 0
        self._refork_not_before = 0.0
        #: When the reload began that is on its way, in seconds.
        self._reload_begun = 0.0
        #: The current generation's zygote has exited, and that was dealt with.
        self._is_without_zygote = False

    @property
    def zygotes(self) -> dict[int, Generation]:
        """All zygotes that aren't reaped, by pid."""
        found = ((one.zygote, one) for one in self.all())
        return {z.pid: one for z, one in found if z.pid and not z.reaped}

    def all(self) -> list[Generation]:
        """Every generation that there is something left of."""
        following = [self.next] if self.next is not None else []
        return [*following, self.current, *self.retiring]

    @property
    def max_workers(self) -> int:
        """How many workers there are, or may be before the next turn.

        Those that serve are no more than the setting has it, but for the next
        generation's. Those that only finish come on top of both.
        """
        pools = [one.pool for one in self.all()]
        serving = sum(pool.total for pool in pools)
        finishing = sum(map(len, pools)) - serving
        places = self.current.settings.max_workers if self.current.settings else 0
        most = max(places, serving) + finishing
        if self.next is not None and self.next.settings is not None:
            most += self.next.settings.max_workers
        return most

    def parts(self) -> list[Part]:
        """What is shown of the generations, the current one first."""
        parts = [Part(self.current.number, "current", self.current.opened)]
        if self.next is not None:
            parts.append(Part(self.next.number, "next", self.next.opened))
        for one in self.retiring:
            if len(one.pool):
                parts.append(Part(one.number, "retiring", one.opened))
        return parts

    def reload(self) -> None:
        """Load the app anew, in a generation that is to follow the current one.

        One that is still on its way is given up for it.
        """
        self.abandon()
        number = self._next_number()
        self._reload_begun = self._clock()
        self._service.reloading()
        try:
            with self._service.rights():
                zygote = spawn.by_exec(number)
        except OSError as e:
            logger.error("Can't start a zygote: %s.", e)
            self._give_up()
            return
        self.next = self._adopt(zygote)
        logger.info("Generation %d is loading.", number)

    def refork(self) -> None:
        """Let a worker that has served enough leave the next zygote behind.

        The app isn't loaded anew then. A reload goes before.
        """
        if self.next is not None or self.retry_at is not None:
            return
        if self._clock() < self._refork_not_before:
            return
        worker = self.current.refork_candidate()
        if worker is None:
            return
        number = self._next_number()
        self._reload_begun = self._clock()
        try:
            zygote, control = spawn.by_promotion(number)
        except OSError as e:
            # EMFILE, ENFILE: there will be others.
            logger.error("Can't promote worker %d: %s.", worker.number, e)
            self._refork_not_before = self._clock() + _REFORK_PAUSE
            return
        self.next = self._adopt(zygote)
        with control:
            fds = [control.fileno(), zygote.dump]
            self.current.promote(worker, number, fds)
        settings = self.current.settings
        assert settings is not None, "its workers serve"
        # The worker's end, and then there is nothing to load.
        limit = settings.graceful_timeout + settings.spawn_timeout
        self.next.zygote.watchdog.hurry(self._clock(), limit)
        logger.info("Generation %d is to come from worker %d.", number, worker.number)

    def _next_number(self) -> int:
        number = max(generation.number for generation in self.all()) + 1
        # The other half of the scoreboard than the current generation's.
        return number + (number - self.current.number + 1) % 2

    def abandon(self) -> None:
        """Give the next generation up, if there is one, or will be."""
        self.retry_at = None
        generation, self.next = self.next, None
        if generation is None:
            return
        generation.give_up()
        generation.zygote.kill()
        self.retiring.append(generation)

    def advance(self, now: float, listeners: Sequence[Listener]) -> None:
        """Do what the state of the generations asks for."""
        following = self.next
        if following is not None and following.ready:
            self._switch_to(following)
        elif following is not None and (
            following.failed_to_start
            or following.promotion_failed
            or following.zygote.was_killed
        ):
            logger.error("Generation %d is given up.", following.number)
            self.abandon()
            self._give_up()
        if self.current.zygote.was_killed:
            self._replace_zygote()
        # Before the next one opens: it may wait for the place of who leaves now,
        # and nothing else may happen for long.
        self._release_retired()
        self._open(listeners)
        if self.current.outdated or (
            self.retry_at is not None and now >= self.retry_at
        ):
            if self.current.outdated:
                logger.info("Files of the app have changed: it is reloaded.")
            self.current.outdated = False
            self.reload()

    def step(self, now: float, waiting: int) -> None:
        """Let each generation do what it wants now.

        :param waiting: Connections that nobody was ordered to take; the current
            generation is to.
        """
        for generation in self.all():
            # Of who comes, the first workers have to, however many the others are.
            others, memory = (0, 0)
            if generation is not self.next:
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
        """Let the next generation start workers, as soon as there is a place."""
        following = self.next
        if following is not None and following.loaded and not following.opened:
            # Its half of the scoreboard may still be in use.
            parities = [g.number % 2 for g in (self.current, *self.retiring)]
            if following.number % 2 not in parities:
                # The app's settings are what they were, and nobody asked for a reload.
                following.open(
                    listeners, self.current.policy if following.is_promoted else None
                )

    def _switch_to(self, following: Generation) -> None:
        number = following.number
        status = f"generation {number} serves"
        if following.is_failure:
            status = f"the app of generation {number} can't be loaded"
            logger.error(
                "The app of generation %d can't be loaded; its requests show the"
                " traceback until a file of the app is changed.",
                number,
            )
        elif self.current.is_failure:
            logger.info("Generation %d serves; the app can be loaded again.", number)
        else:
            logger.info("Generation %d serves.", number)
        process_title.show("dispatcher", generation=number)
        following.notify_ready(follows=True)
        old, self.current, self.next = self.current, following, None
        self._retries = 0
        self._is_without_zygote = False
        self.reloads += 1
        if following.is_promoted:
            old.hand_over_exit_tasks()
        logger.info(
            "Generation %d took over %.1f s after its beginning; generation %d retires,"
            " and its workers: %d.",
            following.number,
            self._clock() - self._reload_begun,
            old.number,
            len(old.pool),
        )
        old.retire()
        self.retiring.append(old)
        self._service.ready(status)

    def _release_retired(self) -> None:
        """Let zygotes of generations that have no worker left exit."""
        for generation in list(self.retiring):
            if not len(generation.pool):
                generation.release()
                if generation.pid not in self.zygotes:
                    generation.close()
                    logger.info("Generation %d has ended.", generation.number)
                    self.retiring.remove(generation)

    def zygote_exited(self, generation: Generation) -> None:
        """While the server serves, a generation's zygote has ended."""
        if generation is self.next:
            number, current = generation.number, self.current.number
            if generation.loaded or not len(self.current.pool):
                how = "ended" if generation.loaded else "could not be loaded"
                logger.error("Generation %d %s; %s.", number, how, self._who_serves())
            else:
                logger.error(
                    "Generation %d could not be loaded; generation %d serves on.",
                    number,
                    current,
                )
            self.abandon()
            self._give_up()
        elif generation is self.current:
            generation.release()
            self._replace_zygote()

    def _replace_zygote(self) -> None:
        """The current generation can have no more workers, as its zygote is dead."""
        if self._is_without_zygote:
            return
        self._is_without_zygote = True
        pause = self._retry()
        number, follows = self.current.number, "loading another"
        if self.next is not None:
            follows = f"generation {self.next.number} is on its way"
        elif pause:
            follows = f"another one is loaded in {pause:g} s"
        if self.current.zygote.was_killed:
            logger.error("Generation %d has no zygote; %s.", number, follows)
        elif follows != "loading another":
            logger.error("The zygote (pid %d) died; %s.", self.current.pid, follows)
        else:
            logger.error("The zygote (pid %d) died; loading another.", self.current.pid)

    def _who_serves(self) -> str:
        number = self.current.number
        if not len(self.current.pool):
            return f"generation {number} has no workers left"
        return f"generation {number} serves on"

    def _give_up(self) -> None:
        """A reload has failed, and the current generation serves on."""
        self._service.ready(self._who_serves())
        self._retry()

    def _retry(self) -> float:
        """If the current generation's zygote is dead, load another in a while.

        :return: In how many seconds.
        """
        if self.current.alive or self.next is not None:
            return 0.0
        pause = min(_RETRY * 2**self._retries, _MAX_RETRY) if self._retries else 0.0
        self._retries = min(self._retries + 1, 30)
        self.retry_at = self._clock() + pause
        return pause

    @property
    def attempts(self) -> int:
        """How many zygotes were to replace a dead one, and none of them served."""
        return self._retries

    def deadline(self) -> float | None:
        """When to look again if nothing happens before."""
        times = [self.retry_at, *(generation.deadline() for generation in self.all())]
        return min((moment for moment in times if moment is not None), default=None)

    def close(self) -> None:
        """Close all that is left of them here."""
        for generation in self.all():
            generation.close()
