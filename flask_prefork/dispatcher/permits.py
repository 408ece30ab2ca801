"""Permits: how many requests of limited routes run, and who waits for that. Pure.

A worker that has read the head of a request whose route has a limit parks the
connection until there is a permit. Only here are permits counted, so a limit holds for
all workers of all generations together. Limits are known by their names: after a reload
the requests of the old generation count for the limit of the new one.

``queues.py`` holds the connections and carries out what is decided here:

1. :meth:`Permits.configure` when a generation begins to serve.
2. :meth:`Permits.wait` when a worker parks a connection, or :meth:`Permits.ask` where a
   connection can't be parked.
3. :meth:`Permits.grant` in each turn: those connections go to the next idle worker.
   :meth:`Permits.expire` before it: those have waited too long.
4. :meth:`Permits.take` when a worker has what it was handed, and
   :meth:`Permits.release` when that request is over or the worker has exited; in any
   order, and as often as one likes.
5. :meth:`Permits.forget` when a connection is closed before that.
"""

from __future__ import annotations

import typing as t
from bisect import insort
from collections.abc import Iterable

from ..ipc.figures import LimitRow
from ..ipc.parked_connections import Connection
from ..settings.limits import RouteLimit
from ..system.timers import Deadlines

#: How many are refused at once.
_MOST_EXPIRED = 64


class _Limit:
    """A limit and its requests.

    :ivar concurrency: ``None`` for any number.
    :ivar queue_timeout: Seconds, 0 is never.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.concurrency: int | None = None
        self.queue_timeout = 0.0
        self.running = 0
        self.refused = 0
        #: In the order of their requests' arrival.
        self.waiting: list[Connection] = []

    @property
    def is_free(self) -> bool:
        return self.concurrency is None or self.running < self.concurrency


def _arrived(connection: Connection) -> float:
    return connection.state.arrived


class Permits:
    """All limits, and all who have or want a permit."""

    def __init__(self) -> None:
        #: Those of the generation that serves, and others that still have requests.
        self._limits: dict[str, _Limit] = {}
        self._names: list[str] = []
        #: Which limit a worker has a permit of.
        self._holders: dict[t.Hashable, _Limit] = {}
        #: Connections that have a permit and no worker yet.
        self._granted: dict[Connection, _Limit] = {}
        self._waiting: dict[Connection, _Limit] = {}
        self._deadlines: Deadlines[Connection] = Deadlines()
        #: Limits that may have a permit for somebody who waits.
        self._changed: set[_Limit] = set()

    def __len__(self) -> int:
        """How many connections wait for a permit."""
        return len(self._waiting)

    def __contains__(self, connection: Connection) -> bool:
        """Whether it waits for a permit."""
        return connection in self._waiting

    def configure(self, limits: Iterable[RouteLimit], queue_timeout: float) -> None:
        """Go by the limits of the generation that serves from now on.

        :param limits: Who waits for one that there isn't any more, or that bounds
            concurrency no more, has a permit at once.
        :param queue_timeout: Seconds for limits without one, 0 is never. It holds for
            those that wait from now on.
        """
        known = list(limits)
        self._names = [limit.name for limit in known]
        for limit in self._limits.values():
            limit.concurrency = None
        for given in known:
            limit = self._limit(given.name)
            limit.concurrency = given.concurrency
            own = given.queue_timeout
            limit.queue_timeout = queue_timeout if own is None else own
        self._changed.update(self._limits.values())
        for name in list(self._limits):
            self._drop_unused(self._limits[name])

    def _limit(self, name: str) -> _Limit:
        limit = self._limits.get(name)
        if limit is None:
            limit = self._limits[name] = _Limit(name)
        return limit

    def _drop_unused(self, limit: _Limit) -> None:
        """Forget a limit that there isn't any more, with its last request."""
        if limit.name not in self._names and not (limit.running or limit.waiting):
            self._limits.pop(limit.name, None)

    def wait(self, connection: Connection, now: float) -> None:
        """A connection waits for a permit of its limit, :attr:`.Connection.limit`.

        Its place is by its request's arrival.
        """
        limit = self._limit(connection.limit)
        insort(limit.waiting, connection, key=_arrived)
        self._waiting[connection] = limit
        if limit.queue_timeout:
            arrived = _arrived(connection) or now
            self._deadlines.set(connection, arrived + limit.queue_timeout)
        self._changed.add(limit)

    def grant(self) -> list[Connection]:
        """Give away the permits that there are, first come first served.

        :return: The connections that have one now, and wait for a worker.
        """
        granted: list[Connection] = []
        for limit in self._changed:
            while limit.waiting and limit.is_free:
                connection = limit.waiting[0]
                self._leave(connection)
                self._granted[connection] = limit
                limit.running += 1
                granted.append(connection)
        self._changed.clear()
        return granted

    def ask(self, worker: t.Hashable, name: str) -> bool:
        """A worker wants a permit for a request that can't wait.

        :return: Whether it has one. Nobody who waits is passed by.
        """
        limit = self._limit(name)
        if worker in self._holders or limit.waiting or not limit.is_free:
            limit.refused += 1
            self._drop_unused(limit)
            return False
        limit.running += 1
        self._holders[worker] = limit
        return True

    def refuse(self, name: str) -> None:
        """A request was refused that could wait no longer, or nowhere."""
        limit = self._limit(name)
        limit.refused += 1
        self._drop_unused(limit)

    def take(self, connection: Connection, worker: t.Hashable) -> None:
        """A worker has the connection now, and its permit if it has one."""
        limit = self._granted.pop(connection, None)
        if limit is None:
            return
        self.release(worker)
        self._holders[worker] = limit

    def release(self, worker: t.Hashable) -> None:
        """The request of a worker is over, or the worker has exited."""
        limit = self._holders.pop(worker, None)
        if limit is not None:
            self._end(limit)

    def forget(self, connection: Connection) -> None:
        """A connection is closed that no worker has."""
        if connection in self._waiting:
            self._drop_unused(self._leave(connection))
        limit = self._granted.pop(connection, None)
        if limit is not None:
            self._end(limit)

    def _end(self, limit: _Limit) -> None:
        limit.running -= 1
        self._changed.add(limit)
        self._drop_unused(limit)

    def _leave(self, connection: Connection) -> _Limit:
        limit = self._waiting.pop(connection)
        limit.waiting.remove(connection)
        self._deadlines.discard(connection)
        return limit

    def expire(self, now: float) -> list[Connection]:
        """Those that have waited for longer than their limit lets them.

        They don't wait any more, and are to be refused.
        """
        late = self._deadlines.pop(now)
        # The dispatcher has others to serve; the rest is for the next turn.
        for connection in late[_MOST_EXPIRED:]:
            self._deadlines.set(connection, now)
        late = late[:_MOST_EXPIRED]
        for connection in late:
            limit = self._leave(connection)
            limit.refused += 1
            self._drop_unused(limit)
        return late

    def deadline(self) -> float | None:
        """When :meth:`expire` should be asked next, in seconds."""
        return self._deadlines.next()

    def clear(self) -> list[Connection]:
        """Give all up that wait.

        :return: Those that there were.
        """
        waiting = list(self._waiting)
        for connection in waiting:
            self.forget(connection)
        return waiting

    def rows(self) -> list[LimitRow]:
        """The limits of the generation that serves, in its order."""
        return [
            LimitRow(
                name,
                limit.concurrency or 0,
                limit.running,
                len(limit.waiting),
                limit.refused,
            )
            for name in self._names
            for limit in (self._limits[name],)
        ]
