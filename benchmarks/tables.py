"""Tables, as reStructuredText for the docs and as Markdown otherwise. Pure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

NOTHING = "–"
"""What stands where there is no figure."""


@dataclass(frozen=True)
class Table:
    """Who is how good at what.

    The first column is text, all others are figures.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)

    def markdown(self) -> str:
        """With code in backticks, as it is written here everywhere."""
        rule = ["---", *["--:"] * (len(self.columns) - 1)]
        lines = [self.columns, rule, *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([f"**{self.title}**", table, *self.notes])

    def rst(self) -> str:
        """As a ``list-table``, whose cells may be of any width."""
        lines = [
            f".. list-table:: {to_rst(self.title)}",
            "   :header-rows: 1",
            "   :class: benchmark",
            "",
        ]

        for row in (self.columns, *self.rows):
            for number, cell in enumerate(row):
                bullet = "* -" if number == 0 else "  -"
                lines.append(f"   {bullet} {to_rst(cell)}".rstrip())

        for note in self.notes:
            lines += ["", to_rst(note)]

        return "\n".join(lines) + "\n"


def to_rst(text: str) -> str:
    """What is in single backticks becomes literal, and nothing else is markup."""
    parts = re.split(r"`([^`]*)`", text)
    quoted = [re.sub(r"([\\*|_])", r"\\\1", part) for part in parts[::2]]
    literal = [f"``{part}``" for part in parts[1::2]]
    mixed = [one for pair in zip(quoted, [*literal, ""], strict=True) for one in pair]
    return "".join(mixed)


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """The median, and the least and greatest value if there are several."""
    if not values:
        return NOTHING

    median = format(statistics.median(values), form)

    if len(values) == 1:
        return median

    return f"{median} ({format(min(values), form)}–{format(max(values), form)})"


def total(kinds: Sequence[dict[str, int]]) -> str:
    """The sum of all rounds' errors, by kind."""
    sums: dict[str, int] = {}

    for one in kinds:
        for kind, count in one.items():
            sums[kind] = sums.get(kind, 0) + count

    return ", ".join(f"{count:,} {kind}" for kind, count in sums.items())


def in_short(text: str, most: int = 100) -> str:
    """A reason, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
