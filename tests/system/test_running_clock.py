"""A clock that stands still while the process is stopped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.system.running_clock import RunningClock


class Machine:
    """The machine's clock."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_goes_on() -> None:
    clock = RunningClock(machine := Machine())
    assert clock() == 100.0
    machine.now += 0.05
    assert clock() == 100.05
    for seconds, took in ((2.0, 2.05), (None, 1000.0)):
        before = clock()
        clock.allow(seconds)
        machine.now += took
        assert clock() == pytest.approx(before + took)


@pytest.mark.parametrize("allowed", [-1.0, 0.0, 2.0])
def test_it_stands_still_while_the_process_is_stopped(allowed: float) -> None:
    clock = RunningClock(machine := Machine())
    clock.allow(allowed)
    machine.now += 3.0
    ran = max(allowed, 0.0) + 0.1
    assert clock() == pytest.approx(100.0 + ran)
    machine.now += 0.05
    assert clock() == pytest.approx(100.05 + ran)
    machine.now += 3.0
    assert clock() == pytest.approx(100.15 + ran), "a wait is allowed once"


def test_waits_that_end_late_are_no_less_than_what_was_allowed() -> None:
    clock = RunningClock(machine := Machine())
    for _ in range(10):
        clock.allow(6.0)
        machine.now += 6.5
        clock()
    assert clock() >= 160.0, "a deadline comes on a busy machine too"


def test_a_stop_before_a_wait_is_none_of_the_wait() -> None:
    clock = RunningClock(machine := Machine())
    machine.now += 3.0
    clock.allow(5.0)
    machine.now += 1.0
    assert clock() == pytest.approx(101.1)


def test_other_processes_times() -> None:
    clock = RunningClock(machine := Machine())
    clock.allow(10.0)
    machine.now += 10.0
    clock()
    machine.now += 50.0
    clock()
    clock.allow(10.0)
    machine.now += 10.0
    assert clock() == pytest.approx(120.1)
    # It ran until 110.1 and from 160.
    for moment, expected in ((105.0, 105.0), (160.0, 110.1), (165.0, 115.1)):
        assert clock.at(moment) == pytest.approx(expected)
    assert clock.at(130.0) == pytest.approx(110.1), "it was stopped then"
    assert clock.machine_at(clock() + 5) == pytest.approx(machine.now + 5)
    assert clock.at(machine.now + 5) == pytest.approx(clock() + 5)


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), max_size=20))
def test_it_never_goes_back_nor_faster(steps: list[tuple[float, float]]) -> None:
    clock = RunningClock(machine := Machine())
    last, since = clock(), machine.now
    for allowed, took in steps:
        clock.allow(allowed)
        machine.now += took
        now = clock()
        assert last - 1e-9 <= now <= last + machine.now - since + 1e-9
        last, since = now, machine.now
        assert clock.at(machine.now) == pytest.approx(now)


def test_pauses_without_end() -> None:
    clock = RunningClock(machine := Machine())
    for _ in range(200):
        machine.now += 1000.0
        clock()
    assert clock() == pytest.approx(120.0), "a deadline comes"
    # Only so many pauses are remembered: what is older seems older than it is.
    assert clock.at(100.0) < 100.0
