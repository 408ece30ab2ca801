"""What quick clients get while others are slow, see ``slow.py``."""

from __future__ import annotations

import statistics
import typing as t
from collections.abc import Sequence

from charts import Chart
from histogram import Histogram
from load import Unfinished
from options import choices
from options import positive
from options import whole_numbers
from results import Figures
from results import Results
from results import Trial
from servers import SERVERS
from slow import raise_descriptors
from slow_process import SlowClients
from tables import NOTHING
from tables import spread
from tables import Table

from .suite import choose_servers
from .suite import Contender
from .suite import Option
from .suite import Options
from .suite import Suite

if t.TYPE_CHECKING:
    from lab import Lab

APP = "slow"
CLIENTS = 16
"""Quick ones, for the throughput."""

RATE = 200
"""Requests per second of quick ones, for the latency."""

FIRST = 2
"""Workers that a server begins with if it scales."""

KINDS = {
    "body": ("send a body of 60 kB at 1.2 kB/s", 60_000, 1200),
    "chunked": ("send a body of 60 kB in chunks at 1.2 kB/s", 60_000, 1200),
    "read": ("read a response of 900 kB at 2 kB/s", 900_000, 2000),
}
"""What slow ones do: in words, bytes, bytes per second."""

OTHERS = {
    # Its default is 100 connections, and select() knows 1,024 descriptors.
    "waitress": ("--connection-limit", "20000"),
    # A thread for each slow client, of so many as a machine has them without trouble.
    "gunicorn-gthread": ("--threads", "100", "--worker-connections", "20000"),
    "granian": ("--blocking-threads", "100", "--backpressure", "20000"),
}
"""What is said to a server beside its pool, so that it takes so many connections."""

TAKING_PART = (
    "prefork-ordered",
    "waitress",
    "gunicorn-sync",
    "gunicorn-gthread",
    "nginx-gunicorn",
    "uwsgi",
    "granian",
)


def _contenders(options: Options) -> list[Contender]:
    return [
        Contender(
            name,
            name,
            workers=min(FIRST, options.most) if SERVERS[name].scales else options.most,
            most=options.most if SERVERS[name].scales else 0,
            options=OTHERS.get(name, ()),
        )
        for name in options.servers
    ]


def _cases(options: Options) -> dict[str, list[str]]:
    return {
        f"{kind}, {count}": list(options.servers)
        for kind in options.kinds
        for count in options.slow
        # While nobody is slow it is the same for all kinds.
        if count or kind == options.kinds[0]
    }


def _of_case(case: str) -> tuple[str, int]:
    kind, count = case.split(", ")
    return kind, int(count)


def _cost(trial: Trial, options: Options) -> float:
    _, count = _of_case(trial.case)
    # Beside slow ones, many are given up.
    times = 3 if count else 2
    return 2.5 + times * float(options.seconds) + count / 1000


def _measure(trial: Trial, lab: Lab) -> list[Figures]:
    kind, count = _of_case(trial.case)
    _, size, rate = KINDS[kind]
    seconds = lab.options.seconds
    # The server and the clients have the limits that we have.
    raise_descriptors()

    with lab.running(trial.contender, APP) as running:
        if not count:
            return [_quick(running.port, seconds, lab)]

        words = ["--count", str(count), "--size", str(size), "--rate", str(rate)]

        with SlowClients(running.port, kind, words) as slow:
            figures = _quick(running.port, seconds, lab)
            memory = sum(one.pss for one in running.memory().values()) / 1024

    ended = slow.report.get("ended", {})
    return [
        {
            **figures,
            "connected": slow.report.get("connected", 0),
            "cut": sum(n for how, n in ended.items() if how != "200"),
            "pss": memory,
        }
    ]


def _quick(port: int, seconds: float, lab: Lab) -> dict[str, t.Any]:
    """What quick clients get. None may be served at all."""
    try:
        rate = lab.load(port, CLIENTS, seconds, least=0).rate
    except Unfinished:
        # Not even a connection is made.
        rate = 0.0

    report = lab.open_loop(port, RATE, seconds, seed=1, timeout=seconds)
    # Who got nothing has waited for as long as it was let.
    missed = [seconds * 1e6] * (report["planned"] - report["answered"])
    latencies = Histogram.from_json(report["latencies"]) + Histogram.of(missed)
    return {
        "rate": rate,
        "latencies": latencies.json(),
        "missed": len(missed),
        "planned": report["planned"],
    }


# The report


def _case(results: Results, kind: str, count: int) -> str:
    """The case that a column is of: another kind's if nobody is slow."""
    of_count = [case for case in results.cases() if _of_case(case)[1] == count]
    case = f"{kind}, {count}"
    return case if count or case in of_count or not of_count else of_count[0]


def _counts(results: Results, kind: str) -> list[int]:
    cases = [_of_case(case) for case in results.cases() if results.contenders(case)]
    counts = {count for name, count in cases if name == kind}

    if counts and any(not count for _, count in cases):
        counts.add(0)

    return sorted(counts)


def _figures(results: Results, kind: str, count: int, name: str) -> list[Figures]:
    return results.figures(_case(results, kind, count), name)


def _kinds(results: Results) -> list[str]:
    return [kind for kind in KINDS if _counts(results, kind)]


def _names(results: Results, kind: str) -> list[str]:
    """The servers, those first that serve most while all are slow."""
    counts = _counts(results, kind)
    names = dict.fromkeys(
        name
        for count in counts
        for name in results.contenders(_case(results, kind, count))
    )

    def rank(name: str) -> list[float]:
        return [-_rate(results, kind, count, name) for count in reversed(counts)]

    return sorted(names, key=rank)


def _rates(results: Results, kind: str, count: int, name: str) -> list[float]:
    return [one["rate"] for one in _figures(results, kind, count, name)]


def _rate(results: Results, kind: str, count: int, name: str) -> float:
    return statistics.median(_rates(results, kind, count, name) or [0.0])


def _tables(results: Results) -> list[Table]:
    return [
        table(results, kind)
        for kind in _kinds(results)
        for table in (_throughput, _latency)
    ]


def _throughput(results: Results, kind: str) -> Table:
    counts = _counts(results, kind)
    return Table(
        title=f"Requests/s of quick clients while others {KINDS[kind][0]}",
        columns=["server", *(f"{count:,} slow" for count in counts)],
        rows=[
            [
                f"{name}: {SERVERS[name].about}",
                *(spread(_rates(results, kind, count, name)) for count in counts),
            ]
            for name in _names(results, kind)
        ],
    )


def _latency(results: Results, kind: str) -> Table:
    counts = _counts(results, kind)
    most = f"{kind}, {counts[-1]}"
    return Table(
        title=f"p99 of quick clients in ms while others {KINDS[kind][0]}",
        columns=[
            "server",
            *(f"{count:,} slow" for count in counts),
            f"of {counts[-1]:,}: connected, cut off",
            "PSS MB",
        ],
        rows=[
            [
                f"{name}: {SERVERS[name].about}",
                *(
                    p99(_figures(results, kind, count, name), _seconds(results))
                    for count in counts
                ),
                _connections(results.figures(most, name)),
                spread([x["pss"] for x in results.figures(most, name) if "pss" in x]),
            ]
            for name in _names(results, kind)
        ],
        notes=[f"{RATE} requests/s, sent at times that are fixed before."],
    )


def _seconds(results: Results) -> float:
    return float(results.meta.options["seconds"])


def p99(figures: Sequence[Figures], seconds: float) -> str:
    """A cell: of all rounds together, or that nobody was served.

    :param seconds: After which a request was given up.
    """
    if not figures:
        return NOTHING

    planned = sum(one["planned"] for one in figures)
    missed = sum(one["missed"] for one in figures)

    if missed == planned:
        return "nothing"

    whole = sum((Histogram.from_json(one["latencies"]) for one in figures), Histogram())
    value = whole.quantile(0.99)

    if value is None:
        return NOTHING

    # Whoever was given up would have waited longer.
    return (
        f"{value / 1e3:,.1f}" if missed < planned / 100 else f"> {seconds * 1e3:,.0f}"
    )


def _connections(figures: Sequence[Figures]) -> str:
    there = [one for one in figures if "connected" in one]

    if not there:
        return NOTHING

    connected, cut = (
        statistics.median(one[what] for one in there) for what in ("connected", "cut")
    )
    return f"{connected:,.0f}, {cut:,.0f}"


def _charts(results: Results) -> list[Chart]:
    return [
        Chart(
            name=f"slow-clients-{kind}",
            title=f"While others {KINDS[kind][0]}",
            across="slow clients",
            up="requests a second of quick ones",
            labels=[f"{count:,}" for count in _counts(results, kind)],
            series={
                name: [
                    (number, _rate(results, kind, count, name))
                    for number, count in enumerate(_counts(results, kind))
                ]
                for name in _names(results, kind)
            },
        )
        for kind in _kinds(results)
    ]


def _method(options: Options) -> str:
    first = min(FIRST, options.most)
    return (
        f"Servers with several processes have {options.most}; ours begins with {first}"
        " and may have as many. Slow clients are one process, their segments have 1,400"
        f" bytes. Throughput is of {CLIENTS} clients with `Connection: close`, by wrk."
        f" {options.seconds:g} s for each figure, and then a request that has no"
        " response is given up. nginx buffers as it does by default."
    )


SLOW_CLIENTS = Suite(
    name="slow-clients",
    title="Slow clients",
    options=(
        choose_servers(TAKING_PART),
        Option("--most", positive, "6", "N", "processes of each server"),
        Option("--slow", whole_numbers, "0,50,5000", "A,B,...", "how many are slow"),
        Option("--kinds", choices(KINDS), "body,read", "A,B,...", "what these do"),
    ),
    defaults={"seconds": "2"},
    smoke={"slow": [0, 2], "most": 2, "seconds": 1.0},
    contenders=_contenders,
    cases=_cases,
    cost=_cost,
    measure=_measure,
    tables=_tables,
    charts=_charts,
    method=_method,
)
