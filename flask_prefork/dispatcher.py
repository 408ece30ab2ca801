"""The dispatcher: the process that the user started.

It binds, polls, orders workers to accept, and decides how many there are. It
never imports the app and never reads a byte from a client, and it waits for
nothing but its poll. ``cli.py`` runs it; it starts zygotes by ``launch.py``
and keeps each with its workers in a :class:`.generation.Generation`.
"""

from __future__ import annotations

import enum
import os
import signal
import socket
import time
import typing as t

from . import launch
from . import scoreboard
from .generation import Generation
from .launch import Zygote
from .log import logger
from .poller import Poller
from .sockets import bind
from .sockets import BindError
from .sockets import Listener

#: While orders are on their way, look this often whether more connections
#: wait than orders, in seconds.
_LOOK_AGAIN = 0.02
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
        self._announced = False
        self.listeners: list[Listener] = []
        self.poller = Poller()
        self._scoreboard = scoreboard.create()
        self._end: float | None = None
        self._turn = 0
        #: Descriptors of listeners at which somebody knocked.
        self._knocks: set[int] = set()
        self._look_again: float | None = None
        self._zygotes = {zygote.pid: zygote.generation}
        self.current = self._adopt(zygote)
        #: The generation that is to follow the current one, and those that
        #: finish what they serve.
        self.coming: Generation | None = None
        self.leaving: list[Generation] = []
        self._set_up_signals()

    def _adopt(self, zygote: Zygote) -> Generation:
        return Generation(zygote, self.poller, self._scoreboard, self.clock)

    # Signals: a byte on a socket, whatever else is going on

    def _set_up_signals(self) -> None:
        self._wake_up, theirs = socket.socketpair()
        self._wake_up.setblocking(False)
        theirs.setblocking(False)
        self._signalled = theirs
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
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
        for number in self._actions:
            signal.signal(number, lambda number, frame: None)
            # An interrupted poll is not repeated: it returns with the byte.
        self.poller.watch(self._wake_up.fileno(), self._read_signals)

    def _read_signals(self) -> None:
        try:
            numbers = self._wake_up.recv(4096)
        except BlockingIOError:
            return
        # A set: ten times the same signal in a batch is once.
        for number in sorted(set(numbers)):
            action = self._actions.get(number)
            if action is not None:
                action()

    def _adjust(self, step: int) -> None:
        minimum = self.current.policy.adjust(step)
        logger.info("min-idle is %d now.", minimum)

    def _tell_state(self) -> None:
        parts = [f"workers: {self.current.pool.letters()}"]
        for other in (*self.leaving, self.coming):
            if other is not None:
                parts.append(f"generation {other.number}: {other.pool.letters()}")
        waiting = sum(listener.waiting() for listener in self.listeners)
        parts.append(f"{waiting} waiting")
        logger.info(", ".join(parts))

    def _reap(self) -> None:
        for pid in list(self._zygotes):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended, status = pid, 0
            if ended:
                self._zygote_ended(pid, os.waitstatus_to_exitcode(status))

    # The loop

    def run(self) -> int:
        """Serve until told to stop.

        :return: The exit status.
        """
        try:
            while self.phase is not Phase.STOPPED:
                for callback in self.poller.wait(self._patience()):
                    callback()
                self._turn_over()
        finally:
            self._clean_up()
        return self.status

    def _patience(self) -> float | None:
        times = [self._end, self._look_again]
        times += [generation.deadline() for generation in self._generations()]
        known = [moment for moment in times if moment is not None]
        return min(known) - self.clock() if known else None

    def _generations(self) -> list[Generation]:
        coming = [self.coming] if self.coming is not None else []
        return [*coming, self.current, *self.leaving]

    def _turn_over(self) -> None:
        """After all news was taken in: decide and act."""
        now = self.clock()
        if self.phase is Phase.LOADING and self.current.loaded:
            self._open()
        if not self._announced and self.current.pool.idle:
            self._announce()
        if self.phase in (Phase.SERVING, Phase.DRAINING):
            self._dispatch()
            self._generations_change()
        self._step(now)
        if self.phase not in (Phase.LOADING, Phase.SERVING):
            self._go_down(now)

    # Serving

    def _open(self) -> None:
        """The first generation's app is loaded: bind, and start workers."""
        settings = self.current.settings
        assert settings is not None
        try:
            self.listeners = [bind(self.host, self.port, settings.backlog)]
        except BindError as e:
            # As werkzeug does: no traceback, no timestamp.
            os.write(2, f"{e}\n".encode())
            self.status = 1
            self.stop()
            return
        self.phase = Phase.SERVING
        self.current.open(self.listeners)

    def _announce(self) -> None:
        """Say what runs where. Whoever reads it can connect at once."""
        self._announced = True
        generation, settings = self.current, self.current.settings
        assert settings is not None
        for listener in self.listeners:
            for address in listener.addresses(self.scheme):
                logger.info(" * Running on %s", address)
        logger.info(
            " * Generation %d: %d to %d workers, %d to %d idle, %s dispatch",
            generation.number,
            settings.min_workers,
            settings.max_workers,
            settings.min_idle,
            settings.max_idle,
            settings.dispatch,
        )
        logger.info(" * Dispatcher %d, zygote %d", os.getpid(), generation.pid)
        logger.info("Press CTRL+C to quit")

    def _dispatch(self) -> None:
        generation = self.current
        settings = generation.settings
        assert settings is not None
        self._look_again = None
        if settings.dispatch == "blocking":
            return
        for step in range(len(self.listeners)):
            if not generation.pool.idle:
                break
            index = (self._turn + step) % len(self.listeners)
            self._serve_queue(generation, index, settings.run_length)
        self._turn += 1
        self._knocks.clear()
        self._arm(generation)

    def _serve_queue(self, generation: Generation, index: int, run_length: int) -> None:
        listener = self.listeners[index]
        fd = listener.sock.fileno()
        outstanding = generation.pool.outstanding[index]
        if not outstanding and fd not in self._knocks and self.poller.is_watched(fd):
            return  # it would have knocked
        waiting = listener.waiting() - outstanding
        if waiting > 0:
            generation.order(waiting, index, run_length)

    def _arm(self, generation: Generation) -> None:
        """Poll a listener while somebody is idle and no order is on its way.

        A queue that is being served would go on knocking.
        """
        idle = generation.pool.idle
        for index, listener in enumerate(self.listeners):
            fd = listener.sock.fileno()
            wanted = idle and not generation.pool.outstanding[index]
            if wanted and not self.poller.is_watched(fd):
                self.poller.watch(fd, lambda fd=fd: self._knocks.add(fd))  # type: ignore[misc]
            elif not wanted and self.poller.is_watched(fd):
                self.poller.forget(fd)
            if idle and not wanted:
                self._look_again = self.clock() + _LOOK_AGAIN

    def _unanswered(self) -> int:
        """Connections that wait and that nobody was ordered to take."""
        if self.current.pool.idle or not self.listeners:
            return 0
        return sum(
            max(0, listener.waiting() - self.current.pool.outstanding[index])
            for index, listener in enumerate(self.listeners)
        )

    def _step(self, now: float) -> None:
        generations = self._generations()
        for generation in generations:
            others = sum(len(g.pool) for g in generations if g is not generation)
            waiting = self._unanswered() if generation is self.current else 0
            generation.step(now, waiting, others)
        if self.current.hopeless and self.phase is Phase.SERVING:
            logger.error(
                "No worker became ready in %d starts; giving up.",
                self.current.policy.failures,
            )
            self.status = 1
            self.stop()

    # Generations

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

    def _generations_change(self) -> None:
        coming = self.coming
        if coming is not None and coming.loaded:
            parity = coming.number % 2
            taken = any(g.number % 2 == parity for g in (self.current, *self.leaving))
            if not coming.ready and not len(coming.pool) and not taken:
                coming.open(self.listeners)
            elif coming.ready:
                self._promote(coming)
        for generation in list(self.leaving):
            if not len(generation.pool):
                generation.release()
                if generation.pid not in self._zygotes:
                    generation.close()
                    self.leaving.remove(generation)

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
        elif number == self.current.number and self.phase is Phase.SERVING:
            logger.error("The zygote (pid %d) died; loading a new one.", pid)
            self.current.release()
            self.reload()
        elif self.coming is not None and number == self.coming.number:
            logger.error("Generation %d could not be loaded.", number)
            self.coming.close()
            self.coming = None

    # Going down

    def drain(self) -> None:
        """TERM: serve what waits and what runs, then end. Twice: at once."""
        if self.phase is Phase.SERVING:
            settings = self.current.settings
            assert settings is not None
            self.phase = Phase.DRAINING
            self._end = self.clock() + settings.graceful_timeout
            self.current.closed = True
            if self.coming is not None:
                self._abandon(self.coming)
        else:
            self.stop()

    def stop(self) -> None:
        """INT, QUIT: end at once; what runs is killed."""
        if self.phase in (Phase.LEAVING, Phase.STOPPED):
            return
        loading = self.phase is Phase.LOADING
        self._close_listeners()
        self.phase = Phase.CLOSING
        self._end = self.clock() + _LAST_GRACE
        for generation in self._generations():
            generation.kill_unfinished()
            generation.retire()
        if loading and self.current.pid in self._zygotes:
            # It may be deep in the app's import and not look at us.
            os.kill(self.current.pid, signal.SIGKILL)

    def _close_listeners(self) -> None:
        for listener in self.listeners:
            self.poller.forget(listener.sock.fileno())
            listener.shut()
            listener.close()
        self.listeners = []

    def _go_down(self, now: float) -> None:
        late = self._end is not None and now >= self._end
        if self.phase is Phase.DRAINING and (late or self._all_accepted()):
            self._close_listeners()
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

    def _all_accepted(self) -> bool:
        pool = self.current.pool
        if not len(pool):
            return True
        return not any(pool.outstanding.values()) and not any(
            listener.waiting() for listener in self.listeners
        )

    def _clean_up(self) -> None:
        self._close_listeners()
        for generation in self._generations():
            generation.close()
        os.close(self._scoreboard)
        self.poller.close()
        signal.set_wakeup_fd(-1)
        self._wake_up.close()
        self._signalled.close()


def serve(zygote: Zygote, host: str, port: int, scheme: str) -> int:
    """Run the dispatcher. Called by the command, which exits with the result.

    :return: The exit status.
    """
    return Dispatcher(zygote, host, port, scheme).run()
