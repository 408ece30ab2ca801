"""Who watches over the server from outside: systemd, a pid file, rights, orphans.

The dispatcher calls it at the turns of its life. What the modules ``systemd``,
``pidfile``, ``privileges`` and ``reaper`` can do is put together here.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from . import reaper
from .pidfile import PidFile
from .privileges import Identity
from .sockets import bind
from .sockets import Listener
from .systemd import Notifier

#: How often systemd is told how the server fares, in seconds.
_STATUS_INTERVAL = 5.0


class Surroundings(t.NamedTuple):
    """What the command was started with, apart from the app's settings.

    :param host: What to listen on, see :func:`.sockets.bind`.
    :param port: The TCP port.
    :param scheme: ``http`` or ``https``, for the banner.
    :param fds: Listening sockets that systemd has passed; they go before host
        and port.
    :param notifier: Tells systemd how the server fares.
    :param pid_file: Where to write the pid, if anywhere.
    :param identity: Who the zygotes and workers become, if not who we are.
    """

    host: str
    port: int
    scheme: str
    fds: t.Sequence[int]
    notifier: Notifier
    pid_file: str | None = None
    identity: Identity | None = None


class Supervisor:
    """The dispatcher's side of what is around it.

    :param surroundings: What the command was started with.
    :param clock: Monotonic seconds.
    """

    def __init__(
        self, surroundings: Surroundings, clock: t.Callable[[], float]
    ) -> None:
        self._clock = clock
        self._surroundings = surroundings
        self._notifier = surroundings.notifier
        path = surroundings.pid_file
        self._pid_file = PidFile(path) if path is not None else None
        self._tell_at = clock() if self._notifier.listened_to else None

    def listen(self, backlog: int) -> list[Listener]:
        """Bind, write the pid file, and give up the rights that this needed.

        :raises BindError: An address can't be listened on.
        :raises PidFileError: The pid file can't be written.
        """
        outside = self._surroundings
        hosts = [f"fd://{fd}" for fd in outside.fds] or [outside.host]
        listeners: list[Listener] = []
        try:
            for host in hosts:
                listeners.append(bind(host, outside.port, backlog))
            if self._pid_file is not None:
                self._pid_file.create()
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        self._lower()
        return listeners

    # Rights

    def _lower(self) -> None:
        """Act as the user from now on; root's id is kept aside (seteuid(2))."""
        identity = self._surroundings.identity
        if identity is not None:
            os.setgroups(identity.groups)
            os.setegid(identity.gid)
            os.seteuid(identity.uid)

    @contextlib.contextmanager
    def rights(self) -> t.Iterator[None]:
        """Act as who started the server: to start a zygote, or to clean up."""
        lowered = (
            self._surroundings.identity is not None and os.geteuid() != os.getuid()
        )
        if lowered:
            os.seteuid(os.getuid())
            os.setegid(os.getgid())
        try:
            yield
        finally:
            if lowered:
                self._lower()

    # Telling systemd

    def ready(self, status: str) -> None:
        """The server serves, for the first time or again."""
        self._notifier.ready(status)

    def reloading(self) -> None:
        """A reload begins."""
        self._notifier.reloading()

    def stopping(self) -> None:
        """The server goes down."""
        self._notifier.stopping()

    def deadline(self) -> float | None:
        """When :meth:`tell` is due, in seconds."""
        return self._tell_at

    def tell(self, now: float, status: str) -> None:
        """Say that the loop turns, and how the server fares."""
        if self._tell_at is None or now < self._tell_at:
            return
        self._notifier.watchdog()
        self._notifier.status(status)
        interval = self._notifier.watchdog_interval or _STATUS_INTERVAL
        self._tell_at = now + min(interval, _STATUS_INTERVAL)

    # Orphans

    def adopt_orphans(self) -> None:
        """Be the parent of processes that lose theirs.

        In a container that is so anyway (PID 1); elsewhere it lets us reap the
        workers of a zygote that was killed.
        """
        reaper.become_subreaper()

    def close(self) -> None:
        """Leave nothing behind."""
        self._notifier.close()
        if self._pid_file is not None:
            with self.rights():
                self._pid_file.remove()
