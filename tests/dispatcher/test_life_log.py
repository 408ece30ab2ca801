"""What is logged of the server's life."""

from __future__ import annotations

import logging

import pytest

from flask_prefork.dispatcher.life_log import LifeLog


class World:
    """A life log with a clock that is set by hand."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 100.0
        self._caplog = caplog
        self.log = LifeLog(lambda: self.now)

    def messages(self) -> list[str]:
        """What was logged since the last call."""
        found = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return found


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.DEBUG, "flask_prefork")
    return World(caplog)


def test_a_drain_is_timed(world: World) -> None:
    world.now += 10
    world.log.stops("SIGTERM")
    # With --drain-delay it begins later.
    world.now += 5
    world.log.drains(2, 1, 30.0)
    assert world.messages() == [
        "Draining for 30 s at most; requests being served: 2, connections waiting: 1."
    ]
    world.now += 2.5
    # A second signal isn't why it stops.
    world.log.stops("SIGINT")
    world.log.ended(0)
    assert world.messages() == [
        "Stopped after 17.5 s, exit status 0; the reason: SIGTERM."
        " The drain took 2.5 s."
    ]


def test_a_stop_without_a_drain(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.log.stops("no worker became ready")
    world.now += 0.5
    world.log.ended(1)
    assert caplog.records[-1].levelname == "ERROR"
    assert world.messages() == [
        "Stopped after 0.5 s, exit status 1; the reason: no worker became ready."
        " The stop took 0.5 s."
    ]


def test_parking_is_told_once_a_second(world: World) -> None:
    world.log.parking(0, 0, 0)
    assert world.messages() == []
    world.log.parking(3, 1, 2)
    for _ in range(100):
        world.now += 0.005
        world.log.parking(5, 2, 3)
    assert world.messages() == [
        "Connections parked since the last such line: 3, resumed: 1; parked now: 2."
    ]
    world.now += 1
    world.log.parking(5, 2, 3)
    world.log.parking(5, 2, 3)
    assert world.messages() == [
        "Connections parked since the last such line: 2, resumed: 1; parked now: 3."
    ]
