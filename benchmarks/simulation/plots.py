"""Results as plots, in SVG that is readable on light and on dark pages.

matplotlib is only imported here, so it isn't needed for the figures alone.
"""

from __future__ import annotations

import math
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib import ticker

from .cases import Case
from .cases import OURS
from .results import Result

matplotlib.use("svg")

INK = "#7a7a7a"
"""A grey that is seen on white and on black."""

COLOURS = (
    "#e8590c",
    "#e8590c",
    "#1c7ed6",
    "#2b8a3e",
    "#ae3ec9",
    "#0c8599",
    "#a08400",
    "#868e96",
    "#fa5252",
)
MARKS = "oosD^v<>x"

STYLE: dict[str, t.Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "font.size": 9,
    "legend.frameon": False,
    # Long enough to show the dashes.
    "legend.handlelength": 3.0,
    "legend.labelcolor": INK,
    "savefig.transparent": True,
    # The same results make the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "flask_prefork",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

LEAST = 1e-4
"""Shorter waits are drawn here: a logarithmic axis has no zero."""


def look(index: int) -> dict[str, t.Any]:
    """How a server's line looks; ours that differ in a setting share a colour."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKS[index % len(MARKS)],
        "linestyle": "--" if index == 1 else "-",
        "linewidth": 2.0 if index < 2 else 1.2,
        "markersize": 4,
        "zorder": 3 if index < 2 else 2,
    }


def label(axis: t.Any, steps: Sequence[int]) -> None:
    """Write plain numbers, at these steps of each power of ten only."""
    axis.set_major_locator(ticker.LogLocator(subs=steps))
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def save(figure: t.Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def waiting(
    cases: Sequence[Case], results: Sequence[Result], servers: Sequence[str], path: Path
) -> None:
    """Waiting time against workers, a panel for each case, a curve for each server."""
    columns = min(3, len(cases))
    rows = math.ceil(len(cases) / columns)
    with pyplot.rc_context(STYLE):
        figure, grid = pyplot.subplots(
            rows, columns, figsize=(3.6 * columns, 2.8 * rows), squeeze=False
        )
        panels = list(grid.flat)
        for panel, case in zip(panels, cases, strict=False):
            for index, server in enumerate(servers):
                curve = [
                    one
                    for one in results
                    if one.case == case.name and one.server == server
                ]
                panel.plot(
                    [one.workers for one in curve],
                    [max(one.mean, LEAST) * 1000 for one in curve],
                    label=server,
                    **look(index),
                )
            panel.set(title=case.name, xscale="log", yscale="log")
            label(panel.xaxis, (1, 2, 5))
            label(panel.yaxis, (1,))
            panel.set(xlabel="workers, mean", ylabel="waiting, mean (ms)")
        for panel in panels[len(cases) :]:
            panel.remove()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.tight_layout()
        figure.legend(
            handles, labels, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 0.0)
        )
        save(figure, path)


def sizes(
    runs: Mapping[str, Sequence[tuple[float, int]]], path: Path, until: float
) -> None:
    """How many workers each server has, over time."""
    with pyplot.rc_context(STYLE):
        figure, panel = pyplot.subplots(figsize=(7.2, 3.6))
        for index, (server, steps) in enumerate(runs.items()):
            line = {**look(index), "marker": ""}
            times = [*(when for when, _ in steps), until]
            counts = [*(count for _, count in steps), steps[-1][1]]
            panel.step(times, counts, where="post", label=server, **line)
        panel.set(xlabel="seconds", ylabel="workers", xlim=(0, until), ylim=(0, None))
        figure.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 0.0))
        save(figure, path)


def draw(
    cases: Sequence[Case],
    results: Sequence[Result],
    runs: Mapping[str, Sequence[tuple[float, int]]],
    until: float,
    folder: Path,
) -> list[Path]:
    """Draw all pictures.

    :return: The files.
    """
    # A fixed number is a point, and has no place on curves of settings.
    servers = [*dict.fromkeys(one.server for one in results)]
    servers.sort(key=lambda name: not name.startswith(OURS))
    paths = [folder / "waiting.svg", folder / "crowd.svg"]
    waiting(cases, results, servers, paths[0])
    sizes(runs, paths[1], until)
    return paths
