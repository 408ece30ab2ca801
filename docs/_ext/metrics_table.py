"""The metrics of ``/metrics`` as reStructuredText, from the code that renders them."""

from __future__ import annotations

import typing as t

from options_table import escape

from flask_prefork.ipc.figures import PARKED_STATES
from flask_prefork.observe.openmetrics import families
from flask_prefork.observe.openmetrics import Family
from flask_prefork.observe.openmetrics import PREFIX
from flask_prefork.observe.snapshot import GenerationView
from flask_prefork.observe.snapshot import LimitView
from flask_prefork.observe.snapshot import Quantiles
from flask_prefork.observe.snapshot import Snapshot
from flask_prefork.observe.snapshot import Totals
from flask_prefork.observe.snapshot import WorkerView

#: A server with a value for each figure, so that no metric is left out.
EXAMPLE = Snapshot(
    pid=1,
    version="1",
    uptime=1.0,
    phase="serving",
    responsive=True,
    ready=True,
    addresses=(),
    generations=(
        GenerationView(1, "current", "I", (WorkerView(0, "I", 2, 1.0, 1, 1, pss=1),)),
    ),
    min_idle=1,
    max_idle=1,
    max_workers=1,
    saturated=False,
    queue=0,
    queue_limit=1,
    parked=0,
    parked_by_state=dict.fromkeys(PARKED_STATES, 0),
    totals=Totals(deaths={"signal": 1}),
    latency=Quantiles(60.0, 1, 1.02, 1.02, 1.02),
    queue_time=Quantiles(60.0, 1, 0.0, 0.0, 0.0),
    limits=(LimitView("/report", 1, 0, 0, 0),),
)


class Metric(t.NamedTuple):
    """A row of the table.

    :param name: What it is asked for by: a counter by its sample's name.
    :param kind: Its type in OpenMetrics.
    :param labels: Those of its samples, in their order.
    :param help: What it tells.
    """

    name: str
    kind: str
    labels: list[str]
    help: str


def metrics() -> list[Metric]:
    """All metrics, in their order."""
    return [*map(_metric, families(EXAMPLE))]


def _metric(family: Family) -> Metric:
    samples = list(family.samples)
    suffixes = {sample.suffix for sample in samples}
    (suffix,) = suffixes if len(suffixes) == 1 else ("",)
    labels = [*dict.fromkeys(label for sample in samples for label in sample.labels)]
    name = f"{PREFIX}{family.name}{suffix}"
    return Metric(name, family.kind, labels, family.help)


def _row(metric: Metric) -> str:
    told = ", ".join(f"``{label}``" for label in metric.labels)
    return (
        f"    * - ``{metric.name}``\n      - {metric.kind}\n"
        f"      - {told}\n      - {escape(metric.help)}"
    )


def render() -> str:
    """All metrics, as a table."""
    head = (
        ".. list-table::\n    :header-rows: 1\n    :widths: 42 12 12 34\n\n"
        "    * - Name\n      - Type\n      - Labels\n      - Meaning"
    )
    return "\n".join([head, *map(_row, metrics())])
