"""The metrics of ``/metrics`` as reStructuredText, from the code that renders them."""

from __future__ import annotations

from options_table import escape

from flask_prefork.ipc.figures import PARKED_STATES
from flask_prefork.observe.openmetrics import families
from flask_prefork.observe.openmetrics import Family
from flask_prefork.observe.openmetrics import PREFIX
from flask_prefork.observe.snapshot import GenerationView
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
)


def _row(family: Family) -> str:
    samples = list(family.samples)
    suffixes = {sample.suffix for sample in samples}
    # A counter is asked for by its sample's name.
    (suffix,) = suffixes if len(suffixes) == 1 else ("",)
    labels = dict.fromkeys(label for sample in samples for label in sample.labels)
    told = ", ".join(f"``{label}``" for label in labels)
    return (
        f"    * - ``{PREFIX}{family.name}{suffix}``\n      - {family.kind}\n"
        f"      - {told}\n      - {escape(family.help)}"
    )


def render() -> str:
    """All metrics, as a table."""
    head = (
        ".. list-table::\n    :header-rows: 1\n    :widths: 42 12 12 34\n\n"
        "    * - Name\n      - Type\n      - Labels\n      - Meaning"
    )
    return "\n".join([head, *map(_row, families(EXAMPLE))])
