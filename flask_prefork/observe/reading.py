"""From shared memory to a :class:`~.snapshot.Snapshot`.

The observer process reads by a :class:`Board`; :func:`take` makes a snapshot of what
it saw, and is pure.
"""

from __future__ import annotations

import mmap
import typing as t
from collections.abc import Mapping

from ..ipc import durations
from ..ipc.durations import Durations
from ..ipc.figures import add
from ..ipc.figures import GAUGES
from ..ipc.figures import LimitRow
from ..ipc.figures import Served
from ..ipc.phase import Phase
from ..ipc.records import Record
from ..ipc.scoreboard import Bank
from ..ipc.states import State
from ..ipc.stats import ExitedSums
from ..ipc.stats import Figures
from ..ipc.stats import Reader
from ..settings.table import MAX_SLOTS
from .snapshot import GenerationView
from .snapshot import LimitView
from .snapshot import PoolSample
from .snapshot import Quantiles
from .snapshot import Snapshot
from .snapshot import Totals
from .snapshot import WorkerView

#: A server is ready if a worker was idle within so many seconds.
READY_WITHIN = 5.0
#: The dispatcher's gauges that a snapshot has as they are.
_SHOWN = [name for name, spec in GAUGES.items() if spec.metric]
#: How often to look again if a worker has died meanwhile.
_TRIES = 20
_FREE = State.FREE.value
_AT_WORK = State.ORDERED.value + State.BUSY.value
#: Of workers that new requests may go to.
_SERVING = State.IDLE.value + _AT_WORK


class Look(t.NamedTuple):
    """What is in shared memory at one moment.

    :param figures: The dispatcher's.
    :param letters: A letter for each slot of a generation of even number, and of
        one of odd number.
    :param records: Their workers' records, by slot.
    :param sums: What all workers have counted, the dead included.
    :param durations: Their histograms.
    :param limits: The limits of routes.
    """

    figures: Figures
    letters: tuple[str, str]
    records: tuple[Mapping[int, Record], Mapping[int, Record]]
    sums: Served
    durations: Durations
    limits: tuple[LimitRow, ...] = ()

    def count(self, letters: str) -> int:
        """How many workers are in the states of these letters."""
        return sum(line.count(one) for line in self.letters for one in letters)

    @property
    def ready(self) -> int:
        """Parked connections that wait for a worker."""
        return self.figures.gauges.parked_by_state["ready"]

    @property
    def workers(self) -> int:
        """How many there are."""
        return sum(map(len, self.records))

    @property
    def busy(self) -> int:
        """How many serve, or are about to; without those that retire after it."""
        return self.count(_AT_WORK)


class Board:
    """The scoreboard, to be looked at only.

    :param fd: Its descriptor.
    """

    def __init__(self, fd: int) -> None:
        self._header = Reader(fd)
        self._banks = tuple(Bank(fd, parity, mmap.ACCESS_READ) for parity in (0, 1))
        self._last: Look | None = None

    def close(self) -> None:
        """Unmap it."""
        self._header.close()
        for bank in self._banks:
            bank.close()

    def pids(self) -> list[int]:
        """The workers' processes, as they tell them."""
        found = (records.values() for _, records in map(self._lines, self._banks))
        return [record.pid for records in found for record in records]

    def look(self) -> Look:
        """What is there now, with sums that never go down."""
        for _ in range(_TRIES):
            exited = self._header.exited()
            look = self._look(exited)
            if self._header.exited().version == exited.version:
                self._last = look
                return look
        # Workers die so fast that nobody can count them.
        return self._last or look

    def _look(self, exited: ExitedSums) -> Look:
        even, odd = (self._lines(bank) for bank in self._banks)
        served, counted = exited.sums, [exited.durations]
        for parity, (_, records) in enumerate((even, odd)):
            for slot, record in records.items():
                if not exited.is_in(parity, slot):
                    served = add(served, record)
                    counted.append(self._banks[parity].durations(slot))
        return Look(
            self._header.figures(),
            (even[0], odd[0]),
            (even[1], odd[1]),
            served,
            durations.total(counted),
            self._header.limits(),
        )

    def _lines(self, bank: Bank) -> tuple[str, dict[int, Record]]:
        letters = bank.states(MAX_SLOTS).replace("\0", _FREE).rstrip(_FREE)
        used = (slot for slot, letter in enumerate(letters) if letter != _FREE)
        return letters, {slot: bank.read(slot) for slot in used}


class About(t.NamedTuple):
    """What doesn't change while the server lives.

    :param pid: The dispatcher's process.
    :param begun: When it was started, in monotonic seconds.
    :param addresses: What it serves on, as URLs.
    :param version: This package's.
    """

    pid: int
    begun: float
    addresses: tuple[str, ...]
    version: str


class Circumstances(t.NamedTuple):
    """What isn't in shared memory.

    :param now: Monotonic seconds.
    :param responsive: Whether the dispatcher answers.
    :param queue: Connections in all accept queues.
    :param queue_limit: How many fit in; 0 if that can't be told.
    :param pss: Bytes of memory, by pid.
    :param history: Earlier moments.
    :param latency: Of the last minute.
    :param queue_time: Of the last minute.
    """

    now: float
    responsive: bool
    queue: int
    queue_limit: int
    pss: Mapping[int, int]
    history: tuple[PoolSample, ...]
    latency: Quantiles = Quantiles()
    queue_time: Quantiles = Quantiles()


def take(look: Look, about: About, around: Circumstances) -> Snapshot:
    """Make a snapshot."""
    figures, now = look.figures, around.now
    gauges = {name: getattr(figures.gauges, name) for name in _SHOWN}
    return Snapshot(
        pid=about.pid,
        version=about.version,
        uptime=now - about.begun,
        phase=figures.phase.value,
        responsive=around.responsive,
        staffed=_is_staffed(look, around),
        ready=_is_ready(look, around),
        addresses=about.addresses,
        generations=_generations(look, around),
        saturated=figures.gauges.saturated_since > 0,
        queue=around.queue,
        queue_limit=around.queue_limit,
        waiting=around.queue + look.ready,
        totals=_totals(look, now),
        parked=sum(figures.gauges.parked_by_state.values()),
        history=around.history,
        limits=tuple(LimitView(*row) for row in look.limits),
        latency=around.latency,
        queue_time=around.queue_time,
        **gauges,
    )


def _is_staffed(look: Look, around: Circumstances) -> bool:
    """Whether there is a worker, or was in the last seconds, while there should be."""
    if look.figures.phase is not Phase.SERVING or _present(look, _SERVING):
        return True
    return _was_idle(look, around)


def _is_ready(look: Look, around: Circumstances) -> bool:
    if look.figures.phase is not Phase.SERVING or not around.responsive:
        return False
    # The dispatcher tells when it last saw one, which may be long ago for no other
    # reason than that nothing has happened since.
    if _present(look, State.IDLE.value):
        return True
    return _present(look, _SERVING) and _was_idle(look, around)


def _present(look: Look, letters: str) -> bool:
    """Whether a worker of the current generation is in one of these states."""
    current = look.figures.parts[0] if look.figures.parts else None
    if current is None:
        return False
    return any(letter in look.letters[current.number % 2] for letter in letters)


def _was_idle(look: Look, around: Circumstances) -> bool:
    idle_at = look.figures.gauges.idle_at
    return idle_at > 0 and around.now - idle_at <= READY_WITHIN


def _generations(look: Look, around: Circumstances) -> tuple[GenerationView, ...]:
    views = []
    for number, role, opened in look.figures.parts:
        # While it isn't its own, that half is a generation's that leaves.
        letters = look.letters[number % 2] if opened else ""
        records = look.records[number % 2] if opened else {}
        workers = tuple(
            _worker(
                slot,
                letters[slot],
                # Its own, or what the worker finds that is just starting.
                record if record.generation == number else Record(),
                around,
            )
            for slot, record in records.items()
        )
        views.append(GenerationView(number, role, letters, workers))
    return tuple(views)


def _worker(
    slot: int, letter: str, record: Record, around: Circumstances
) -> WorkerView:
    now, busy = around.now, record.began > 0
    return WorkerView(
        slot=slot,
        state=letter,
        pid=record.pid,
        age=max(now - record.since, 0.0) if record.pid else 0.0,
        requests=record.requests,
        connections=record.connections,
        method=record.method,
        target=record.target,
        busy_for=max(now - record.began, 0.0) if busy else None,
        silent_for=max(now - max(record.began, record.moved), 0.0) if busy else None,
        pss=around.pss.get(record.pid),
        grown=record.grown.size,
        grown_by=record.grown.line,
        upgraded=record.upgraded > 0,
    )


def _totals(look: Look, now: float) -> Totals:
    _, _, gauges, counters = look.figures
    totals = Totals(
        **vars(look.sums),
        **vars(counters),
        buckets=durations.conventional(look.durations.latencies),
        queue_buckets=durations.conventional(look.durations.queue_times),
    )
    if gauges.saturated_since:
        totals.saturated += max(now - gauges.saturated_since, 0.0)
    return totals
