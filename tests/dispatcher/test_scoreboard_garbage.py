"""Garbage on the scoreboard, which every worker may write: it ends nobody else."""

from __future__ import annotations

import math
import mmap
import os
import socket
import struct
import typing as t
from collections.abc import Iterator
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.dispatcher.late import Late
from flask_prefork.dispatcher.policy import Policy
from flask_prefork.dispatcher.pool import Pool
from flask_prefork.dispatcher.watchdog import RequestWatchdog
from flask_prefork.dispatcher.workers import Workers
from flask_prefork.ipc import records
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.exits import AT_ONCE
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import Spawn
from flask_prefork.ipc.frames import Spawned
from flask_prefork.ipc.phase import Phase
from flask_prefork.ipc.scoreboard import Bank
from flask_prefork.ipc.states import Event
from flask_prefork.ipc.states import State
from flask_prefork.ipc.stats import Reader
from flask_prefork.ipc.stats import Summary
from flask_prefork.ipc.stats import Waiting
from flask_prefork.system.poller import Poller
from flask_prefork.system.running_clock import RunningClock

#: Monotonic seconds.
NOW = 1000.0
#: No check of a busy worker is later than that, in seconds.
SOON = 60.0

numbers = st.one_of(
    st.floats().map(lambda number: struct.pack("=d", number)),
    st.floats(0, 2 * NOW).map(lambda number: struct.pack("=d", number)),
    st.integers(0, 2**64 - 1).map(lambda number: struct.pack("=Q", number)),
    st.sampled_from([bytes(8), b"\xff" * 8, struct.pack("=d", math.nan)]),
)
#: The histograms, most of a record, are of numbers like the others.
rows = st.lists(numbers, min_size=100, max_size=100).map(
    lambda some: (b"".join(some) * (records.SIZE // 800 + 1))[: records.SIZE]
)


class World:
    """A dispatcher's part of one worker that is busy."""

    def __init__(self) -> None:
        self.now = NOW
        self.poller = Poller()
        self.board = scoreboard.create()
        self.bank = Bank(self.board, 1)
        self.summary = Summary(self.board)
        # No connection is parked here, and there are no permits.
        parked = t.cast(t.Any, SimpleNamespace(release_permit=lambda worker: None))
        clock = RunningClock(lambda: self.now, math.inf)
        self.workers = Workers(
            1, self.bank, self.poller, clock, parked, self._tell, self.summary
        )
        self.workers.pool = Pool(1)
        self.workers.watchdog = RequestWatchdog(5.0, 3.0, 4.0, 6.0)
        self.late = Late(self.workers, lambda: self.now)
        worker = self.workers.pool.spawn(NOW)
        assert worker is not None
        self.worker = worker
        self.workers.start(worker)
        frame = Spawned(1, worker.number, os.getpid())
        self.workers.spawned(frame, [], lambda pid, pidfd: None)
        self.workers.pool.report(worker, Event.IDLE, NOW)
        self.workers.pool.order(1, NOW)
        self.workers.pool.report(worker, Event.BUSY, NOW)
        self.workers.watchdog.watch(worker, NOW)

    def _tell(self, frame: Frame, fds: Sequence[int]) -> bool:
        if isinstance(frame, Spawn):
            self.process = socket.socket(fileno=os.dup(fds[0]))
        return True

    def scribble(self, row: bytes) -> None:
        with mmap.mmap(self.board, scoreboard.SIZE) as board:
            start = self.bank._record(self.worker.number)
            board[start : start + records.SIZE] = row

    def close(self) -> None:
        self.process.close()
        self.workers.close()
        self.summary.close()
        self.bank.close()
        os.close(self.board)
        self.poller.close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@given(st.lists(rows, min_size=1, max_size=3))
def test_what_a_worker_writes_ends_only_itself(garbage: list[bytes]) -> None:
    world = World()
    try:
        for row in garbage * 3:
            world.scribble(row)
            moment = world.late.deadline()
            if world.worker.state is not State.BUSY or moment is None:
                break
            assert world.now - SOON <= moment <= world.now + SOON, "never looked at"
            world.now = max(world.now, moment)
            world.late.step(world.now)
            dump = world.workers.dumps.deadline()
            if dump is not None:
                world.workers.dumps.step(dump)
            world.poller.wait(min(moment - world.now, 0.0))
        world.workers.kill(world.worker, AT_ONCE)
        world.workers.give_up(world.worker)
        assert world.workers.pool.counts[State.FREE] == 1
    finally:
        world.close()


@pytest.mark.parametrize("field", ["since", "began", "moved", "upgraded", "spent"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0, 1e308])
def test_what_is_no_time_is_none(world: World, field: str, number: float) -> None:
    words = {"since": 2, "began": 12, "moved": 13, "upgraded": 14, "spent": 15}
    row = bytearray(records.SIZE)
    struct.pack_into("=d", row, 8 * words[field], number)
    world.scribble(bytes(row))
    assert world.bank.read(world.worker.number) == records.Record()


def test_counts_stop_at_the_greatest_that_fits(world: World) -> None:
    """The sums of all that have died have no more room than each has."""
    row = bytearray(b"\xff" * records.SIZE)
    world.scribble(bytes(row))
    for _ in range(2):
        place = world.worker.number
        dead, spread = world.bank.read(place), world.bank.durations(place)
        with world.summary.exited(1, place, dead, spread, NOW):
            pass
    reader = Reader(world.board)
    _, _, sums, durations = reader.exited()
    assert sums.requests == sums.sent == 2**64 - 1
    for counts in durations:
        assert set(counts) == {2**64 - 1}
    reader.close()


@pytest.mark.parametrize("count", [2**64 - 1, 2**64 - 2, 2**63])
def test_the_dispatcher_can_write_whatever_has_become_of_its_header(
    world: World, count: int
) -> None:
    with mmap.mmap(world.board, scoreboard.SIZE) as board:
        struct.pack_into("=Q", board, 0, count)
    policy = Policy(1, 2, 1, 3, 1.0, NOW)
    reader = Reader(world.board)
    for waits in range(3):
        waiting = Waiting({"idle": waits})
        world.summary.write(NOW, Phase.SERVING, policy, 1, waiting, 0, [])
        assert reader.figures().gauges.max_idle == policy.max_idle
    reader.close()


@given(st.binary(min_size=8, max_size=8))
def test_states_that_are_none(letters: bytes) -> None:
    """Only the observer reads them."""
    world = World()
    try:
        with mmap.mmap(world.board, scoreboard.SIZE) as board:
            start = world.bank._states
            board[start : start + 8] = letters
        assert world.bank.states(8).encode("latin-1") == letters
    finally:
        world.close()
