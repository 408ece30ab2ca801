"""How far a run has come, and how long it may still take. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence

from results import Trial

LEAST = 0.5
"""Seconds that a trial takes at least, for starting and ending a server."""


def rotated(contenders: Sequence[str], number: int) -> list[str]:
    """The order of a round: each time another one comes first, so that none always
    finds the machine as its predecessor left it.
    """
    shift = number % max(1, len(contenders))
    return [*contenders[shift:], *contenders[:shift]]


def schedule(
    rounds: int, cases: Mapping[str, Sequence[str]], shared: str | None = None
) -> list[Trial]:
    """All trials of all rounds.

    :param cases: Who takes part in each case.
    :param shared: A case that all others of its round depend on: it comes first.
    """
    order = sorted(cases, key=lambda case: case != shared)
    return [
        Trial(number, case, contender)
        for number in range(rounds)
        for case in order
        for contender in rotated(cases[case], number)
    ]


class Progress:
    """Counts trials.

    :param expected: Seconds that each trial should take.
    :param later: Seconds that the suites after this one should take.
    """

    def __init__(self, expected: Mapping[Trial, float], later: float = 0.0) -> None:
        self._later = later
        self._left = {trial: max(cost, LEAST) for trial, cost in expected.items()}
        self._count = len(expected)
        self._expected = 0.0
        self._took = 0.0

    def done(self, trial: Trial, took: float | None = None) -> None:
        """A trial has ended.

        :param took: Seconds; ``None`` if it was there already.
        """
        cost = self._left.pop(trial)

        if took is not None:
            self._expected += cost
            self._took += took

    def remaining(self) -> float:
        """Seconds until the end, if all goes on as until now."""
        pace = self._took / self._expected if self._expected else 1.0
        return pace * sum(self._left.values())

    def line(self, trial: Trial) -> str:
        """What is about to be done."""
        position = self._count - len(self._left) + 1
        left = f"{duration(self.remaining())} left"

        if self._later:
            left += f", of all suites {duration(self.remaining() + self._later)}"

        return (
            f"[{position}/{self._count}, {left}]"
            f" round {trial.round + 1}, {trial.case}: {trial.contender}"
        )


def duration(seconds: float) -> str:
    """``1 h 05 min``, ``4 min``, or ``20 s``."""
    minutes = round(seconds / 60)

    if seconds < 90:
        return f"{seconds:.0f} s"

    if minutes < 60:
        return f"{minutes} min"

    return f"{minutes // 60} h {minutes % 60:02} min"
