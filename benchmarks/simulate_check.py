"""The simulation against the real server: the same arrivals, the same figures?

``python benchmarks/simulate.py --check`` runs it. ``flask prefork-run`` serves an app
that waits for 50 ms, and connections come at the times of the simulated case. Their
waiting times, and the size of the pool over time, are compared with the simulation.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
import time
import typing as t
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from openloop import Generator
from process import free_port
from process import Running
from process import StartError
from servers import Setup
from simulation import traffic
from simulation.engine import Account
from simulation.engine import Machine
from simulation.engine import World
from simulation.ours import Limits
from simulation.ours import Prefork
from simulation.report import table
from simulation.results import quantile

from flask_prefork.observe.json import parse

SERVICE = 0.05
"""What apps.py's ``wait`` waits."""

SECONDS = 12.0
MACHINE = Machine(fork=0.002, boot=0.008)
LIMITS = Limits(min_idle=3, max_workers=40)
IDLE_TIMEOUT = 2.0

LOOK = 0.05
"""Seconds between two looks at the pool."""

FIXED = 0.015
RELATIVE = 0.25
"""A real wait may be off by this many seconds, and by this part of the simulated one:
each request also costs some CPU time, and the machine does other things too."""

SIZE = 0.2
"""The mean number of workers may be off by this part."""


LATE = 0.02
"""Seconds: with more, in one of a hundred requests, the load wasn't what it was to be.
The last of many that come at once is a little late always."""


class Load(t.NamedTuple):
    """What clients and a look at the pool saw."""

    waits: list[float]
    lag: float
    """How late the load was, in one of a hundred requests."""

    errors: dict[str, int]
    sizes: list[tuple[float, int]]


def requests(seed: int) -> traffic.Traffic:
    """Few at first, then some at once now and then, as a page and its parts."""
    arrivals = traffic.bursts(30.0, 2.0, 40, SECONDS - 3)
    return traffic.make(arrivals, traffic.constant(SERVICE), seed)


def simulate(wanted: traffic.Traffic) -> Account:
    tail = SECONDS - wanted.arrivals[-1]
    return World(
        wanted, MACHINE, lambda world: Prefork(world, LIMITS, IDLE_TIMEOUT), tail
    ).run()


def send(port: int, moments: Sequence[float]) -> tuple[list[float], list[float], dict]:
    """Make the load, in a process of its own.

    :return: Latencies and lags in seconds, and failures by kind.
    """
    generator = Generator(port, moments, keep_alive=False, timeout=10.0)
    # A collection would come between a moment and its request.
    gc.disable()
    generator.run()
    latencies = [micros / 1e6 for micros in generator.latencies]
    return latencies, [micros / 1e6 for micros in generator.lags], generator.errors


def measure(wanted: traffic.Traffic) -> Load:
    """Start the server, send it all requests, look at it meanwhile.

    :raises StartError: It didn't come up.
    """
    port, admin = free_port(), free_port()
    setup = Setup(Path(sys.executable), port, LIMITS.min_idle, "wait", False)
    command = setup.flask(
        "prefork-run",
        *("--port", str(port), "--admin", str(admin), "--no-access-log"),
        *("--min-idle", str(LIMITS.min_idle)),
        *("--max-workers", str(LIMITS.max_workers)),
        *("--idle-timeout", str(IDLE_TIMEOUT)),
    )
    context = multiprocessing.get_context("spawn")
    with (
        Running(command, port),
        ProcessPoolExecutor(1, mp_context=context) as executor,
    ):
        executor.submit(gc.collect).result()  # it has started
        load = executor.submit(send, port, wanted.arrivals)
        sizes = watch(admin)
        latencies, lags, errors = load.result()
    waits = [latency - SERVICE for latency in latencies]
    return Load(waits, quantile(sorted(lags), 0.99), errors, sizes)


def watch(admin: int) -> list[tuple[float, int]]:
    """The number of workers every now and then, with the time since the start."""
    sizes = []
    begin = time.monotonic()
    while (now := time.monotonic() - begin) < SECONDS:
        url = f"http://127.0.0.1:{admin}/status.json"
        with urllib.request.urlopen(url, timeout=5) as response:
            snapshot = parse(response.read())
        sizes.append((now, len(snapshot.workers)))
        time.sleep(LOOK)
    return sizes


def size_at(sizes: Sequence[tuple[float, int]], moment: float) -> int:
    """How many workers there were at a moment."""
    return next(count for since, count in reversed(sizes) if since <= moment)


def compared(account: Account, load: Load) -> list[tuple[str, float, float, float]]:
    """Names, the simulated and the real value, and how far they may be apart."""
    simulated, real = sorted(account.waits), sorted(load.waits)
    rows = []
    for name, part in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("max", 1.0)):
        left, right = quantile(simulated, part), quantile(real, part)
        rows.append((f"wait, {name} (ms)", left, right, FIXED + RELATIVE * left))
    left, right = sum(simulated) / len(simulated), sum(real) / len(real)
    rows.append(("wait, mean (ms)", left, right, FIXED + RELATIVE * left))
    rows = [(n, *(1000 * value for value in values)) for n, *values in rows]
    counts = [count for _, count in load.sizes]
    same_moments = [size_at(account.sizes, moment) for moment, _ in load.sizes]
    left, right = (sum(c) / len(c) for c in (same_moments, counts))
    rows.append(("workers, mean", left, right, SIZE * left))
    left, right = float(max(same_moments)), float(max(counts))
    rows.append(("workers, most", left, right, max(2.0, SIZE * left)))
    return rows


def over_time(account: Account, load: Load) -> str:
    """The pool's size at each second, simulated and real."""
    moments = [float(second) for second in range(1, int(SECONDS))]
    seen = [(f"{moment:g}", moment) for moment in moments]
    rows = [
        (name, str(size_at(account.sizes, at)), str(size_at(load.sizes, at)))
        for name, at in seen
    ]
    return table(("second", "simulated", "real"), rows)


def main(seed: int) -> int:
    """Compare, and print what came of it.

    :return: The exit status: 1 if they are too far apart, 2 if that can't be told.
    """
    wanted = requests(seed)
    account = simulate(wanted)
    try:
        load = measure(wanted)
    except StartError as error:
        print(f"The server did not start: {error}", file=sys.stderr)
        return 1
    rows = compared(account, load)
    good = [abs(left - right) <= most for _, left, right, most in rows]
    lines = [
        (name, f"{left:.1f}", f"{right:.1f}", f"{most:.1f}", "yes" if ok else "NO")
        for (name, left, right, most), ok in zip(rows, good, strict=True)
    ]
    print(over_time(account, load))
    print(table(("figure", "simulated", "real", "may differ by", "agrees"), lines))
    answered, sent = len(load.waits), len(wanted.arrivals)
    print(f"{answered} of {sent} requests answered, failures: {load.errors or 'none'}")
    if load.lag > LATE:
        late = f"{load.lag * 1000:.0f} ms (p99)"
        print(f"The load was late by {late}: this machine is too busy to compare.")
        return 2
    return 0 if all(good) and answered == sent else 1
