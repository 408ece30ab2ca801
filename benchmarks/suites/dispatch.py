"""The cost of dispatch: orders or blocking accept, in small and large pools."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import statistics
import tempfile
import typing as t
from collections.abc import Iterator
from collections.abc import Sequence

import own_pool
from charts import Chart
from load import WARM_UP
from options import counts
from results import Figures
from results import Results
from results import Trial
from tables import NOTHING
from tables import spread
from tables import Table
from tables import total

from flask_prefork.observe.reading import Board

from .suite import CHOOSE_WORKERS
from .suite import Contender
from .suite import Option
from .suite import Options
from .suite import Suite

if t.TYPE_CHECKING:
    from lab import Lab

RUNS = "run length"
CLIENTS = 16
FREE = 2
"""Workers that are not busy in a pool that is; as many clients, in all pools."""

STEP = 50
"""Slow requests that come at once, of those that make a pool large."""

ONE_EACH = ("--run-length", "1")
"""An order for each connection, as in SpamAssassin."""

HOLDING_APP = "hold"
IDLE = f"idle pool, min-idle {FREE}"
IDLE_ALL = "idle pool, min-idle all"
BUSY = f"busy pool, min-idle {FREE}"
POOLS = {
    IDLE: f"All workers are idle after a peak, and min-idle is {FREE}.",
    IDLE_ALL: "All workers are idle, and min-idle is all of them.",
    BUSY: f"All workers but {FREE} serve a slow request.",
}


def _contenders(options: Options) -> list[Contender]:
    runs = [
        Contender(
            f"ordered, {length} a run",
            "prefork-ordered",
            options=("--run-length", str(length)),
        )
        for length in options.run_lengths
    ]
    grown = [
        Contender(
            _pool(size, FREE),
            "prefork-ordered",
            workers=FREE,
            most=size,
            options=(*ONE_EACH, "--min-idle", str(FREE), "--idle-timeout", "3600"),
        )
        for size in options.pools
    ]
    started = [
        Contender(
            _pool(size, size),
            "prefork-ordered",
            workers=size,
            options=(*ONE_EACH, "--min-idle", str(size)),
        )
        for size in options.pools
        if size != FREE
    ]
    return [*runs, Contender("blocking", "prefork-blocking"), *grown, *started]


def _pool(size: int, least: int) -> str:
    return f"{size} workers, {least} idle at least"


def _cases(options: Options) -> dict[str, list[str]]:
    runs = [f"ordered, {length} a run" for length in options.run_lengths]
    grown = [_pool(size, FREE) for size in options.pools]
    started = [_pool(size, size) for size in options.pools]
    return {RUNS: [*runs, "blocking"], IDLE: grown, IDLE_ALL: started, BUSY: grown}


def _cost(trial: Trial, options: Options) -> float:
    if trial.case == RUNS:
        return 2.5 + float(options.seconds)

    size = int(trial.contender.split()[0])
    return 2.5 + float(options.seconds) + size / 50


def _measure(trial: Trial, lab: Lab) -> list[Figures]:
    clients, app = (CLIENTS, "bare") if trial.case == RUNS else (FREE, HOLDING_APP)
    contender = lab.contenders[trial.contender]
    size = contender.most or contender.workers or lab.options.workers

    with contextlib.ExitStack() as stack:
        running = stack.enter_context(lab.running(trial.contender, app))
        pid = running.process.pid
        board = stack.enter_context(own_pool.watching(pid))

        if trial.case == IDLE:
            with _held(running.port, size, board):
                pass

        if trial.case == BUSY:
            stack.enter_context(_held(running.port, size - FREE, board))

        own_pool.wait_until(board, lambda look: look.workers >= size)
        lab.load(running.port, clients, WARM_UP)
        orders = board.look().figures.counters.orders
        before = running.cpu(), own_pool.cpu(pid)
        load = lab.load(running.port, clients, lab.options.seconds)
        after = running.cpu(), own_pool.cpu(pid)
        orders = board.look().figures.counters.orders - orders

    everybody, dispatcher = (
        end - begin for begin, end in zip(before, after, strict=True)
    )
    return [
        {
            "size": size,
            "rate": load.rate,
            "cpu": everybody / load.requests * 1e6,
            "dispatcher": dispatcher / load.requests * 1e6,
            "orders": orders / load.requests,
            "order": dispatcher / orders * 1e6 if orders else None,
            "p50": load.p50,
            "p99": load.p99,
            "errors": load.errors,
        }
    ]


def _wait_for_busy(board: Board, count: int) -> None:
    own_pool.wait_until(board, lambda look: look.count("B") >= count)


@contextlib.contextmanager
def _held(port: int, count: int, board: Board) -> Iterator[None]:
    """Keep so many workers busy until the end of the statement."""
    with tempfile.NamedTemporaryFile() as file, contextlib.ExitStack() as stack:
        fcntl.flock(file, fcntl.LOCK_EX)
        request = f"GET /?lock={file.name} HTTP/1.1\r\nHost: localhost\r\n\r\n"

        for number in range(1, count + 1):
            client = socket.create_connection(("127.0.0.1", port), timeout=30)
            stack.enter_context(client)
            client.sendall(request.encode())

            # How a pool grows is another suite's question.
            if number % STEP == 0 or number == count:
                _wait_for_busy(board, number)

        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
            own_pool.wait_until(board, lambda look: not look.count("B"))


# The report


def _tables(results: Results) -> list[Table]:
    tables = [_runs(results)] if results.contenders(RUNS) else []
    return tables + [_pools(results, c) for c in POOLS if results.contenders(c)]


def _column(figures: Sequence[Figures], what: str) -> list[float]:
    return [one[what] for one in figures if one[what] is not None]


def _runs(results: Results) -> Table:
    rows = {name: results.figures(RUNS, name) for name in results.contenders(RUNS)}
    return Table(
        title=f"Ordered dispatch by its run length, and blocking: {CLIENTS} clients",
        columns=[
            "dispatch",
            "requests/s",
            "CPU µs a request",
            "of these the dispatcher's",
            "orders a request",
            "p50, p99 ms",
            "errors",
        ],
        rows=[
            [
                name,
                spread(_column(rows[name], "rate")),
                spread(_column(rows[name], "cpu")),
                spread(_column(rows[name], "dispatcher"), ",.1f"),
                spread(_column(rows[name], "orders"), ".2f"),
                _latency(rows[name]),
                total([one["errors"] for one in rows[name]]),
            ]
            for name in sorted(rows, key=_number)
        ],
    )


def _latency(figures: Sequence[Figures]) -> str:
    medians = [statistics.median(_column(figures, what)) for what in ("p50", "p99")]
    return ", ".join(f"{value:,.1f}" for value in medians)


def _number(name: str) -> int:
    """What rows are sorted by: blocking is last."""
    return next((int(word) for word in name.split() if word.isdigit()), 10**9)


def _pools(results: Results, case: str) -> Table:
    rows = {name: results.figures(case, name) for name in results.contenders(case)}
    return Table(
        title=f"What an order costs in a pool: {case}",
        columns=[
            "workers",
            "dispatcher's CPU µs an order",
            "orders a request",
            "requests/s",
            "CPU µs a request",
            "errors",
        ],
        rows=[
            [
                f"{_number(name):,}",
                spread(_column(rows[name], "order"), ",.1f") or NOTHING,
                spread(_column(rows[name], "orders"), ".2f"),
                spread(_column(rows[name], "rate")),
                spread(_column(rows[name], "cpu")),
                total([one["errors"] for one in rows[name]]),
            ]
            for name in sorted(rows, key=_number)
        ],
        notes=[f"{POOLS[case]} {FREE} clients, one order for each connection."],
    )


def _charts(results: Results) -> list[Chart]:
    series = {
        case: [
            (_number(name), statistics.median(costs))
            for name in sorted(results.contenders(case), key=_number)
            if (costs := _column(results.figures(case, name), "order"))
        ]
        for case in POOLS
        if results.contenders(case)
    }

    if not series:
        return []

    return [
        Chart(
            name="dispatch-order",
            title="What an order costs the dispatcher",
            across="workers",
            up="µs of CPU",
            log_across=True,
            series=series,
        )
    ]


def _method(options: Options) -> str:
    return (
        f"Run lengths with the bare app, {options.workers} workers and `Connection:"
        " close`. The kernel measures the dispatcher's CPU time, in nanoseconds. Orders"
        f" are counted in shared memory. {options.seconds:g} s for each figure."
    )


DISPATCH = Suite(
    name="dispatch",
    title="Dispatch",
    options=(
        CHOOSE_WORKERS,
        Option(
            "--run-lengths",
            counts,
            "1,4,16,64",
            "A,B,...",
            "connections that a worker may take on one order",
        ),
        Option("--pools", counts, "10,100,1000", "A,B,...", "workers of each pool"),
    ),
    smoke={"run_lengths": [1, 64], "pools": [4, 16], "seconds": 1.0},
    defaults={"seconds": "2"},
    contenders=_contenders,
    cases=_cases,
    cost=_cost,
    measure=_measure,
    tables=_tables,
    charts=_charts,
    method=_method,
)
