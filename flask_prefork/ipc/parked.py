"""Connections that wait for their client, and cost no worker.

Pure: which connection waits for what, until when, and whose turn it is. The
dispatcher (``dispatcher/queues.py``) holds the descriptors, polls them without reading,
and acts on what is decided here.
"""

from __future__ import annotations

import typing as t
from collections import deque

from ..system.parked import Parked
from ..system.parked import Wait
from ..system.timers import Deadlines

#: A connection that was woken for nothing is not watched for so long, doubled
#: each time, in seconds: thousands of clients that send a byte a second must
#: not keep the pool busy looking.
FIRST_DELAY = 0.01
LAST_DELAY = 1.0


class Connection:
    """A parked connection.

    :ivar fd: The dispatcher's descriptor.
    :ivar listener: The index of the listener it came by.
    :ivar state: What it waits for, until when; every wait has an end.
    """

    __slots__ = ("fd", "listener", "state")

    def __init__(self, fd: int, listener: int, state: Parked) -> None:
        self.fd = fd
        self.listener = listener
        self.state = state


class Expired(t.NamedTuple):
    """What the time has brought.

    :param close: Connections to close; they are not parked any more.
    :param late: Those that are ready for a worker because their time is up: not
        to be watched any more.
    :param watch: Those to watch again.
    """

    close: list[Connection]
    late: list[Connection]
    watch: list[Connection]


class ParkedConnections:
    """All parked connections.

    :ivar ready: Those that wait for a worker, in their order.
    """

    def __init__(self) -> None:
        self.ready: deque[Connection] = deque()
        #: Those between two requests, and since when.
        self._idle: dict[Connection, float] = {}
        self._heads: dict[Connection, None] = {}
        self._deadlines: Deadlines[Connection] = Deadlines()
        self._delayed: Deadlines[Connection] = Deadlines()

    def __len__(self) -> int:
        return len(self.ready) + len(self._idle) + len(self._heads)

    def __contains__(self, connection: object) -> bool:
        """Whether it waits for its client."""
        return connection in self._idle or connection in self._heads

    @property
    def heads(self) -> int:
        """How many have begun a request."""
        return len(self._heads)

    def last_idle_since(self) -> float | None:
        """When the last of the connections between two requests was parked, in
        seconds; ``None`` if there are none."""
        return next(reversed(self._idle.values()), None)

    def longest_idle(self) -> Connection | None:
        """Whom to give up when descriptors run out.

        A connection between two requests; if there is none, one whose head
        takes its time.
        """
        for connections in (self._idle, self._heads):
            for connection in connections:
                return connection
        return None

    def park(self, connection: Connection, now: float) -> bool:
        """Take a connection in.

        :return: Whether to watch it. If not, it either is ready for a worker or
            :meth:`expire` tells when.
        """
        state = connection.state
        if state.wait is Wait.WORKER:
            self.ready.append(connection)
            return False
        if state.wait is Wait.KEEP_ALIVE:
            self._idle[connection] = now
        else:
            self._heads[connection] = None
        self._deadlines.set(connection, state.deadline)
        if not state.wakes:
            return True
        delay = min(FIRST_DELAY * 2 ** (state.wakes - 1), LAST_DELAY)
        self._delayed.set(connection, now + delay)
        return False

    def wake(self, connection: Connection) -> None:
        """It is readable, or at its end: it waits for a worker now."""
        self.remove(connection)
        self.ready.append(connection)

    def clear(self) -> list[Connection]:
        """Give all connections up.

        :return: Those that there were.
        """
        connections = [*self.ready, *self._idle, *self._heads]
        for connection in connections:
            self.remove(connection)
        self.ready.clear()
        return connections

    def remove(self, connection: Connection) -> None:
        """It does not wait for its client any more."""
        self._idle.pop(connection, None)
        self._heads.pop(connection, None)
        self._deadlines.discard(connection)
        self._delayed.discard(connection)

    def expire(self, now: float) -> Expired:
        """What the time brings.

        A connection whose head has begun but did not come in time goes to a
        worker, which answers it; the others are just closed.

        """
        close, late = [], []
        for connection in self._deadlines.pop(now):
            if connection.state.wait is Wait.HEAD and connection.state.have:
                self.wake(connection)
                late.append(connection)
            else:
                self.remove(connection)
                close.append(connection)
        return Expired(close, late, self._delayed.pop(now))

    def deadline(self) -> float | None:
        """When :meth:`expire` should be asked next, in seconds."""
        times = [self._deadlines.next(), self._delayed.next()]
        return min((moment for moment in times if moment is not None), default=None)


class ParkedHolder(t.Protocol):
    """Where connections wait for their client: :class:`.queues.Queues`."""

    def park(self, fd: int, listener: int, state: Parked) -> None:
        """Take over a connection that a worker hands back.

        :raises ValueError: Listener or state make no sense.
        """

    def put_back(self, connection: Connection) -> None:
        """Take back a connection that a worker died before taking."""
