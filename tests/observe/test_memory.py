"""How often workers' memory is looked at, and what the system says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flask_prefork.observe import memory
from flask_prefork.observe.memory import PssSampler


class World:
    """Processes that have memory, and a clock that reading it moves.

    :ivar sizes: By pid; ``None`` for those that can't be read.
    :ivar takes: How long a look takes.
    :ivar read: The pids that were looked at since the last step.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.sizes: dict[int, int | None] = {}
        self.takes = 0.0
        self.read: list[int] = []
        self.memory = PssSampler(self._read, lambda: self.now)

    def _read(self, pid: int) -> int | None:
        self.now += self.takes
        self.read.append(pid)
        return self.sizes[pid]

    def step(self, seconds: float = 1.0) -> list[int]:
        """Look after so many seconds.

        :return: Who was looked at.
        """
        self.now += seconds
        self.read = []
        self.memory.step([0, *self.sizes])
        return self.read


@pytest.fixture
def world() -> World:
    return World()


def test_each_is_looked_at_now_and_then(world: World) -> None:
    world.sizes = {1: 1000, 2: 2000}
    assert world.step() == [1, 2]
    assert world.memory.known == {1: 1000, 2: 2000}
    world.sizes[1] = 1500
    assert [world.step() for _ in range(4)] == [[]] * 4
    assert world.memory.known[1] == 1000
    assert world.step() == [1, 2]
    assert world.memory.known[1] == 1500


def test_who_is_new_is_looked_at_at_once(world: World) -> None:
    world.sizes = {1: 1000}
    world.step()
    world.sizes[2] = 2000
    assert world.step() == [2]


def test_who_is_gone_is_forgotten(world: World) -> None:
    world.sizes = {1: 1000, 2: 2000}
    world.step()
    del world.sizes[1]
    world.step()
    assert world.memory.known == {2: 2000}


def test_what_cant_be_read_any_more(world: World) -> None:
    world.sizes = {1: 1000, 2: 2000}
    world.step()
    world.sizes[1] = None
    world.step(10)
    assert world.memory.known == {2: 2000}


def test_slow_looks_are_rare_and_reach_all(world: World) -> None:
    world.sizes = dict.fromkeys(range(1, 11), 1000)
    world.takes = 0.2
    begun = world.now
    seen: list[int] = []
    while len(world.memory.known) < 10:
        looked = world.step()
        assert len(looked) <= 1
        seen += looked
    assert sorted(seen) == list(range(1, 11)), "nobody twice before all others"
    spent = len(seen) * world.takes
    assert spent <= 0.06 * (world.now - begun)


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(),
    reason="only Linux tells (proc_pid_smaps_rollup(5))",
)
def test_our_own() -> None:
    size = memory.pss(os.getpid())
    assert size is not None
    assert 1 << 20 < size < 1 << 40


def test_nobodys() -> None:
    assert memory.pss(2**22 + 1) is None
