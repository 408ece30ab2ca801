"""Few hot workers or many lukewarm ones: when memory is short, and by PSS.

And what a worker costs once it has served.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import http.client
import statistics
import time
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence

import ask
import own_pool
import short_memory
from charts import Chart
from load import LoadError
from options import positive
from process import Running
from results import Figures
from results import Results
from results import Trial
from servers import SERVERS
from smaps import Memory
from tables import NOTHING
from tables import spread
from tables import Table

from .suite import CHOOSE_SERVERS
from .suite import Contender
from .suite import Option
from .suite import Options
from .suite import Suite

if t.TYPE_CHECKING:
    from lab import Lab

SHORT = "short of memory"
FREEZE = "gc.freeze"
POOL = 16
CLIENTS = 2
PATIENCE = 10.0
"""Seconds that a request may take."""

PEAK = 0.5
"""Seconds that each request takes of the peak that touches all workers."""

HOT = 0.05
"""A worker is hot if it serves this part of the requests, and cold if none."""

OURS = "prefork-ordered"
SHORT_OF_IT = (OURS, "prefork-blocking", "gunicorn-sync", "uwsgi")
FREEZING = ("--gc-freeze", "--no-gc-freeze")

SERVED = "after requests"
PRELOADED = {
    OURS: ("--run-length", "1"),
    "gunicorn-sync": ("--preload",),
    "gunicorn-gthread": ("--preload",),
}
"""Servers that load the app before they fork. Ours gives each connection to another
worker, so that all serve."""

POOLS = (2, 10)
IN_A_ROW = 10
"""Requests on a connection that is kept alive, and as many on one each."""

UNEQUAL = 20
"""A worker that gets this part of its share isn't waited for."""


def _contenders(options: Options) -> list[Contender]:
    short = [
        Contender(name, name, workers=POOL)
        for name in SHORT_OF_IT
        if name in options.servers
    ]
    # With so many workers for two clients, most of them stay cold.
    freezing = [
        Contender(option, OURS, workers=POOL // 2, options=(option,))
        for option in FREEZING
        if OURS in options.servers
    ]
    served = [
        Contender(f"{name}, {count} workers", name, workers=count, options=options_)
        for count in POOLS
        for name, options_ in PRELOADED.items()
        if name in options.servers
    ]
    return short + freezing + served


def _cases(options: Options) -> dict[str, list[str]]:
    names = [one.name for one in _contenders(options)]
    freezing = [name for name in names if name in FREEZING]
    served = [name for name in names if name.endswith(" workers")]
    short = [name for name in names if name not in freezing + served]
    return {SHORT: short, FREEZE: freezing, SERVED: served}


def _cost(trial: Trial, options: Options) -> float:
    return 4.0 + float(options.seconds) + (PATIENCE / 2 if trial.case == SHORT else 0)


def _measure(trial: Trial, lab: Lab) -> list[Figures]:
    if trial.case == FREEZE:
        return [_freeze(trial, lab)]

    if trial.case == SERVED:
        return [_after_requests(trial, lab)]

    if why := short_memory.unfit():
        raise LoadError(why)

    folder = lab.options.cache
    limit = lab.options.limit * 2**20

    with contextlib.ExitStack() as stack:
        stack.enter_context(short_memory.swap_space(folder))
        prefix = stack.enter_context(short_memory.limited(limit))
        running = stack.enter_context(
            lab.running(trial.contender, "touch", prefix=prefix)
        )
        # A peak in the past, in which all workers were needed.
        _burst(running.port)
        began = time.monotonic()
        pids, latencies, failed = _two_clients(running.port, lab.options.seconds)
        # The last requests may have taken longer than was meant.
        elapsed = time.monotonic() - began
        served = collections.Counter(pids)
        memory = _workers_memory(running, served)

    return [
        {
            "requests": len(pids),
            "failed": failed,
            "rate": len(pids) / elapsed,
            "latencies": _middle_and_worst(latencies),
            "served": sorted(served.values(), reverse=True),
            **_hot_and_cold(memory, served),
        }
    ]


def _burst(port: int) -> None:
    def get(_: int) -> None:
        with contextlib.suppress(OSError, ask.BadAnswer):
            ask.by_http(port, f"hold={PEAK}", PATIENCE)

    with concurrent.futures.ThreadPoolExecutor(POOL) as pool:
        list(pool.map(get, range(POOL)))


def _two_clients(port: int, seconds: float) -> tuple[list[int], list[float], int]:
    """Ask, each when the last response is there.

    :return: Which process has served each request, how many milliseconds it took,
        and how many requests failed.
    """
    end = time.monotonic() + seconds
    pids, latencies, failed = [], [], 0

    def client(_: int) -> None:
        nonlocal failed

        while (begin := time.monotonic()) < end:
            try:
                pid = int(ask.by_http(port, "", PATIENCE))
            except (OSError, ValueError, ask.BadAnswer):
                failed += 1
            else:
                pids.append(pid)
                latencies.append((time.monotonic() - begin) * 1e3)

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))

    return pids, latencies, failed


def _middle_and_worst(latencies: Sequence[float]) -> list[float]:
    if not latencies:
        return []

    return [round(statistics.median(latencies), 2), round(max(latencies), 2)]


def _workers_memory(running: Running, served: Mapping[int, int]) -> dict[int, Memory]:
    """Those who serve, and those who could: the children of their parents."""
    memory = running.memory()
    parents = {running.parent(pid) for pid in served if pid in memory}
    return {pid: one for pid, one in memory.items() if running.parent(pid) in parents}


def _freeze(trial: Trial, lab: Lab) -> Figures:
    with (
        lab.running(trial.contender, "page") as running,
        own_pool.watching(running.process.pid) as board,
    ):
        own_pool.wait_until(board, lambda look: look.workers >= POOL // 2)
        lab.load(running.port, CLIENTS, lab.options.seconds)
        records = [one for bank in board.look().records for one in bank.values()]
        served = {one.pid: one.requests for one in records}
        memory = running.memory()
        workers = {pid: one for pid, one in memory.items() if pid in served}
        return _hot_and_cold(workers, served)


def _after_requests(trial: Trial, lab: Lab) -> Figures:
    count = lab.contenders[trial.contender].workers

    with lab.running(trial.contender, "whose", keep_alive=True) as running:
        served = _serve_by_each(running.port, count, lab.options.requests)
        memory = running.memory()

    workers = [one for pid, one in memory.items() if pid in served]
    others = [one for pid, one in memory.items() if pid not in served]
    return {
        "requests": sum(served.values()),
        "private": statistics.median(one.private for one in workers),
        "pss": statistics.median(one.pss for one in workers),
        "others": sum(one.private for one in others),
        "all": sum(one.pss for one in memory.values()),
    }


def _serve_by_each(port: int, workers: int, least: int) -> collections.Counter[int]:
    """Send requests, half of them kept alive, until each worker has served enough.

    :return: How many each has served, by pid.
    :raises LoadError: Some get too few, or none.
    """
    served: collections.Counter[int] = collections.Counter()
    most = UNEQUAL * least * workers

    def is_over() -> bool:
        counts = list(served.values())
        return sum(counts) > most or len(counts) >= workers and min(counts) >= least

    def client(_: int) -> None:
        while not is_over():
            kept = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

            with contextlib.closing(kept):
                for _ in range(IN_A_ROW):
                    # It connects again if the server has closed.
                    kept.request("GET", "/")
                    served[int(kept.getresponse().read())] += 1

            for _ in range(IN_A_ROW):
                served[int(ask.by_http(port, "", PATIENCE))] += 1

    try:
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            list(pool.map(client, range(workers)))
    except (OSError, http.client.HTTPException, ask.BadAnswer) as error:
        raise LoadError(f"a request failed: {error}") from None

    if len(served) < workers or min(served.values()) < least:
        raise LoadError(f"not each worker has served: {sorted(served.values())}")

    return served


def _hot_and_cold(
    memory: Mapping[int, Memory], served: Mapping[int, int]
) -> dict[str, t.Any]:
    """Medians of the workers that serve, and of those that don't, in KiB."""
    whole = sum(served.values())
    hot = [one for pid, one in memory.items() if served.get(pid, 0) > HOT * whole]
    cold = [one for pid, one in memory.items() if not served.get(pid)]
    return {
        name: {
            "workers": len(group),
            **{
                what: statistics.median(getattr(one, what) for one in group)
                for what in Memory._fields
                if group
            },
        }
        for name, group in (("hot", hot), ("cold", cold))
    }


# The report


def _tables(results: Results) -> list[Table]:
    made = {SHORT: _short, FREEZE: _frozen, SERVED: _served}
    return [make(results) for case, make in made.items() if results.contenders(case)]


def _rows(results: Results, case: str) -> dict[str, list[Figures]]:
    return {name: results.figures(case, name) for name in results.contenders(case)}


def _short(results: Results) -> Table:
    rows = _rows(results, SHORT)
    limit = results.meta.options["limit"]

    def rank(name: str) -> float:
        return -statistics.median(one["rate"] for one in rows[name])

    return Table(
        title=f"{POOL} workers that touch 30 MB a request, in {limit} MB with swap",
        columns=[
            "server",
            "requests/s",
            "median ms",
            "worst ms",
            "workers that served",
            "the two busiest's part",
            *_columns(),
            "failed",
        ],
        rows=[
            [
                f"{name}: {SERVERS[name].about}",
                spread([one["rate"] for one in rows[name]], ",.1f"),
                *_latency(rows[name]),
                spread([len(one["served"]) for one in rows[name]]),
                spread([_part(one["served"]) for one in rows[name]], ".0%"),
                *_sizes(rows[name]),
                str(sum(one["failed"] for one in rows[name]) or NOTHING),
            ]
            for name in sorted(rows, key=rank)
        ],
        notes=[
            f"All {POOL} workers were needed in a peak before. Then {CLIENTS} clients"
            f" send requests, with a timeout of {PATIENCE:g} s. {_EXPLAINED}"
        ],
    )


_EXPLAINED = (
    f"Hot workers served more than {HOT:.0%} of the requests, and cold workers served"
    " none. The sizes are medians of the workers, in MB."
)


def _columns() -> list[str]:
    return [f"{group}: PSS, private, swapped (workers)" for group in ("hot", "cold")]


def _sizes(figures: Sequence[Figures]) -> list[str]:
    return [_size([one[group] for one in figures]) for group in ("hot", "cold")]


def _size(groups: Sequence[Mapping[str, float]]) -> str:
    known = [one for one in groups if one["workers"]]

    if not known:
        return NOTHING

    sizes = [
        f"{statistics.median(one[what] for one in known) / 1024:,.1f}"
        for what in Memory._fields
    ]
    return f"{', '.join(sizes)} ({spread([one['workers'] for one in known])})"


def _latency(figures: Sequence[Figures]) -> list[str]:
    found = [one["latencies"] for one in figures if one["latencies"]]
    return [spread([one[i] for one in found], ",.1f") for i in (0, 1)]


def _part(served: Sequence[int]) -> float:
    return sum(served[:2]) / sum(served) if served else 0.0


def _frozen(results: Results) -> Table:
    rows = _rows(results, FREEZE)
    return Table(
        title=f"Memory of {POOL // 2} workers, {CLIENTS} clients, a Jinja page",
        columns=["option", *_columns()],
        rows=[[f"`{name}`", *_sizes(rows[name])] for name in rows],
        notes=[_EXPLAINED],
    )


def _served(results: Results) -> Table:
    rows = _rows(results, SERVED)
    columns = {
        "a worker: private": "private",
        "PSS": "pss",
        "other processes: private": "others",
        "all: PSS": "all",
    }
    least = results.meta.options["requests"]
    return Table(
        title=f"Memory after {least:,} requests for each worker, MB",
        columns=["server", *columns],
        rows=[
            [
                name,
                *(
                    spread([one[key] / 1024 for one in rows[name]], ",.1f")
                    for key in columns.values()
                ),
            ]
            for name in rows
        ],
        notes=[
            "A Flask app that says hello, loaded before the fork (gunicorn:"
            " `--preload`). Half of the requests are kept alive. A worker's figures are"
            " medians of the workers; all processes' PSS is what the machine gives."
        ],
    )


def _charts(results: Results) -> list[Chart]:
    rows = _rows(results, SHORT)

    if not any(figures[0]["served"] for figures in rows.values()):
        return []

    return [
        Chart(
            name="memory-hotness",
            title=f"Who served, when {POOL} workers are short of memory",
            across="worker, the busiest first",
            up="requests",
            log_up=True,
            labels=[str(number + 1) for number in range(POOL)],
            series={
                name: list(enumerate(figures[0]["served"]))
                for name, figures in rows.items()
            },
        )
    ]


def _method(options: Options) -> str:
    return (
        "A cgroup limits the memory, and the swap space is a file on this machine's"
        f" disk. {options.seconds:g} s of load. Ordered dispatch should leave most"
        " workers cold, and these should stay swapped out."
    )


MEMORY = Suite(
    name="memory",
    title="Memory, and staying hot",
    options=(
        CHOOSE_SERVERS,
        Option("--limit", positive, "300", "MB", "of memory for a server"),
        Option("--requests", positive, "1000", "N", "that each worker serves"),
    ),
    smoke={"seconds": 0.5, "requests": 20},
    contenders=_contenders,
    cases=_cases,
    cost=_cost,
    measure=_measure,
    tables=_tables,
    charts=_charts,
    method=_method,
)
