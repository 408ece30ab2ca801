"""What clients get from a server that is asked more than it can."""

from __future__ import annotations

import concurrent.futures
import statistics
import typing as t
from collections import Counter
from collections.abc import Sequence

from charts import Chart
from histogram import Histogram
from options import multiples
from options import positive
from options import seconds
from overload import between
from overload import endings
from overload import goodput
from overload import recovery
from overload import REFUSED
from results import Figures
from results import Results
from results import Trial
from servers import SERVERS
from stall import BEFORE
from stall import stall
from tables import NOTHING
from tables import spread
from tables import Table

from .slow_clients import p99
from .suite import choose_servers
from .suite import Contender
from .suite import Option
from .suite import Options
from .suite import Suite

if t.TYPE_CHECKING:
    from lab import Lab

APP = "overload"
SERVICE = 0.05
"""Seconds of a request of the app."""

PATIENCE = 1.0
"""Seconds that a client waits, and then leaves."""

QUEUE = 0.5
"""Seconds that a request may wait for a worker, where a server can bound that."""

STALL_LOAD = 0.75
"""Of the capacity, while a server is stalled and after it."""

AFTER = 8.0
"""Seconds of the load after a stall."""

SLOW_SECONDS = 1.25
SLOW_LOAD = 1.5
"""Of what all workers together can do of the slow requests."""

FAST_RATE = 100
"""Requests of the fast route a second, beside slow ones."""

FAST_PATIENCE = 3.0
"""Its clients give up after so long, in seconds."""

BESIDE_SECONDS = 6.0
"""How long that is measured at least: a p99 needs many requests."""

STALL = "a stall"
BESIDE = "beside a slow route"
TIMES = " times the capacity"

CONTENDERS: dict[str, str] = {
    "prefork-ordered": "prefork-ordered",
    "gunicorn-sync": "gunicorn-sync",
    "gunicorn-sync-defaults": "gunicorn-sync",
    "gunicorn-gthread": "gunicorn-gthread",
    "uwsgi": "uwsgi",
    "granian": "granian",
    "waitress": "waitress",
}
"""Who takes part, and as which server."""


def _contender(name: str, options: Options) -> Contender:
    most = options.most
    queue = str(max(1, round(QUEUE * most / SERVICE)))
    words: dict[str, tuple[str, ...]] = {
        "prefork-ordered": ("--queue-timeout", f"{QUEUE:g}"),
        "gunicorn-sync": ("--backlog", queue),
        # One process: a queue of its own, and a bound on it that is one for all.
        "gunicorn-gthread": (
            *("--threads", str(most), "--backlog", queue),
            *("--worker-connections", str(2 * most)),
        ),
        "uwsgi": ("--listen", queue, "--harakiri", "5"),
        # Its backlog can't be smaller.
        "granian": (
            *("--blocking-threads", "1", "--backpressure", "2"),
            *("--backlog", "128"),
        ),
        "waitress": (
            *("--threads", str(most), "--backlog", queue),
            *("--connection-limit", str(2 * most)),
        ),
    }
    one_process = name in ("gunicorn-gthread", "waitress")
    return Contender(
        name,
        CONTENDERS[name],
        workers=1 if one_process else most,
        options=words.get(name, ()),
    )


def _contenders(options: Options) -> list[Contender]:
    return [_contender(name, options) for name in options.servers]


def _load_case(load: float) -> str:
    return f"{load:g}{TIMES}"


def _cases(options: Options) -> dict[str, list[str]]:
    names = [*map(_load_case, options.loads), STALL, BESIDE]
    return {name: list(options.servers) for name in names}


def _cost(trial: Trial, options: Options) -> float:
    # Starting, being at rest, ending: some end only after a while.
    fixed = 2.0

    if trial.case == STALL:
        return fixed + BEFORE + float(options.stall) + AFTER

    if trial.case == BESIDE:
        return fixed + 2 * _beside_seconds(options)

    return fixed + float(options.seconds) + PATIENCE


def _capacity(options: Options) -> float:
    return float(options.most) / SERVICE


def _measure(trial: Trial, lab: Lab) -> list[Figures]:
    options = lab.options

    with lab.running(trial.contender, APP) as running:
        if trial.case == STALL:
            return [_stalled(running.port, options)]

        if trial.case == BESIDE:
            return [_beside(running.port, lab)]

        load = float(trial.case.removesuffix(TIMES))
        report = lab.open_loop(
            running.port,
            load * _capacity(options),
            options.seconds,
            seed=trial.round + 1,
            timeout=PATIENCE,
            trace=True,
        )

    trace = report["trace"]
    return [
        {
            "goodput": goodput(trace, options.seconds, PATIENCE),
            "latencies": report["latencies"],
            "planned": report["planned"],
            "endings": endings(trace),
            "kept_up": report["kept_up"],
        }
    ]


def _stalled(port: int, options: Options) -> dict[str, t.Any]:
    rate = STALL_LOAD * _capacity(options)
    found = stall(port, rate, options.stall, AFTER, PATIENCE)
    meanwhile = between(found.trace, found.begin, found.end)
    return {
        "recovery": recovery(found.trace, found.end, PATIENCE),
        "planned": len(meanwhile),
        "endings": endings(meanwhile),
    }


def _beside_seconds(options: Options) -> float:
    # A smoke test is short.
    return float(
        options.seconds if options.smoke else max(options.seconds, BESIDE_SECONDS)
    )


def _beside(port: int, lab: Lab) -> dict[str, t.Any]:
    options = lab.options
    rate = SLOW_LOAD * options.most / SLOW_SECONDS
    seconds = _beside_seconds(options)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        path = f"/slow?seconds={SLOW_SECONDS:g}"
        # Its clients are patient.
        slow = pool.submit(
            lab.open_loop, port, rate, seconds, 2, timeout=30.0, path=path
        )
        fast = lab.open_loop(
            *(port, FAST_RATE, seconds),
            seed=1,
            timeout=FAST_PATIENCE,
            path="/fast",
        )
        slow_report = slow.result()

    # Who got nothing has waited for as long as it was let.
    missed = [FAST_PATIENCE * 1e6] * (fast["planned"] - fast["answered"])
    latencies = Histogram.from_json(fast["latencies"]) + Histogram.of(missed)
    return {
        "latencies": latencies.json(),
        "planned": fast["planned"],
        "missed": len(missed),
        "slow_planned": slow_report["planned"],
        "slow_answered": slow_report["answered"],
    }


# The report


def _name(contender: str) -> str:
    about = SERVERS[CONTENDERS[contender]].about
    return f"{contender}: {about}"


def _loads(results: Results) -> list[float]:
    return sorted(
        float(case.removesuffix(TIMES))
        for case in results.cases()
        if case.endswith(TIMES) and results.contenders(case)
    )


def _tables(results: Results) -> list[Table]:
    tables = []

    if loads := _loads(results):
        tables += [_goodput_table(results, loads), _refusals_table(results, loads[-1])]

    if results.contenders(STALL):
        tables.append(_stall_table(results))

    if results.contenders(BESIDE):
        tables.append(_beside_table(results))

    return tables


def _of_load(results: Results, load: float, name: str) -> list[float]:
    return [one["goodput"] for one in results.figures(_load_case(load), name)]


def _names(results: Results, loads: Sequence[float]) -> list[str]:
    """The servers, those first that answer most when most is asked."""
    names = dict.fromkeys(
        name for load in loads for name in results.contenders(_load_case(load))
    )

    def rank(name: str) -> list[float]:
        return [-_median(_of_load(results, load, name)) for load in reversed(loads)]

    return sorted(names, key=rank)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def _goodput_table(results: Results, loads: Sequence[float]) -> Table:
    capacity = results.meta.options["most"] / SERVICE
    return Table(
        title="Requests/s answered in time, by the requests that are sent",
        columns=[
            "server",
            *(f"{load * capacity:,.0f}/s ({load:g} times)" for load in loads),
        ],
        rows=[
            [
                _name(name),
                *(spread(_of_load(results, load, name)) for load in loads),
            ]
            for name in _names(results, loads)
        ],
        notes=[
            f"Each server can answer {capacity:,.0f} requests/s. In time is within"
            f" {PATIENCE:g} s: then the client leaves."
        ],
    )


def _refusals_table(results: Results, load: float) -> Table:
    case = _load_case(load)
    return Table(
        title=f"What became of requests at {case}",
        columns=["server", "answered", "told 503", "given up", "failed otherwise"],
        rows=[
            [_name(name), *_shares(results.figures(case, name))]
            for name in _names(results, [load])
        ],
    )


def _shares(figures: Sequence[Figures]) -> list[str]:
    """Of all rounds together: answered, refused, given up, failed otherwise."""
    planned = sum(one["planned"] for one in figures)
    counts: Counter[str] = Counter()

    for one in figures:
        counts.update(one["endings"])

    known = [counts.pop(how, 0) for how in ("200", REFUSED, "timeout")]
    shares = [*known, sum(counts.values())]
    return [f"{100 * n / planned:.1f} %" if planned else NOTHING for n in shares]


def _recovery(results: Results, name: str) -> float:
    """The median; who has not recovered in a round did so after all that was seen."""
    values = [one["recovery"] for one in results.figures(STALL, name)]
    return _median([AFTER if one is None else one for one in values])


def _stall_table(results: Results) -> Table:
    length = results.meta.options["stall"]
    names = sorted(results.contenders(STALL), key=lambda one: _recovery(results, one))
    return Table(
        title=f"After a stall of {length:g} s",
        columns=[
            "server",
            "until fresh requests are answered, s",
            "meanwhile: answered",
            "told 503",
            "given up",
            "failed otherwise",
        ],
        rows=[
            [_name(name), *_stall_cells(results.figures(STALL, name))] for name in names
        ],
        notes=[
            f"{STALL_LOAD:g} times the capacity is sent, before it and after it as"
            " well. Fresh are those that are sent after its end."
        ],
    )


def _stall_cells(figures: Sequence[Figures]) -> list[str]:
    seen = [one["recovery"] for one in figures if one["recovery"] is not None]
    never = len(seen) < len(figures)
    return [
        f"over {AFTER:g}" if never else spread(seen, ",.2f"),
        *_shares(figures),
    ]


def _beside_table(results: Results) -> Table:
    def rank(name: str) -> float:
        return _median([one["missed"] for one in results.figures(BESIDE, name)])

    return Table(
        title=f"A fast route {BESIDE} that is asked {SLOW_LOAD:g} times as much as all"
        " workers can",
        columns=["server", "p99 of the fast one, ms", "slow: answered of planned"],
        rows=[
            [
                _name(name),
                p99(results.figures(BESIDE, name), FAST_PATIENCE),
                _slow(results.figures(BESIDE, name)),
            ]
            for name in sorted(results.contenders(BESIDE), key=rank)
        ],
        notes=[
            f"{FAST_RATE} requests/s of the fast one, slow ones take"
            f" {SLOW_SECONDS:g} s. Ours has a limit of 2 for the slow route."
        ],
    )


def _slow(figures: Sequence[Figures]) -> str:
    answered, planned = (
        sum(one[what] for one in figures) for what in ("slow_answered", "slow_planned")
    )
    return f"{answered:,} of {planned:,}"


def _charts(results: Results) -> list[Chart]:
    charts = []

    if loads := _loads(results):
        charts.append(
            Chart(
                name="overload-goodput",
                title=f"Answered within {PATIENCE:g} s",
                across="requests that are sent, in multiples of the capacity",
                up="requests a second that are answered in time",
                series={
                    name: [
                        (load, _median(_of_load(results, load, name))) for load in loads
                    ]
                    for name in _names(results, loads)
                },
            )
        )

    if names := results.contenders(STALL):
        charts.append(
            Chart(
                name="overload-stall",
                title=f"After a stall (the figure stops at {AFTER:g} s)",
                across="",
                up="seconds until fresh requests are answered",
                labels=[""],
                series={name: [(0, _recovery(results, name))] for name in names},
            )
        )

    return charts


def _method(options: Options) -> str:
    settings = "; ".join(
        f"{one.name} `{' '.join(one.options)}`"
        for one in _contenders(options)
        if one.options
    )
    return (
        f"Each server serves {options.most} requests at once, of {SERVICE * 1e3:g} ms:"
        " by processes of one thread, or gthread and waitress by threads of one"
        " process. Requests are sent at moments that are fixed before, each on a"
        f" connection of its own, and a client closes it that has no response after"
        f" {PATIENCE:g} s. Settings: {settings}. The first second of each load isn't"
        " counted. A stall is a lock that all requests wait for."
    )


OVERLOAD = Suite(
    name="overload",
    title="Overload",
    options=(
        choose_servers(CONTENDERS),
        Option("--most", positive, "4", "N", "requests that each serves at once"),
        Option("--loads", multiples, "1,2,4", "A,B,...", "multiples of the capacity"),
        Option("--stall", seconds, "10", "S", "how long a server is stalled"),
    ),
    smoke={"loads": [2.0], "stall": 1.5, "seconds": 2.0},
    defaults={"seconds": "4"},
    contenders=_contenders,
    cases=_cases,
    cost=_cost,
    measure=_measure,
    tables=_tables,
    charts=_charts,
    method=_method,
)
