"""A worker's life as data: its states, what can happen, and why it ends.

Pure, as :mod:`..dispatcher.pool` is, which has the workers::

    FREE -> STARTING -> IDLE <-> ORDERED -> BUSY -> IDLE ...
    any -> RETIRING -> FREE      any -> KILLED -> FREE
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class State(enum.Enum):
    """What a slot's worker is doing; the value is its letter on the scoreboard."""

    FREE = "."
    STARTING = "S"
    IDLE = "I"
    ORDERED = "O"
    BUSY = "B"
    RETIRING = "R"
    KILLED = "K"


class Event(enum.Enum):
    """What can happen to a worker."""

    #: The zygote was told to fork it.
    SPAWN = "spawn"
    #: It was sent an order to accept.
    ORDER = "order"
    #: It reports that it accepted.
    BUSY = "busy"
    #: It reports that it waits for orders.
    IDLE = "idle"
    #: It was told to finish and exit.
    RETIRE = "retire"
    #: It is about to be sent SIGKILL.
    KILL = "kill"
    #: Its process is known to be dead.
    EXIT = "exit"


class Reason(enum.Enum):
    """Why a worker ended, in a word for counters."""

    #: It was asked to.
    RETIRED = "retired"
    #: By itself.
    EXIT = "exit"
    #: By a signal that wasn't ours.
    SIGNAL = "signal"
    #: Killed by the kernel, which ran out of memory.
    MEMORY = "memory"
    #: Its exit status is not known.
    UNKNOWN = "unknown"
    #: Killed: its request made no progress.
    TIMEOUT = "timeout"
    #: Killed: it wasn't idle in time.
    SPAWN_TIMEOUT = "spawn-timeout"
    #: Killed: it didn't finish in time.
    GRACEFUL_TIMEOUT = "graceful-timeout"
    #: Killed: it was ordered, and never answered or read.
    SILENT = "silent"
    #: Killed: it sent garbage.
    GARBAGE = "garbage"
    #: Killed: the server, or its generation, ended at once.
    STOP = "stop"


def _table() -> dict[tuple[State, Event], State]:
    table = {
        (State.FREE, Event.SPAWN): State.STARTING,
        (State.STARTING, Event.IDLE): State.IDLE,
        (State.IDLE, Event.ORDER): State.ORDERED,
        # With blocking dispatch nobody orders.
        (State.IDLE, Event.BUSY): State.BUSY,
        (State.ORDERED, Event.BUSY): State.BUSY,
        # There was nothing to accept.
        (State.ORDERED, Event.IDLE): State.IDLE,
        (State.BUSY, Event.IDLE): State.IDLE,
    }
    serving = (State.STARTING, State.IDLE, State.ORDERED, State.BUSY)
    table.update({(state, Event.RETIRE): State.RETIRING for state in serving})
    table.update({(s, Event.KILL): State.KILLED for s in (*serving, State.RETIRING)})
    living = (*serving, State.RETIRING, State.KILLED)
    table.update({(state, Event.EXIT): State.FREE for state in living})
    return table


#: The whole life of a worker. What isn't here doesn't happen.
TRANSITIONS: Mapping[tuple[State, Event], State] = _table()
