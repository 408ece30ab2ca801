"""The scoreboard: the state and the counters of every worker, in shared memory.

The dispatcher creates the file (:func:`create`) before the first zygote is loaded. Each
zygote gets its descriptor in a frame, and its workers inherit the mapping. The observer
gets the descriptor, too, and maps it for reading only.

The file begins with a header (:mod:`.stats`). Then there is a bank for each of the two
generations that may have workers at once, chosen by the generation's parity. A bank has
columns with a byte for each slot, and after them a record for each slot
(:mod:`.records`). The columns are contiguous, so "is a lower-numbered worker idle" is
one ``find``.

The file is as long as all slots need (:data:`SIZE`), but only pages that were written
are memory: the header, and two or three pages for each slot that had a worker. Nothing
may write to slots that have none.

Who writes what, and when:

dispatcher
    * the header: once per turn of its loop (``loop.py``), and around the exit of a
      worker (``workers.py``);
    * a slot's state: at each transition (``workers.py``, by ``pool.py``);
    * a slot's request to end its standing order: when the worker is to be replaced or
      to finish (``workers.py``);
    * the bank's flags *others wait*, *has ready* and *draining* (``generation.py``),
      and the header's word *spooled* (``queues.py``);
    * all of a slot, its record included: before a worker is started in it and when one
      has exited (:meth:`Bank.clear`), at which times no process writes there.

worker
    * its own record: when it starts, accepts, and at the turns of a request
      (``worker/worker.py``);
    * its byte in the column *about to accept*: before the last byte of a response is
      sent, and when it has accepted.

zygote
    * nothing.

A process that the app has forked writes nothing either: it is given an empty mapping
(:meth:`Bank.detach`), because it may run the code of the worker that it is a copy of.

Who reads what:

* workers read the states of the slots below theirs, their own slot's columns, and the
  flags, between two connections;
* the dispatcher reads the column *about to accept* when a connection waits, and records
  when it checks for timeouts or a worker has exited;
* a zygote whose dispatcher is dead reads records, to log aborted requests
  (``zygote/orphans.py``);
* the observer reads everything, for each request and once a second.

What must never be done here:

* Lock, or wait for a writer: it may be stopped or killed at any moment. Each field has
  one writer. A number is one word or one byte, which is written at once; the header,
  where several numbers belong together, is there twice.
* Write to another process's fields.
* Trust a record: its worker runs the app's code, which may write anything. Readers get
  numbers that they can calculate with from :func:`.records.read`; a pid from there is
  never sent a signal.
* Change the file's size: it is sealed, because to read beyond its end is ``SIGBUS``.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct

from ..settings.table import MAX_SLOTS
from ..system import memory_file
from . import records
from .durations import Durations
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
_READY = _DRAINING + 1
_RECORDS = -(-(_READY + 1) // mmap.PAGESIZE) * mmap.PAGESIZE
_BANK_SIZE = -(-(_RECORDS + MAX_SLOTS * records.SIZE) // mmap.PAGESIZE) * mmap.PAGESIZE
#: The dispatcher's header, before the banks (:mod:`.stats`), and at its end one word
#: for all workers: the bytes of all spools. Most of it are the limits of routes, and
#: the histograms of the workers that have exited.
HEADER_SIZE = -(-32768 // mmap.PAGESIZE) * mmap.PAGESIZE
_SPOOLED = HEADER_SIZE - 8
_WORD = struct.Struct("=Q")
#: They make its size final (``fcntl(2)``); only Linux has them.
_SEALS = sum(
    getattr(fcntl, name, 0) for name in ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL")
)
SIZE = HEADER_SIZE + 2 * _BANK_SIZE


def create() -> int:
    """Create the shared file.

    :return: Its descriptor. It has no name.
    """
    fd = memory_file.create("flask_prefork")
    os.ftruncate(fd, SIZE)
    if _SEALS:
        # If a worker truncated it, every reader would get SIGBUS.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


class Bank:
    """One generation's half of the scoreboard.

    :param fd: The file; the mapping stays when it is closed.
    :param generation: The generation's number.
    :param access: ``mmap.ACCESS_READ`` for the observer.
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
        self._ready = self._base + _READY

    def reset(self) -> None:
        """Clear the flags that an earlier generation of the same parity has set."""
        self._map[self._others] = self._map[self._draining] = 0
        self._map[self._ready] = 0

    def close(self) -> None:
        """Unmap it."""
        self._map.close()

    def detach(self) -> None:
        """Replace the mapping by an empty one that nobody shares."""
        self._map.close()
        self._map = mmap.mmap(-1, SIZE)

    # The dispatcher's columns

    def clear(self, slot: int) -> None:
        """Clear the slot for its next worker."""
        self._map[self._states + slot] = ord(".")
        self._map[self._stops + slot] = 0
        self._map[self._about_to_accept + slot] = 0
        start = self._record(slot)
        self._map[start : start + records.SIZE] = bytes(records.SIZE)

    def set_state(self, slot: int, letter: str) -> None:
        """Show the slot's state by its letter (:class:`.pool.State`)."""
        self._map[self._states + slot] = ord(letter)

    def set_stop(self, slot: int) -> None:
        """Ask the worker to accept no more under its standing order."""
        self._map[self._stops + slot] = 1

    def set_others_wait(self, wait: bool) -> None:
        """Show that parked connections wait for a worker's report that it is idle."""
        self._map[self._others] = wait

    def set_ready(self, ready: bool) -> None:
        """Show whether connections are in the ready queue."""
        self._map[self._ready] = ready

    def set_draining(self) -> None:
        """Show that the server drains: no connection is to be kept alive."""
        self._map[self._draining] = 1

    def about_to_accept(self, slot: int) -> bytes:
        """A byte for each worker below the slot; not 0 if it is about to accept."""
        return self._map[self._about_to_accept : self._about_to_accept + slot]

    def states(self, count: int) -> str:
        """The letters of the first slots; those never used are NUL."""
        return self._map[self._states : self._states + count].decode("latin-1")

    def set_spooled(self, size: int) -> None:
        """Show how many bytes all spools have together, of every generation."""
        _WORD.pack_into(self._map, _SPOOLED, size)

    # What the worker reads

    def spooled(self) -> int:
        """How many bytes all spools have together, as far as the dispatcher knows."""
        return int(_WORD.unpack_from(self._map, _SPOOLED)[0])

    def lower_is_idle(self, slot: int) -> bool:
        """Whether a worker with a lower number is idle."""
        return self._map.find(_IDLE, self._states, self._states + slot) >= 0

    def is_stopped(self, slot: int) -> bool:
        """Whether the dispatcher asked for the end of the standing order."""
        return self._map[self._stops + slot] != 0

    def is_retiring(self, slot: int) -> bool:
        """Whether the worker was asked to retire."""
        return self._map[self._states + slot] == _RETIRING

    def others_wait(self) -> bool:
        """Whether parked connections wait for a worker's report that it is idle."""
        return self._map[self._others] != 0

    def has_ready(self) -> bool:
        """Whether connections are in the ready queue."""
        return self._map[self._ready] != 0

    def is_draining(self) -> bool:
        """Whether the server drains."""
        return self._map[self._draining] != 0

    # The worker's record

    def entry(self, slot: int) -> RecordWriter:
        """The worker's record, and its byte in that column, for its worker."""
        return RecordWriter(self._map, self._record(slot), self._about_to_accept + slot)

    def read(self, slot: int) -> Record:
        """The worker's record, for all others."""
        return records.read(self._map, self._record(slot))

    def durations(self, slot: int) -> Durations:
        """The histograms of the worker's record."""
        return records.durations(self._map, self._record(slot))

    def _record(self, slot: int) -> int:
        return self._base + _RECORDS + slot * records.SIZE
