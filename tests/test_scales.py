"""When a worker looks at its own memory."""

from __future__ import annotations

import pytest

from flask_prefork import scales
from flask_prefork.channel import Frame
from flask_prefork.channel import Kind
from flask_prefork.scales import INTERVAL
from flask_prefork.scales import PART
from flask_prefork.scales import Scales
from flask_prefork.settings import resolve


class World:
    """A clock, which a look moves, and a process with memory.

    :ivar takes: The work that a look is, in seconds.
    :ivar interrupted: For how long others have the processor meanwhile.
    :ivar waited: For how long it was waited for something to do.
    """

    def __init__(self) -> None:
        self.now = 50.0
        self.takes = 0.0
        self.interrupted = 0.0
        self.worked = 0.0
        self.own = 7 * 2**20
        self.looks = 0
        self.waited: list[float] = []
        self.scales = Scales(self._read, lambda: self.now, lambda: self.worked)

    def _read(self) -> int:
        self.looks += 1
        self.now += self.takes + self.interrupted
        self.worked += self.takes
        return self.own

    def _is_quiet(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self.now += seconds
        return True

    def look(self) -> Frame:
        return self.scales.frame(3, 5)

    def is_due(self) -> bool:
        return self.scales.is_due(self._is_quiet)


@pytest.fixture
def world() -> World:
    return World()


def test_what_is_told(world: World) -> None:
    assert world.look() == Frame(Kind.WEIGHED, 3, 5, 7 * 1024)
    world.scales.served(world.now)
    world.own = 2**60
    assert world.look() == Frame(Kind.WEIGHED, 3, 5, 2**32 - 1, flags=1)


def test_the_fork_and_the_first_request_are_looked_at_at_once(world: World) -> None:
    assert world.is_due()
    assert world.waited == [0.0]
    assert world.scales.served(world.now)


def test_later_requests_wait_for_their_time(world: World) -> None:
    world.look()
    assert not world.scales.served(world.now + INTERVAL / 2)
    assert world.scales.served(world.now + INTERVAL)


def test_who_is_idle_looks_once_and_sleeps_on(world: World) -> None:
    world.look()
    world.now += INTERVAL / 4
    world.scales.served(world.now)
    assert world.is_due()
    assert world.waited == [INTERVAL * 3 / 4]
    world.look()
    assert not world.is_due()
    assert world.waited == [INTERVAL * 3 / 4]
    world.scales.served(world.now)
    assert world.is_due()


def test_who_has_something_to_do_does_not_look(world: World) -> None:
    assert not world.scales.is_due(lambda seconds: False)
    # There is still something to tell.
    assert world.is_due()


def test_all_looks_together_take_a_small_part_of_the_time(world: World) -> None:
    world.takes = 0.1
    end = world.now + 1000
    while world.now < end:
        if world.scales.served(world.now):
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
    assert (scales.of(resolve(settings)) is not None) == are


def test_a_look_that_is_interrupted_puts_off_no_other(world: World) -> None:
    world.interrupted = 0.1
    world.look()
    assert not world.scales.served(world.now + INTERVAL / 2)
    assert world.scales.served(world.now + INTERVAL)
