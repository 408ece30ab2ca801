"""How long a request takes at a given rate: an open loop, see ``openloop.py``."""

from __future__ import annotations

import statistics
import typing as t
from collections.abc import Sequence

from charts import Chart
from histogram import Histogram
from load import LoadError
from load import WARM_UP
from options import fractions
from results import Figures
from results import Results
from results import Trial
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
    "gunicorn-sync",
    "gunicorn-gthread",
    "uwsgi",
    "granian",
)

APP = "hello"
CAPACITY = "capacity"
CLIENTS = 16
"""For which the capacity is measured."""

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def _contenders(options: Options) -> list[Contender]:
    return [
        Contender(name, name)
        for name in options.servers
        if SERVERS[name].calls_app and SERVERS[name].usual
    ]


def _cases(options: Options) -> dict[str, list[str]]:
    names = [one.name for one in _contenders(options)]
    return {case: names for case in (CAPACITY, *map(_percent, options.fractions))}


def _percent(fraction: float) -> str:
    return f"{fraction:.0%}"


def _cost(trial: Trial, options: Options) -> float:
    return 1.0 + float(options.seconds)


def _measure(trial: Trial, lab: Lab) -> list[Figures]:
    seconds = lab.options.seconds

    with lab.running(trial.contender, APP) as running:
        if trial.case == CAPACITY:
            lab.load(running.port, CLIENTS, WARM_UP)
            return [{"rate": lab.load(running.port, CLIENTS, seconds).rate}]

        rate = float(trial.case.rstrip("%")) / 100 * capacity(lab.results)
        # Not the first request of all.
        lab.open_loop(running.port, rate, 0.2, seed=0)
        report = lab.open_loop(running.port, rate, seconds, seed=trial.round + 1)
        return [{"rate": rate, **report}]


def capacity(results: Results) -> float:
    """What the slowest one could do in the first round: the same rates are for all.

    :raises LoadError: Nobody was measured.
    """
    rates = [
        one["rate"]
        for name in results.contenders(CAPACITY)
        for one in results.figures(CAPACITY, name)
        if one["round"] == 0
    ]

    if not rates:
        raise LoadError("no server's capacity is known")

    return float(min(rates))


# The report


def _fractions(results: Results) -> list[str]:
    found = [case for case in results.cases() if case != CAPACITY]
    return [case for case in found if results.contenders(case)]


def _tables(results: Results) -> list[Table]:
    if not results.contenders(CAPACITY):
        return []

    return [_capacities(results)] + [_table(results, c) for c in _fractions(results)]


def _capacities(results: Results) -> Table:
    rates = {
        name: [one["rate"] for one in results.figures(CAPACITY, name)]
        for name in results.contenders(CAPACITY)
    }
    order = sorted(rates, key=lambda name: -statistics.median(rates[name]))
    return Table(
        title=f"Capacity: {CLIENTS} clients, `Connection: close`, closed loop",
        columns=["server", "requests/s"],
        rows=[
            [f"{name}: {SERVERS[name].about}", spread(rates[name])] for name in order
        ],
    )


def _table(results: Results, case: str) -> Table:
    names = results.contenders(case)
    rows = {name: results.figures(case, name) for name in names}
    rate = next(iter(rows.values()))[0]["rate"]

    def rank(name: str) -> float:
        return _merged(rows[name]).quantile(0.99) or 0.0

    return Table(
        title=f"{case} of the slowest one's capacity: {rate:,.0f} requests/s, ms",
        columns=["server", *QUANTILES, "answered", "errors", "generator"],
        rows=[
            [
                f"{name}: {SERVERS[name].about}",
                *(cell(rows[name], fraction) for fraction in QUANTILES.values()),
                _answered(rows[name]),
                total([one["errors"] for one in rows[name]]),
                _generator(rows[name]),
            ]
            for name in sorted(names, key=rank)
        ],
        notes=[
            "Figures are for all rounds together; (lowest–highest) of single rounds."
        ],
    )


def _merged(figures: Sequence[Figures]) -> Histogram:
    return sum((Histogram.from_json(one["latencies"]) for one in figures), Histogram())


def cell(figures: Sequence[Figures], fraction: float) -> str:
    """A quantile in milliseconds, if there are enough samples for it."""
    whole = _merged(figures).quantile(fraction)

    if whole is None:
        return NOTHING

    rounds = [
        Histogram.from_json(one["latencies"]).quantile(fraction) for one in figures
    ]
    known = [value / 1e3 for value in rounds if value is not None]
    text = f"{whole / 1e3:,.1f}"

    if len(figures) < 2 or len(known) < len(figures):
        return text

    return f"{text} ({min(known):,.1f}–{max(known):,.1f})"


def _answered(figures: Sequence[Figures]) -> str:
    answered = sum(one["answered"] for one in figures)
    return f"{answered / sum(one['planned'] for one in figures):.1%}"


def _generator(figures: Sequence[Figures]) -> str:
    """Whether the load was made as it should be."""
    late = [one["lag_p99"] / 1e3 for one in figures if not one["kept_up"]]

    if not late:
        return "kept up"

    return f"late by {max(late):,.1f} ms (p99): don't believe it"


def _charts(results: Results) -> list[Chart]:
    cases = _fractions(results)

    if len(cases) < 2:
        return []

    return [
        Chart(
            name=f"latency-{name}",
            title=f"{name} at a given rate",
            across="percent of the slowest server's capacity",
            up="ms",
            log_up=True,
            series=_series(results, cases, QUANTILES[name]),
        )
        for name in ("p50", "p99")
    ]


def _series(
    results: Results, cases: Sequence[str], fraction: float
) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [
            (float(case.rstrip("%")), value / 1e3)
            for case in cases
            if (value := _merged(results.figures(case, name)).quantile(fraction))
        ]
        for name in results.contenders(cases[0])
    }


def _method(options: Options) -> str:
    return (
        "A Flask app that says hello, `Connection: close`. Servers with several"
        f" processes have {options.workers}. {options.seconds:g} s for each figure."
        " Requests arrive like those of many independent users (Poisson), at the same"
        " times for all servers of a round. Latency is measured from the time at which"
        " a request should be sent. A quantile with fewer than 10 samples beyond it"
        " isn't shown."
    )


LATENCY = Suite(
    name="latency",
    title="Latency at a given rate",
    options=(
        choose_servers(SERVERS, BY_DEFAULT),
        CHOOSE_WORKERS,
        Option(
            "--fractions",
            fractions,
            "0.25,0.5,0.9",
            "A,B,...",
            "of the slowest server's capacity, the rates that are measured",
        ),
    ),
    defaults={"rounds": "5", "seconds": "2"},
    smoke={"fractions": [0.25, 0.5], "seconds": 0.5},
    contenders=_contenders,
    cases=_cases,
    cost=_cost,
    measure=_measure,
    tables=_tables,
    charts=_charts,
    shared=CAPACITY,
    method=_method,
)
