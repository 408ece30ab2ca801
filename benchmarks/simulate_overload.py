"""Overload at 1,000 workers, simulated: ``python benchmarks/simulate_overload.py``.

The classes that decide in the dispatcher, ``Shedding`` and ``Permits``, are run with
invented requests. No process is forked and no clock is read: the same seed gives the
same figures.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections.abc import Iterator
from collections.abc import Sequence

from overload import between
from overload import endings
from overload import goodput
from overload import quantile
from overload import recovery
from overload import REFUSED
from simulation import traffic
from simulation.overload import Ended
from simulation.overload import Overloaded
from simulation.overload import Request
from simulation.report import table

from flask_prefork.settings.limits import RouteLimit

SERVICE = 0.5
PATIENCE = 4.0
"""Seconds until a client leaves."""

TIMEOUTS = (0.0, 2.0)
"""The queue timeouts that are compared, in seconds."""

LOADS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
SECONDS = 30.0

BEFORE, STALL, AFTER = 5.0, 10.0, 30.0
STALL_LOAD = 0.75

FAST, SLOW = 0.02, 10.0
"""Seconds of a request of the fast and of the slow route."""

SLOW_LOAD = 1.5
"""Of what all workers together can do of the slow one."""

Rows = list[tuple[str, ...]]


def draw(
    rate: float, seconds: float, service: float, seed: int, limit: str = ""
) -> Iterator[Request]:
    """Requests of one route, by clients that know nothing of each other."""
    wanted = traffic.make(
        traffic.poisson(rate, seconds), traffic.exponential(service), seed
    )
    return (
        Request(arrived, took, limit)
        for arrived, took in zip(wanted.arrivals, wanted.services, strict=True)
    )


def _timeout(seconds: float) -> str:
    return f"{seconds:g}" if seconds else "never"


def loads(workers: int, seed: int, seconds: float = SECONDS) -> Rows:
    """Goodput by offered load, with and without a queue timeout."""
    capacity = workers / SERVICE
    rows = []

    for load in LOADS:
        for timeout in TIMEOUTS:
            server = Overloaded(workers, timeout)
            ended = server.run(draw(load * capacity, seconds, SERVICE, seed))
            trace = [one.answer(PATIENCE) for one in ended]
            rate = goodput(trace, seconds, PATIENCE)
            refused = [one.waited for one in ended if not one.served]
            counts = endings(trace)
            rows.append(
                (
                    f"{load:g}",
                    _timeout(timeout),
                    f"{rate / capacity:.2f}",
                    f"{counts.get(REFUSED, 0):,}",
                    f"{counts.get('timeout', 0):,}",
                    _waited(ended, 0.5),
                    _waited(ended, 0.99),
                    f"{max(refused):.2f}" if refused else "-",
                )
            )

    return rows


def _waited(ended: Sequence[Ended], part: float) -> str:
    return f"{quantile([one.waited for one in ended if one.served], part):.2f}"


def stalls(workers: int, seed: int) -> Rows:
    """A time in which all requests are stuck."""
    rate = STALL_LOAD * workers / SERVICE
    end = BEFORE + STALL
    rows = []

    for timeout in TIMEOUTS:
        server = Overloaded(workers, timeout, stall=(BEFORE, end))
        ended = server.run(draw(rate, end + AFTER, SERVICE, seed))
        trace = [one.answer(PATIENCE) for one in ended]
        counts = endings(between(trace, BEFORE, end))
        recovered = recovery(trace, end, PATIENCE)
        rows.append(
            (
                _timeout(timeout),
                "never" if recovered is None else f"{recovered:.2f}",
                f"{counts.get(REFUSED, 0):,}",
                f"{counts.get('timeout', 0):,}",
            )
        )

    return rows


def routes(workers: int, seed: int, seconds: float = SECONDS) -> Rows:
    """A fast route beside a slow one that is asked more than all workers can."""
    rows = []

    for concurrency in (None, workers // 2):
        slow = draw(SLOW_LOAD * workers / SLOW, seconds, SLOW, seed, "slow")
        fast = draw(workers / FAST / 10, seconds, FAST, seed + 1)
        limit = RouteLimit("slow", concurrency, None, 30.0)
        server = Overloaded(workers, 2.0, limits=[limit])
        ended = server.run(heapq.merge(fast, slow, key=lambda one: one.arrived))
        quick = [one for one in ended if not one.request.limit]
        others = [one for one in ended if one.request.limit]
        refused = sum(not one.served for one in quick)
        rows.append(
            (
                "none" if concurrency is None else f"{concurrency:,}",
                _waited(quick, 0.5),
                _waited(quick, 0.99),
                f"{refused:,} of {len(quick):,}",
                f"{server.most_running.get('slow', 0):,}" if concurrency else "-",
                f"{sum(one.served for one in others):,} of {len(others):,}",
            )
        )

    return rows


def report(workers: int, seed: int, seconds: float = SECONDS) -> str:
    """All tables."""
    parts = [
        f"{workers:,} workers, exponential service of {SERVICE:g} s, clients leave"
        f" after {PATIENCE:g} s; all times are seconds.\n",
        table(
            (
                "load",
                "queue timeout",
                "goodput",
                "told 503",
                "left",
                "waited, p50",
                "p99",
                "told after",
            ),
            loads(workers, seed, seconds),
        ),
        f"All requests are stuck for {STALL:g} s, at {STALL_LOAD:g} times the"
        " capacity:\n",
        table(
            ("queue timeout", "fresh served after", "told 503", "left"),
            stalls(workers, seed),
        ),
        f"A route of {FAST * 1e3:g} ms beside one of {SLOW:g} s that is asked"
        f" {SLOW_LOAD:g} times what all workers can:\n",
        table(
            (
                "limit",
                "fast waited, p50",
                "p99",
                "fast refused",
                "slow at once",
                "slow served",
            ),
            routes(workers, seed, seconds),
        ),
    ]
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    default = "(default: %(default)s)"
    add("--workers", type=int, default=1000, help=f"how many {default}")
    add("--seed", type=int, default=1, help=f"of all requests {default}")
    options = parser.parse_args()
    began = time.process_time()
    print(report(options.workers, options.seed))
    print(f"{time.process_time() - began:.0f} s of CPU time", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
