"""Parked connections: what the dispatcher holds of them, and who may wait at all.

In the dispatcher, the lower half of :class:`.Queues`. :mod:`..ipc.parked_connections`
and :mod:`.permits` decide; here are the descriptors of all that waits. They are polled
without reading, and given up when descriptors run out.

Never here: reading from or writing to a connection; how much has come is asked of the
kernel. A descriptor is taken out of the poll set before it is closed.
"""

from __future__ import annotations

import os
import typing as t
from collections.abc import Sequence

from ..ipc.channel import close_all
from ..ipc.frames import Deliver
from ..ipc.listener import Listener
from ..ipc.parked_connections import Connection
from ..ipc.parked_connections import ParkedConnections
from ..ipc.ready_queue import ReadyQueueOwner
from ..ipc.stats import Summary
from ..system import socket_modes
from ..system.log import logger
from ..system.parked_state import Parked
from ..system.parked_state import Size
from ..system.parked_state import Wait
from ..system.poller import Poller
from ..system.socket_state import bytes_unread
from ..system.socket_state import has_acknowledged_all
from . import vetting
from .permits import Permits
from .sender import SenderHandle
from .shedder import Shedder
from .shedding import ShedReason
from .spools import SpoolTotal

#: How long a client that was refused has to see its response, in seconds.
_LINGER = 2.0
#: Descriptors that are left for workers and all else.
_RESERVE = 64
#: If no more connections than this can wait, the log says so.
_FEW = 64


class Parking:
    """Everything that waits for something else than a worker.

    :param poller: The dispatcher's poll set.
    :param clock: The machine's monotonic seconds: what workers and clients go by, whom
        a pause of this process doesn't stop.
    :param descriptors: How many this process may have.
    :param summary: Where it is counted what is done here.
    """

    def __init__(
        self,
        poller: Poller,
        clock: t.Callable[[], float],
        descriptors: int,
        summary: Summary | None = None,
    ) -> None:
        self._listeners: Sequence[Listener] = ()
        self.parked = ParkedConnections()
        #: The spools of parked connections, and of those that are on their way to a
        #: worker.
        self.spools = SpoolTotal()
        #: Who may serve requests of limited routes.
        self.permits = Permits()
        #: Sends the rest of responses whose clients are slow; set once.
        self.sender: SenderHandle | None = None
        #: Those of the ready ones that any worker may take.
        self.ready_queue = ReadyQueueOwner()
        #: Refuses who has waited too long.
        self.shedder = Shedder(
            self.parked,
            self.ready_queue,
            self.take_back,
            clock,
            summary,
            self._park_lingering,
            self._close,
            self._make_room,
        )
        self._summary = summary
        self._poller = poller
        self._clock = clock
        self._descriptors = descriptors
        self._reserved = 0
        self._full = False
        #: The last connection could be watched.
        self._can_watch = True
        #: The listeners' families, also when these are closed.
        self._families: frozenset[int] = frozenset()

    @property
    def listeners(self) -> Sequence[Listener]:
        """What workers accept from; none before they are bound, or at the end."""
        return self._listeners

    @listeners.setter
    def listeners(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners
        if listeners:
            # Workers that finish what they serve may hand over a connection yet.
            self._families = frozenset(int(one.sock.family) for one in listeners)

    @property
    def spooled(self) -> int:
        """Bytes of all spools, the sender's included."""
        return self.spools.size + (
            self.sender.spooled if self.sender is not None else 0
        )

    def park(
        self,
        fd: int,
        listener: int,
        state: Parked,
        spool: int = -1,
        limit: str = "",
    ) -> None:
        """Take over a connection that a worker hands back.

        :param fd: Our descriptor of it, owned from now on.
        :param listener: The index of the listener that it came by.
        :param state: What it waits for.
        :param spool: Our descriptor of its spool, owned from now on; -1 without one.
        :param limit: The limit that it waits for a permit of, if it does.
        :raises ValueError: It can't be: the connection isn't taken over, lest what
            one worker got wrong is the next one's trouble.
        """
        vetting.parked(state, self._clock() + vetting.LONGEST_WAIT)
        listeners = self._listeners
        if listeners and listener >= len(listeners):
            raise ValueError(f"there is no listener {listener}")
        size = vetting.file_size(spool) if spool >= 0 else 0
        if not listeners or not vetting.connection(fd, self._families):
            # Nobody is served any more; or the client has gone.
            close_all((fd,) if spool < 0 else (fd, spool))
            return
        if spool >= 0:
            # What a worker says of it doesn't count.
            state = state._replace(spooled=Size(size))
            self.spools.add(size)
        has_room = self._make_room()
        connection = Connection(fd, listener, state, spool, limit)
        if state.wait is Wait.PERMIT and not has_room:
            # Who waits for a permit isn't idle, and nobody else is left to be closed.
            self.permits.refuse(limit)
            self.shedder.refuse(connection, ShedReason.LIMIT)
        elif state.wait is Wait.PERMIT:
            self.permits.wait(connection, self._clock())
            self._watch(connection)
        elif self.parked.park(connection, self._clock()):
            self._watch(connection)

    def deliver(self, frame: Deliver, fds: list[int]) -> None:
        """Have the rest of a response sent on a connection that a worker hands over.

        It is parked afterwards.

        :param frame: What the worker sent.
        :param fds: The connection and the files. They are taken out.
        :raises ValueError: It can't be: it stays the worker's.
        """
        size = vetting.delivery(frame, fds)
        if self.sender is None or (
            self.listeners and frame.listener >= len(self.listeners)
        ):
            raise ValueError(f"there is no listener {frame.listener}")
        # If its client has gone, the sender finds that out.
        vetting.connection(fds[0], self._families)
        taken, fds[:] = fds[:], []
        self._make_room()
        # What a worker says of its spool doesn't count.
        self.sender.deliver(frame, taken, size)
        if not self._has_room():
            # While the sender takes nothing; others' descriptors go before.
            self.sender.drop_last()

    def take_back(self) -> bool:
        """Take the first connection out of the ready queue: it is ready here again.

        :return: Whether there was one.
        """
        if not self._make_room():
            return False
        try:
            taken = self.ready_queue.take()
        except OSError as e:
            logger.error("Can't take a connection back: %s.", e.strerror)
            return False
        if taken is None:
            return False
        frame, fd = taken
        try:
            # Workers put connections there, too.
            vetting.parked(frame.parked, self._clock() + vetting.LONGEST_WAIT)
            if frame.parked.spooled or frame.parked.limit:
                raise ValueError("whoever takes it is to be accounted for")
            if frame.listener >= len(self.listeners) or not vetting.connection(
                fd, self._families
            ):
                raise ValueError("nobody is served by it")
        except ValueError:
            socket_modes.close(fd)
            return True
        connection = Connection(fd, frame.listener, frame.parked)
        connection.is_counted = True
        self.parked.add_ready(connection)
        return True

    def share(self, connection: Connection) -> bool:
        """Put a connection into the ready queue. It is held here no more.

        :return: ``False`` if there is no room.
        """
        fd, listener, state = connection.fd, connection.listener, connection.state
        if not self.ready_queue.put(fd, listener, state):
            return False
        # A worker may be done with it already.
        socket_modes.close(fd)
        if self._summary is not None and not connection.is_counted:
            self._summary.resumed += 1
        return True

    def put_back(self, connection: Connection) -> None:
        """A worker died before it took the connection: it is the next one's."""
        self.parked.put_back(connection)

    def taken(self, connection: Connection, worker: t.Hashable) -> None:
        """It is the worker's alone now that it was handed to."""
        self.permits.take(connection, worker)
        self._release(connection)

    def ask_for_permit(self, worker: t.Hashable, limit: str) -> bool:
        """Give a worker a permit that it needs at once, if there is one."""
        return self.permits.ask(worker, limit)

    def refused(self, limit: str) -> None:
        """A worker has refused a request that had waited longer than its route's limit
        lets it."""
        self.permits.refuse(limit)
        self.shedder.count(ShedReason.LIMIT)

    def release_permit(self, worker: t.Hashable) -> None:
        """The request is over for which a worker had a permit, if it had one."""
        self.permits.release(worker)

    def _release(self, connection: Connection) -> None:
        """Close what is held here of a connection."""
        close_all(connection.fds)
        if connection.spool >= 0:
            self.spools.remove(connection.state.spooled)

    def _watch(self, connection: Connection) -> None:
        try:
            if connection.state.wait is Wait.PERMIT:
                self._poller.watch_hang_up(
                    connection.fd, lambda: self._left(connection), half_closed=False
                )
            elif connection.state.wait is Wait.LINGER:
                self._poller.watch_hang_up(
                    connection.fd, lambda: self._hung_up(connection)
                )
            else:
                self._poller.try_watch(connection.fd, lambda: self._wake(connection))
        except OSError as e:
            # ENOMEM, ENOSPC (epoll_ctl(2)).
            if self._can_watch:
                logger.error("Can't wait for connections: %s.", e.strerror)
            self._can_watch = False
            self._close(connection)
        else:
            self._can_watch = True

    def _wake(self, connection: Connection) -> None:
        if connection not in self.parked:
            return  # closed by a callback of the same batch
        self._poller.forget(connection.fd)
        self.parked.wake(connection, self._clock())

    def _park_lingering(self, connection: Connection) -> None:
        """Let a client see the response that it was refused with."""
        # It has no permit any more, and nobody goes on with its request.
        self.permits.forget(connection)
        if connection.spool >= 0:
            os.close(connection.spool)
            self.spools.remove(connection.state.spooled)
            connection.spool = -1
        now = self._clock()
        connection.state = Parked(Wait.LINGER, now + _LINGER)
        self._make_room()
        self.parked.park(connection, now)
        self._watch(connection)

    def _left(self, connection: Connection) -> None:
        """The client of a request that waits for a permit has left."""
        if connection in self.permits:
            self._close(connection)

    def _hung_up(self, connection: Connection) -> None:
        """A client that has had its last response sends no more."""
        if connection not in self.parked:
            return
        if self._may_close(connection.fd):
            self._close(connection)
        else:
            # It had ended before it got that response; its deadline is near.
            self._poller.forget(connection.fd)

    def _may_close(self, fd: int) -> bool:
        """Whether closing a connection costs its client nothing of its response."""
        try:
            with socket_modes.look_at(os.dup(fd)) as sock:
                return has_acknowledged_all(sock)
        except OSError:
            return True  # there are no descriptors for the question

    def _expire(self) -> None:
        now = self._clock()
        expired = self.parked.expire(now)
        for connection in expired.close:
            self._close(connection)
        for connection in expired.late:
            self._poller.forget(connection.fd)
        for connection in expired.watch:
            self._watch(connection)
        for connection in expired.slow:
            if not self.parked.progressed(connection, bytes_unread(connection.fd), now):
                self._poller.forget(connection.fd)

    def _close(self, connection: Connection) -> None:
        self.parked.remove(connection)
        self.permits.forget(connection)
        self._poller.forget(connection.fd)
        self._release(connection)

    def _make_room(self) -> bool:
        """Give up the longest-idle connections when descriptors run out.

        :return: Whether there are descriptors for one more connection.
        """
        while not self._has_room():
            oldest = self.parked.longest_idle()
            if oldest is None:
                return False
            if not self._full:
                self._full = True
                logger.warning(
                    "No descriptors are left for connections that wait, the limit is"
                    " %d; closing the connections that are idle for the longest time.",
                    self._descriptors,
                )
            self._close(oldest)
        return True

    def close_idle(self, count: int) -> None:
        """Close the connections that are idle for the longest time: the TLS proxy needs
        their descriptors.

        :param count: How many at most.
        """
        for _ in range(count):
            oldest = self.parked.longest_idle()
            if oldest is None:
                return
            self._close(oldest)

    @property
    def _used(self) -> int:
        held = self.sender.descriptors if self.sender is not None else 0
        return len(self.parked) + len(self.permits) + self.spools.count + held

    def _has_room(self) -> bool:
        return self._used + _RESERVE + self._reserved < self._descriptors

    def reserve(self, descriptors: int) -> None:
        """Keep descriptors free for workers; if they are more than before, at once."""
        grows = descriptors > self._reserved
        self._reserved = descriptors
        if grows:
            self._make_room()
            room = max(self._descriptors - _RESERVE - descriptors, 0)
            if room < _FEW:
                logger.warning(
                    "Only %d connections can wait without a worker: of %d descriptors"
                    " (ulimit -n) %d are kept for workers. Raise the limit, or lower"
                    " --max-workers.",
                    room,
                    self._descriptors,
                    self._descriptors - room,
                )
