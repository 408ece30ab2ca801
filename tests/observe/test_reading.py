"""Snapshots of a scoreboard that this test writes."""

from __future__ import annotations

import contextlib
import os
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.dispatcher.policy import Memory
from flask_prefork.dispatcher.policy import Policy
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.figures import PARKED_STATES
from flask_prefork.ipc.growth import Grown
from flask_prefork.ipc.phase import Phase
from flask_prefork.ipc.records import RecordWriter
from flask_prefork.ipc.scoreboard import Bank
from flask_prefork.ipc.states import Reason
from flask_prefork.ipc.stats import ExitedSums
from flask_prefork.ipc.stats import Part
from flask_prefork.ipc.stats import Reader
from flask_prefork.ipc.stats import Summary
from flask_prefork.ipc.stats import Waiting
from flask_prefork.observe.reading import About
from flask_prefork.observe.reading import Board
from flask_prefork.observe.reading import Circumstances
from flask_prefork.observe.reading import READY_WITHIN
from flask_prefork.observe.reading import take
from flask_prefork.observe.snapshot import Snapshot

ABOUT = About(7, 100.0, ("http://127.0.0.1:5000",), "1.2")


class World:
    """A dispatcher and its workers, as far as they write to the scoreboard.

    :ivar now: The time.
    :ivar banks: Those of generations 1 and 2.
    """

    def __init__(self) -> None:
        self.fd = scoreboard.create()
        self.summary = Summary(self.fd)
        self.banks = {number: Bank(self.fd, number) for number in (1, 2)}
        self.board = Board(self.fd)
        self.policy = Policy(2, 4, 2, 8, 10.0, 0.0)
        self.entries: dict[tuple[int, int], RecordWriter] = {}
        self.now = 150.0

    def worker(
        self, generation: int, slot: int, letter: str, since: float
    ) -> RecordWriter:
        """Have a worker in a slot."""
        bank = self.banks[generation]
        bank.clear(slot)
        bank.set_state(slot, letter)
        entry = self.entries[generation, slot] = bank.entry(slot)
        entry.enter(1000 * generation + slot, generation, since)
        return entry

    def serve(
        self, entry: RecordWriter, began: float, ended: float, status: int
    ) -> None:
        entry.accept()
        entry.begin(began, "GET", "/")
        entry.end(ended, status, 100)

    def depart(self, generation: int, slot: int) -> None:
        """A worker is dead."""
        bank = self.banks[generation]
        record, spread = bank.read(slot), bank.durations(slot)
        with self.summary.exited(generation, slot, record, spread, self.now):
            bank.clear(slot)

    def turn(self, *parts: Part, **more: t.Any) -> None:
        """End the dispatcher's turn."""
        said: dict[str, t.Any] = {
            "phase": Phase.SERVING,
            "idle": 1,
            "waiting": Waiting({}),
            "reloads": 0,
        }
        self.summary.write(
            self.now,
            policy=self.policy,
            parts=parts or (Part(1, "current", True),),
            **(said | more),
        )

    def snapshot(self, **more: t.Any) -> Snapshot:
        said: dict[str, t.Any] = {
            "responsive": True,
            "queue": 0,
            "queue_limit": 0,
            "pss": {},
            "history": (),
        }
        around = Circumstances(now=self.now, **(said | more))
        return take(self.board.look(), ABOUT, around)

    def close(self) -> None:
        for entry in self.entries.values():
            entry.release()
        self.board.close()
        self.summary.close()
        for bank in self.banks.values():
            bank.close()
        os.close(self.fd)


@pytest.fixture
def world() -> Iterator[World]:
    with contextlib.closing(World()) as world:
        yield world


def test_a_look(world: World) -> None:
    busy = world.worker(1, 0, "B", 120.0)
    world.serve(busy, 130.0, 131.0, 200)
    busy.begin(140.0, "POST", "/form?x=1")
    busy.move(147.0)
    busy.grow(Grown(54321, 3, "GET /leak"))
    world.worker(1, 2, "I", 125.0)
    parked = {**dict.fromkeys(PARKED_STATES, 0), "idle": 1, "body": 2}
    world.turn(waiting=Waiting(parked, spooled=70_000, delivering=4))
    snapshot = world.snapshot(queue=5, queue_limit=64, pss={1000: 12345})
    assert (snapshot.pid, snapshot.version, snapshot.uptime) == (7, "1.2", 50.0)
    assert snapshot.addresses == ("http://127.0.0.1:5000",)
    assert (snapshot.phase, snapshot.ready) == ("serving", True)
    assert (snapshot.queue, snapshot.queue_limit, snapshot.parked) == (5, 64, 3)
    assert snapshot.parked_by_state == parked
    assert (snapshot.spooled, snapshot.delivering) == (70_000, 4)
    (generation,) = snapshot.generations
    assert (generation.number, generation.role) == (1, "current")
    assert generation.letters == "B.I"
    first, third = generation.workers
    assert (first.slot, first.state, first.pid, first.age) == (0, "B", 1000, 30.0)
    assert (first.method, first.target) == ("POST", "/form?x=1")
    assert (first.busy_for, first.silent_for) == (10.0, 3.0)
    assert (first.requests, first.pss) == (1, 12345)
    assert (first.grown, first.grown_by) == (54321, "GET /leak")
    assert (third.slot, third.state, third.pss) == (2, "I", None)
    assert (third.grown, third.grown_by) == (0, "")
    assert (third.busy_for, third.silent_for, third.method) == (None, None, "")
    assert snapshot.totals.requests == 1
    assert snapshot.totals.classes == (0, 0, 1, 0, 0, 0)


def test_who_is_busy(world: World) -> None:
    """Also who was ordered to accept, but not who ends after a request."""
    for slot, (letter, serves) in enumerate(["B1", "O0", "R1", "R0", "K1", "I0", "S0"]):
        worker = world.worker(1, slot, letter, 120.0)
        if int(serves):
            worker.begin(140.0, "GET", "/")
    world.turn()
    assert world.board.look().busy == 2
    assert world.board.pids() == [*range(1000, 1007)]


def test_a_worker_that_is_just_forked(world: World) -> None:
    world.banks[1].set_state(0, "S")
    world.turn()
    (worker,) = world.snapshot().workers
    assert (worker.state, worker.pid, worker.age) == ("S", 0, 0.0)


def test_generations_during_a_reload(world: World) -> None:
    world.worker(1, 0, "B", 120.0)
    world.worker(2, 0, "S", 149.0)
    world.turn(Part(1, "current", True), Part(2, "next", True))
    roles = {g.number: (g.role, g.letters) for g in world.snapshot().generations}
    assert roles == {1: ("current", "B"), 2: ("next", "S")}
    world.turn(Part(2, "current", True), Part(1, "retiring", True))
    assert [g.number for g in world.snapshot().generations] == [2, 1]


def test_one_that_loads_has_none_of_anothers_workers(world: World) -> None:
    """Generation 3 waits for the place of generation 1, which drains."""
    world.worker(1, 0, "R", 120.0)
    world.worker(2, 0, "I", 130.0)
    world.turn(
        Part(2, "current", True), Part(3, "next", False), Part(1, "retiring", True)
    )
    letters = {g.number: g.letters for g in world.snapshot().generations}
    assert letters == {2: "I", 3: "", 1: "R"}
    assert len(world.snapshot().workers) == 2


def test_counters_outlive_workers(world: World) -> None:
    world.turn()
    for number in range(1, 31):
        entry = world.worker(1, number % 3, "B", 120.0)
        world.serve(entry, 130.0, 130.002, 200)
        assert world.snapshot().totals.requests == number
        world.depart(1, number % 3)
        totals = world.snapshot().totals
        assert totals.requests == sum(totals.buckets) == number
        assert totals.sent == 100 * number


def test_a_death_in_the_middle_of_a_look(world: World) -> None:
    """Whenever the dead worker's record is cleared, it counts exactly once."""
    world.turn()
    for slot in range(4):
        world.serve(world.worker(1, slot, "B", 120.0), 130.0, 130.5, 200)
    dying = iter([0, 1, 2, 3])

    class Slow(Reader):
        """While it looks, a worker dies."""

        def figures(self) -> t.Any:
            if (slot := next(dying, None)) is not None:
                world.depart(1, slot)
            return super().figures()

    board = world.board
    board._header.close()
    board._header = Slow(world.fd)
    assert board.look().sums.requests == 4
    assert board.look().sums.requests == 4
    assert board.look().workers == 0


def test_deaths_that_never_pause(world: World) -> None:
    """The last look that was whole is better than one that counts twice."""
    world.turn()
    world.serve(world.worker(1, 0, "B", 120.0), 130.0, 130.5, 200)
    whole = world.board.look()

    class Restless(Reader):
        turns = 0

        def exited(self) -> ExitedSums:
            self.turns += 1
            return super().exited()._replace(version=self.turns)

    world.board._header.close()
    world.board._header = Restless(world.fd)
    assert world.board.look() == whole


def test_reasons_of_deaths(world: World) -> None:
    for reason in (Reason.RETIRED, Reason.RETIRED, Reason.MEMORY):
        world.summary.count_exit(reason)
    world.turn()
    totals = world.snapshot().totals
    assert totals.retired == 2
    assert {word: count for word, count in totals.deaths.items() if count} == {
        "memory": 1
    }
    assert set(totals.deaths) == {r.value for r in Reason} - {"retired"}, "all, always"


def test_memory(world: World) -> None:
    world.policy = Policy(2, 4, 2, 8, 10.0, 0.0, budget=700)
    world.policy.grow(150.0, idle=9, starting=0, total=9, memory=Memory(300))
    world.summary.shortages = 2
    world.turn()
    snapshot = world.snapshot()
    assert (snapshot.memory, snapshot.memory_budget) == (300, 700)
    assert snapshot.totals.shortages == 2


def test_saturated_seconds_go_on(world: World) -> None:
    world.policy.grow(150.0, idle=0, starting=0, total=8, waiting=9)
    world.turn(idle=0)
    world.now = 153.0
    snapshot = world.snapshot()
    assert snapshot.saturated
    assert snapshot.totals.saturated == 3.0
    world.policy.grow(154.0, idle=3, starting=0, total=8)
    world.now = 154.0
    world.turn()
    world.now = 160.0
    snapshot = world.snapshot()
    assert not snapshot.saturated
    assert snapshot.totals.saturated == 4.0


# Readiness


@pytest.mark.parametrize("phase", [p for p in Phase if p is not Phase.SERVING])
def test_only_who_serves_is_ready(world: World, phase: Phase) -> None:
    world.worker(1, 0, "I", 120.0)
    world.turn(phase=phase)
    snapshot = world.snapshot()
    assert (snapshot.ready, snapshot.phase) == (False, phase.value)


def test_a_dispatcher_that_doesnt_answer_is_not_ready(world: World) -> None:
    world.worker(1, 0, "I", 120.0)
    world.turn()
    assert world.snapshot().ready
    assert not world.snapshot(responsive=False).ready


def test_ready_means_idle_of_late(world: World) -> None:
    world.worker(1, 0, "I", 120.0)
    world.turn()
    # Nothing happens for an hour.
    world.now += 3600.0
    assert world.snapshot().ready
    world.banks[1].set_state(0, "B")
    world.turn(idle=0)
    world.now += READY_WITHIN
    assert world.snapshot().ready
    world.now += 0.1
    assert not world.snapshot().ready


def test_nobody_is_left(world: World) -> None:
    """Then nobody is ready, and after some seconds the server isn't alive."""
    world.worker(1, 0, "I", 120.0)
    world.turn()
    world.banks[1].clear(0)
    world.banks[1].set_state(1, "S")
    world.turn(idle=0)
    assert not world.snapshot().ready
    assert world.snapshot().staffed
    world.now += READY_WITHIN + 0.1
    assert not world.snapshot().staffed
    world.turn(idle=0, phase=Phase.DRAINING)
    assert world.snapshot().staffed, "nobody needs to be there any more"
    world.banks[1].set_state(1, "B")
    world.turn(idle=0)
    assert world.snapshot().staffed


def test_one_that_comes_is_not_ready(world: World) -> None:
    """What counts is who is ordered."""
    world.worker(1, 0, "B", 120.0)
    world.worker(2, 0, "I", 149.0)
    world.turn(Part(1, "current", True), Part(2, "next", True), idle=0)
    assert not world.snapshot().ready


def test_nobody_was_ever_idle(world: World) -> None:
    world.now = 1.0
    world.worker(1, 0, "S", 0.5)
    world.turn(idle=0)
    assert not world.snapshot().ready


def test_the_observer_can_only_look(world: World) -> None:
    with pytest.raises(TypeError):
        world.board._banks[0].set_state(0, "I")
