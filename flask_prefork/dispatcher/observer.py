"""The dispatcher's handle of the observer: what it serves, and its listening sockets.

The process itself is in :mod:`.observe`. It reads shared memory, and asks us only
whether we still turn. Whatever becomes of it is no matter of the server's.
"""

from __future__ import annotations

import os
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence

from ..ipc.channel import Channel
from ..ipc.channel import write_document
from ..ipc.exits import describe
from ..ipc.frames import Closed
from ..ipc.frames import Observe
from ..ipc.listener import Listener
from ..settings.addresses import Address
from ..system.log import logger
from ..system.poller import Poller
from ..system.reaper import Reaper
from ..system.running_clock import RunningClock
from .auxiliary import AuxiliaryProcess
from .service import ServiceHost


def _is_guarded(address: Address | None) -> bool:
    """Whether only this machine's users are meant, whose browsers could be abused."""
    return address is not None and address.is_local and not address.path


class ObserverHandle(AuxiliaryProcess):
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
        module = "observe.process"
        super().__init__("observer", module, (), service, poller, reaper, clock)
        self._scoreboard = scoreboard
        self._begun = clock.machine()
        self._admin_listeners: Mapping[str, Listener] = {}
        self._listeners: Sequence[Listener] = ()
        #: What it is to serve; nothing before it is wanted, and when it isn't any more.
        self._settings: dict[str, t.Any] = {}

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

    def _is_wanted(self) -> bool:
        return bool(self._settings)

    def _died(self, pid: int, status: int, expected: bool) -> None:
        if not expected:
            logger.error("The observer (pid %d) died: %s.", pid, describe(status))

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
        super().release()
