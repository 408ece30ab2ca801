"""Which workers there are, and what they have served: a table that all workers share.

It is an anonymous shared mapping, made by the app factory. A preforking server
runs the factory before it forks, so the workers inherit the same memory, and
each of them can show the records of all. Each slot's record has one writer, the
worker in that slot, so no lock is needed.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import struct
import time
import typing as t

RECORD = struct.Struct("=IIIdd")
"""A slot's record: pid, requests served, requests under way, heat, and when that was.
All are 0 if no worker was there."""

SLOTS = 512
"""Slots that have a record. A worker in a higher one serves, but isn't listed."""

MEMORY = 10.0
"""Seconds in which a worker cools down to 37 %."""


class Seen(t.NamedTuple):
    """A worker that was started.

    :param slot: Its slot.
    :param pid: Its process.
    :param requests: Requests that it has begun.
    :param busy: Whether it serves one.
    :param heat: About how many requests it has begun in the last ten seconds.
    :param alive: Whether it still runs.
    """

    slot: int
    pid: int
    requests: int
    busy: bool
    heat: float
    alive: bool


class Roster:
    """Counts this worker's requests and knows the others' counts.

    :param clock: Gives seconds that are the same in all processes.
    """

    def __init__(self, clock: t.Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # -1: anonymous, and shared with the processes that are forked later.
        self._table = mmap.mmap(-1, RECORD.size * SLOTS)
        # A fork copies the counter at zero, so that every worker has its own.
        # next() on it is atomic, as the threads of ``flask run`` need it.
        self._numbers = itertools.count(1)
        #: How many requests this worker has begun.
        self.served = 0

    def enter(self, slot: int) -> None:
        """Say that this process is the worker in a slot now."""
        # It may have been forked from a worker that has served.
        self._numbers = itertools.count(1)
        self.served = 0
        self._write(slot, 0, 0, 0.0)

    def begin(self, slot: int | None) -> int:
        """Count a request and return how many this worker has begun with it.

        :param slot: this worker's slot, or None if the server has no slots.
        """
        self.served = number = next(self._numbers)
        self._write(slot, number, 1, self._heat(slot) + 1.0)
        return number

    def end(self, slot: int | None) -> None:
        """Say that the request has ended."""
        self._write(slot, self.served, 0, self._heat(slot))

    def seen(self) -> list[Seen]:
        """The last worker of each slot that has ever had one, by slot."""
        now = self._clock()
        return [
            Seen(slot, pid, requests, running > 0, _cooled(heat, now - at), _alive(pid))
            for slot, (pid, requests, running, heat, at) in enumerate(
                RECORD.iter_unpack(self._table[:])
            )
            if pid
        ]

    def _heat(self, slot: int | None) -> float:
        if slot is None or slot >= SLOTS:
            return 0.0
        *_, heat, at = RECORD.unpack_from(self._table, slot * RECORD.size)
        return _cooled(heat, self._clock() - at)

    def _write(self, slot: int | None, served: int, running: int, heat: float) -> None:
        if slot is not None and slot < SLOTS:
            number = served & 0xFFFFFFFF
            record = (os.getpid(), number, running, heat, self._clock())
            RECORD.pack_into(self._table, slot * RECORD.size, *record)


def _cooled(heat: float, seconds: float) -> float:
    return heat * math.exp(-max(seconds, 0.0) / MEMORY)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # It exists, but belongs to another user: the number was used again.
        return False

    return True
