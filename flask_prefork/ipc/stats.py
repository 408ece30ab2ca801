"""The scoreboard's header: what the dispatcher tells of the server as a whole.

The dispatcher counts in a :class:`Summary` and writes it once a turn; the observer
reads it by a :class:`Reader`. Nobody locks or waits, even for a dispatcher that was
stopped in the middle of writing: each block is there twice, and a number says which
of the two is whole.

Workers count for themselves, in their records. When one is dead, what it has
counted moves from its record into the header, in a way that every reader finds it
in exactly one of the two. So sums of both never go down, and never jump.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import typing as t
from bisect import bisect_left
from collections.abc import Iterable
from collections.abc import Iterator

from ..settings.table import MAX_SLOTS
from .exits import Reason
from .phase import Phase
from .records import BOUNDS
from .records import CLASSES
from .records import Record
from .scoreboard import HEADER_SIZE
from .scoreboard import SIZE

_PHASES = tuple(Phase)
_REASONS = tuple(Reason)
Role = t.Literal["current", "next", "retiring"]
_ROLES: tuple[Role, ...] = ("current", "next", "retiring")
#: So many generations are told of: the current one, the next one, and those
#: that retire and still have workers.
_GENERATIONS = 4
#: A write is so much shorter than a turn that a second try is rare.
_TRIES = 100
_NOBODY = -1
#: The greatest number of a word.
_MOST = 2**64 - 1


class Part(t.NamedTuple):
    """A generation's part in the server.

    :param number: The generation's.
    :param role: What it is at present.
    :param opened: Whether its half of the scoreboard is its own already.
    """

    number: int
    role: Role
    opened: bool


class Bounds(t.Protocol):
    """What is told of the pool's size: :class:`~.policy.Policy`."""

    min_idle: int
    max_idle: int
    max_workers: int
    #: Bytes that zygotes and workers have, and that they may have.
    memory: int
    budget: int

    @property
    def saturated(self) -> bool:
        """Whether more workers are wanted than allowed."""


class Figures(t.NamedTuple):
    """What the dispatcher tells. Times are monotonic seconds.

    :param phase: Where the server is in its life.
    :param min_idle: The bounds of the pool, as they are now.
    :param max_idle: See ``min_idle``.
    :param max_workers: See ``min_idle``.
    :param saturated_since: Since when more workers are wanted than allowed; 0 if
        they aren't.
    :param saturated: Seconds of that, before it began last.
    :param idle_at: When a worker was idle, as far as is known; 0 is never.
    :param waits: Parked connections, now.
    :param orders: Workers ordered to accept.
    :param resumed: Parked connections handed to workers.
    :param parked: Connections that workers handed back.
    :param spawned: Workers started.
    :param reloads: Generations that took over from another.
    :param ended: Workers that ended, by reason.
    :param memory: Bytes that zygotes and workers have, as far as it was looked at.
    :param budget: Bytes that they may have; 0 is no limit.
    :param shortages: How often that was reached.
    :param parts: The generations.
    """

    phase: Phase
    min_idle: int
    max_idle: int
    max_workers: int
    saturated_since: float
    saturated: float
    idle_at: float
    waits: int
    orders: int
    resumed: int
    parked: int
    spawned: int
    reloads: int
    ended: t.Mapping[Reason, int]
    memory: int
    budget: int
    shortages: int
    parts: tuple[Part, ...]


class Sums(t.NamedTuple):
    """What several workers have counted, see :class:`.records.Record`."""

    requests: int = 0
    connections: int = 0
    sent: int = 0
    classes: tuple[int, ...] = (0,) * CLASSES
    spent: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)

    def plus(self, record: Record) -> Sums:
        """These and a worker's; none gets greater than its place on the scoreboard."""
        return Sums(
            min(self.requests + record.requests, _MOST),
            min(self.connections + record.connections, _MOST),
            min(self.sent + record.sent, _MOST),
            _add(self.classes, record.classes),
            self.spent + record.spent,
            _add(self.buckets, record.buckets),
        )


def _add(one: Iterable[int], other: Iterable[int]) -> tuple[int, ...]:
    return tuple(min(a + b, _MOST) for a, b in zip(one, other, strict=True))


def last_words(record: Record, now: float) -> Record:
    """A dead worker's record, with the request that died with it.

    It counts as one that got no response, and took until now: whoever looks for
    errors, or for what takes long, should find it. A connection that the app had taken
    over counts as if it had ended by itself.
    """
    if not record.began:
        return record
    spent = max((record.upgraded or now) - record.began, 0.0)
    classes, buckets = list(record.classes), list(record.buckets)
    classes[1 if record.upgraded else 0] += 1
    buckets[bisect_left(BOUNDS, spent)] += 1
    return record._replace(
        requests=record.requests + 1,
        classes=tuple(classes),
        spent=record.spent + spent,
        buckets=tuple(buckets),
    )


# Where all that is in the header


class _Block:
    """Numbers of one writer, there twice: while one is written the other is whole.

    :param board: The scoreboard.
    :param start: Where the block is, a multiple of eight.
    :param layout: What the numbers are.
    """

    def __init__(self, board: mmap.mmap, start: int, layout: struct.Struct) -> None:
        self._board = board
        self._layout = layout
        # How often it was written: a word, which nobody sees half of. The copy
        # that is whole is the one of its parity.
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
        count = self._count[0] + 1 & _MOST
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


_FIGURES = struct.Struct(f"=B3IdddI5Q{len(_REASONS)}Q3Q" + "IBB" * _GENERATIONS)
_DEPARTED = struct.Struct(f"=q3Q{CLASSES}Qd{len(BOUNDS) + 1}Q")
_DEPARTED_START = _Block.size(_FIGURES)
assert _DEPARTED_START + _Block.size(_DEPARTED) <= HEADER_SIZE


def _place(generation: int, slot: int) -> int:
    """A worker's place among those of both banks."""
    return generation % 2 * MAX_SLOTS + slot


class _Header:
    """The mapping with its two blocks."""

    def __init__(self, fd: int, access: int) -> None:
        self._map = mmap.mmap(fd, SIZE, access=access)
        self._figures = _Block(self._map, 0, _FIGURES)
        self._departed = _Block(self._map, _DEPARTED_START, _DEPARTED)

    def close(self) -> None:
        """Unmap it."""
        self._figures.release()
        self._departed.release()
        self._map.close()


class Summary(_Header):
    """The dispatcher's side.

    :param fd: The scoreboard.

    :ivar orders: See :class:`Figures`.
    :ivar resumed: See :class:`Figures`.
    :ivar parked: See :class:`Figures`.
    :ivar spawned: See :class:`Figures`.
    :ivar shortages: See :class:`Figures`.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, mmap.ACCESS_WRITE)
        self.orders = 0
        self.resumed = 0
        self.parked = 0
        self.spawned = 0
        self.shortages = 0
        self._ended = dict.fromkeys(_REASONS, 0)
        self._sums = Sums()
        self._was_idle = False
        self._idle_at = 0.0
        self._saturated_since = 0.0
        self._saturated = 0.0

    def ended(self, reason: Reason | None) -> None:
        """A worker has ended, and this is why; ``None`` if that was told before."""
        if reason is not None:
            self._ended[reason] += 1

    @contextlib.contextmanager
    def departing(
        self, generation: int, slot: int, record: Record, now: float
    ) -> Iterator[None]:
        """Take over what a dead worker has counted; meanwhile, clear its record.

        :param generation: The worker's.
        :param slot: The worker's.
        :param record: What is about to be cleared.
        """
        self._sums = self._sums.plus(last_words(record, now))
        self._depart(_place(generation, slot))
        yield
        self._depart(_NOBODY)

    def _depart(self, place: int) -> None:
        sums = self._sums
        self._departed.write(
            place,
            sums.requests,
            sums.connections,
            sums.sent,
            *sums.classes,
            sums.spent,
            *sums.buckets,
        )

    def write(
        self,
        now: float,
        phase: Phase,
        policy: Bounds,
        idle: int,
        waits: int,
        reloads: int,
        parts: t.Sequence[Part],
    ) -> None:
        """Show how things are, at the end of a turn.

        :param policy: The current generation's.
        :param idle: How many of its workers are idle.

        See :class:`Figures` for the others.
        """
        if idle or self._was_idle:
            self._idle_at = now
            self._was_idle = bool(idle)
        self._saturate(now, policy.saturated and phase is Phase.SERVING)
        places: list[int] = []
        for number, role, opened in parts[:_GENERATIONS]:
            places += (number, _ROLES.index(role), opened)
        places += [0] * (3 * _GENERATIONS - len(places))
        self._figures.write(
            _PHASES.index(phase),
            policy.min_idle,
            policy.max_idle,
            policy.max_workers,
            self._saturated_since,
            self._saturated,
            self._idle_at,
            waits,
            self.orders,
            self.resumed,
            self.parked,
            self.spawned,
            reloads,
            *self._ended.values(),
            policy.memory,
            policy.budget,
            self.shortages,
            *places,
        )

    def _saturate(self, now: float, saturated: bool) -> None:
        if saturated and not self._saturated_since:
            self._saturated_since = now
        elif self._saturated_since and not saturated:
            self._saturated += now - self._saturated_since
            self._saturated_since = 0.0


class ExitedSums(t.NamedTuple):
    """What the dead have counted.

    :param version: Another number whenever one departs.
    :param place: Whose record counts no more, though it may still be there; see
        :meth:`is_in`.
    :param sums: All that they have counted.
    """

    version: int
    place: int
    sums: Sums

    def is_in(self, generation: int, slot: int) -> bool:
        """Whether what this worker's record says is in the sums already."""
        return self.place == _place(generation, slot)


class Reader(_Header):
    """The observer's side.

    :param fd: The scoreboard.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, mmap.ACCESS_READ)

    def figures(self) -> Figures:
        """What the dispatcher told last."""
        _, values = self._figures.read()
        rest = 13 + len(_REASONS)
        counts, memory, places = (
            values[13:rest],
            values[rest : rest + 3],
            values[rest + 3 :],
        )
        parts = tuple(
            Part(number, _ROLES[role], bool(opened))
            for number, role, opened in zip(*[iter(places)] * 3, strict=True)
            if number
        )
        ended = dict(zip(_REASONS, counts, strict=True))
        return Figures._make((_PHASES[values[0]], *values[1:13], ended, *memory, parts))

    def departed(self) -> ExitedSums:
        """What the dead have counted."""
        version, values = self._departed.read()
        place, requests, connections, sent, *rest = values
        classes, spent, buckets = rest[:CLASSES], rest[CLASSES], rest[CLASSES + 1 :]
        sums = Sums(requests, connections, sent, tuple(classes), spent, tuple(buckets))
        return ExitedSums(version, place, sums)
