"""How fast a pool grows when many slow requests come at once, and how it shrinks.

One slow request runs, and then many more come at the same moment. Each response says
when the app began with it, by the clock that all processes of the machine share. So the
servers need no special support for this.
"""

from __future__ import annotations

import concurrent.futures
import statistics
import threading
import time
import typing as t
from collections.abc import Sequence

import ask
from charts import Chart
from options import positive
from options import seconds
from process import Running
from results import Figures
from results import Results
from results import Trial
from servers import SERVERS
from tables import NOTHING
from tables import spread
from tables import Table

from .suite import CHOOSE_SERVERS
from .suite import CHOOSE_WORKERS
from .suite import Contender
from .suite import Option
from .suite import Options
from .suite import Suite

if t.TYPE_CHECKING:
    from lab import Lab

APP = "hold"
ROOM = 1.6
"""So many times the requests are workers allowed: who overshoots can be seen."""

WAITED = 0.1
"""Seconds: who waits longer has waited for a worker to be made."""

PERIOD = 0.1
"""Seconds between two looks at the pool's size."""

LEAD = 1.0
"""Seconds that the one request runs before the others come."""


def _contenders(options: Options) -> list[Contender]:
    most = round(options.step * ROOM)
    scaling = [name for name in options.servers if SERVERS[name].scales]
    return [
        Contender(name, name, workers=options.workers, most=most) for name in scaling
    ]


def _case(options: Options) -> str:
    return f"From 1 to {options.step}"


def _cases(options: Options) -> dict[str, list[str]]:
    return {_case(options): [one.name for one in _contenders(options)]}


def _cost(trial: Trial, options: Options) -> float:
    # Some servers serve one after the other for a while.
    return 4.0 + LEAD + float(2 * options.hold + options.patience)


class Sampler(threading.Thread):
    """Looks at a pool's size all the time, from inside a ``with`` statement."""

    def __init__(self, running: Running) -> None:
        super().__init__(daemon=True)
        self._running = running
        self._ended = threading.Event()
        self.samples: list[tuple[float, int]] = []

    def run(self) -> None:
        while not self._ended.wait(PERIOD):
            self.look()

    def look(self) -> None:
        self.samples.append((time.monotonic(), self._running.workers()))

    def __enter__(self) -> Sampler:
        self.look()
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._ended.set()
        self.join()


def _measure(trial: Trial, lab: Lab) -> list[Figures]:
    options = lab.options
    get = ask.getter(SERVERS[trial.contender])

    with lab.running(trial.contender, APP) as running:
        # Until it is at rest: some begin with more than is asked for.
        time.sleep(min(2.0, options.patience))
        rest = running.workers()

        with Sampler(running) as sampler:
            step, moments = _step(running.port, get, options)
            ended = time.monotonic()
            shrunk = _wait_for_rest(sampler, rest, options.patience)

    samples = sampler.samples
    return [evaluated(step, moments, ended, shrunk, rest, samples, options.workers)]


def _step(
    port: int, get: ask.Get, options: Options
) -> tuple[float, list[float | None]]:
    """Ask.

    :return: When the many came, and when each was begun with.
    """

    def began(hold: float) -> float | None:
        # The slowest server serves one after the other.
        timeout = (options.step + 1) * hold + 10

        try:
            return float(get(port, f"hold={hold}", timeout))
        except (OSError, ValueError, ask.BadAnswer):
            return None

    with concurrent.futures.ThreadPoolExecutor(options.step) as pool:
        first = pool.submit(began, LEAD + options.hold)
        time.sleep(LEAD)
        step = time.monotonic()
        many = [pool.submit(began, options.hold) for _ in range(options.step - 1)]
        moments = [one.result() for one in many]
        first.result()

    return step, moments


def _wait_for_rest(sampler: Sampler, rest: int, patience: float) -> float | None:
    """When there are no more workers than in the beginning; ``None`` is never."""
    deadline = time.monotonic() + patience

    while time.monotonic() < deadline:
        moment, size = sampler.samples[-1]

        if size <= rest:
            return moment

        time.sleep(PERIOD)

    return None


def evaluated(
    step: float,
    moments: Sequence[float | None],
    ended: float,
    shrunk: float | None,
    rest: int,
    samples: Sequence[tuple[float, int]],
    spare: int,
) -> Figures:
    """What a run says.

    :param step: When the requests came.
    :param moments: When an app began with each; ``None`` if it failed.
    :param ended: When the last had its response.
    :param shrunk: When the pool was again as it was.
    :param rest: How many workers it had at first.
    :param samples: How many there were when.
    :param spare: How many are to be idle while all others are busy.
    """
    waits = sorted(max(0.0, one - step) for one in moments if one is not None)
    # One request was there before these, and some workers are to be spare.
    needed = len(moments) + 1 + spare
    most = max((size for _, size in samples), default=rest)
    return {
        "waits": [round(wait, 4) for wait in waits],
        "failed": len(moments) - len(waits),
        "rest": rest,
        "most": most,
        "overshoot": max(0, most - needed),
        "shrink": None if shrunk is None else max(0.0, shrunk - ended),
        "samples": [(round(moment - step, 2), size) for moment, size in samples],
    }


# The report


def _tables(results: Results) -> list[Table]:
    return [_table(results, c) for c in results.cases() if results.contenders(c)]


def _table(results: Results, case: str) -> Table:
    rows = {name: results.figures(case, name) for name in results.contenders(case)}
    hold = results.meta.options["hold"]
    patience = results.meta.options["patience"]

    def rank(name: str) -> float:
        return statistics.median(max(one["waits"], default=0) for one in rows[name])

    return Table(
        title=f"{case} requests that take {hold:g} s",
        columns=[
            "server",
            "until all run, s",
            f"waited over {WAITED:g} s",
            "median wait, s",
            "workers before",
            "most",
            "beyond busy and spare",
            "until as before, s",
            "failed",
        ],
        rows=[
            [f"{name}: {SERVERS[name].about}", *_cells(rows[name], hold, patience)]
            for name in sorted(rows, key=rank)
        ],
        notes=[
            f"After {hold:g} s the first requests end, and those that still wait get"
            " their workers. Then all requests never ran at the same time. The time"
            " until the pool is as before is measured from the last response."
        ],
    )


def _cells(figures: Sequence[Figures], hold: float, patience: float) -> list[str]:
    last = [max(one["waits"]) for one in figures if one["waits"]]
    late = [sum(wait > WAITED for wait in one["waits"]) for one in figures]
    middle = [statistics.median(one["waits"]) for one in figures if one["waits"]]
    never = [one for one in figures if one["shrink"] is None]
    shrink = [one["shrink"] for one in figures if one["shrink"] is not None]
    return [
        f"never; the last began after {spread(last, ',.1f')}"
        if any(wait >= hold for wait in last)
        else spread(last, ",.2f"),
        spread(late),
        spread(middle, ",.2f"),
        spread([one["rest"] for one in figures]),
        spread([one["most"] for one in figures]),
        spread([one["overshoot"] for one in figures]),
        f"over {patience:g}; {spread([one['samples'][-1][1] for one in never])} left"
        if never
        else spread(shrink, ",.1f"),
        str(sum(one["failed"] for one in figures) or NOTHING),
    ]


def _charts(results: Results) -> list[Chart]:
    return [
        Chart(
            name="reaction",
            title=f"{case} slow requests",
            across="seconds since the step",
            up="workers",
            steps=True,
            series={
                name: results.figures(case, name)[0]["samples"]
                for name in results.contenders(case)
            },
        )
        for case in results.cases()
        if results.contenders(case)
    ]


def _method(options: Options) -> str:
    return (
        f"Servers begin with {options.workers} workers, if they have an option for it,"
        f" and may have {round(options.step * ROOM)}. They keep as many workers idle as"
        f" they begin with. The pool's size was read every {PERIOD:g} s. The plot shows"
        " the first round."
    )


REACTION = Suite(
    name="reaction",
    title="Reaction to a step",
    options=(
        CHOOSE_SERVERS,
        CHOOSE_WORKERS,
        Option("--step", positive, "40", "N", "requests at the same time"),
        Option("--hold", seconds, "4", "S", "how long each takes"),
        Option("--patience", seconds, "8", "S", "to wait for the pool to shrink"),
    ),
    smoke={"step": 6, "hold": 0.5, "patience": 0.5},
    contenders=_contenders,
    cases=_cases,
    cost=_cost,
    measure=_measure,
    tables=_tables,
    charts=_charts,
    method=_method,
)
