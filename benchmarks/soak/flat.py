"""What processes hold whenever the server is at rest, and whether that grows."""

from __future__ import annotations

import statistics
import typing as t
from collections.abc import Sequence

import psutil  # type: ignore[import-untyped]
import smaps


class Holding(t.NamedTuple):
    """What a process holds.

    :param rss: Resident memory, in KiB.
    :param pss: Its share of what is shared, and what it has for itself, in KiB.
    """

    rss: int
    pss: int
    descriptors: int
    threads: int


SLACK = Holding(3 * 1024, 2**62, 3, 1)
"""Growth that is none: the allocator's, and what is counted a moment later. How much of
its memory a process shares depends on the others, so its share is only shown."""


def hold(process: psutil.Process) -> Holding | None:
    """What it holds now, ``None`` if it has ended."""
    try:
        memory = smaps.read(process.pid)
        return Holding(
            process.memory_info().rss // 1024,
            memory.pss if memory else 0,
            process.num_fds(),
            process.num_threads(),
        )
    except psutil.Error:
        return None


def thirds(samples: Sequence[Holding]) -> tuple[Holding, Holding]:
    """The medians of the first and of the last third. There is at least one sample."""
    count = max(1, len(samples) // 3)
    first, last = samples[:count], samples[-count:]
    return _median(first), _median(last)


def _median(samples: Sequence[Holding]) -> Holding:
    columns = zip(*samples, strict=True)
    return Holding(*(round(statistics.median(column)) for column in columns))


def growth(samples: Sequence[Holding]) -> list[str]:
    """What has grown from the first third to the last."""
    first, last = thirds(samples)
    return [
        f"{name} {before} to {after}"
        for name, before, after, slack in zip(
            Holding._fields, first, last, SLACK, strict=True
        )
        if after > before + slack
    ]
