"""Workers that have ended: the app is told of each once, with all that is known."""

from __future__ import annotations

import signal

import pytest

from flask_prefork.ipc.states import Reason
from flask_prefork.zygote.unreported_exits import UnreportedExits

PID = 42


class World:
    """What the app was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, Reason, int | None]] = []
        self.unreported = UnreportedExits(lambda *news: self.told.append(news))


@pytest.fixture
def world(kills: list[int]) -> World:
    return World()


@pytest.mark.parametrize(
    ("killed", "may_be_retired", "status", "reason"),
    [
        ("", True, 0, Reason.RETIRED),
        ("", True, 3, Reason.EXIT),
        ("", True, -signal.SIGSEGV, Reason.SIGNAL),
        ("", True, None, Reason.RETIRED),
        ("graceful-timeout", True, -signal.SIGKILL, Reason.GRACEFUL_TIMEOUT),
        # It was faster.
        ("graceful-timeout", True, 0, Reason.RETIRED),
        ("timeout", False, -signal.SIGKILL, Reason.TIMEOUT),
        ("stop", False, 0, Reason.STOP),
        ("", False, 0, Reason.EXIT),
        ("", False, 9, Reason.EXIT),
        ("", False, -signal.SIGKILL, Reason.SIGNAL),
        ("", False, None, Reason.UNKNOWN),
    ],
)
def test_the_reason(
    world: World, killed: str, may_be_retired: bool, status: int | None, reason: Reason
) -> None:
    world.unreported.reaped(3, PID, status)
    assert not world.told, "the dispatcher knows more"
    world.unreported.tell([(3, PID, killed, may_be_retired)])
    assert world.told == [(3, PID, reason, status)]
    world.unreported.tell_rest()
    assert len(world.told) == 1


def test_out_of_memory(world: World, kills: list[int]) -> None:
    kills[0] += 1
    world.unreported.reaped(0, PID, -signal.SIGKILL)
    world.unreported.tell([(0, PID, "", False)])
    assert world.told == [(0, PID, Reason.MEMORY, -signal.SIGKILL)]


def test_one_that_not_even_kill_has_ended(world: World) -> None:
    world.unreported.tell([(0, PID, "timeout", False)])
    assert world.told == [(0, PID, Reason.TIMEOUT, None)]
    world.unreported.reaped(0, PID, -signal.SIGKILL)
    world.unreported.tell_rest()
    assert len(world.told) == 1
    # Another process may have its pid.
    world.unreported.reaped(0, PID, 0)
    world.unreported.tell([(0, PID, "", True)])
    assert world.told[1:] == [(0, PID, Reason.RETIRED, 0)]


def test_without_a_dispatcher(world: World) -> None:
    for slot, status in enumerate((0, 1, -signal.SIGKILL)):
        world.unreported.reaped(slot, PID + slot, status)
    world.unreported.tell_rest()
    assert world.told == [
        (0, PID, Reason.RETIRED, 0),
        (1, PID + 1, Reason.EXIT, 1),
        (2, PID + 2, Reason.SIGNAL, -signal.SIGKILL),
    ]
