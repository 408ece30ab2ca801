"""That the page fits: at each width, with small and great values."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from flask_prefork.observe.snapshot import Quantiles
from flask_prefork.observe.snapshot import Snapshot

from .browser import Browser
from .shown import Shown
from .snapshots import crowd
from .snapshots import SAMPLE

WIDTHS = [320, 360, 390, 800, 1060, 1280, 1600, 1920]
GIB = 2**30

#: Labels of axes that aren't whole in their drawing, cover another, or reach into the
#: plot; with their drawings.
CUT = """
const cut = [];
for (const drawing of document.querySelectorAll('.chart > svg')) {
  const room = drawing.getBoundingClientRect();
  const lines = [...drawing.querySelectorAll('.grid')];
  const plot = Math.min(...lines.map((line) => line.getBoundingClientRect().left));
  const labels = [...drawing.querySelectorAll('.tick')].map((node) => {
    const {left, right, top, bottom} = node.getBoundingClientRect();
    return {text: node.textContent, left, right, top, bottom};
  });
  for (const one of labels) {
    const whole = one.left >= room.left && one.right <= room.right
      && one.top >= room.top && one.bottom <= room.bottom;
    if (!whole || one.right === one.left) cut.push(`${one.text} is cut`);
  }
  // Those of the values, one for each line, and then those of the times.
  labels.slice(0, lines.length).forEach((one) => {
    if (one.right > plot) cut.push(`${one.text} is in the plot`);
  });
  const times = labels.slice(lines.length).sort((one, other) => one.left - other.left);
  times.slice(1).forEach((one, i) => {
    if (one.left < times[i].right) cut.push(`${one.text} covers ${times[i].text}`);
  });
}
return cut;
"""
#: Texts that don't fit into what they are in.
WIDER = """
return [...document.querySelectorAll(arguments[0])]
  .filter((node) => node.scrollWidth > node.clientWidth + 1)
  .map((node) => node.textContent);
"""


def great(count: int) -> Snapshot:
    """Very many of everything."""
    workers = tuple(
        replace(worker, pss=10 * GIB, busy_for=999.0, silent_for=999.0, pid=4_194_303)
        for worker in SAMPLE.generations[0].workers
    )
    generations = (replace(SAMPLE.generations[0], workers=workers),)
    totals = replace(
        SAMPLE.totals,
        requests=10**12,
        sent=2**60,
        saturated=10.0**6,
    )
    # The longest that is told.
    longest = Quantiles(60.0, 10**9, 3600.0, 3600.0, 3600.0)
    history = tuple(
        replace(
            one,
            workers=count,
            busy=count,
            waiting=count,
            requests=0,
            latency=longest,
            queue_time=longest,
        )
        for one in SAMPLE.history
    )
    return replace(
        SAMPLE,
        uptime=1e8,
        generations=generations,
        totals=totals,
        history=history,
        latency=longest,
        queue_time=longest,
        parked=10**6,
        spooled=10 * GIB,
        waiting=10**6,
        queue=10**6,
        queue_limit=10**7,
        max_workers=10**5,
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("most", [0, 3, 1000, 10**6])
def test_labels_of_axes_are_whole(
    browser: Browser, shown: Shown, width: int, most: int
) -> None:
    shown.snapshot = great(most) if most else SAMPLE
    browser.resize(width, 900)
    browser.open(shown.url)
    texts = browser.texts(".tick")
    assert "100 ms" in texts and "now" in texts
    assert browser.run(CUT) == []


def test_labels_of_axes_are_whole_in_a_wide_font(
    browser: Browser, shown: Shown
) -> None:
    browser.open(shown.url)
    # Who needs it sets it so; a policy for content allows it to the user alone.
    browser.run(
        "const sheet = new CSSStyleSheet();"
        "sheet.replaceSync('.tick { letter-spacing: 6px; }');"
        "document.adoptedStyleSheets = [sheet];"
    )
    before = browser.text("#updated")
    browser.wait(lambda: browser.text("#updated") != before)
    cut = browser.run(CUT)
    assert not [text for text in cut if "plot" in text or "ms" in text]


def test_charts_have_their_moments_below_each_other(
    browser: Browser, shown: Shown
) -> None:
    browser.open(shown.url)
    plots = browser.run(
        "return [...document.querySelectorAll('.chart > svg')].map((drawing) =>"
        " drawing.querySelector('.grid').getAttribute('x1'))"
    )
    assert len(plots) == 4 and len(set(plots)) == 1


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("most", [0, 10**6])
def test_tiles_hold_their_values(
    browser: Browser, shown: Shown, width: int, most: int
) -> None:
    shown.snapshot = great(most) if most else SAMPLE
    browser.resize(width, 900)
    browser.open(shown.url)
    assert browser.run(WIDER, ".tile, .tile > *, .groups dd, .groups dl > div") == []


@pytest.mark.parametrize("width", [*WIDTHS, 1200])
@pytest.mark.parametrize("count", [3, 200])
def test_nothing_overflows(
    browser: Browser, shown: Shown, width: int, count: int
) -> None:
    shown.snapshot = crowd(count)
    browser.resize(width, 800)
    browser.open(shown.url)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    # Long targets are cut where the columns have room without them.
    table = "const box = document.querySelector('#requests-scroll');"
    needed, there = browser.run(f"{table} return [box.scrollWidth, box.clientWidth]")
    assert needed <= there or width < 800


#: The tops of what a selector finds, rounded, by rows of tiles.
ROWS = """
const rows = {};
for (const tile of document.querySelectorAll('.tile')) {
  const top = (node) => Math.round(node.getBoundingClientRect().top);
  (rows[top(tile)] ??= []).push(top(tile.querySelector(arguments[0])));
}
return Object.values(rows);
"""


@pytest.mark.parametrize("width", [*WIDTHS, 1200])
def test_numbers_of_a_row_are_aligned(
    browser: Browser, shown: Shown, width: int
) -> None:
    browser.resize(width, 900)
    browser.open(shown.url)
    for selector in ("h3", ".value", ".note"):
        rows = browser.run(ROWS, selector)
        assert sum(map(len, rows)) == 7
        assert all(len(set(row)) == 1 for row in rows), rows


def test_no_number_parts_from_its_unit(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    # As it is, unlike what Browser.texts() returns.
    text = browser.run("return document.querySelector('main').textContent")
    spaces = re.findall(r"\d(\s)(?:µs|ms|s|min|h|[KMG]iB|%|seconds)\b", text)
    assert len(spaces) > 20 and set(spaces) == {"\N{NO-BREAK SPACE}"}


@pytest.mark.parametrize("width", [400, 800, 960, 1200, 1920])
def test_a_chart_fills_its_card(browser: Browser, shown: Shown, width: int) -> None:
    """A legend of two lines leaves no gap in the card beside it."""
    browser.resize(width, 900)
    browser.open(shown.url)
    gaps = browser.run(
        "return [...document.querySelectorAll('.chart')].map((card) => {"
        " const [title, plot, room] = [card.firstElementChild, card.lastElementChild,"
        "  card].map((node) => node.getBoundingClientRect());"
        " const ticks = [...card.querySelectorAll('.tick')]"
        "  .map((node) => node.getBoundingClientRect().bottom);"
        " return [plot.top - title.bottom, room.bottom - Math.max(...ticks)]; })"
    )
    assert all(above < 12 and below < 20 for above, below in gaps), gaps


@pytest.mark.parametrize("width", [1060, 1200, 1600])
def test_limits_of_routes_have_a_line_each(
    browser: Browser, shown: Shown, width: int
) -> None:
    browser.resize(width, 900)
    browser.open(shown.url)
    (title,) = browser.all(".limits h3")
    assert title.text == "Limits of routes"
    lines = browser.run(
        "return [...document.querySelectorAll('.limits .facts > div')].map((row) =>"
        " [...row.children].map((node) => node.getClientRects().length"
        "  * Math.round(node.offsetHeight / parseFloat("
        "   getComputedStyle(node).lineHeight)))"
        " .concat(row.children[0].offsetTop - row.children[1].offsetTop))"
    )
    assert lines == [[1, 1, 0], [1, 1, 0]]


def test_nothing_moves_for_who_wants_that(browser: Browser, shown: Shown) -> None:
    moves = (
        "return [...document.querySelectorAll('body *')].map((node) => {"
        " const style = getComputedStyle(node);"
        " return [style.transitionDuration, style.animationName]; })"
    )
    browser.prefer(color_scheme="light", reduced_motion="reduce")
    browser.open(shown.url)
    assert {tuple(one) for one in browser.run(moves)} == {("0s", "none")}
