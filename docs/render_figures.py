"""Render the table of figures in ``README.md`` and ``docs/figures.inc``.

Run it as ``python docs/render_figures.py`` after the benchmarks. The figures are those
of the published tables, ``docs/benchmarks/results/*.inc``. A test fails if README or
the manual has others.
"""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
INCLUDED = DOCS / "figures.inc"
RESULTS = DOCS / "benchmarks" / "results"
HEADINGS = ("Situation", "This server", "Other servers", "Command")
_TABLE = re.compile(r"^\.\. list-table:: (.+)\n((?:   .*\n|\n)+)", re.MULTILINE)
#: What stands in README between two headings or pictures.
_MARKS = ("<!-- figures -->\n", "<!-- end of figures -->\n")

#: Cells of a row by the names of the columns.
Row = dict[str, str]


class Column(t.NamedTuple):
    """Where a figure is taken from.

    :param table: How the table's title begins.
    :param name: The column's name.
    """

    table: str
    name: str


class Figure(t.NamedTuple):
    """A row of the table.

    In ``ours`` and ``others`` ``{server}`` stands for the server's figure, and
    ``{word server}`` for that in the column with this word.

    :param suite: Which benchmark it is from.
    :param situation: What is measured.
    :param columns: Where the figures are, by the word before the server's name.
    """

    suite: str
    situation: str
    ours: str
    others: str
    columns: dict[str, Column]


FIGURES = (
    Figure(
        "memory",
        "Memory is short: 16 workers of 30 MB in 300 MB",
        "**{prefork-ordered}** requests/s",
        "uWSGI {uwsgi}, gunicorn {gunicorn-sync}",
        {"": Column("16 workers that touch 30 MB", "requests/s")},
    ),
    Figure(
        "slow-clients",
        "5,000 clients send slowly; 6 workers",
        "**{prefork-ordered}** requests/s of others",
        "nginx and gunicorn {nginx-gunicorn}, waitress {waitress}, granian {granian},"
        " uWSGI {uwsgi}, gunicorn {gunicorn-sync}",
        {"": Column("Requests/s of quick clients while others send", "5,000 slow")},
    ),
    Figure(
        "overload",
        "320 requests/s come, 80 can be served",
        "**{prefork-ordered}** requests/s in time; {silent prefork-ordered} are told"
        " nothing",
        "uWSGI {uwsgi}, gunicorn {gunicorn-sync} (with its own backlog"
        " {gunicorn-sync-defaults}), granian {granian}; {silent uwsgi} to"
        " {silent granian} are told nothing",
        {
            "": Column("Requests/s answered in time", "320/s (4 times)"),
            "silent": Column("What became of requests at 4 times", "given up"),
        },
    ),
    Figure(
        "reaction",
        "40 slow requests at once; 2 workers are idle",
        "the last one begins after **{prefork-ordered}** s",
        "Apache's prefork {apache-prefork} s, php-fpm {php-fpm} s,"
        " uWSGI {uwsgi-busyness} s",
        {"": Column("From 1 to 40 requests", "until all run, s")},
    ),
    Figure(
        "throughput",
        "Flask says hello to 64 clients, on new connections",
        "**{prefork-ordered}** times as often as gunicorn",
        "uWSGI {uwsgi}, granian {granian}, ``flask run`` {flask-run} times",
        {
            "": Column(
                "Flask app that says hello, ``Connection: close``", "/ gunicorn-sync"
            )
        },
    ),
)


def tables(text: str) -> dict[str, dict[str, Row]]:
    """Read the tables of a suite.

    :return: Rows by the server's name, by the table's title.
    """
    found = {}
    for title, body in _TABLE.findall(text):
        rows: list[list[str]] = []
        for line in body.splitlines():
            if line.startswith("   * - "):
                rows.append([line[7:]])
            elif line.startswith("     -"):
                rows[-1].append(line[7:])
        head, *others = rows
        found[title] = {
            row[0].partition(":")[0]: dict(zip(head, row, strict=True))
            for row in others
        }
    return found


def short(cell: str) -> str:
    """A table's figure as one reads it: two digits, or a whole number.

    :param cell: Such as ``1,264.3 (1,100.0–1,300.5)``, ``71.1 %``, or ``never; the last
        began after 8.4``.
    :raise ValueError: If there is none.
    """
    median = cell.partition(" (")[0]
    if not (parts := re.search(r"([\d,]*\d(?:\.\d+)?)( ?%)?$", median)):
        raise ValueError(f"no figure: {cell!r}")
    value = float(parts[1].replace(",", ""))
    text = f"{value:.2g}" if 0 < value < 10 else f"{value:,.0f}"
    return text + (" %" if parts[2] else "")


def cells(figure: Figure, text: str) -> tuple[str, str, str, str]:
    """A row of the table, as reStructuredText.

    :param text: The published tables of its suite.
    :raise KeyError: If a table, a server or a column isn't there.
    """
    values = {}
    known = tables(text)
    for word, column in figure.columns.items():
        titles = [title for title in known if title.startswith(column.table)]
        if len(titles) != 1:
            raise KeyError(f"{figure.suite}: {len(titles)} tables: {column.table}")
        for server, row in known[titles[0]].items():
            # Not each server has a figure that is one, and not each is asked for.
            if re.search(r"\d", row[column.name]):
                values[f"{word} {server}".strip()] = short(row[column.name])
    ours, others = (s.format_map(values) for s in (figure.ours, figure.others))
    return figure.situation, ours, others, f"``benchmarks {figure.suite}``"


def rows() -> list[tuple[str, str, str, str]]:
    """All rows, from the published tables."""
    return [
        cells(figure, (RESULTS / f"{figure.suite}.inc").read_text("utf-8"))
        for figure in FIGURES
    ]


def markdown(text: str) -> str:
    """README with the table as it has to be.

    :param text: README as it is.
    """
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows()]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("``", "`")
    before, rest = text.split(_MARKS[0])
    _, after = rest.split(_MARKS[1])
    return f"{before}{_MARKS[0]}{table}{_MARKS[1]}{after}"


def rst() -> str:
    """The same table for the manual."""
    lines = [
        ".. Written by ``python docs/render_figures.py``, from the benchmarks' tables.",
        "",
        ".. list-table::",
        "    :header-rows: 1",
        "    :widths: 28 28 32 12",
        "",
    ]
    for row in [HEADINGS, *rows()]:
        lines += [f"    {'* -' if n == 0 else '  -'} {c}" for n, c in enumerate(row)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    README.write_text(markdown(README.read_text("utf-8")), encoding="utf-8")
    INCLUDED.write_text(rst(), encoding="utf-8")
