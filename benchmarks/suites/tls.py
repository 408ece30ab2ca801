"""What TLS costs: throughput, handshakes, latency, and clients that are silent.

The servers have the same certificate. Load is by wrk, and by ``tls_client.py`` where
sessions are resumed or clients are silent.
"""

from __future__ import annotations

import statistics
import time
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence

import ask
import psutil  # type: ignore[import-untyped]
from certificate import KIND
from charts import Chart
from load import WARM_UP
from options import positive
from process import Running
from results import Figures
from results import Results
from results import Trial
from servers import SERVERS
from slow import raise_descriptors
from tables import NOTHING
from tables import spread
from tables import Table
from tables import total
from tls_client import CONNECTIONS
from tls_client import RATE
from tls_client import THREADS
from tls_client_process import IdleClients
from tls_client_process import tls_client

from .suite import choose_servers
from .suite import CHOOSE_WORKERS
from .suite import Contender
from .suite import Option
from .suite import Options
from .suite import Suite

if t.TYPE_CHECKING:
    from lab import Lab

APP = "hello"
OURS = "prefork-ordered"
PLAIN = "prefork-ordered, plain"
"""Ours without TLS, for the latency that a request gains."""

LOADS = {
    "keep-alive, 16": (16, True),
    "keep-alive, 64": (64, True),
    "close, 16": (16, False),
}
"""Cases of wrk's: connections, and whether they are kept."""

HANDSHAKES = {"handshakes, TLS 1.3": "1.3", "handshakes, TLS 1.2": "1.2"}
LATENCY = "latency"
IDLE = {
    "idle, one request": (True, "have asked once"),
    "idle, handshake": (False, "have only done the handshake"),
}
"""Cases of silent clients: whether each has asked, and the same in words."""

QUICK = 20
"""Others that ask while clients are silent, one after the other."""

PATIENCE = 5.0
"""Seconds that each of these waits."""

MOST_UNSERVED = 3
"""So many who aren't served are enough."""

PER_SECOND = 50
"""Silent clients that a server has to let connect in a second, at least."""

OTHERS = {
    "prefork-ordered": ("--keep-alive", "300", "--header-timeout", "300"),
    "haproxy-prefork": ("--keep-alive", "300", "--header-timeout", "300"),
    "nginx-prefork": ("--keep-alive", "300", "--header-timeout", "300"),
    "gunicorn-gthread": ("--keep-alive", "300", "--worker-connections", "20000"),
    "granian": (
        *("--http1-header-read-timeout", "60000", "--backlog", "1024"),
        # It holds no more connections.
        *("--backpressure", "20000"),
    ),
    "uwsgi": ("--http-timeout", "300", "--max-fd", "20000"),
}
"""What is said to a server beside its pool, so that silent clients may stay."""


def _contenders(options: Options) -> list[Contender]:
    found = [
        Contender(name, name, options=OTHERS[name], tls=True)
        for name in options.servers
    ]

    if OURS in options.servers:
        found.append(Contender(PLAIN, OURS, options=OTHERS[OURS]))

    return found


def _cases(options: Options) -> dict[str, list[str]]:
    every = list(options.servers)
    plain = [PLAIN] if OURS in every else []
    cases = {name: every for name in (*LOADS, *HANDSHAKES)}
    return {**cases, LATENCY: every + plain, **dict.fromkeys(IDLE, every)}


def _cost(trial: Trial, options: Options) -> float:
    seconds = float(options.seconds)

    if trial.case in IDLE:
        return 4 + float(options.idle) / 800

    return 2 + seconds * (2 if trial.case in HANDSHAKES else 1)


def _measure(trial: Trial, lab: Lab) -> list[Figures]:
    # The server and the clients have the limits that we have.
    raise_descriptors()
    case, seconds = trial.case, lab.options.seconds
    keep_alive = LOADS[case][1] if case in LOADS else case not in HANDSHAKES

    with lab.running(trial.contender, APP, keep_alive=keep_alive) as running:
        if case in LOADS:
            return [_load(running, case, lab)]

        if case in HANDSHAKES:
            return [_handshakes(running, HANDSHAKES[case], seconds)]

        if case in IDLE:
            return [_idle(running, IDLE[case][0], lab.options.idle)]

        words = ["--plain"] if trial.contender == PLAIN else []
        return [tls_client("latency", running.port, seconds, *words)]


def _load(running: Running, case: str, lab: Lab) -> Figures:
    clients, keep_alive = LOADS[case]

    def load(seconds: float) -> t.Any:
        return lab.load(running.port, clients, seconds, keep_alive=keep_alive, tls=True)

    load(WARM_UP)
    before = running.cpu()
    result = load(lab.options.seconds)
    spent = running.cpu() - before
    return {
        "rate": result.rate,
        "cpu": spent / result.requests * 1e6,
        "p50": result.p50,
        "p99": result.p99,
        "errors": result.errors,
    }


def _handshakes(running: Running, version: str, seconds: float) -> Figures:
    """The same with full handshakes and with resumed ones."""
    found: dict[str, t.Any] = {}

    for kind in ("full", "resumed"):
        words = ["--version", version, *(["--resume"] if kind == "resumed" else [])]
        before = running.cpu()
        report = tls_client("handshakes", running.port, seconds, *words)
        found[kind] = {**report, "cpu": running.cpu() - before}

    return found


def _sizes(running: Running) -> dict[int, tuple[int, int]]:
    """RSS and PSS of its processes, in KiB."""
    found = {}

    for pid, memory in running.memory().items():
        try:
            found[pid] = psutil.Process(pid).memory_info().rss // 1024, memory.pss
        except psutil.NoSuchProcess:
            continue

    return found


def _idle(running: Running, request: bool, count: int) -> Figures:
    """What silent clients cost, and what others get meanwhile."""
    # Memory that the first requests need isn't the silent clients'.
    _quick_clients(running.port)
    before = _sizes(running)

    with IdleClients(running.port, count, request, 60 + count / PER_SECOND) as idle:
        after = _sizes(running)
        waits = _quick_clients(running.port)

    return {
        **grown(before, after),
        "connected": idle.report["connected"],
        "closed": idle.report.get("closed", 0),
        "waits": [one for one in waits if one is not None],
        "unserved": waits.count(None),
    }


def _quick_clients(port: int) -> list[float | None]:
    """How long others wait, one after the other."""
    waits: list[float | None] = []

    while len(waits) < QUICK and waits.count(None) < MOST_UNSERVED:
        waits.append(_quick(port))

    return waits


def _quick(port: int) -> float | None:
    """Seconds that another client waits; ``None`` if it isn't served."""
    began = time.monotonic()

    try:
        ask.by_https(port, "", PATIENCE)
    except (OSError, ask.BadAnswer):
        return None

    return time.monotonic() - began


def grown(
    before: Mapping[int, tuple[int, int]], after: Mapping[int, tuple[int, int]]
) -> dict[str, t.Any]:
    """What was added, in KiB: of the process that grew most, and of all.

    :param before: RSS and PSS of each process; one that was started since had none.
    """
    added = {
        pid: tuple(
            new - old for new, old in zip(sizes, before.get(pid, (0, 0)), strict=True)
        )
        for pid, sizes in after.items()
    }
    most = max(added.values(), key=lambda one: one[1], default=(0, 0))
    return {
        "rss_one": most[0],
        "pss_one": most[1],
        "pss_all": sum(one[1] for one in added.values()),
    }


# The report


def _tables(results: Results) -> list[Table]:
    made = [_throughput(results)]
    made += [_resumption(results, case) for case in HANDSHAKES]
    made += [_latency(results), *(_silence(results, case) for case in IDLE)]
    return [table for table in made if table.rows]


def about(name: str) -> str:
    """A row's first cell."""
    if name == PLAIN:
        return f"{name}: without TLS"

    return f"{name}: {SERVERS[name].about}"


def _values(results: Results, case: str, name: str, what: str) -> list[float]:
    return [one[what] for one in results.figures(case, name)]


def _ranked(results: Results, cases: Sequence[str], *keys: str) -> list[str]:
    """Who has figures for one of the cases, who has the most of the first first."""
    names = dict.fromkeys(name for case in cases for name in results.contenders(case))

    def rank(name: str) -> float:
        found: list[t.Any] = list(results.figures(cases[0], name))

        for key in keys:
            found = [one[key] for one in found]

        return -statistics.median(found or [0.0])

    return sorted(names, key=rank)


def _throughput(results: Results) -> Table:
    first, *_ = LOADS
    return Table(
        title="Requests/s over TLS",
        columns=[
            "server",
            *(f"{case} connections" for case in LOADS),
            f"/ {OURS}, {first}",
            f"CPU µs a request, {first}",
            "close",
            f"p50, p99 ms, {first}",
            "errors",
        ],
        rows=[
            [
                about(name),
                *(spread(_values(results, case, name, "rate")) for case in LOADS),
                spread(_ratios(results, first, name), ".2f"),
                spread(_values(results, first, name, "cpu")),
                spread(_values(results, "close, 16", name, "cpu")),
                _milliseconds(results, first, name),
                total([x["errors"] for c in LOADS for x in results.figures(c, name)]),
            ]
            for name in _ranked(results, list(LOADS), "rate")
        ],
        notes=[
            "*close* is a new connection with a full handshake for each request; ratios"
            " are within a round."
        ],
    )


def _ratios(results: Results, case: str, name: str) -> list[float]:
    """The throughput divided by ours in the same round."""
    ours = {one["round"]: one["rate"] for one in results.figures(case, OURS)}
    return [
        one["rate"] / ours[one["round"]]
        for one in results.figures(case, name)
        if ours.get(one["round"])
    ]


def _milliseconds(results: Results, case: str, name: str) -> str:
    found = [_values(results, case, name, what) for what in ("p50", "p99")]
    return ", ".join(
        format(statistics.median(one), ",.1f") if one else NOTHING for one in found
    )


def _resumption(results: Results, case: str) -> Table:
    kinds = ("full", "resumed")
    return Table(
        title=f"Connections/s with TLS {HANDSHAKES[case]}, one request on each",
        columns=[
            "server",
            "full handshake",
            "with the last session",
            "of these resumed",
            "CPU µs of the server: full",
            "with the last session",
            "failed",
        ],
        rows=[
            [
                about(name),
                *(
                    spread([x["requests"] / x["seconds"] for x in found[kind]])
                    for kind in kinds
                ),
                spread([resumed(x) * 100 for x in found["resumed"]], ".0f") + " %",
                *(
                    spread(
                        [
                            x["cpu"] / x["requests"] * 1e6
                            for x in found[kind]
                            if x["requests"]
                        ]
                    )
                    for kind in kinds
                ),
                f"{sum(x['failed'] for kind in kinds for x in found[kind]):,}",
            ]
            for name in _ranked(results, [case], "full", "requests")
            for found in [_both(results, case, name)]
        ],
    )


def _both(results: Results, case: str, name: str) -> dict[str, list[t.Any]]:
    """Figures of full handshakes and of resumed ones."""
    return {
        kind: [one[kind] for one in results.figures(case, name)]
        for kind in ("full", "resumed")
    }


def resumed(figures: Figures) -> float:
    """The part of all handshakes that the server really resumed."""
    return figures["resumed"] / figures["requests"] if figures["requests"] else 0.0


def quantile(values: Sequence[float], fraction: float) -> float:
    """The value that this fraction is not above.

    :raises ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values")

    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def _medians(results: Results, name: str) -> dict[int, float]:
    """The median latency of each round."""
    return {
        one["round"]: statistics.median(one["latencies"])
        for one in results.figures(LATENCY, name)
        if one["latencies"]
    }


def _gains(results: Results, name: str) -> list[float]:
    """How much longer a request takes than by ours without TLS, in each round."""
    plain = _medians(results, PLAIN)
    medians = _medians(results, name)
    return [medians[number] - plain[number] for number in medians if number in plain]


def _latency(results: Results) -> Table:
    names = results.contenders(LATENCY)
    medians = {name: _medians(results, name) for name in names}
    order = sorted(
        (name for name in names if medians[name]),
        key=lambda name: statistics.median(medians[name].values()),
    )
    return Table(
        title="Latency on kept-alive connections at a low load, in µs",
        columns=["server", "p50", "p99", f"p50 more than {PLAIN}"],
        rows=[
            [
                about(name),
                spread(list(medians[name].values())),
                spread(
                    [
                        quantile(one["latencies"], 0.99)
                        for one in results.figures(LATENCY, name)
                        if one["latencies"]
                    ]
                ),
                NOTHING if name == PLAIN else spread(_gains(results, name)),
            ]
            for name in order
        ],
        notes=[
            f"{RATE} requests/s on {CONNECTIONS} connections in turn, from a request's"
            " first byte to its response's last; the client's part of TLS is in it."
        ],
    )


def _silence(results: Results, case: str) -> Table:
    count = results.meta.options["idle"]
    return Table(
        title=f"{count:,} silent TLS clients that {IDLE[case][1]}",
        columns=[
            "server",
            "connected",
            "closed by the server",
            "KiB a client, all processes: PSS",
            "the one that grew most: PSS",
            "its RSS",
            "another client waits, ms: median, longest",
            "not served",
        ],
        rows=[
            [
                about(name),
                *(
                    spread(_values(results, case, name, what))
                    for what in ("connected", "closed")
                ),
                *(
                    spread(_each(results, case, name, what), ".1f")
                    for what in ("pss_all", "pss_one", "rss_one")
                ),
                _waits(results, case, name),
                spread(_values(results, case, name, "unserved")),
            ]
            for name in _ranked(results, [case], "connected")
        ],
        notes=[
            "Memory of the kernel, such as buffers of sockets, is not in it."
            f" {QUICK} others ask one after the other while the clients are there, each"
            f" on a new connection, and give up after {PATIENCE:g} s;"
            f" {MOST_UNSERVED} who aren't served are enough."
        ],
    )


def _each(results: Results, case: str, name: str, what: str) -> list[float]:
    """For a client, unless there are too few to tell."""
    least = results.meta.options["idle"] / 2
    return [
        one[what] / one["connected"]
        for one in results.figures(case, name)
        if one["connected"] >= least
    ]


def _waits(results: Results, case: str, name: str) -> str:
    waits = [x * 1e3 for one in results.figures(case, name) for x in one["waits"]]

    if not waits:
        return NOTHING

    return f"{statistics.median(waits):,.1f}, {max(waits):,.1f}"


def _charts(results: Results) -> list[Chart]:
    full, *_ = HANDSHAKES
    names = _ranked(results, list(LOADS), "rate")
    bars = {
        f"{case} clients".replace(", ", ",\n"): {
            name: statistics.median(_values(results, case, name, "rate") or [0.0])
            for name in names
        }
        for case in LOADS
    }
    found = {name: _both(results, full, name) for name in names}

    for kind, label in (("full", "full handshakes"), ("resumed", "last session")):
        bars[f"{label},\n{THREADS} clients"] = {
            name: statistics.median(
                [x["requests"] / x["seconds"] for x in found[name][kind]] or [0.0]
            )
            for name in names
        }

    if not names:
        return []

    return [
        Chart(
            name="tls-throughput",
            title="Requests/s over TLS",
            across="connections",
            up="requests a second",
            labels=list(bars),
            series={
                name: [
                    (number, values[name])
                    for number, values in enumerate(bars.values())
                ]
                for name in names
            },
        )
    ]


def _method(options: Options) -> str:
    return (
        f"Each server has {options.workers} workers and a certificate with a key of"
        f" {KIND}. HAProxy has as many threads, nginx as many processes; our TLS"
        " proxy has a process for every four cores, uWSGI's router is one. All allow"
        " TLS 1.2 and 1.3; clients speak 1.3 where nothing is said. wrk ran on the"
        f" same machine with one thread, {options.seconds:g} s for each figure. It"
        f" doesn't resume sessions, so handshakes are counted by a client in Python"
        f" with {THREADS} threads, which takes a large part of the machine, the"
        " same for each server."
    )


TLS = Suite(
    name="tls",
    title="TLS",
    options=(
        choose_servers(OTHERS),
        CHOOSE_WORKERS,
        Option("--idle", positive, "1000", "N", "silent clients"),
    ),
    smoke={"idle": 20, "seconds": 1.0},
    defaults={"seconds": "2"},
    contenders=_contenders,
    cases=_cases,
    cost=_cost,
    measure=_measure,
    tables=_tables,
    charts=_charts,
    method=_method,
)
