"""Refuses requests without a worker, as :mod:`.shedding` decides.

In the dispatcher. ``queues.py`` calls :meth:`Shedder.step` in each turn once all that
can be ordered is, and :meth:`Shedder.refuse` for who has waited too long for a permit.

Nothing is read from a connection: a client is refused whatever it has sent, by a
response that is always the same. What it still sends is left in the kernel until it has
seen that response (``Wait.LINGER``).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from email.utils import formatdate

from ..ipc.listener import Listener
from ..ipc.parked_connections import Connection
from ..ipc.parked_connections import ParkedConnections
from ..ipc.ready_queue import ReadyQueueOwner
from ..ipc.stats import Summary
from ..system import socket_modes
from ..system.log import logger
from ..system.parked_state import Parked
from ..system.parked_state import Wait
from ..system.socket_state import arrival
from .shedding import Accept
from .shedding import Queue
from .shedding import Shedding
from .shedding import ShedReason

#: What is done in one turn at most: the dispatcher has others to serve.
_STEPS = 64
_WHY = {
    ShedReason.QUEUE_TIMEOUT: "they have waited for {timeout:g} s (--queue-timeout)",
    ShedReason.MAX_QUEUE: "more than {queue} wait (--max-queue)",
    ShedReason.LIMIT: "they have waited too long for a permit of their route's limit",
}


class Shedder:
    """Holds the front of the accept queues, and refuses who waits too long.

    :param parked: All parked connections.
    :param ready_queue: Where ready ones are that any worker may take.
    :param take_back: Takes the first of these back, and returns whether there was one.
    :param clock: The machine's monotonic seconds.
    :param summary: Where the refused ones are counted, and the accepted ones.
    :param linger: Parks a connection that has had its last response.
    :param close: Closes a connection.
    :param make_room: Sees that there are descriptors for one more connection, if that
        can be.
    """

    def __init__(
        self,
        parked: ParkedConnections,
        ready_queue: ReadyQueueOwner,
        take_back: Callable[[], bool],
        clock: Callable[[], float],
        summary: Summary | None,
        linger: Callable[[Connection], None],
        close: Callable[[Connection], None],
        make_room: Callable[[], bool],
    ) -> None:
        self.shedding = Shedding(clock())
        #: Seconds for the header section of a connection that is accepted here.
        self.header_timeout = 10.0
        #: Whether the response names the server.
        self.server_header = True
        self._parked = parked
        self._ready_queue = ready_queue
        self._take_back = take_back
        self._clock = clock
        self._summary = summary
        self._linger = linger
        self._close = close
        self._make_room = make_room
        self._response = ((0, True), b"")

    def step(
        self, listeners: Sequence[Listener], outstanding: Mapping[int, int], idle: int
    ) -> None:
        """Look at who waits, if it is time for that.

        :param outstanding: How many connections of each listener workers are ordered to
            take.
        :param idle: How many workers are idle.
        """
        now = self._clock()
        count = self.shedding.ended(now)
        if count:
            logger.warning(
                "Load shedding has ended. Requests refused without a worker: %d.",
                count,
            )
        if self.shedding.is_due(now, idle > 0):
            is_done = self._look(now, listeners, outstanding)
            self.shedding.looked(now, self._oldest(), is_done)

    def _look(
        self,
        now: float,
        listeners: Sequence[Listener],
        outstanding: Mapping[int, int],
    ) -> bool:
        """Do what there is to do.

        :return: ``False`` if something is left for the next turn.
        """
        ready = self._parked.ready
        lengths = [
            max(listener.waiting() - outstanding.get(index, 0), 0)
            for index, listener in enumerate(listeners)
        ]
        for _ in range(_STEPS):
            held = self._parked.held()
            queues = [
                Queue(length, index in held, listener.tells_age)
                for index, (length, listener) in enumerate(
                    zip(lengths, listeners, strict=True)
                )
            ]
            count = len(ready) + len(self._ready_queue)
            action = self.shedding.next(now, queues, count, self._oldest())
            if action is None:
                return True
            if not isinstance(action, Accept) and self._ready_queue.count:
                # Workers may have taken the first of these: decide once more.
                while self._take_back():
                    pass
            elif not isinstance(action, Accept):
                if ready:
                    self.refuse(ready.popleft(), action.reason)
            elif self._make_room() and self._accept(action.queue, listeners, now):
                lengths[action.queue] -= 1
            else:
                # A worker was faster, or there are no descriptors.
                lengths[action.queue] = 0
        return False

    def _oldest(self) -> float | None:
        ready = self._parked.ready
        times = [self._ready_queue.oldest(), ready[0].state.arrived if ready else None]
        return min((moment for moment in times if moment is not None), default=None)

    def _accept(self, index: int, listeners: Sequence[Listener], now: float) -> bool:
        """Hold the front of a queue as ready."""
        try:
            sock, _ = listeners[index].sock.accept()
        except OSError:
            return False  # EAGAIN; or EMFILE, ENFILE, ENOBUFS, ENOMEM (accept(2))
        state = arrival(sock)
        if self._summary is not None:
            self._summary.count_accepted()
        if state.is_gone:
            socket_modes.close(sock.detach())
            return True
        arrived = now - state.age
        parked = Parked(Wait.HEAD, now + self.header_timeout, arrived=arrived)
        connection = Connection(sock.detach(), index, parked, is_front=True)
        self._parked.add_ready(connection)
        return True

    def refuse(self, connection: Connection, reason: ShedReason) -> None:
        """Answer a request with 503. It must not be among the parked ones any more."""
        self.count(reason)
        if not self._send(connection.fd, self._clock()):
            self._close(connection)
            return
        self._linger(connection)

    def count(self, reason: ShedReason) -> None:
        """A request was refused."""
        if self._summary is not None:
            self._summary.shed[reason.value] += 1
        if self.shedding.refused(self._clock()):
            logger.warning(
                "Overload: requests are refused with 503: %s.",
                _WHY[reason].format(
                    timeout=self.shedding.queue_timeout, queue=self.shedding.max_queue
                ),
            )

    def _send(self, fd: int, now: float) -> bool:
        """Send the response and the connection's end.

        :return: Whether all of it is on its way.
        """
        data = self._make_response(int(now))
        try:
            sock = socket_modes.look_into(fd)
        except OSError:
            return False
        try:
            flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            if sock.send(data, flags) < len(data):
                return False
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        finally:
            sock.detach()
        return True

    def _make_response(self, second: int) -> bytes:
        """The response, made once a second. Whether it is to HEAD isn't known, so it
        has no content."""
        key = second, self.server_header
        if self._response[0] != key or not self._response[1]:
            server = "Server: flask_prefork\r\n" if self.server_header else ""
            text = (
                "HTTP/1.1 503 Service Unavailable\r\n"
                f"Date: {formatdate(usegmt=True)}\r\n{server}"
                f"Content-Length: 0\r\nRetry-After: {self.shedding.retry_after}\r\n"
                "Connection: close\r\n\r\n"
            )
            self._response = key, text.encode()
        return self._response[1]
