"""README's figures are those of the published benchmarks."""

from __future__ import annotations

import pytest

from .pages import DOCS
from .pages import PAGES
from .test_docs import load

render_figures = load("render_figures")
ADVICE = "run python docs/render_figures.py"
TABLES = """\
.. list-table:: Requests/s of 16 clients
   :header-rows: 1
   :class: benchmark

   * - server
     - close
     - errors
   * - ours: ``flask prefork-run``
     - 1,264.3 (1,100.0–1,300.5)
     -
   * - uwsgi: uWSGI (C)
     - –
     -

.. list-table:: Requests/s of 64 clients
   :header-rows: 1

   * - server
     - close
   * - ours: ``flask prefork-run``
     - 7.81

Rounds: 5.
"""


def figure(ours: str, title: str, column: str = "close") -> tuple[str, ...]:
    columns = {"": render_figures.Column(title, column)}
    one = render_figures.Figure("suite", "Situation", ours, "", columns)
    found: tuple[str, ...] = render_figures.cells(one, TABLES)
    return found


def test_readme_has_the_published_figures() -> None:
    text = PAGES["README.md"]
    assert text == render_figures.markdown(text), ADVICE


def test_the_manual_has_the_published_figures() -> None:
    text = (DOCS / "figures.inc").read_text("utf-8")
    assert text == render_figures.rst(), ADVICE


def test_an_old_figure_is_replaced() -> None:
    text = PAGES["README.md"]
    old = text.replace("| **", "| **9", 1)
    assert old != text
    assert render_figures.markdown(old) == text


def test_a_figure_is_taken_from_its_table() -> None:
    _, few, _, suite = figure("{ours} requests/s", "Requests/s of 16")
    assert (few, suite) == ("1,264 requests/s", "``benchmarks suite``")
    assert figure("{ours}", "Requests/s of 64")[1] == "7.8"


@pytest.mark.parametrize(
    ("ours", "title", "column"),
    [
        ("{ours}", "Nothing", "close"),
        ("{ours}", "Requests/s of", "close"),
        ("{ours}", "Requests/s of 16", "keep-alive"),
        ("{uwsgi}", "Requests/s of 16", "close"),
        ("{granian}", "Requests/s of 16", "close"),
    ],
    ids=["no table", "two tables", "no column", "no figure", "no server"],
)
def test_what_is_not_published(ours: str, title: str, column: str) -> None:
    with pytest.raises(KeyError):
        figure(ours, title, column)


@pytest.mark.parametrize(
    ("cell", "short"),
    [
        ("1,264.3 (1,100.0–1,300.5)", "1,264"),
        ("0.63", "0.63"),
        ("8.46", "8.5"),
        ("4.0", "4"),
        ("0 (0–0)", "0"),
        ("71.1 %", "71 %"),
        ("never; the last began after 27.8", "28"),
    ],
)
def test_figures_are_short(cell: str, short: str) -> None:
    assert render_figures.short(cell) == short


@pytest.mark.parametrize("cell", ["–", "nothing", "over 8 h"])
def test_a_cell_without_a_figure(cell: str) -> None:
    with pytest.raises(ValueError, match="no figure"):
        render_figures.short(cell)
