"""The dispatcher's handle of a zygote: process, control socket, watchdog.

In the dispatcher. :mod:`.generation` makes a :class:`ZygoteControl` for a zygote that
was just started, or that a promoted worker is to leave behind. It decides what is sent
(:meth:`ZygoteControl.send`), and takes in what comes. :meth:`ZygoteControl.adopt` must
come before anything that needs the pid of a promoted one;
:meth:`ZygoteControl.loaded` before any deadline for answers;
:meth:`ZygoteControl.step` in each turn. :meth:`ZygoteControl.release` asks it to exit,
and the reaper reports when it has.

A handle is not the process. The process may have no pid yet (``pid`` is 0), may live
without its socket (``alive`` is false), or have exited (``reaped``): then the pid may
be another's, and nothing is sent to it.

Never here: ``waitpid(2)``, which :class:`.Reaper` alone calls; or waiting until the
socket takes a frame: a zygote that doesn't read is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import typing as t
from functools import partial
from itertools import chain

from ..ipc import dumps
from ..ipc.channel import Channel
from ..ipc.channel import close_all
from ..ipc.dumps import Dumps
from ..ipc.frames import Ended
from ..ipc.frames import Frame
from ..ipc.frames import Release
from ..ipc.frames import Resized
from ..ipc.frames import Serving
from ..ipc.frames import Spawn
from ..ipc.frames import TASKS
from ..ipc.spawn import ZygoteHandle
from ..system.log import logger
from ..system.poller import Poller
from ..system.reaper import Reaper
from .zygote_watchdog import Move
from .zygote_watchdog import Stage
from .zygote_watchdog import Watchdog

#: What the watchdog waits for after a task, for the log.
_EXPECTED: dict[type[Frame], str] = {
    Spawn: "it did not fork worker {0.slot} within {1:g} s",
    Serving: "it did not come back from when_ready hooks within {1:g} s",
    Resized: "it did not take in the pool's size within {1:g} s",
    Ended: "it did not take in which workers have ended within {1:g} s",
}
#: By what it answers them.
_ANSWERS = tuple(chain(*TASKS.values()))
#: How long one that hung up may take to exit, in seconds.
_EXIT_TIME = 10.0


class ZygoteControl:
    """One zygote.

    :param zygote: It, just started.
    :param poller: The dispatcher's poll set.
    :param clock: Monotonic seconds.
    :param reaper: Reports its exit.
    :param take_in: Takes in a frame with its descriptors; those that it wants are
        popped. What it raises costs the zygote its life.
    :param disconnected: Called once, when nobody listens at the other end any more.
    :param exited: Called once, with its exit status or the signal's number below 0.

    :ivar pid: Its process; 0 until that is known.
    :ivar dump: Where it shows its threads, see :mod:`..ipc.dumps`; -1 if it can't.
    :ivar alive: It still listens to us.
    :ivar reaped: It has ended, and its pid may be another's; or it can't be ended, and
        nobody waits for it any more.
    :ivar watchdog: What it owes us.
    """

    def __init__(
        self,
        zygote: ZygoteHandle,
        poller: Poller,
        clock: t.Callable[[], float],
        reaper: Reaper,
        take_in: t.Callable[[Frame, list[int]], None],
        disconnected: t.Callable[[], None],
        exited: t.Callable[[int], None],
    ) -> None:
        self.number = zygote.generation
        self.pid = zygote.pid
        self.alive = True
        self.reaped = False
        self.watchdog = Watchdog(clock())
        #: How long it may take for what it is asked, in seconds.
        self.limit = 0.0
        self._clock = clock
        self._poller = poller
        self._reaper = reaper
        self._take_in = take_in
        self._disconnected = disconnected
        self._exited = exited
        self.dump = zygote.dump
        self._dumps = Dumps()
        self._channel = Channel(zygote.control)
        poller.watch(self._channel.fd, self._read)
        if self.pid:
            reaper.add(self.pid, self._reaped)

    def adopt(self, pid: int) -> None:
        """It has reported its pid.

        :raises ValueError: It is no living child of ours, or somebody else's.
        """
        self._reaper.adopt(pid, self._reaped)
        self.pid = pid

    def _reaped(self, status: int) -> None:
        self._is_over()
        self._exited(status)

    def _is_over(self) -> None:
        self.reaped = True
        self._dumps.forget(self)
        if self.dump >= 0:
            os.close(self.dump)
            self.dump = -1

    def loaded(self, limit: float) -> None:
        """It has loaded the app.

        :param limit: How many seconds it has from now on for what it is asked.
        """
        self.limit = limit
        self.watchdog.loaded(limit)

    def send(self, frame: Frame, fds: t.Sequence[int] = ()) -> bool:
        """Send it a frame; one that doesn't read is killed.

        :return: ``False`` if it is gone.
        """
        if not self.alive:
            return False
        if not self._channel.send(frame, fds):
            # It has just died by itself, or its socket is full.
            if self._channel.ended:
                self._channel_ended("it closed its control socket")
            else:
                self.kill(f"The zygote of generation {self.number} does not listen.")
        elif type(frame) in TASKS:
            what = _EXPECTED[type(frame)].format(frame, self.limit)
            self.watchdog.asked(self._clock(), what)
        return self.alive

    def release(self, seconds: float) -> None:
        """Let it end: it does when nobody holds its control socket.

        :param seconds: How long it may take.
        """
        if self.alive:
            self._channel.send(Release(self.number))
            self._close_channel()
            what = f"it did not end within {seconds:g} s"
            self.watchdog.end(self._clock(), seconds, what)

    def _close_channel(self) -> None:
        self.alive = False
        self._poller.forget(self._channel.fd)
        self._channel.close()
        self._disconnected()

    def _channel_ended(self, why: str) -> None:
        """It won't listen any more, and is about to end, or has ended."""
        self._close_channel()
        self.watchdog.end(self._clock(), _EXIT_TIME, why)

    def kill(self, why: str = "") -> None:
        """Send it SIGKILL.

        :param why: For the log, if it has to know.
        """
        self._dumps.forget(self)
        if why:
            logger.error(why)
        if self.alive:
            self._close_channel()
        self._signal(signal.SIGKILL)
        self.watchdog.killed(self._clock())

    def show(self, what: str) -> None:
        """Log the tracebacks of its threads, if it can show them.

        :param what: What the log says of it: a predicate.
        """
        who = f"The zygote of generation {self.number}"
        if not self.pid or self.dump < 0:
            logger.warning("%s %s.", who, what)
            return
        header = f"{who} (pid {self.pid}) {what}"
        send = partial(self._signal, dumps.SIGNAL)
        self._dumps.ask(self, header, self._clock(), send)

    def show_busy(self) -> None:
        """Log where it is, if it loads or owes an answer."""
        if not self.is_silent or not self.pid:
            return
        self.show(self.watchdog.describe(self._clock()))

    def reopen_logs(self) -> None:
        """Let it open the files of its log again."""
        self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        if self.pid and not self.reaped:
            # Not reaped, so the pid is still its own. But the app may have made it
            # another user's (EPERM, kill(2)); then its deadline comes.
            with contextlib.suppress(OSError):
                os.kill(self.pid, number)

    def step(self, now: float) -> None:
        """Do what its watchdog wants now."""
        self._dumps.step(now)
        watchdog = self.watchdog
        move = None if self.reaped else watchdog.move(now)
        if move is Move.LOG_LOADING:
            self.show(f"has been loading for {watchdog.loading_time:g} s")
        elif move is Move.SHOW:
            self.show(f"is late: {watchdog.overdue}")
        elif move is Move.KILL:
            who, late = f"The zygote of generation {self.number}", watchdog.overdue
            if self.pid:
                self.kill(f"{who} (pid {self.pid}) was killed: {late}.")
            else:
                # If a promoted worker has forked it, it is killed by the hang-up
                # (spawn.kill_on_hang_up).
                self.kill(f"{who} never sent its pid: {late}.")
        elif move is Move.GIVE_UP:
            if self.pid:
                logger.error(
                    "The zygote (pid %d) lives on after SIGKILL; nobody waits for it.",
                    self.pid,
                )
            self._is_over()
            self._reaper.remove(self.pid)

    @property
    def is_silent(self) -> bool:
        """Whether it loads, or owes an answer: it is of interest where it is."""
        return not self.reaped and self.watchdog.deadline() is not None

    def deadline(self) -> float | None:
        """When :meth:`step` should run next."""
        if self.reaped:
            return None
        times = [self.watchdog.deadline(), self._dumps.deadline()]
        return min((moment for moment in times if moment is not None), default=None)

    def _read(self) -> None:
        if not self.alive:
            return
        try:
            received = self._channel.receive()
            if received is not None:
                self._handle(*received)
        except (ValueError, TypeError, OverflowError, OSError) as e:
            self.kill(f"The zygote sent garbage: {e}.")
            return
        if received is None:
            self._channel_ended("it closed its control socket")

    def _handle(self, frames: list[Frame], fds: list[int]) -> None:
        try:
            for frame in frames:
                if frame.generation != self.number:
                    continue
                self._take_in(frame, fds)
                if isinstance(frame, _ANSWERS):
                    self.watchdog.answered(self._clock())
        finally:
            close_all(fds)

    @property
    def was_killed(self) -> bool:
        """Whether it was sent SIGKILL from here."""
        return self.watchdog.stage in (Stage.KILLED, Stage.GIVEN_UP)
