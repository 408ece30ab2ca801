"""A time in which every request is stuck, for the app ``overload``."""

from __future__ import annotations

import concurrent.futures
import fcntl
import tempfile
import time
import typing as t

from openloop_process import open_loop
from overload import Answer

BEFORE = 2.0
"""Seconds of the load before the stall."""


class Stalled(t.NamedTuple):
    """What came of it, in seconds from the start of the load."""

    trace: list[Answer]
    begin: float
    end: float


def stall(
    port: int,
    rate: float,
    seconds: float,
    after: float,
    patience: float,
) -> Stalled:
    """Load a server, and stall it for a time.

    :param port: Of the loopback interface.
    :param rate: Requests a second.
    :param seconds: For so long it is stalled.
    :param after: Seconds that the load goes on then.
    :param patience: Seconds that a client waits.
    :raises LoadError: The load fails.
    """
    with (
        tempfile.NamedTemporaryFile(prefix="bench-stall-") as file,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        path = f"/?lock={file.name}"
        load = pool.submit(
            open_loop,
            *(port, rate, BEFORE + seconds + after, 1, patience),
            path=path,
            trace=True,
        )
        time.sleep(BEFORE)
        fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(seconds)
        fcntl.flock(file, fcntl.LOCK_UN)
        ended = time.perf_counter()
        report = load.result()

    # Both clocks are the machine's.
    end = ended - report["begin"]
    trace = [(due, took, how) for due, took, how in report["trace"]]
    return Stalled(trace, end - seconds, end)
