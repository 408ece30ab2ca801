"""Which worker has served what: a table that all workers of one generation share.

It is an anonymous shared mapping, made by the app factory. A preforking server
runs the factory before it forks, so the workers inherit the same memory, and
each of them can show the records of all. Each slot's record has one writer, the
worker in that slot, so no lock is needed.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import typing as t

RECORD = struct.Struct("=II")
"""A slot's record: pid and requests served, 0 and 0 if it never served."""

SLOTS = 512
"""Slots that have a record. A worker in a higher one serves, but isn't listed."""


class Seen(t.NamedTuple):
    """A worker that has served at least one request."""

    slot: int
    pid: int
    requests: int
    alive: bool


class Roster:
    """Counts this worker's requests and knows the others' counts."""

    def __init__(self) -> None:
        # -1: anonymous, and shared with the processes that are forked later.
        self._table = mmap.mmap(-1, RECORD.size * SLOTS)
        # A fork copies the counter at zero, so that every worker has its own.
        # next() on it is atomic, as the threads of ``flask run`` need it.
        self._served = itertools.count(1)

    def count(self, slot: int | None) -> int:
        """Count a request and return how many this worker has served with it.

        :param slot: this worker's slot, or None if the server has no slots.
        """
        served = next(self._served)

        if slot is not None and slot < SLOTS:
            RECORD.pack_into(
                self._table, slot * RECORD.size, os.getpid(), served & 0xFFFFFFFF
            )

        return served

    def seen(self) -> list[Seen]:
        """The last worker seen in each slot that has ever served, by slot."""
        return [
            Seen(slot, pid, requests, _alive(pid))
            for slot, (pid, requests) in enumerate(RECORD.iter_unpack(self._table[:]))
            if pid
        ]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # It exists, but belongs to another user: the number was used again.
        return False

    return True
