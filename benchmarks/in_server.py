"""A request's CPU time in a running server, by step: a part of ``benchmarks anatomy``.

Each case is measured twice. A server as it is says what a request costs its workers and
its dispatcher, by their CPU time. Then a server with time stamps says what its steps
take, with caches as cold as they are there.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import typing as t
from collections.abc import Iterator
from pathlib import Path

import load
import psutil  # type: ignore[import-untyped]
from process import free_port
from process import Running
from servers import HERE
from stamps import APP
from stamps import CALL
from stamps import OURS
from stamps import Step
from stamps import STEPS
from stamps import Times

WORKERS = 2


class Case(t.NamedTuple):
    name: str
    clients: int
    keep_alive: bool
    log: bool = False


CASES = (
    Case("close", 16, keep_alive=False),
    Case("close, log", 16, keep_alive=False, log=True),
    Case("1 kept", 1, keep_alive=True),
    Case("64 kept", 64, keep_alive=True),
)


class Cost(t.NamedTuple):
    """CPU microseconds of a request, of workers and dispatcher, and requests/s."""

    rate: float
    user: float
    system: float
    dispatcher_user: float
    dispatcher_system: float


#: The rows of a cost.
COSTS = {
    "requests/s": "rate",
    "workers, user": "user",
    "workers, system": "system",
    "dispatcher, user": "dispatcher_user",
    "dispatcher, system": "dispatcher_system",
}


class Measured(t.NamedTuple):
    cost: Cost
    steps: dict[Step, float]


@contextlib.contextmanager
def server(app: str, log: bool, variables: dict[str, str]) -> Iterator[Running]:
    port = free_port()
    count = str(WORKERS)
    line = [sys.executable, "-m", "flask", "--app", f"{HERE / app}", "prefork-run"]
    line += ["--port", str(port), "--min-workers", count, "--max-workers", count]
    line += ["--min-idle", count, "--access-log" if log else "--no-access-log"]
    running = Running(line, port)
    running.environment |= variables
    with running:
        running.settle()
        yield running


def _times(processes: list[t.Any]) -> tuple[float, float]:
    found = [process.cpu_times() for process in processes]
    return sum(one.user for one in found), sum(one.system for one in found)


def _load(running: Running, case: Case, seconds: float) -> load.Load:
    return load.run(
        load.find_wrk(),
        f"http://127.0.0.1:{running.port}/",
        clients=case.clients,
        seconds=max(round(seconds), 1),
        threads=1,
        keep_alive=case.keep_alive,
    )


def _cost(running: Running, case: Case, seconds: float) -> Cost:
    dispatcher = psutil.Process(running.process.pid)
    # Of its children, only the zygote has some.
    workers = [one for child in dispatcher.children() for one in child.children()]
    before = *_times(workers), *_times([dispatcher])
    done = _load(running, case, seconds)
    after = *_times(workers), *_times([dispatcher])
    requests = max(done.requests, 1)
    used = [(b - a) / requests * 1e6 for a, b in zip(before, after, strict=True)]
    return Cost(done.rate, *used)


def measure(seconds: float) -> dict[Case, Measured]:
    """Measure all cases, for so many seconds each, and as long with stamps.

    :raises StartError: A server doesn't start.
    :raises LoadError: wrk can't be run.
    """
    costs: dict[Case, Cost] = {}
    steps: dict[Case, dict[Step, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times"
        times = Times(path, WORKERS)
        names = {"BENCHMARK_STAMPS": str(path), "BENCHMARK_WORKERS": str(WORKERS)}
        for log in sorted({case.log for case in CASES}):
            cases = [case for case in CASES if case.log == log]
            with server("apps.py:hello", log, {}) as running:
                for case in cases:
                    costs[case] = _cost(running, case, seconds)
            with server("stamped.py", log, names) as running:
                for case in cases:
                    times.clear()
                    _load(running, case, seconds)
                    steps[case] = times.found()
    return {case: Measured(costs[case], steps[case]) for case in CASES}


def _row(name: str, figures: t.Iterable[float | None], digits: int = 1) -> str:
    shown = ("" if one is None else f"{one:,.{digits}f}" for one in figures)
    return f"  {name:30}" + "".join(f"{one:>12}" for one in shown)


def table(found: dict[Case, Measured]) -> Iterator[str]:
    """The lines to print."""
    every = list(found.values())
    head = "".join(f"{case.name:>12}" for case in found)
    yield f"{f'CPU microseconds of a request, {WORKERS} workers:':32}{head}"
    for name, key in COSTS.items():
        digits = 0 if key == "rate" else 1
        yield _row(name, [getattr(one.cost, key) for one in every], digits)
    yield f"{'Of its steps in a worker:':32}"
    for kind in (OURS, CALL, APP):
        yield _row(kind, [_sum(one.steps, kind) for one in every])
        for step in STEPS:
            if step.kind == kind != APP and any(step in one.steps for one in every):
                yield _row(f"  {step.name}", [one.steps.get(step) for one in every])
    yield _row("all of them", [_sum(one.steps, OURS, CALL, APP) for one in every])


def _sum(steps: dict[Step, float], *kinds: str) -> float:
    return sum(cost for step, cost in steps.items() if step.kind in kinds)
