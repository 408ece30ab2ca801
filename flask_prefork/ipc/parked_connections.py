"""Connections that wait for their client, and cost no worker.

Pure: which connection waits for what, until when, and whose turn it is. The
dispatcher (``dispatcher/queues.py``) holds the descriptors, polls them without reading,
and acts on what is decided here.

Those whose requests have a body to come are given up by their rate: at their deadline
the holder asks the kernel how much there is, and :meth:`ParkedConnections.progressed`
decides whether they may go on.
"""

from __future__ import annotations

import typing as t
from collections import deque

from ..system.parked_state import Parked
from ..system.parked_state import Wait
from ..system.slow_client import SlowClientBudget
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
    :ivar spool: The descriptor of its spool, -1 without one.
    :ivar limit: The name of the limit that it wants or has a permit of.
    :ivar is_front: It was accepted by the dispatcher, before all that are still in its
        accept queue.
    :ivar is_counted: It was counted as handed to a worker.
    :ivar certificates: A descriptor of somebody else's: the file with the certificate
        of its client, if it has given one; -1 otherwise.
    """

    __slots__ = (
        "certificates",
        "fd",
        "is_counted",
        "is_front",
        "limit",
        "listener",
        "spool",
        "state",
    )

    def __init__(
        self,
        fd: int,
        listener: int,
        state: Parked,
        spool: int = -1,
        limit: str = "",
        is_front: bool = False,
    ) -> None:
        self.fd = fd
        self.listener = listener
        self.state = state
        self.spool = spool
        self.limit = limit
        self.is_front = is_front
        self.is_counted = False
        self.certificates = -1

    @property
    def fds(self) -> tuple[int, ...]:
        """Its descriptor, and its spool's."""
        return (self.fd,) if self.spool < 0 else (self.fd, self.spool)


class Expired(t.NamedTuple):
    """What the time has brought.

    :param close: Connections to close; they are not parked any more.
    :param late: Those that are ready for a worker because their time is up: not
        to be watched any more.
    :param watch: Those to watch again.
    :param slow: Those that may be too slow: see :meth:`ParkedConnections.progressed`.
    """

    close: list[Connection]
    late: list[Connection]
    watch: list[Connection]
    slow: list[Connection]


class ParkedConnections:
    """All parked connections.

    :ivar ready: Those that wait for a worker, in their order.
    :ivar granted: Those that do so with a permit. They come first, since others wait
        for what they have.
    """

    def __init__(self) -> None:
        self.ready: deque[Connection] = deque()
        self.granted: deque[Connection] = deque()
        #: Those that wait for their client, and since when, by what they wait for; in
        #: the order in which they are given up when descriptors run out.
        self._waiting: dict[Wait, dict[Connection, float]] = {
            wait: {} for wait in (Wait.LINGER, Wait.KEEP_ALIVE, Wait.HEAD, Wait.BODY)
        }
        self._deadlines: Deadlines[Connection] = Deadlines()
        self._delayed: Deadlines[Connection] = Deadlines()

    def __len__(self) -> int:
        return self.ready_count + sum(map(len, self._waiting.values()))

    def __contains__(self, connection: Connection) -> bool:
        """Whether it waits for its client."""
        return connection in self._waiting.get(connection.state.wait, ())

    @property
    def ready_count(self) -> int:
        """How many wait for a worker."""
        return len(self.ready) + len(self.granted)

    @property
    def idle(self) -> int:
        """How many are between two requests."""
        return len(self._waiting[Wait.KEEP_ALIVE])

    @property
    def heads(self) -> int:
        """How many have begun a request, or bring one for the first time."""
        return len(self._waiting[Wait.HEAD])

    @property
    def bodies(self) -> int:
        """How many have a request whose body is on its way."""
        return len(self._waiting[Wait.BODY])

    @property
    def lingering(self) -> int:
        """How many have had their last response."""
        return len(self._waiting[Wait.LINGER])

    def by_state(self, permit: int = 0, shared: int = 0) -> dict[str, int]:
        """How many wait for what (:data:`.figures.PARKED_STATES`).

        :param permit: How many wait for a permit; they aren't here.
        :param shared: How many are in the ready queue.
        """
        return {
            "idle": self.idle,
            "head": self.heads,
            "body": self.bodies,
            "lingering": self.lingering,
            "permit": permit,
            "ready": self.ready_count + shared,
        }

    def last_idle_since(self) -> float | None:
        """When the last of the connections between two requests was parked, in
        seconds; ``None`` if there are none."""
        return next(reversed(self._waiting[Wait.KEEP_ALIVE].values()), None)

    def longest_idle(self) -> Connection | None:
        """Whom to give up when descriptors run out.

        One that has had its last response; or else one between two requests, one whose
        head takes its time, or one whose body does.
        """
        for connections in self._waiting.values():
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
            self._arrive(connection, now)
            self.add_ready(connection)
            return False
        self._waiting[state.wait][connection] = now
        self._deadlines.set(connection, state.deadline)
        if not state.wakes:
            return True
        delay = min(FIRST_DELAY * 2 ** (state.wakes - 1), LAST_DELAY)
        self._delayed.set(connection, now + delay)
        return False

    def wake(self, connection: Connection, now: float) -> None:
        """It is readable, or at its end: it waits for a worker now."""
        self.remove(connection)
        self._arrive(connection, now)
        self.add_ready(connection)

    def _arrive(self, connection: Connection, now: float) -> None:
        """Its request has arrived, unless it is known when it has."""
        state = connection.state
        if not 0 < state.arrived <= now:
            connection.state = state._replace(arrived=now)

    def held(self) -> set[int]:
        """The listeners whose accept queue's front is ready."""
        return {one.listener for one in self.ready if one.is_front}

    def add_ready(self, connection: Connection) -> None:
        """One that has waited for something else waits for a worker now, in its place
        by arrival."""
        place = len(self.ready)
        while place and self.ready[place - 1].state.arrived > connection.state.arrived:
            place -= 1
        self.ready.insert(place, connection)

    def take_ready(self) -> Connection:
        """Take out who is served next.

        :raises IndexError: Nobody is ready.
        """
        return (self.granted or self.ready).popleft()

    def put_back(self, connection: Connection) -> None:
        """It is who is served next, again."""
        has_permit = connection.state.wait is Wait.PERMIT
        (self.granted if has_permit else self.ready).appendleft(connection)

    def clear(self) -> list[Connection]:
        """Give all connections up.

        :return: Those that there were.
        """
        connections = [*self.granted, *self.ready]
        for waiting in self._waiting.values():
            connections += waiting
        for connection in connections:
            self.remove(connection)
        self.ready.clear()
        self.granted.clear()
        return connections

    def remove(self, connection: Connection) -> None:
        """It does not wait for its client any more."""
        if connection in self:
            del self._waiting[connection.state.wait][connection]
        self._deadlines.discard(connection)
        self._delayed.discard(connection)

    def expire(self, now: float) -> Expired:
        """What the time brings.

        A connection whose head has begun but did not come in time goes to a
        worker, which answers it. Whether a body comes in time is still to be decided.
        The others are just closed.
        """
        close, late, slow = [], [], []
        for connection in self._deadlines.pop(now):
            if connection.state.wait is Wait.BODY:
                slow.append(connection)
            elif connection.state.wait is Wait.HEAD and connection.state.have:
                self.wake(connection, now)
                late.append(connection)
            else:
                self.remove(connection)
                close.append(connection)
        # Whoever is woken or closed has no delay any more.
        return Expired(close, late, self._delayed.pop(now), slow)

    def progressed(self, connection: Connection, there: int, now: float) -> bool:
        """The time of a connection that waits for its body is used up, unless something
        has come.

        :param there: How many bytes are in the kernel's buffer.
        :return: Whether it waits on. If not, it waits for a worker now, which answers
            it: not to be watched any more.
        """
        state = connection.state
        budget = SlowClientBudget(state.rate, 0.0)
        moved = there - state.have
        budget.account(0.0, max(moved, 0))
        left = budget.seconds_left()
        if moved <= 0 or left <= 0:
            self.wake(connection, now)
            return False
        state = state._replace(deadline=now + left, have=there)
        connection.state = state
        self._deadlines.set(connection, state.deadline)
        return True

    def deadline(self) -> float | None:
        """When :meth:`expire` should be asked next, in seconds."""
        times = [self._deadlines.next(), self._delayed.next()]
        return min((moment for moment in times if moment is not None), default=None)
