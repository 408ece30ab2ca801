"""Starts the observer, pings it, and replaces it when it is dead or hangs.

The process itself is in :mod:`.observe`. It reads shared memory, and asks us only
whether we still turn. Whatever becomes of it is no matter of the server's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence

from ..ipc import spawn
from ..ipc.channel import Channel
from ..ipc.channel import close_all
from ..ipc.channel import write_document
from ..ipc.frames import Closed
from ..ipc.frames import Frame
from ..ipc.frames import MalformedFrame
from ..ipc.frames import Observe
from ..ipc.frames import Ping
from ..ipc.listener import Listener
from ..settings.addresses import Address
from ..system import origin
from ..system import output_locks
from ..system import socket_modes
from ..system.log import logger
from ..system.poller import Poller
from ..system.reaper import Reaper
from ..system.running_clock import RunningClock
from ..system.systemd import VARIABLES
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
#: What it runs; its modules are found where ours were.
_CODE = (
    "import sys; sys.path[:] = {path!r};"
    " from flask_prefork.observe.process import main; main({fd})"
)


def _is_guarded(address: Address | None) -> bool:
    """Whether only this machine's users are meant, whose browsers could be abused."""
    return address is not None and address.is_local and not address.path


class ObserverHandle:
    """At most one process that shows the server's state.

    :param service: Has the rights to start it, and its socket.
    :param poller: The dispatcher's poll set.
    :param reaper: Reports its exit.
    :param scoreboard: The descriptor of the shared scoreboard.
    :param clock: The dispatcher's.
    """

    def __init__(
        self,
        service: ServiceHost,
        poller: Poller,
        reaper: Reaper,
        scoreboard: int,
        clock: RunningClock,
    ) -> None:
        #: Its process; 0 while there is none.
        self.pid = 0
        self._service = service
        self._poller = poller
        self._reaper = reaper
        self._scoreboard = scoreboard
        self._clock = clock
        self._begun = clock.machine()
        self._channel: Channel | None = None
        self._is_set_up = False
        self._admin_listeners: Mapping[str, Listener] = {}
        self._listeners: Sequence[Listener] = ()
        #: What it is to serve; nothing before it is wanted, and when it isn't any more.
        self._settings: dict[str, t.Any] = {}
        #: By when its next ping must come.
        self._ping_by: float | None = None
        self._pauses = 0
        self._start_at: float | None = None

    def open(
        self,
        admin_listeners: Mapping[str, Listener],
        token: str | None,
        listeners: Sequence[Listener],
    ) -> None:
        """Start it.

        :param admin_listeners: See :meth:`.ServiceHost.admin_listeners`.
        :param token: What it is to ask for, if anything.
        :param listeners: The sockets whose queues it shows.
        """
        outside = self._service.start_options
        self._listeners = listeners
        self._admin_listeners = admin_listeners
        self._settings = {
            "admin_listeners": [*admin_listeners],
            "pid": os.getpid(),
            "begun": self._begun,
            "addresses": [one.addresses(outside.scheme)[0] for one in listeners],
            "token": token,
            "guarded": _is_guarded(self._service.admin_address),
            "identity": outside.identity,
        }
        self._start()

    def _start(self) -> None:
        self._start_at = None
        try:
            ours, theirs = socket_modes.pair()
        except OSError as e:
            self._not_started(e)
            return
        try:
            theirs.set_inheritable(True)
            code = _CODE.format(path=sys.path, fd=theirs.fileno())
            env = {k: v for k, v in os.environ.items() if k not in VARIABLES}
            with self._service.rights(), output_locks.inherited() as locks:
                self.pid = origin.spawn(
                    sys.executable,
                    [sys.executable, "-c", code],
                    {**env, **locks},
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
        logger.error("Can't start the observer: %s.", e)
        self._retry(failed=True)

    def _set_up(self, channel: Channel) -> None:
        """Hand it what it is to serve.

        Only when it listens to us: sockets on their way to a process that still
        imports its modules would outlive our death, and clients would connect to
        nobody.
        """
        self._is_set_up = True
        try:
            document = write_document(self._settings)
        except OSError as e:
            logger.error("Can't send the observer its settings: %s.", e)
            self._channel_ended()
            self.kill()
            return
        fds = [document, self._scoreboard]
        fds += [one.fd for one in (*self._admin_listeners.values(), *self._listeners)]
        channel.send(Observe(), fds)
        os.close(document)

    def _read(self) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            received = channel.receive()
            if received is not None:
                close_all(received[1])
                for frame in received[0]:
                    self._handle(channel, frame)
                return
        except ValueError as e:
            logger.error("The observer sent garbage: %s.", e)
        # It is dead, or will be; its exit is reported by the reaper.
        self._channel_ended()
        self.kill()

    def _handle(self, channel: Channel, frame: Frame) -> None:
        if not isinstance(frame, Ping):
            raise MalformedFrame(f"{type(frame).__name__} is not for it to send")
        self._ping_by = self._clock() + _SILENT
        if self._is_set_up:
            channel.send(frame)
        else:
            self._set_up(channel)

    def _channel_ended(self) -> None:
        channel, self._channel = self._channel, None
        self._ping_by = None
        if channel is not None:
            self._poller.forget(channel.fd)
            channel.close()

    def _exited(self, status: int) -> None:
        pid, self.pid = self.pid, 0
        self._channel_ended()
        if self._settings:
            logger.error("The observer (pid %d) died: status %d.", pid, status)
            self._retry(failed=status >= 0)

    def _retry(self, failed: bool) -> None:
        self._pauses = min(self._pauses + 1, 30) if failed else 0
        self._start_at = self._clock() + min(_PAUSE * 2**self._pauses, _MAX_PAUSE)

    def deadline(self) -> float | None:
        """When :meth:`step` should run next."""
        return self._ping_by if self._start_at is None else self._start_at

    def step(self, now: float) -> None:
        """Start another one in the place of one that is dead, or hangs."""
        if self._ping_by is not None and now >= self._ping_by:
            logger.error("The observer (pid %d) is silent: it is killed.", self.pid)
            self._channel_ended()
            self.kill()
        if self._start_at is not None and now >= self._start_at:
            self._start()

    def close_queues(self) -> None:
        """Nobody listens any more, and no socket may be left for clients to try."""
        self._listeners = ()
        if self._channel is None or not self._is_set_up:
            return
        if not self._channel.send(Closed()):
            # It doesn't read, and holds on to them.
            self._channel_ended()
            self.kill()

    def release(self) -> None:
        """Let it end: it does when nobody holds the other end of its channel."""
        self._settings = {}
        self._start_at = None
        self._channel_ended()

    def kill(self) -> None:
        """End it now."""
        if self.pid:
            with self._service.rights(), contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
