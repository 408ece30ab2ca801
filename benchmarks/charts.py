"""Plots as SVG, readable on a light page and on a dark one.

A plot is described as data, :class:`Chart`. matplotlib (the extra ``bench``) is only
imported when a plot is drawn.
"""

from __future__ import annotations

import io
import re
import typing as t
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass

INK = "#767676"
"""The grey that has the same contrast, 4.6 to 1, with white and with black."""

COLOURS = (
    "#d55e00",
    "#0f83c4",
    "#009473",
    "#b86bd6",
    "#b07d00",
    "#e0559a",
    "#6e8b00",
    "#8a6d5a",
)
"""Of at least 3 to 1 with both."""

MARKS = "osD^vPX*"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Lines through points, or bars if the axis below is of words."""

    name: str
    """Of the file, without its ending."""

    title: str
    across: str
    up: str
    series: Mapping[str, Points]
    labels: Sequence[str] = ()
    """Of the bars: the points' first figures count these."""

    log_across: bool = False
    log_up: bool = False
    steps: bool = False
    """A line is a value that stays until the next point."""

    @property
    def file(self) -> str:
        return f"{self.name}.svg"


class DrawError(Exception):
    """There is nothing to draw with."""


def draw(chart: Chart) -> str:
    """The SVG.

    :raises DrawError: matplotlib isn't installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise DrawError(
            "plots need matplotlib: pip install 'flask_prefork[bench]', or run"
            " `make bench`, which does so"
        ) from None

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": chart.name,
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
    }

    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.add_subplot()
        _bars(axes, chart) if chart.labels else _lines(axes, chart)
        axes.set(title=chart.title, xlabel=chart.across, ylabel=chart.up)
        axes.grid(axis="y", color=INK, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        file = io.StringIO()
        # No date: the same figures are the same file.
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})

    # matplotlib leaves spaces at the ends of lines.
    return re.sub(r"[ \t]+$", "", file.getvalue(), flags=re.MULTILINE)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _lines(axes: t.Any, chart: Chart) -> None:
    for number, (name, points) in enumerate(chart.series.items()):
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            label=name,
            color=_colour(number),
            # Beyond so many colours, the line differs.
            linestyle="-" if number < len(COLOURS) else "--",
            marker=None if chart.steps else MARKS[number % len(MARKS)],
            drawstyle="steps-post" if chart.steps else "default",
        )

    if chart.log_across:
        axes.set_xscale("log", base=10)
        ticks = sorted({x for points in chart.series.values() for x, _ in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.set_xticks([], minor=True)

    if chart.log_up:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _bars(axes: t.Any, chart: Chart) -> None:
    width = 0.8 / max(1, len(chart.series))

    for number, (name, points) in enumerate(chart.series.items()):
        axes.bar(
            [x - 0.4 + (number + 0.5) * width for x, _ in points],
            [y for _, y in points],
            width=width,
            label=name,
            color=_colour(number),
            # Beyond so many colours, bars are hatched.
            hatch=None if number < len(COLOURS) else "///",
        )

    axes.set_xticks(range(len(chart.labels)), chart.labels, rotation=0)

    if chart.log_up:
        axes.set_yscale("log")
