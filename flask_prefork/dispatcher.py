"""The dispatcher: the process that the user started.

It binds, polls, orders workers to accept, and decides how many there are. It
never imports the app and never reads a byte from a client, and it waits for
nothing but its poll. ``cli.py`` runs it; it starts zygotes by ``launch.py`` and
keeps each with its workers in a :class:`.generation.Generation`. Whom to serve
next is in ``queues.py``; here is the server's life: loading, reloading, going
down.
"""

from __future__ import annotations

import enum
import os
import signal
import time
import typing as t

from . import launch
from . import scoreboard
from .generation import Generation
from .launch import Zygote
from .log import logger
from .poller import Poller
from .queues import Queues
from .queues import raise_descriptor_limit
from .settings import Settings
from .signals import Signals
from .sockets import bind
from .sockets import BindError

#: How long idle workers and zygotes may take to exit when all stops at once.
_LAST_GRACE = 2.0


class Phase(enum.Enum):
    """Where the server is in its life."""

    #: The first generation's zygote loads the app; nothing is bound.
    LOADING = "loading"
    SERVING = "serving"
    #: TERM: what waits in the accept queue is still served.
    DRAINING = "draining"
    #: Nothing is accepted any more; workers finish and exit.
    CLOSING = "closing"
    #: No worker is left; the zygotes exit.
    LEAVING = "leaving"
    STOPPED = "stopped"


class Dispatcher:
    """The server's main loop.

    :param zygote: The first generation's, just started.
    :param host: What to listen on, see :func:`.sockets.bind`.
    :param port: The TCP port.
    :param scheme: ``http`` or ``https``, for the banner.
    """

    def __init__(self, zygote: Zygote, host: str, port: int, scheme: str) -> None:
        self.clock = time.monotonic
        self.host = host
        self.port = port
        self.scheme = scheme
        self.phase = Phase.LOADING
        self.status = 0
        self.poller = Poller()
        self.queues = Queues(self.poller, self.clock, raise_descriptor_limit())
        self._scoreboard = scoreboard.create()
        self._announced = False
        self._end: float | None = None
        self._actions: dict[int, t.Callable[[], None]] = {
            signal.SIGTERM: self.drain,
            signal.SIGINT: self.stop,
            signal.SIGQUIT: self.stop,
            signal.SIGHUP: self.reload,
            signal.SIGTTIN: lambda: self._adjust(1),
            signal.SIGTTOU: lambda: self._adjust(-1),
            signal.SIGUSR1: self._tell_state,
            signal.SIGCHLD: self._reap,
        }
        self._signals = Signals(self._actions)
        self.poller.watch(self._signals.fileno(), self._read_signals)
        self._zygotes = {zygote.pid: zygote.generation}
        #: The generation that is ordered; the one that is to follow it; and
        #: those that finish what they serve.
        self.current = self._adopt(zygote)
        self.coming: Generation | None = None
        self.leaving: list[Generation] = []

    # The loop

    def run(self) -> int:
        """Serve until told to stop.

        :return: The exit status.
        """
        try:
            # A zygote may have ended before its signal could be told.
            self._reap()
            while self.phase is not Phase.STOPPED:
                for callback in self.poller.wait(self._patience()):
                    callback()
                self._turn()
        finally:
            self._clean_up()
        return self.status

    def _patience(self) -> float | None:
        times = [self._end, self.queues.deadline()]
        times += [generation.deadline() for generation in self._generations()]
        known = [moment for moment in times if moment is not None]
        return min(known) - self.clock() if known else None

    def _turn(self) -> None:
        """After all news was taken in: decide and act."""
        now = self.clock()
        if self.phase is Phase.LOADING and self.current.loaded:
            self._open()
        if self.phase in (Phase.SERVING, Phase.DRAINING):
            self.queues.dispatch(self.current)
            self._change_generations()
        self._step(now)
        if self.phase is Phase.SERVING:
            self._look_after()
        elif self.phase is not Phase.LOADING:
            self._go_down(now)

    def _step(self, now: float) -> None:
        generations = self._generations()
        total = sum(len(generation.pool) for generation in generations)
        waiting = self.queues.unanswered(self.current)
        for generation in generations:
            others = total - len(generation.pool)
            asked = waiting if generation is self.current else 0
            generation.step(now, asked, others)

    # Signals

    def _read_signals(self) -> None:
        for number in self._signals.read():
            action = self._actions.get(number)
            if action is not None:
                action()

    def _adjust(self, step: int) -> None:
        logger.info("min-idle is %d now.", self.current.policy.adjust(step))

    def _tell_state(self) -> None:
        parts = [f"workers: {self.current.pool.letters()}"]
        for other in self._generations():
            if other is not self.current:
                parts.append(f"generation {other.number}: {other.pool.letters()}")
        parts.append(f"{self.queues.waiting()} waiting")
        logger.info(", ".join(parts))

    def _reap(self) -> None:
        for pid in list(self._zygotes):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended, status = pid, 0
            if ended:
                self._zygote_ended(pid, os.waitstatus_to_exitcode(status))

    # Coming up

    def _open(self) -> None:
        """The first generation's app is loaded: bind, and start workers."""
        settings = self._settings
        try:
            self.queues.listeners = [bind(self.host, self.port, settings.backlog)]
        except BindError as e:
            # As werkzeug does: no traceback, no timestamp.
            os.write(2, f"{e}\n".encode())
            self.status = 1
            self.stop()
            return
        self.phase = Phase.SERVING
        self.current.open(self.queues.listeners)

    def _look_after(self) -> None:
        """Tell when the first worker is ready, or give up."""
        if not self._announced and self.current.pool.idle:
            self._announce()
        if self.current.hopeless:
            logger.error(
                "No worker became ready in %d starts; giving up.",
                self.current.policy.failures,
            )
            self.status = 1
            self.stop()

    def _announce(self) -> None:
        """Say what runs where. Whoever reads it can connect at once."""
        self._announced = True
        settings = self._settings
        for listener in self.queues.listeners:
            for address in listener.addresses(self.scheme):
                logger.info(" * Running on %s", address)
        logger.info(
            " * Generation %d: %d to %d workers, %d to %d idle, %s dispatch",
            self.current.number,
            settings.min_workers,
            settings.max_workers,
            settings.min_idle,
            settings.max_idle,
            settings.dispatch,
        )
        logger.info(" * Dispatcher %d, zygote %d", os.getpid(), self.current.pid)
        logger.info("Press CTRL+C to quit")

    # Generations

    def _adopt(self, zygote: Zygote) -> Generation:
        return Generation(
            zygote, self.poller, self._scoreboard, self.clock, self.queues
        )

    @property
    def _settings(self) -> Settings:
        settings = self.current.settings
        assert settings is not None, "nothing is served before the app is loaded"
        return settings

    def _generations(self) -> list[Generation]:
        coming = [self.coming] if self.coming is not None else []
        return [*coming, self.current, *self.leaving]

    def reload(self) -> None:
        """HUP: load the app anew, and let the present workers finish."""
        if self.phase is not Phase.SERVING:
            return
        if self.coming is not None:
            self._abandon(self.coming)
        number = max(g.number for g in self._generations()) + 1
        # The other half of the scoreboard than the current generation's.
        number += (number - self.current.number + 1) % 2
        try:
            zygote = launch.by_exec(number)
        except OSError as e:
            logger.error("Can't start a zygote: %s.", e)
            return
        self._zygotes[zygote.pid] = number
        self.coming = self._adopt(zygote)
        logger.info("Generation %d is loading.", number)

    def _abandon(self, generation: Generation) -> None:
        generation.kill_all("its generation is given up")
        generation.release()
        os.kill(generation.pid, signal.SIGKILL)
        self.leaving.append(generation)
        self.coming = None

    def _change_generations(self) -> None:
        coming = self.coming
        if coming is not None and coming.loaded:
            if coming.ready:
                self._promote(coming)
            elif not coming.opened and self._bank_is_free(coming):
                coming.open(self.queues.listeners)
        for generation in list(self.leaving):
            if not len(generation.pool):
                generation.release()
                if generation.pid not in self._zygotes:
                    generation.close()
                    self.leaving.remove(generation)

    def _bank_is_free(self, coming: Generation) -> bool:
        parities = [g.number % 2 for g in (self.current, *self.leaving)]
        return coming.number % 2 not in parities

    def _promote(self, coming: Generation) -> None:
        logger.info("Generation %d serves.", coming.number)
        old, self.current, self.coming = self.current, coming, None
        old.retire()
        self.leaving.append(old)

    def _zygote_ended(self, pid: int, status: int) -> None:
        number = self._zygotes.pop(pid)
        if self.phase is Phase.LOADING:
            # It has said why; say the same to whoever started us.
            self.status = status if status > 0 else 1
            self.stop()
        elif self.coming is not None and number == self.coming.number:
            logger.error("Generation %d could not be loaded.", number)
            self.coming.close()
            self.coming = None
        elif number == self.current.number and self.phase is Phase.SERVING:
            logger.error("The zygote (pid %d) died; loading a new one.", pid)
            self.current.release()
            self.reload()

    # Going down

    def drain(self) -> None:
        """TERM: serve what waits and what runs, then end. Twice: at once."""
        if self.phase is not Phase.SERVING:
            self.stop()
            return
        self.phase = Phase.DRAINING
        self._end = self.clock() + self._settings.graceful_timeout
        if self.coming is not None:
            self._abandon(self.coming)
        for generation in self._generations():
            generation.drain()

    def stop(self) -> None:
        """INT, QUIT: end at once; what runs is killed."""
        if self.phase in (Phase.LEAVING, Phase.STOPPED):
            return
        loading = self.phase is Phase.LOADING
        self.queues.close()
        self.phase = Phase.CLOSING
        self._end = self.clock() + _LAST_GRACE
        for generation in self._generations():
            generation.kill_unfinished()
            generation.retire()
        if loading and self.current.pid in self._zygotes:
            # It may be deep in the app's import and not look at us.
            os.kill(self.current.pid, signal.SIGKILL)

    def _go_down(self, now: float) -> None:
        late = self._end is not None and now >= self._end
        served = self.phase is Phase.DRAINING and self.queues.is_served(self.current)
        if served or (self.phase is Phase.DRAINING and late):
            self.queues.close()
            self.phase = Phase.CLOSING
            for generation in self._generations():
                generation.retire()
        if self.phase is Phase.CLOSING:
            if late:
                for generation in self._generations():
                    generation.kill_all("the server stops")
                self._end = None
            if not any(len(g.pool) for g in self._generations()):
                self.phase = Phase.LEAVING
                self._end = now + _LAST_GRACE
                for generation in self._generations():
                    generation.release()
        elif self.phase is Phase.LEAVING and late:
            for pid in self._zygotes:
                os.kill(pid, signal.SIGKILL)
            self._end = None
        if self.phase is Phase.LEAVING and not self._zygotes:
            self.phase = Phase.STOPPED

    def _clean_up(self) -> None:
        self.queues.close()
        for generation in self._generations():
            generation.close()
        os.close(self._scoreboard)
        self.poller.close()
        self._signals.close()


def serve(zygote: Zygote, host: str, port: int, scheme: str) -> int:
    """Run the dispatcher. Called by the command, which exits with the result.

    :return: The exit status.
    """
    return Dispatcher(zygote, host, port, scheme).run()
