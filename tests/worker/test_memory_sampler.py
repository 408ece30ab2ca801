"""When a worker looks at its own memory."""

from __future__ import annotations

import math
import typing as t

import pytest

from flask_prefork.ipc.frames import MemoryUse
from flask_prefork.ipc.growth import Grown
from flask_prefork.settings.table import resolve
from flask_prefork.worker import memory_sampler
from flask_prefork.worker.memory_sampler import INTERVAL
from flask_prefork.worker.memory_sampler import LEAST
from flask_prefork.worker.memory_sampler import MemorySampler
from flask_prefork.worker.memory_sampler import PART

MIB = 2**20


class World:
    """A clock, which a look moves, and a process with memory.

    :ivar resident: What is read cheaply.
    :ivar takes: The work that a look is, in seconds.
    :ivar interrupted: For how long others have the processor meanwhile.
    :ivar waited: For how long it was waited for something to do.
    """

    def __init__(self) -> None:
        self.now = 50.0
        self.takes = 0.0
        self.interrupted = 0.0
        self.worked = 0.0
        self.own = 7 * MIB
        self.looks = 0
        self.waited: list[float] = []
        self.resident = 100 * MIB
        self.sampler = self.make()

    def make(self, limit: int = 0, step: int = 0) -> MemorySampler:
        return MemorySampler(
            limit,
            step,
            self._read,
            lambda: self.resident,
            lambda: self.now,
            lambda: self.worked,
        )

    def _read(self) -> int:
        self.looks += 1
        self.now += self.takes + self.interrupted
        self.worked += self.takes
        return self.own

    def _is_quiet(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self.now += seconds
        return True

    def look(self) -> MemoryUse:
        return self.sampler.frame(3, 5)

    def is_due(self) -> bool:
        return self.sampler.is_due(self._is_quiet)


@pytest.fixture
def world() -> World:
    return World()


def test_what_is_told(world: World) -> None:
    assert world.look() == MemoryUse(3, 5, 7 * 1024, False)
    world.sampler.served(world.now)
    world.own = 2**60
    world.now += INTERVAL
    assert world.look() == MemoryUse(3, 5, 2**32 - 1, True)


def test_the_fork_is_looked_at_at_once_and_the_first_request_told(world: World) -> None:
    assert world.is_due()
    assert world.waited == [0.0]
    assert not world.look().has_served
    world.resident += MIB
    assert world.sampler.served(world.now)
    # Without a look, so soon after the other.
    assert world.look() == MemoryUse(3, 5, 8 * 1024, True)
    assert world.looks == 1


def test_later_requests_wait_for_their_time(world: World) -> None:
    world.sampler.served(world.now)
    world.look()
    assert not world.sampler.served(world.now + INTERVAL / 2)
    assert world.sampler.served(world.now + INTERVAL)


def test_who_is_idle_looks_once_and_sleeps_on(world: World) -> None:
    world.look()
    world.now += INTERVAL / 4
    world.sampler.served(world.now)
    assert world.is_due()
    assert world.waited == [INTERVAL * 3 / 4]
    world.look()
    assert not world.is_due()
    assert world.waited == [INTERVAL * 3 / 4]
    world.sampler.served(world.now)
    assert world.is_due()


def test_no_sample_while_there_is_something_to_do(world: World) -> None:
    assert not world.sampler.is_due(lambda seconds: False)
    # There is still something to tell.
    assert world.is_due()


def test_all_looks_together_take_a_small_part_of_the_time(world: World) -> None:
    world.takes = 0.1
    end = world.now + 1000
    while world.now < end:
        if world.sampler.served(world.now):
            world.look()
        world.now += 0.01
    assert 10 < world.looks <= 1000 * PART / world.takes


@pytest.mark.parametrize(
    ("settings", "are"),
    [
        ({}, False),
        ({"max_worker_memory": "0", "memory_budget": "0"}, False),
        ({"max_worker_memory": "200M"}, True),
        ({"memory_budget": "1G"}, True),
    ],
)
def test_who_has_scales(settings: dict[str, str], are: bool) -> None:
    assert (memory_sampler.of(resolve(settings)) is not None) == are


def test_a_look_that_is_interrupted_puts_off_no_other(world: World) -> None:
    world.interrupted = 0.1
    world.sampler.served(world.now)
    world.look()
    assert not world.sampler.served(world.now + INTERVAL / 2)
    assert world.sampler.served(world.now + INTERVAL)


# Growth


def grow(world: World, size: int, looks: bool) -> bool:
    """Let a request leave so many bytes.

    :param looks: Whether there should be a look for it.
    :return: Whether there was something to tell.
    """
    world.resident += size
    world.own += size
    before = world.looks
    world.sampler.begin("GET", "/leak?page=1")
    due = world.sampler.served(world.now)
    if due:
        sent = world.look()
        assert sent.size * 1024 == world.own
    assert (world.looks > before) is looks
    return due


def test_who_may_be_above_its_limit_looks_at_once(world: World) -> None:
    world.sampler = world.make(limit=20 * MIB)
    world.sampler.served(world.now)
    world.look()
    assert not grow(world, 12 * MIB, looks=False)
    assert not world.sampler.is_over
    assert grow(world, 2 * MIB, looks=True)
    assert world.sampler.is_over
    # Again when it is above it by a quarter, and so on.
    assert not grow(world, 3 * MIB, looks=False)
    assert grow(world, 2 * MIB, looks=True)
    assert not grow(world, 6 * MIB, looks=False)
    assert grow(world, MIB, looks=True)


def test_who_has_given_it_back_is_not_above_its_limit(world: World) -> None:
    world.sampler = world.make(limit=20 * MIB)
    world.look()
    assert grow(world, 15 * MIB, looks=True)
    assert world.sampler.is_over
    world.now += INTERVAL
    assert grow(world, -10 * MIB, looks=True)
    assert not world.sampler.is_over


def test_what_others_have_too_is_not_above_the_limit(world: World) -> None:
    """The cheap figure says so, the exact one doesn't, and isn't asked all the time."""
    world.sampler = world.make(limit=20 * MIB)
    world.sampler.served(world.now)
    world.look()
    world.resident += 14 * MIB
    assert world.sampler.served(world.now)
    assert world.look().size == 7 * 1024
    assert not world.sampler.is_over
    assert not world.sampler.served(world.now)
    world.own = 20 * MIB - 1
    world.now += INTERVAL
    world.look()
    # The kernel's figures are a little off.
    assert not grow(world, LEAST // 2, looks=False)


def test_a_new_worker_is_never_above_its_limit(world: World) -> None:
    world.sampler = world.make(limit=MIB)
    world.look()
    assert not world.sampler.is_over
    world.sampler.served(world.now + INTERVAL)
    world.now += INTERVAL
    world.look()
    assert world.sampler.is_over


def test_growth_is_reported_without_a_sample(world: World) -> None:
    world.sampler = world.make(step=5 * MIB)
    world.sampler.served(world.now)
    world.look()
    assert not grow(world, 4 * MIB, looks=False)
    assert grow(world, MIB, looks=False)
    assert not grow(world, 4 * MIB, looks=False)
    assert grow(world, 7 * MIB, looks=False)
    # What a look has found is what it counts from.
    world.own = 3 * MIB
    world.now += INTERVAL
    world.look()
    assert not grow(world, 4 * MIB, looks=False)
    assert grow(world, MIB, looks=False)


def test_without_settings_for_it_growth_is_not_told(world: World) -> None:
    world.sampler.served(world.now)
    world.look()
    assert not grow(world, 2**40, looks=False)


def test_who_has_grown_it(world: World) -> None:
    assert world.sampler.growth.most() == Grown()
    grow(world, 3 * MIB, looks=True)
    grow(world, 2 * MIB, looks=False)
    world.sampler.begin("POST", "/")
    world.resident += 4 * MIB
    world.sampler.served(world.now)
    assert world.sampler.growth.most() == Grown(5 * MIB, 2, "GET /leak")


@pytest.mark.parametrize(
    ("settings", "step"),
    [
        ({"memory_budget": "1G", "max_workers": 16}, 8 * MIB),
        ({"memory_budget": "1G", "max_workers": 1000}, LEAST),
        ({"max_worker_memory": "20M"}, math.inf),
    ],
)
def test_how_much_is_told_at_once(settings: dict[str, t.Any], step: float) -> None:
    """All together may have grown by an eighth of the budget without a word."""
    made = memory_sampler.of(resolve(settings))
    assert made is not None
    assert made._step == step
    made.close()
