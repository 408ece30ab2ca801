"""What clients got while a server was asked more than it can. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from openloop import OK

Answer = tuple[float, float, str]
"""When a request was to be sent, in seconds from the start; how many seconds later it
had ended, and how: :data:`.OK`, or an error's name. See :attr:`.Generator.trace`."""

REFUSED = "status 503"

WARM_UP = 1.0
"""Seconds until a queue is as long as it becomes, or about so."""

STREAK = 20
"""So many requests in a row that are answered show that a server has recovered."""


def goodput(trace: Sequence[Answer], seconds: float, patience: float) -> float:
    """Requests a second that were answered in time, after the warm-up.

    :param seconds: For so long requests were sent.
    :param patience: Seconds that a client waits.
    """
    begin = min(WARM_UP, seconds / 2)
    ends = [due + took for due, took, how in trace if how == OK and took <= patience]
    return sum(begin <= end < seconds for end in ends) / (seconds - begin)


def between(trace: Sequence[Answer], begin: float, end: float) -> list[Answer]:
    """The requests that were to be sent in this time, in this order."""
    return sorted(one for one in trace if begin <= one[0] < end)


def endings(trace: Sequence[Answer]) -> dict[str, int]:
    """How many have ended how."""
    return dict(Counter(how for _, _, how in trace))


def recovery(trace: Sequence[Answer], end: float, patience: float) -> float | None:
    """Seconds from the end of a stall until fresh requests are answered in time.

    :param end: When the stall had ended, in seconds from the start.
    :param patience: Seconds that a client waits.
    :return: ``None`` if that wasn't seen.
    """
    streak: list[float] = []

    for due, took, how in between(trace, end, math.inf):
        if how != OK or took > patience:
            streak = []
            continue

        streak.append(due - end)

        if len(streak) == STREAK:
            return streak[0]

    return None


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """How many of these were running at the same time, at most.

    :param spans: When each has begun and ended.
    """
    # Who ends when another begins isn't beside it.
    changes = sorted(
        [(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans]
    )
    most = running = 0

    for _, change in changes:
        running += change
        most = max(most, running)

    return most


def quantile(values: Sequence[float], part: float) -> float:
    """The value that this part of all is at or below; infinite if there is none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else math.inf
