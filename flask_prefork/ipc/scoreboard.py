"""The scoreboard: what every worker does, in memory that all processes share.

The dispatcher makes it, passes it to each zygote by descriptor, and the
workers inherit it. Every field has one writer, and readers never lock.

The file begins with a header, in which the dispatcher tells of the server as a
whole (:mod:`.stats`). Then it has a bank for each of the two generations that may
live at once, found by the generation's parity: columns of a byte for each slot, then
for each slot a record that its worker writes (:mod:`.records`). The columns are
contiguous so that "is a lower-numbered worker idle" is one ``find``.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os

from ..settings.table import MAX_SLOTS
from ..system import memory_file
from . import records
from .records import Record
from .records import RecordWriter

_IDLE = b"I"
_RETIRING = ord("R")
_STATES = 0
_STOPS = _STATES + MAX_SLOTS
_ABOUT_TO_ACCEPT = _STOPS + MAX_SLOTS
#: One byte each for the whole bank.
_OTHERS = _ABOUT_TO_ACCEPT + MAX_SLOTS
_DRAINING = _OTHERS + 1
_RECORDS = -(-(_DRAINING + 1) // mmap.PAGESIZE) * mmap.PAGESIZE
_BANK_SIZE = -(-(_RECORDS + MAX_SLOTS * records.SIZE) // mmap.PAGESIZE) * mmap.PAGESIZE
#: The dispatcher's header before the banks: see :mod:`.stats`.
HEADER_SIZE = mmap.PAGESIZE
#: Its size is for good (``fcntl(2)``); only Linux has these.
_SEALS = sum(
    getattr(fcntl, name, 0) for name in ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL")
)
SIZE = HEADER_SIZE + 2 * _BANK_SIZE


def create() -> int:
    """Make the shared file.

    :return: Its descriptor. It has no name.
    """
    fd = memory_file.create("flask_prefork")
    os.ftruncate(fd, SIZE)
    if _SEALS:
        # A worker that cuts it short would end everybody who reads it (SIGBUS).
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


class Bank:
    """One generation's half of the scoreboard.

    :param fd: The file; the mapping stays when it is closed.
    :param generation: The generation's number.
    :param access: ``mmap.ACCESS_READ`` for who only looks.
    """

    def __init__(
        self, fd: int, generation: int, access: int = mmap.ACCESS_WRITE
    ) -> None:
        self._map = mmap.mmap(fd, SIZE, access=access)
        self.generation = generation
        self._base = HEADER_SIZE + generation % 2 * _BANK_SIZE
        self._states = self._base + _STATES
        self._stops = self._base + _STOPS
        self._about_to_accept = self._base + _ABOUT_TO_ACCEPT
        self._others = self._base + _OTHERS
        self._draining = self._base + _DRAINING

    def reset(self) -> None:
        """Clear what a generation of the same parity has left."""
        self._map[self._others] = self._map[self._draining] = 0

    def close(self) -> None:
        """Unmap it."""
        self._map.close()

    def detach(self) -> None:
        """Go on with a clean mapping that nobody shares."""
        self._map.close()
        self._map = mmap.mmap(-1, SIZE)

    # The dispatcher's columns

    def clear(self, slot: int) -> None:
        """Make the slot's place clean for its next worker."""
        self._map[self._states + slot] = ord(".")
        self._map[self._stops + slot] = 0
        self._map[self._about_to_accept + slot] = 0
        start = self._record(slot)
        self._map[start : start + records.SIZE] = bytes(records.SIZE)

    def set_state(self, slot: int, letter: str) -> None:
        """Show the slot's state by its letter (:class:`.pool.State`)."""
        self._map[self._states + slot] = ord(letter)

    def set_stop(self, slot: int) -> None:
        """Ask the worker to take no more connections on its standing order."""
        self._map[self._stops + slot] = 1

    def set_others_wait(self, wait: bool) -> None:
        """Show that parked connections wait for their turn."""
        self._map[self._others] = wait

    def set_draining(self) -> None:
        """Show that the server stops: no connection is to be kept alive."""
        self._map[self._draining] = 1

    def about_to_accept(self, slot: int) -> bytes:
        """A byte for each worker below the slot; not 0 if it is about to accept."""
        return self._map[self._about_to_accept : self._about_to_accept + slot]

    def states(self, count: int) -> str:
        """The letters of the first slots; those never used are NUL."""
        return self._map[self._states : self._states + count].decode("latin-1")

    # The worker's questions

    def lower_is_idle(self, slot: int) -> bool:
        """Whether a worker with a lower number waits for orders."""
        return self._map.find(_IDLE, self._states, self._states + slot) >= 0

    def is_stopped(self, slot: int) -> bool:
        """Whether the dispatcher asked for the end of the standing order."""
        return self._map[self._stops + slot] != 0

    def is_retiring(self, slot: int) -> bool:
        """Whether the worker was told to end."""
        return self._map[self._states + slot] == _RETIRING

    def others_wait(self) -> bool:
        """Whether parked connections wait for their turn."""
        return self._map[self._others] != 0

    def is_draining(self) -> bool:
        """Whether the server stops."""
        return self._map[self._draining] != 0

    # The worker's record

    def entry(self, slot: int) -> RecordWriter:
        """The worker's record, and its byte in that column, for its worker."""
        return RecordWriter(self._map, self._record(slot), self._about_to_accept + slot)

    def read(self, slot: int) -> Record:
        """The worker's record, for all others."""
        return records.read(self._map, self._record(slot))

    def _record(self, slot: int) -> int:
        return self._base + _RECORDS + slot * records.SIZE
