"""A process that is stopped anywhere, and judges nobody for that time."""

from __future__ import annotations

import pytest

from flask_prefork.dispatcher.loop import Dispatcher
from flask_prefork.ipc.phase import Phase
from flask_prefork.system.pause_detector import PauseDetector

STOP = 10.0
#: Longer than a turn, and shorter or longer than the stop.
TIMEOUTS = [1.0, 100.0]
TURNS = 4


class Time:
    """A clock that goes on by a millisecond with each look, and once by a stop."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.now = 100.0
        self.looks = 0
        self.stop_before = stop_before

    def __call__(self) -> float:
        self.now += STOP if self.looks == self.stop_before else 0.001
        self.looks += 1
        return self.now


def test_a_lap_of_its_time_was_not_stopped() -> None:
    stopwatch = PauseDetector(time := Time())
    time.now += 0.05
    assert stopwatch.lap() == 0
    time.now += 2.05
    assert stopwatch.lap(2.0) == 0
    time.now += 1000
    assert stopwatch.lap(None) == 0


@pytest.mark.parametrize("allowed", [-1.0, 0.0, 2.0])
def test_a_longer_lap_was_stopped(allowed: float) -> None:
    stopwatch = PauseDetector(time := Time())
    time.now += 3.0
    assert stopwatch.lap(allowed) == pytest.approx(3.0, abs=0.01)
    assert stopwatch.now == time.now
    assert stopwatch.lap(0.0) == 0


class Turning(Dispatcher):
    """The dispatcher's loop, around one worker that has its time.

    :ivar polled: Before which looks at the clock it was in the poll: a stop there may
        not be told from a wait.
    """

    phase = Phase.SERVING  # type: ignore[assignment]

    def __init__(self, time: Time, timeout: float) -> None:
        self.clock = self.time = time
        self.status = 0
        self.poller = self  # type: ignore[assignment]
        self.turns = 0
        self.deadline = time.now + timeout
        self.pardoned = 0.0
        self.polled: set[int] = set()
        self.judged: list[float] = []

    def _reap(self) -> None:
        """There are no processes."""

    def _patience(self) -> float | None:
        return self.deadline - self.clock()

    def wait(self, seconds: float | None) -> list[object]:
        """Something happens at once; then the time is looked at once more."""
        self.polled.add(self.time.looks)
        return [self.clock]

    def _pardon(self, seconds: float) -> None:
        self.deadline += seconds
        self.pardoned += seconds

    def _turn(self, now: float) -> None:
        self.judged.append(self.deadline - now)
        self.clock()
        self.turns += 1
        if self.turns == TURNS:
            self.phase = Phase.STOPPED

    def _clean_up(self) -> None:
        """There is nothing."""


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_the_loop_pardons_a_stop_before_any_look_at_the_clock(timeout: float) -> None:
    time = Time()
    Turning(time, timeout).run()
    assert time.looks > 3 * TURNS
    last = time.looks - 1  # in the last turn, after which nobody is judged
    for look in range(1, last):
        loop = Turning(Time(stop_before=look), timeout)
        assert loop.run() == 0
        assert min(loop.judged) > 0, f"stopped before look {look}"
        if look not in loop.polled:
            assert loop.pardoned >= STOP, f"stopped before look {look}"
        elif timeout > STOP:
            assert loop.pardoned == 0
