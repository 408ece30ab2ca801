"""Check what clients get under overload: ``python benchmarks/overload_check.py``.

Our own server only. Three times the capacity is sent to four workers; all workers are
stuck for ten seconds; two limited routes are asked more than they may. What came of it
is shown beside what is asked of it. The status is 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import http.client
import math
import sys
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path

from apps import SLOW_LIMITS
from openloop import OK
from openloop_process import open_loop
from overload import Answer
from overload import between
from overload import endings
from overload import goodput
from overload import most_at_once
from overload import quantile
from overload import REFUSED
from overload import WARM_UP
from process import free_port
from process import Running
from servers import SERVERS
from servers import Setup
from stall import stall

SERVICE = 0.05
"""Seconds of a request of the app."""

WORKERS = 4
TIMES = 3
LOAD_TIMEOUT = 0.5
"""The queue timeout at three times the capacity, in seconds."""

PATIENCE = 1.0
"""Seconds until a client leaves."""

LEAST_GOODPUT = 0.9
"""Of the capacity."""

STALL_RATE = 60
STALL_TIMEOUT = 1.0
"""The queue timeout in a stall, in seconds."""

STALL_PATIENCE = 5.0
"""Seconds: these clients wait to be told."""

TOLD = STALL_TIMEOUT + 0.5
"""Seconds in which who waits in a stall is told 503."""

RECOVERED = 1.5
"""Seconds after a stall from which on all are served."""

AFTER = 6.0
LIMIT_WORKERS = 6
SLOW = 6
"""Requests of each slow route."""

FAST_RATE = 50
MOST_P99 = 0.2
"""Seconds of the fast route."""

LIMIT_SECONDS = 6.0


class Fact(t.NamedTuple):
    """A figure, and whether it is as it should be."""

    text: str
    good: bool


@contextlib.contextmanager
def serving(workers: int, *words: str) -> Iterator[int]:
    """Our server with as many workers, no more.

    :return: Its port.
    """
    setup = Setup(
        python=Path(sys.executable),
        port=free_port(),
        workers=workers,
        app="overload",
        keep_alive=False,
        options=words,
    )

    command = SERVERS["prefork-ordered"].command(setup)

    with Running(command, setup.port) as running:
        running.settle()
        yield setup.port


# Three times the capacity


def check_load(seconds: float) -> list[Fact]:
    """Four workers are asked three times what they can."""
    capacity = WORKERS / SERVICE

    with serving(WORKERS, "--queue-timeout", f"{LOAD_TIMEOUT:g}") as port:
        report = open_loop(
            *(port, TIMES * capacity, seconds, 1, PATIENCE),
            trace=True,
        )

    return evaluate_load(report["trace"], seconds, capacity)


def evaluate_load(
    trace: Sequence[Answer], seconds: float, capacity: float
) -> list[Fact]:
    rate = goodput(trace, seconds, PATIENCE)
    seen = endings(between(trace, WARM_UP, seconds))
    served, refused = seen.pop(OK, 0), seen.pop(REFUSED, 0)
    return [
        Fact(
            f"goodput {rate:.1f}/s of {capacity:g}/s (at least {LEAST_GOODPUT:g} of"
            f" it), {TIMES * capacity:g}/s sent for {seconds:g} s",
            rate >= LEAST_GOODPUT * capacity,
        ),
        Fact(
            f"of those after {WARM_UP:g} s: {served} served, {refused} told 503,"
            f" others: {_words(seen)}",
            refused > 0 and not seen,
        ),
    ]


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {how}" for how, n in counts.items()) or "none"


# A stall


def check_stall(seconds: float) -> list[Fact]:
    """All workers are stuck for a time."""
    with serving(WORKERS, "--queue-timeout", f"{STALL_TIMEOUT:g}") as port:
        found = stall(port, STALL_RATE, seconds, AFTER, STALL_PATIENCE)

    return evaluate_stall(found.trace, found.begin, found.end)


def evaluate_stall(trace: Sequence[Answer], begin: float, end: float) -> list[Fact]:
    # Those that the workers have are served at its end, and so is who is fresh then.
    meanwhile = between(trace, begin + SERVICE, end - STALL_TIMEOUT)
    told = [took for _, took, how in meanwhile if how == REFUSED]
    stuck = len(meanwhile) - len(told)
    fresh = between(trace, end + RECOVERED, math.inf)
    late = [one for one in fresh if one[2] != OK or one[1] > PATIENCE]
    latest = max((took for _, took, _ in fresh), default=math.inf)
    return [
        Fact(
            f"{len(told)} of {len(meanwhile)} in the stall told 503, {stuck} not (at"
            f" most {WORKERS}, which the workers have)",
            bool(told) and stuck <= WORKERS,
        ),
        Fact(
            f"told after {max(told, default=math.inf):.2f} s at most ({TOLD:g} s)",
            bool(told) and max(told) <= TOLD,
        ),
        Fact(
            f"from {RECOVERED:g} s after it: {len(fresh) - len(late)} of {len(fresh)}"
            f" served within {PATIENCE:g} s, the slowest {latest:.2f} s",
            bool(fresh) and not late,
        ),
    ]


# Limits of routes


Span = tuple[float, float]


def _ask_slow(port: int, name: str, seconds: float) -> Span | None:
    """When the app began and ended; ``None`` if it wasn't asked."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    try:
        connection.request("GET", f"/{name}?seconds={seconds:.3f}")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()

    if response.status != 200:
        return None

    begin, end = map(float, body.split())
    return begin, end


def check_limits(seconds: float) -> list[Fact]:
    """Two limited routes are asked more than they may, beside a fast one."""
    count = len(SLOW_LIMITS) * SLOW

    with (
        serving(LIMIT_WORKERS) as port,
        concurrent.futures.ThreadPoolExecutor(count + 1) as pool,
    ):
        fast = pool.submit(
            open_loop, *(port, FAST_RATE, seconds, 1), path="/fast", trace=True
        )
        spans = {
            # From 1 to 1.5 s.
            name: [
                pool.submit(_ask_slow, port, name, 1 + 0.5 * number / (SLOW - 1))
                for number in range(SLOW)
            ]
            for name in SLOW_LIMITS
        }
        return evaluate_limits(
            fast.result()["trace"],
            {name: [one.result() for one in asked] for name, asked in spans.items()},
        )


def evaluate_limits(
    trace: Sequence[Answer], spans: dict[str, list[Span | None]]
) -> list[Fact]:
    p99 = quantile([took if how == OK else math.inf for _, took, how in trace], 0.99)
    asked = sum(map(len, spans.values()))
    answered = {
        name: [one for one in found if one is not None] for name, found in spans.items()
    }
    served = sum(map(len, answered.values()))
    most = {name: most_at_once(found) for name, found in answered.items()}
    shown = ", ".join(f"{most[name]} of {name} ({SLOW_LIMITS[name]})" for name in most)
    return [
        Fact(
            f"p99 of the fast route {p99 * 1e3:.1f} ms (under {MOST_P99 * 1e3:g} ms),"
            f" {len(trace)} requests",
            p99 < MOST_P99,
        ),
        Fact(f"{served} of {asked} slow requests answered", served == asked),
        Fact(
            f"at once at most {shown}",
            all(most[name] <= SLOW_LIMITS[name] for name in most),
        ),
    ]


CHECKS: dict[str, tuple[Callable[[float], list[Fact]], float]] = {
    "load": (check_load, 10.0),
    "stall": (check_stall, 10.0),
    "limits": (check_limits, LIMIT_SECONDS),
}
"""Each, and its seconds."""


def lines(name: str, facts: Sequence[Fact]) -> list[str]:
    """What is shown of a check."""
    return [f"{name:7} {'OK' if one.good else 'FAILED':6} {one.text}" for one in facts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = ", ".join(CHECKS)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {names} (all)")
    options = parser.parse_args()
    unknown = set(options.checks) - set(CHECKS)

    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; choose from {names}")

    passed = True

    with contextlib.suppress(KeyboardInterrupt):
        for name, (check, seconds) in CHECKS.items():
            if options.checks and name not in options.checks:
                continue

            facts = check(seconds)
            passed &= all(one.good for one in facts)
            print("\n".join(lines(name, facts)), flush=True)

    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
