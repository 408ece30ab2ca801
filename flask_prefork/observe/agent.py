"""Answers HAProxy's ``agent-check``: ``--agent-check``.

HAProxy connects now and then, and reads one line (its configuration manual, section
5.2, "agent-check"). The line is a pure function of a snapshot. The observer tells it
(:mod:`.process`), so it comes while every worker is busy, too; and when the
dispatcher is dead nobody is there to be asked, which HAProxy's own check notices.

What the line says:

``ready up 75%``
    Of the ``max_workers`` places, three quarters could take another request. Taken is
    the place of a worker that serves, and of one that retires or was killed, until
    that is over; and as many places as connections wait for a worker or workers
    are on their way to them. A worker that starts, or hasn't been started
    yet, could take a request in a moment, so its place is free.

    It is never less than 1 %, because 0 % is how HAProxy spells ``drain``: a
    saturated server gets the least that there is, and among servers that are all
    saturated each gets its part. It is rounded down, so that 100 % is wholly idle.

``drain``
    The server was told to stop, and serves on what it has (in ``--drain-delay``,
    too). No new connections, please.

``stopped``
    It accepts none any more.

``fail``
    The dispatcher is there and doesn't answer.

``down``
    No worker could serve, and none was idle within the last seconds: all die, or
    don't get ready.

What stands behind a sharp is for people, on HAProxy's page. The space before it is
needed: to HAProxy 2.6 ``fail#why`` is a word that it doesn't know, and changes nothing.

``ready`` and ``up`` take back what the other lines did, also those of the server that
was here before: nobody else can.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from ..ipc.phase import Phase
from ..ipc.states import State
from .accept import accept_forever
from .snapshot import Snapshot

#: Of workers that can serve, or do.
_LIVING = State.IDLE.value + State.ORDERED.value + State.BUSY.value
#: Of workers whose place isn't free before they have ended what they do.
_TAKEN = State.BUSY.value + State.RETIRING.value + State.KILLED.value
_DRAINING = Phase.DRAINING.value
_ACCEPTS = (Phase.LOADING.value, Phase.SERVING.value)
#: Bytes that are taken of what a client says, and thrown away.
_MAX_DISCARDED = 65536


def line(snapshot: Snapshot) -> bytes:
    """What HAProxy is told of this server."""
    return f"{_answer(snapshot)}\n".encode("ascii")


def _answer(snapshot: Snapshot) -> str:
    if not snapshot.responsive:
        return "fail # the dispatcher doesn't answer"
    if snapshot.phase == _DRAINING:
        return "drain"
    if snapshot.phase not in _ACCEPTS:
        return f"stopped # the server is {snapshot.phase}"
    if not (snapshot.ready or snapshot.count(_LIVING)):
        return "down # no worker is there"
    return f"ready up {idle_capacity(snapshot)}%"


def idle_capacity(snapshot: Snapshot) -> int:
    """How much of the server is free, in percent, from 1 to 100."""
    # Those who are ordered to accept take connections that wait.
    wait = max(snapshot.waiting, snapshot.count(State.ORDERED.value))
    free = snapshot.max_workers - snapshot.count(_TAKEN) - wait
    return max(100 * free // max(snapshot.max_workers, 1), 1)


class Agent:
    """Tells everybody who connects, and waits for nobody.

    :param look: Takes a snapshot.
    :param listener: The socket that HAProxy connects to.
    """

    def __init__(self, look: Callable[[], Snapshot], listener: socket.socket) -> None:
        self._look = look
        self._listener = listener

    def run(self) -> None:
        """Tell one after the other, for ever."""
        for connection, _ in accept_forever(self._listener):
            with connection:
                self._reply(connection)

    def _reply(self, connection: socket.socket) -> None:
        reply = line(self._look())
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            # A new connection's buffer takes it, whether or not the client reads.
            connection.send(reply)
            connection.shutdown(socket.SHUT_WR)
            # To close on what was sent and not read is a reset (RFC 9293, section
            # 3.6.1), which may overtake the answer.
            connection.recv(_MAX_DISCARDED)
