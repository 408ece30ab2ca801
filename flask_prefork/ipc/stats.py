"""The scoreboard's header: what the dispatcher publishes about the server as a whole.

The dispatcher counts in a :class:`Summary` and writes it once per turn of its loop; the
observer reads it with a :class:`Reader`. Nobody locks or waits, even for a dispatcher
that was stopped in the middle of writing: each block is there twice, and a counter says
which copy is complete.

Workers count for themselves, in their records. When one has exited, its counters move
from its record into the header, such that every reader finds them in exactly one of the
two. So sums of both never go down, and never jump.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import typing as t
from collections.abc import Iterator
from collections.abc import Mapping
from itertools import islice

from ..settings.limits import MAX_LIMITS
from ..settings.limits import NAME_SIZE
from ..settings.table import MAX_SLOTS
from . import durations
from .durations import Durations
from .figures import add
from .figures import Counters
from .figures import Gauges
from .figures import Layout
from .figures import LimitRow
from .figures import MOST
from .figures import Served
from .phase import Phase
from .records import Record
from .scoreboard import HEADER_SIZE
from .scoreboard import SIZE
from .states import Reason

_PHASES = tuple(Phase)
Role = t.Literal["current", "next", "retiring"]
_ROLES: tuple[Role, ...] = ("current", "next", "retiring")
#: So many generations are shown: the current one, the next one, and those that retire
#: and still have workers.
_GENERATIONS = 4
#: A write is so much shorter than a turn that a second try is rare.
_TRIES = 100
_NOBODY = -1


class Part(t.NamedTuple):
    """A generation, as the header shows it.

    :param number: The generation's.
    :param role: What it is at present.
    :param opened: Whether its half of the scoreboard is its own already.
    """

    number: int
    role: Role
    opened: bool


class Bounds(t.Protocol):
    """What is shown of the pool's size: :class:`~.policy.Policy`."""

    min_idle: int
    max_idle: int
    max_workers: int
    #: Bytes that zygotes and workers have, and that they may have.
    memory: int
    budget: int

    @property
    def saturated(self) -> bool:
        """Whether more workers are wanted than allowed."""


class Waiting(t.NamedTuple):
    """Connections that have no worker.

    :param parked: How many are parked, by what they wait for
        (:data:`.figures.PARKED_STATES`).
    :param spooled: Bytes of all spools.
    :param delivering: How many the sender has.
    :param tls: How many TLS clients are connected.
    """

    parked: Mapping[str, int]
    spooled: int = 0
    delivering: int = 0
    tls: int = 0


class Figures(t.NamedTuple):
    """What the dispatcher publishes.

    :param phase: Where the server is in its life.
    :param parts: The generations.
    :param gauges: The present.
    :param counters: What was counted since the start.
    """

    phase: Phase
    parts: tuple[Part, ...]
    gauges: Gauges
    counters: Counters


def count_aborted(
    record: Record, spread: Durations, now: float
) -> tuple[Record, Durations]:
    """The record of a worker that has exited, its aborted request included.

    That request counts as one without a response (class 0) that took until now. A
    connection that the app had taken over counts as if it had ended by itself.

    :param spread: The record's histograms.
    """
    if not record.began:
        return record, spread
    spent = max((record.upgraded or now) - record.began, 0.0)
    classes = list(record.classes)
    classes[1 if record.upgraded else 0] += 1
    counted = record._replace(
        requests=record.requests + 1,
        classes=tuple(classes),
        spent=record.spent + spent,
    )
    latencies = durations.count(spread.latencies, spent)
    return counted, spread._replace(latencies=latencies)


# Where all that is in the header


class _Block:
    """Numbers with one writer, twice: while one copy is written the other is complete.

    :param board: The scoreboard.
    :param start: Where the block is, a multiple of eight.
    :param layout: What the numbers are.
    """

    def __init__(self, board: mmap.mmap, start: int, layout: struct.Struct) -> None:
        self._board = board
        self._layout = layout
        # How often it was written: one word, which is written at once. Its parity
        # says which copy is complete.
        self._count = memoryview(board)[start : start + 8].cast("Q")
        self._copies = (start + 8, start + 8 + layout.size)

    @staticmethod
    def size(layout: struct.Struct) -> int:
        """How many bytes a block takes."""
        return 8 + -(-2 * layout.size // 8) * 8

    def release(self) -> None:
        """Let the mapping be closed."""
        self._count.release()

    def write(self, *values: t.Any) -> None:
        """Replace the numbers."""
        count = self._count[0] + 1 & MOST
        self._layout.pack_into(self._board, self._copies[count % 2], *values)
        self._count[0] = count

    def read(self) -> tuple[int, tuple[t.Any, ...]]:
        """How often they were written, and the numbers."""
        for _ in range(_TRIES):
            count = self._count[0]
            values = self._layout.unpack_from(self._board, self._copies[count % 2])
            if self._count[0] == count:
                break
        return count, values


_GAUGES, _COUNTERS, _SERVED = Layout(Gauges), Layout(Counters), Layout(Served)
#: A generation's number, its role and whether its half is opened.
_PART = len(Part._fields)
_FIGURES = struct.Struct(f"=Q{_PART * _GENERATIONS}Q{_GAUGES.format}{_COUNTERS.format}")
#: Whose counters they have last, which copy of the histograms belongs to them, and the
#: counters.
_EXITED = struct.Struct(f"=qQ{_SERVED.format}")
_EXITED_START = _Block.size(_FIGURES)
#: The histograms of workers that have exited, twice. They are long, and are written for
#: an exit only; the others of these sums for each connection that is refused.
_DURATIONS = struct.Struct(f"={2 * durations.BUCKETS}Q")
_DURATIONS_START = _EXITED_START + _Block.size(_EXITED)
_LIMITS_START = _DURATIONS_START + 2 * _DURATIONS.size
#: How many limits there are, and each one's name and numbers.
_LIMIT = len(LimitRow._fields)
_LIMITS = struct.Struct("=Q" + f"{NAME_SIZE}s{_LIMIT - 1}Q" * MAX_LIMITS)
# The header's last word is another figure's, see Bank.set_spooled().
assert _LIMITS_START + _Block.size(_LIMITS) <= HEADER_SIZE - 8


def _place(generation: int, slot: int) -> int:
    """A worker's place among those of both banks."""
    return generation % 2 * MAX_SLOTS + slot


class _Header:
    """The mapping with its blocks.

    :param fd: The scoreboard.
    :param access: ``mmap.ACCESS_READ`` or ``mmap.ACCESS_WRITE``.
    """

    def __init__(self, fd: int, access: int) -> None:
        self.map = mmap.mmap(fd, SIZE, access=access)
        self.figures = _Block(self.map, 0, _FIGURES)
        self.exited = _Block(self.map, _EXITED_START, _EXITED)
        self.limits = _Block(self.map, _LIMITS_START, _LIMITS)

    def write_durations(self, copy: int, spread: Durations) -> None:
        """Write a copy of the histograms of exited workers, which nobody reads yet."""
        start = _DURATIONS_START + copy * _DURATIONS.size
        _DURATIONS.pack_into(self.map, start, *spread.latencies, *spread.queue_times)

    def read_durations(self, copy: int) -> Durations:
        """Read a copy of them."""
        start = _DURATIONS_START + copy % 2 * _DURATIONS.size
        counts = _DURATIONS.unpack_from(self.map, start)
        return Durations(counts[: durations.BUCKETS], counts[durations.BUCKETS :])

    def close(self) -> None:
        """Unmap it."""
        self.figures.release()
        self.exited.release()
        self.limits.release()
        self.map.close()


class Summary(Counters):
    """The dispatcher's side: it counts here, and writes once a turn.

    :param fd: The scoreboard.

    :ivar gauges: The present, as the next :meth:`write` shows it.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.gauges = Gauges()
        self._header = _Header(fd, mmap.ACCESS_WRITE)
        self._served = Served()
        self._durations = Durations()
        self._copy = 0
        self._limits: list[LimitRow] = []
        self._was_idle = False

    def close(self) -> None:
        """Unmap the header."""
        self._header.close()

    def count_exit(self, reason: Reason | None) -> None:
        """Count a worker's exit.

        :param reason: Why it exited; ``None`` if it was counted before.
        """
        if reason is Reason.RETIRED:
            self.retired += 1
        elif reason is not None:
            self.deaths[reason.value] += 1

    def count_accepted(self) -> None:
        """Count a connection that no worker has accepted."""
        # What workers have counted is added to it: an app may have written over it.
        self._served.connections = min(self._served.connections + 1, MOST)
        self._write_exited(_NOBODY)

    @contextlib.contextmanager
    def exited(
        self,
        generation: int,
        slot: int,
        record: Record,
        spread: Durations,
        now: float,
    ) -> Iterator[None]:
        """Take over an exited worker's counters; meanwhile, clear its record.

        :param generation: The worker's.
        :param slot: The worker's.
        :param record: What is about to be cleared.
        :param spread: Its histograms.
        """
        record, spread = count_aborted(record, spread, now)
        self._served = add(self._served, record)
        self._durations = durations.total([self._durations, spread])
        self._copy ^= 1
        self._header.write_durations(self._copy, self._durations)
        self._write_exited(_place(generation, slot))
        yield
        self._write_exited(_NOBODY)

    def _write_exited(self, place: int) -> None:
        numbers = _SERVED.numbers(self._served)
        self._header.exited.write(place, self._copy, *numbers)

    def write(
        self,
        now: float,
        phase: Phase,
        policy: Bounds,
        idle: int,
        waiting: Waiting,
        reloads: int,
        parts: t.Sequence[Part],
    ) -> None:
        """Publish the present, at the end of a turn of the loop.

        :param policy: The current generation's.
        :param idle: How many of its workers are idle.
        :param waiting: Connections that have no worker.
        :param reloads: See :class:`.figures.Counters`.
        """
        gauges = self.gauges
        gauges.min_idle = policy.min_idle
        gauges.max_idle = policy.max_idle
        gauges.max_workers = policy.max_workers
        gauges.memory = policy.memory
        gauges.memory_budget = policy.budget
        gauges.parked_by_state.update(waiting.parked)
        gauges.spooled = waiting.spooled
        gauges.delivering = waiting.delivering
        gauges.tls_connections = waiting.tls
        if idle or self._was_idle:
            gauges.idle_at = now
            self._was_idle = bool(idle)
        self._saturate(now, policy.saturated and phase is Phase.SERVING)
        self.reloads = reloads
        places: list[int] = []
        for number, role, opened in parts[:_GENERATIONS]:
            places += (number, _ROLES.index(role), opened)
        places += [0] * (_PART * _GENERATIONS - len(places))
        self._header.figures.write(
            _PHASES.index(phase),
            *places,
            *_GAUGES.numbers(gauges),
            *_COUNTERS.numbers(self),
        )

    def write_limits(self, rows: t.Sequence[LimitRow]) -> None:
        """Publish the limits of routes, if anything of them has changed.

        :param rows: At most :data:`~.settings.limits.MAX_LIMITS` are shown.
        """
        if rows == self._limits:
            return
        self._limits = list(rows)
        shown = self._limits[:MAX_LIMITS]
        values: list[t.Any] = []
        for name, *numbers in shown:
            values += (name.encode("utf-8", "replace")[:NAME_SIZE], *numbers)
        values += (b"", *[0] * (_LIMIT - 1)) * (MAX_LIMITS - len(shown))
        self._header.limits.write(len(shown), *values)

    def _saturate(self, now: float, saturated: bool) -> None:
        gauges = self.gauges
        if saturated and not gauges.saturated_since:
            gauges.saturated_since = now
        elif gauges.saturated_since and not saturated:
            self.saturated += now - gauges.saturated_since
            gauges.saturated_since = 0.0


class ExitedSums(t.NamedTuple):
    """The sums of all workers that have exited.

    :param version: It changes whenever the counters of one move.
    :param place: The place of the record that doesn't count any more, though it may
        not be cleared yet; see :meth:`is_in`.
    :param sums: Their counters.
    :param durations: Their histograms; whole if the version is still the same after
        they were read.
    """

    version: int
    place: int
    sums: Served
    durations: Durations

    def is_in(self, generation: int, slot: int) -> bool:
        """Whether this worker's counters are in the sums already."""
        return self.place == _place(generation, slot)


class Reader:
    """The observer's side.

    :param fd: The scoreboard.
    """

    def __init__(self, fd: int) -> None:
        self._header = _Header(fd, mmap.ACCESS_READ)

    def close(self) -> None:
        """Unmap the header."""
        self._header.close()

    def figures(self) -> Figures:
        """What the dispatcher wrote last."""
        _, values = self._header.figures.read()
        numbers = iter(values)
        phase = _PHASES[next(numbers)]
        places = islice(numbers, _PART * _GENERATIONS)
        parts = tuple(
            Part(number, _ROLES[role], bool(opened))
            for number, role, opened in zip(*[places] * _PART, strict=True)
            if number
        )
        gauges, counters = _GAUGES.figures(numbers), _COUNTERS.figures(numbers)
        return Figures(phase, parts, gauges, counters)

    def limits(self) -> tuple[LimitRow, ...]:
        """The limits of routes, as they were written last."""
        _, (count, *values) = self._header.limits.read()
        rows = zip(*[iter(values)] * _LIMIT, strict=True)
        return tuple(
            # A name may have been cut within a character.
            LimitRow(name.rstrip(b"\0").decode("utf-8", "ignore"), *numbers)
            for name, *numbers in islice(rows, count)
        )

    def exited(self) -> ExitedSums:
        """The sums of workers that have exited."""
        version, (place, copy, *numbers) = self._header.exited.read()
        spread = self._header.read_durations(copy)
        return ExitedSums(version, place, _SERVED.figures(iter(numbers)), spread)
