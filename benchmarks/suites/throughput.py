"""How many requests a second, and the CPU time of one: a closed loop, by wrk.

Each client sends its next request when it has the response to the last one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence

from charts import Chart
from load import WARM_UP
from options import choices
from options import client_counts
from results import Figures
from results import Results
from results import Trial
from servers import HERE
from servers import Server
from servers import SERVERS
from tables import NOTHING
from tables import spread
from tables import Table
from tables import total

from .suite import choose_servers
from .suite import CHOOSE_WORKERS
from .suite import Contender
from .suite import Option
from .suite import Options
from .suite import Suite

if t.TYPE_CHECKING:
    from lab import Lab

BY_DEFAULT = (
    "prefork-ordered",
    "flask-run",
    "gunicorn-sync",
    "gunicorn-gthread",
    "uwsgi",
    "uwsgi-busyness",
    "mod_wsgi-express",
    "granian",
    "waitress",
    "bjoern",
    "floor",
)
"""Who takes part unless others are chosen: one server of each kind. How dispatch and
scaling differ is what other suites are about."""

APPS = {
    "bare": "Bare WSGI app",
    "hello": "Flask app that says hello",
    "page": "Jinja page of 50 rows from SQLite",
    "wait": "App that waits for 50 ms",
    "download": "Download of 1 MB",
    "upload": "Upload of 1 MB",
}
MODES = {"close": "`Connection: close`", "keep-alive": "keep-alive"}

REFERENCE = "gunicorn-sync"
"""What ratios are taken to, if it takes part."""

SCALES = "wait"
"""The app for which servers may have more workers than to begin with."""

APP_OF_ALL = "bare"
"""Also compared with who calls no app at all."""

MOST = 40
ALONE = "without a server"
"""What a call of the app costs, as a case; the only contender in it is the app."""

TIMED_ALONE = ("bare", "hello", "page")
LARGE = ("download", "upload")
"""Measured with the first mode only: beside a megabyte a connection is cheap."""

BODY_SIZES = {"upload": 1_000_000}


def _scaling(options: Options) -> list[Contender]:
    every = [
        Contender("prefork-ordered, scaling", "prefork-ordered", most=MOST),
        Contender("prefork-blocking, scaling", "prefork-blocking", most=MOST),
        Contender("gunicorn-sync, few", "gunicorn-sync"),
        Contender("gunicorn-sync, many", "gunicorn-sync", workers=MOST),
        Contender("uwsgi-spare2, scaling", "uwsgi-spare2", most=MOST),
        Contender("uwsgi-busyness, scaling", "uwsgi-busyness", most=MOST),
        Contender("apache-prefork, scaling", "apache-prefork", most=MOST),
    ]
    return [one for one in every if one.server in options.servers]


def _fixed(options: Options) -> list[Contender]:
    return [Contender(name, name) for name in options.servers if SERVERS[name].usual]


def _takes_part(server: Server, app: str, mode: str) -> bool:
    """Whether what it would do in this case can be compared with the others."""
    return (mode == "close" or server.keeps_alive) and (
        app == APP_OF_ALL or server.calls_app
    )


def _contenders(options: Options) -> list[Contender]:
    scaling = _scaling(options) if SCALES in options.apps else []
    return _fixed(options) + scaling


def _cases(options: Options) -> dict[str, list[str]]:
    cases = {f"{app}, {ALONE}": [app] for app in options.apps if app in TIMED_ALONE}

    for app in options.apps:
        for mode in options.modes[:1] if app in LARGE else options.modes:
            contenders = _scaling(options) if app == SCALES else _fixed(options)
            cases[f"{app}, {mode}"] = [
                one.name
                for one in contenders
                if _takes_part(SERVERS[one.server], app, mode)
            ]

    return cases


def _cost(trial: Trial, options: Options) -> float:
    if trial.case.endswith(ALONE):
        return 1.0

    return 1.2 + WARM_UP + len(options.clients) * (options.seconds + 0.1)


def _measure(trial: Trial, lab: Lab) -> list[Figures]:
    """Start one server, load it with each number of clients, and end it."""
    app, mode = trial.case.split(", ")

    if mode == ALONE:
        return [{"cpu": _app_alone(app)}]

    options, body = lab.options, BODY_SIZES.get(app, 0)
    keep_alive = mode == "keep-alive"
    figures = []

    with lab.running(trial.contender, app, keep_alive=keep_alive) as running:

        def load(clients: int, seconds: float) -> t.Any:
            return lab.load(
                running.port, clients, seconds, keep_alive=keep_alive, body=body
            )

        load(min(options.clients), WARM_UP)

        for clients in options.clients:
            before = running.cpu()
            result = load(clients, options.seconds)
            spent = running.cpu() - before
            memory = running.memory().values()
            figures.append(
                {
                    "clients": clients,
                    "rate": result.rate,
                    "cpu": spent / result.requests * 1e6,
                    "p50": result.p50,
                    "p99": result.p99,
                    "errors": result.errors,
                    "pss": sum(one.pss for one in memory) / 1024,
                    "processes": len(memory),
                }
            )

    return figures


def _app_alone(app: str) -> float:
    """Microseconds of CPU time for a call of the app without a server."""
    result = subprocess.run(
        [sys.executable, HERE / "alone.py", app],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout)


# The report


def _tables(results: Results) -> list[Table]:
    return [
        _table(results, case)
        for case in results.cases()
        if not case.endswith(ALONE) and results.contenders(case)
    ]


def main_count(counts: Sequence[int]) -> int:
    """The number of clients for which a table says more than the throughput."""
    return max(counts)


def _table(results: Results, case: str) -> Table:
    app, mode = case.split(", ")
    counts = results.meta.options["clients"]
    main = main_count(counts)
    names = results.contenders(case)
    rows = {name: results.figures(case, name) for name in names}
    reference = next((n for n in names if n.startswith(REFERENCE)), names[0])
    alone = [one["cpu"] for one in results.figures(f"{app}, {ALONE}", app)]

    def rank(name: str) -> float:
        return -statistics.median(_of(rows[name], main, "rate") or [0])

    columns = [
        "server",
        *(f"requests/s, {_clients(count)}" for count in counts),
        f"/ {reference}",
        "CPU µs a request",
        *(["without the app"] if alone else []),
        "p50, p99 ms",
        "processes, PSS MB",
        "errors",
    ]
    notes = [f"Columns that name no number of clients are for {_clients(main)}."]

    if alone:
        cost = spread(alone, ",.1f")
        notes.append(f"A call of the app without a server takes {cost} µs of CPU.")

    return Table(
        title=f"{APPS[app]}, {MODES[mode]}",
        columns=columns,
        rows=[
            [
                _about(name),
                *(spread(_of(rows[name], count, "rate")) for count in counts),
                spread(_ratios(rows[name], rows[reference], main), ".2f"),
                *_costs(name, _of(rows[name], main, "cpu"), alone),
                _latency(rows[name], main),
                _memory(rows[name], main),
                total([one["errors"] for one in rows[name]]),
            ]
            for name in sorted(names, key=rank)
        ],
        notes=notes,
    )


def _clients(count: int) -> str:
    return f"{count} client{'s' if count > 1 else ''}"


def _about(name: str) -> str:
    server = SERVERS[name.partition(",")[0]]
    return f"{name}: {server.about}"


def _of(figures: Sequence[Figures], clients: int, what: str) -> list[float]:
    return [one[what] for one in figures if one["clients"] == clients]


def _ratios(
    figures: Sequence[Figures], reference: Sequence[Figures], clients: int
) -> list[float]:
    """The throughput divided by the reference's in the same round, since what else
    the machine does changes from round to round.
    """
    others = {
        one["round"]: one["rate"] for one in reference if one["clients"] == clients
    }
    return [
        one["rate"] / others[one["round"]]
        for one in figures
        if one["clients"] == clients and others.get(one["round"])
    ]


def _costs(name: str, cpu: Sequence[float], alone: Sequence[float]) -> list[str]:
    if not alone:
        return [spread(cpu)]

    if not cpu or not SERVERS[name].calls_app:
        return [spread(cpu), NOTHING]

    own = statistics.median(cpu) - statistics.median(alone)
    return [spread(cpu), f"{own:,.0f}"]


def _latency(figures: Sequence[Figures], clients: int) -> str:
    p50, p99 = (_of(figures, clients, what) for what in ("p50", "p99"))
    return f"{spread_median(p50)}, {spread_median(p99)}"


def spread_median(values: Sequence[float], form: str = ",.1f") -> str:
    return format(statistics.median(values), form) if values else NOTHING


def _memory(figures: Sequence[Figures], clients: int) -> str:
    processes, pss = (_of(figures, clients, what) for what in ("processes", "pss"))
    return f"{spread_median(processes, ',.0f')}, {spread_median(pss, ',.0f')}"


def _charts(results: Results) -> list[Chart]:
    counts = results.meta.options["clients"]

    if len(counts) < 2:
        return []

    return [
        Chart(
            name="throughput-" + case.replace(", ", "-"),
            title=f"{APPS[case.split(', ')[0]]}, {case.split(', ')[1]}",
            across="clients",
            up="requests a second",
            labels=[f"{count:,}" for count in counts],
            series=_series(results, case, counts),
        )
        for case in results.cases()
        if not case.endswith(ALONE) and results.contenders(case)
    ]


def _series(
    results: Results, case: str, counts: Sequence[int]
) -> Mapping[str, list[tuple[float, float]]]:
    return {
        name: [
            (number, statistics.median(rates))
            for number, count in enumerate(counts)
            if (rates := _of(results.figures(case, name), count, "rate"))
        ]
        for name in results.contenders(case)
    }


def _method(options: Options) -> str:
    return (
        f"Servers with several processes have {options.workers}. Those that scale begin"
        f" with as many and may have {MOST}. wrk ran on the same machine with one"
        f" thread, {options.seconds:g} s for each figure. Ratios are calculated within"
        " a round."
    )


THROUGHPUT = Suite(
    name="throughput",
    title="Throughput",
    options=(
        choose_servers(SERVERS, BY_DEFAULT),
        CHOOSE_WORKERS,
        Option("--apps", choices(APPS), ",".join(APPS), "A,B,...", "what is served"),
        Option("--modes", choices(MODES), ",".join(MODES), "A,B", "of connections"),
        Option(
            "--clients",
            client_counts,
            "1,64",
            "A,B,...",
            "connections at the same time, one after the other",
        ),
    ),
    smoke={"clients": [4], "modes": ["close"], "seconds": 1.0},
    # Differences are small here, so there are many rounds.
    defaults={"rounds": "5", "seconds": "1"},
    contenders=_contenders,
    cases=_cases,
    cost=_cost,
    measure=_measure,
    tables=_tables,
    charts=_charts,
    method=_method,
)
