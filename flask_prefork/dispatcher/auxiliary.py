"""A process beside zygotes and workers: it is started, and replaced when it fails.

The observer is one (:mod:`.observer`), the sender another (:mod:`.sender`), and so are
TLS proxies (:mod:`.tls_proxies`). It is a fresh interpreter with a channel to us, and
pings once a second. One that is silent is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from ..ipc import spawn
from ..ipc.channel import Channel
from ..ipc.channel import close_all
from ..ipc.frames import Frame
from ..ipc.frames import MalformedFrame
from ..ipc.frames import Ping
from ..system import log
from ..system import origin
from ..system import output_locks
from ..system import process_title
from ..system import socket_modes
from ..system.log import logger
from ..system.poller import Poller
from ..system.reaper import Reaper
from ..system.running_clock import RunningClock
from ..system.systemd import VARIABLES
from .ending import KILL_TIME
from .service import ServiceHost

#: One that was killed is replaced after this: who asks meanwhile waits in the
#: listening socket's queue, and no longer than a probe does. For one that failed by
#: itself it is doubled each time, up to the maximum. In seconds.
_PAUSE = 0.05
_MAX_PAUSE = 2.0
#: How long it may take to come up, and how long it may be silent then: it pings once
#: a second. In seconds.
_UP = 30.0
_SILENT = 10.0
#: How many times its channel is read in a turn.
_MOST_READ = 16
#: What it runs; its modules are found where ours were. Its title comes first, for
#: whoever sees no more of it than the command line.
_CODE = (
    "{title!r}; import sys; sys.path[:] = {path!r};"
    " from flask_prefork.system import process_title;"
    " process_title.set_app({app!r}); process_title.show({name!r});"
    " from flask_prefork.{module} import main; main({fd}, *{arguments!r})"
)


class AuxiliaryProcess:
    """At most one process of a kind.

    :param name: What it is called in the log, and in its title.
    :param module: Its module in this package. The function ``main`` there gets the
        descriptor of its end of the channel,
    :param arguments: and what has a literal in Python.
    :param service: Has the rights to start it.
    :param poller: The dispatcher's poll set.
    :param reaper: Reports its exit.
    :param clock: The dispatcher's.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: tuple[object, ...],
        service: ServiceHost,
        poller: Poller,
        reaper: Reaper,
        clock: RunningClock,
    ) -> None:
        #: Its process; 0 while there is none.
        self.pid = 0
        self._name = name
        self._module = module
        self._arguments = arguments
        self._service = service
        self._poller = poller
        self._reaper = reaper
        self._clock = clock
        self._channel: Channel | None = None
        self._is_set_up = False
        #: By when its next ping must come.
        self._ping_by: float | None = None
        self._pauses = 0
        #: When another one may be started.
        self._start_at: float | None = None
        #: Whether it is to end, or was killed; and by when it must be gone.
        self._is_released = self._is_killed = False
        self._gone_by: float | None = None

    # What the kinds do differently

    def _set_up(self, channel: Channel) -> None:
        """Send what it needs, when it listens to us.

        Not before: descriptors on their way to a process that still imports its modules
        would outlive our death, and clients would wait for nobody.
        """
        raise NotImplementedError

    def _take_in(self, frame: Frame, fds: list[int]) -> None:
        """Take in what it sends besides pings.

        :param fds: What rode along; what is left of them is closed.
        :raises ValueError: It may not send that.
        """
        raise MalformedFrame(f"{type(frame).__name__} is not for it to send")

    def _is_wanted(self) -> bool:
        """Whether there is something for it to do."""
        raise NotImplementedError

    def _died(self, pid: int, status: int, expected: bool) -> None:
        """Log that it has exited.

        :param expected: Whether it was released.
        """
        raise NotImplementedError

    # Its life

    def _start(self) -> None:
        self._start_at = None
        self._is_released = self._is_killed = False
        try:
            ours, theirs = socket_modes.pair()
        except OSError as e:
            self._not_started(e)
            return
        try:
            theirs.set_inheritable(True)
            code = _CODE.format(
                title=process_title.make(self._name),
                app=process_title.app(),
                name=self._name,
                path=sys.path,
                module=self._module,
                fd=theirs.fileno(),
                arguments=self._arguments,
            )
            env = {k: v for k, v in os.environ.items() if k not in VARIABLES}
            with self._service.rights(), output_locks.inherited() as locks:
                self.pid = origin.spawn(
                    sys.executable,
                    [sys.executable, "-c", code],
                    {**env, **locks, **log.told()},
                    spawn.FOREIGN_SIGNALS,
                )
        except OSError as e:
            ours.close()
            self._not_started(e)
            return
        finally:
            theirs.close()
        self._reaper.add(self.pid, self._exited)
        self._channel = Channel(ours)
        self._is_set_up = False
        self._ping_by = self._clock() + _UP
        self._poller.watch(self._channel.fd, self._read)

    def _not_started(self, e: OSError) -> None:
        logger.error("Can't start the %s: %s.", self._name, e)
        self._retry(failed=True)

    def _read(self) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            # Descriptors come with one frame at a time.
            for _ in range(_MOST_READ):
                received = channel.receive()
                if received is None:
                    break
                if not received[0]:
                    return
                self._handle(channel, *received)
            else:
                return
        except (ValueError, OverflowError) as e:
            logger.error("The %s sent garbage: %s.", self._name, e)
        # It is dead, or will be; its exit is reported by the reaper.
        self._channel_ended()
        self.kill()

    def _handle(self, channel: Channel, frames: list[Frame], fds: list[int]) -> None:
        try:
            for frame in frames:
                if not isinstance(frame, Ping):
                    self._take_in(frame, fds)
                    continue
                self._ping_by = self._clock() + _SILENT
                if self._is_set_up:
                    channel.send(frame)
                else:
                    self._is_set_up = True
                    self._set_up(channel)
        finally:
            close_all(fds)

    def _drain_channel(self) -> None:
        """Read what it has sent before it died."""
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(ValueError, OverflowError, OSError):
                for received in channel.rest():
                    self._handle(channel, *received)

    def _channel_ended(self) -> None:
        channel, self._channel = self._channel, None
        self._ping_by = None
        self._is_set_up = False
        if channel is not None:
            self._poller.forget(channel.fd)
            channel.close()

    def _exited(self, status: int) -> None:
        pid, self.pid = self.pid, 0
        self._drain_channel()
        self._channel_ended()
        self._gone_by = None
        if not self._is_released:
            self._retry(failed=status >= 0)
        self._died(pid, status, self._is_released)

    def _retry(self, failed: bool) -> None:
        self._pauses = min(self._pauses + 1, 30) if failed else 0
        self._start_at = self._clock() + min(_PAUSE * 2**self._pauses, _MAX_PAUSE)

    def deadline(self) -> float | None:
        """When :meth:`step` should run next."""
        times = [self._ping_by, self._gone_by]
        if not self.pid and self._is_wanted():
            times.append(self._start_at)
        return min((moment for moment in times if moment is not None), default=None)

    def step(self, now: float) -> None:
        """Start one if it is wanted, and kill one that hangs."""
        if self._ping_by is not None and now >= self._ping_by:
            name = self._name
            logger.error("The %s (pid %d) is silent: it is killed.", name, self.pid)
            self._drain_channel()
            self._channel_ended()
            self.kill()
        if self._gone_by is not None and now >= self._gone_by:
            self._give_up()
        is_due = self._start_at is None or now >= self._start_at
        if is_due and not self.pid and self._is_wanted():
            self._start()

    def _give_up(self) -> None:
        """It has not ended in time."""
        if not self._is_killed:
            self.kill()
            return
        # It is in a system call that nothing interrupts, and won't run again.
        self._reaper.remove(self.pid)
        self._exited(-signal.SIGKILL)

    def release(self) -> None:
        """Let it end: it does when nobody holds the other end of its channel."""
        self._start_at = None
        self._is_released = True
        self._channel_ended()

    def reopen_logs(self) -> None:
        """Let it open the files of its log again."""
        self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        if self.pid:
            with self._service.rights(), contextlib.suppress(OSError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it now."""
        if self.pid:
            self._is_killed = True
            self._gone_by = self._clock() + KILL_TIME
            self._signal(signal.SIGKILL)
