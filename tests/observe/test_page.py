"""The page's files, and what its modules make of numbers."""

from __future__ import annotations

import json
import re
import typing as t
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources

import pytest

from flask_prefork.ipc.phase import Phase
from flask_prefork.ipc.states import Reason
from flask_prefork.ipc.states import State
from flask_prefork.observe import page

from .browser import Browser
from .browser import chromium
from .shown import Shown

SCRIPTS = sorted(path for path in page._FILES if path.endswith(".js"))


class Outline(HTMLParser):
    """What a document refers to, and what a strict policy forbids in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.forbidden: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src"):
                self.references.append(value or "")
            if name == "style" or name.startswith("on"):
                self.forbidden.append(f"{tag} {name}")
        if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
            self.forbidden.append(tag)


def content(path: str) -> str:
    found = page.get(path)
    assert found is not None
    return found[1].decode()


def test_every_file_is_served() -> None:
    data = {
        entry.name
        for entry in resources.files(page).iterdir()
        if entry.is_file() and not entry.name.endswith((".py", ".pyc"))
    }
    assert {name for _, name in page._FILES.values()} == data


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
def test_media_type(path: str, media_type: str) -> None:
    found = page.get(path)
    assert found is not None
    assert found[0] == media_type


@pytest.mark.parametrize(
    "path", ["", "/page.html", "/__init__.py", "/../snapshot.py", "//", "/PAGE.JS"]
)
def test_nothing_else_is_served(path: str) -> None:
    assert page.get(path) is None


def test_document_suits_a_strict_policy() -> None:
    outline = Outline(content("/"))
    assert not outline.forbidden
    ours = set(outline.references) - {"status.json", "metrics", "livez", "readyz"}
    # Relative, so that the page can be below any path of a proxy.
    assert {f"/{name}" for name in ours} <= page._FILES.keys()


@pytest.mark.parametrize("path", SCRIPTS)
def test_script_takes_and_makes_nothing_strange(path: str) -> None:
    text = content(path)
    imported = re.findall(r'^import .* from "\.(.*)";$', text, re.MULTILINE)
    assert set(imported) <= set(SCRIPTS)
    # Text goes in as text only.
    assert not re.search(r"\w+HTML\b|document\.write|eval\(|Function\(", text)
    assert set(re.findall(r"https?://[^\"']*", text)) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", sorted(page._FILES))
def test_files_are_small(path: str) -> None:
    assert content(path).count("\n") < 400


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser, Shown() as shown:
        browser.open(shown.url)
        yield browser


@pytest.fixture
def figures(browser: Browser) -> t.Any:
    """Calls a function of figures.js."""

    def call(name: str, *args: t.Any) -> t.Any:
        return browser.call("/figures.js", name, *args)

    return call


def test_reasons_of_exits_are_explained(browser: Browser) -> None:
    meanings = browser.call("/words.js", "MEANINGS")
    ended = {reason.value for reason in Reason if reason is not Reason.RETIRED}
    prefix = "Unexpected exits: "
    assert {k.removeprefix(prefix) for k in meanings if k.startswith(prefix)} == ended


def generation(letters: str, serving: str = "", role: str = "current") -> t.Any:
    """One of workers in these states, of which those of some letters have a request."""
    workers = [
        {"slot": n, "state": letter, "busy_for": 1.5 if letter in serving else None}
        for n, letter in enumerate(letters)
        if letter != "."
    ]
    return {"letters": letters, "role": role, "workers": workers}


@pytest.mark.parametrize(
    ("generations", "told"),
    [
        ([], []),
        (
            [generation("BBI.S", "B")],
            ["B 2 busy", "I 1 idle", "S 1 starting", ". 1 free"],
        ),
        # Those that retire count as that alone, whether they have a request or not.
        (
            [generation("BBII", "B"), generation("RRR", "R", "retiring")],
            ["B 2 busy", "I 2 idle", "R 3 retiring"],
        ),
        # Who is ordered to accept is as busy.
        (
            [generation("BORK", "BRK")],
            ["BO 2 busy (1 ordered)", "R 1 retiring", "K 1 killed"],
        ),
        # Nobody is started in a generation that retires.
        ([generation(".R.", "R", "retiring")], ["R 1 retiring"]),
        ([generation("?")], ["? 1 ?"]),
    ],
)
def test_legend_counts_each_slot_once(
    browser: Browser, generations: list[t.Any], told: list[str]
) -> None:
    found = []
    for kind in browser.call("/states.js", "tally", generations):
        text = f"{''.join(kind['letters'])} {kind['count']} {kind['name']}"
        found.append(text + f" ({kind['ordered']} ordered)" * bool(kind["ordered"]))
    assert found == told


def test_states_are_those_of_the_pool(browser: Browser) -> None:
    states = {state.value: state.name.lower() for state in State}
    assert browser.call("/states.js", "STATES") == states


def test_phases_are_those_of_the_dispatcher(browser: Browser) -> None:
    phases = browser.call("/head.js", "PHASES")
    assert phases.keys() == {phase.value for phase in Phase} | {"gone"}


@pytest.mark.parametrize(
    ("samples", "rates"),
    [
        ([], []),
        ([(3, 10)], [None]),
        ([(3, 10), (2, 15), (1, 15)], [None, 5, 0]),
        # Half a second says little: the sample before is taken instead.
        ([(2, 10), (1, 20), (0.5, 22)], [None, 10, 8]),
        ([(10, 0), (5, 10)], [None, 2]),
        # They don't go down, unless it's another server.
        ([(2, 10), (1, 3)], [None, None]),
    ],
)
def test_rates(
    figures: t.Any, samples: list[tuple[float, int]], rates: list[float | None]
) -> None:
    found = figures("rates", [{"age": age, "requests": n} for age, n in samples])
    assert found == [rate if rate is None else pytest.approx(rate) for rate in rates]


def test_quantiles_are_those_of_the_server(figures: t.Any) -> None:
    found = figures("trends", json.loads(Shown.render()))
    assert found["p50"] == [None, None, 0.00205, 0.00215, 0.00215]
    assert found["p90"] == [None, None, 0.0067, 0.00725, 0.00725]
    assert found["p99"] == [None, None, 0.0181, 0.0367, 0.0367]
    assert found["queued"] == [None, None, 0.0111, 0.0238, 0.0238]


def test_a_logarithmic_axis_has_no_zero(figures: t.Any) -> None:
    status = json.loads(Shown.render())
    status["history"][-1]["queue_time"]["p99"] = 0.0
    assert figures("trends", status)["queued"][-2:] == [None, None]


@pytest.mark.parametrize(
    ("top", "least", "found"),
    [
        (4, 1, [0, 1, 2, 3, 4]),
        (1, 1, [0, 1]),
        (3, 0, [0, 1, 2, 3]),
        (40, 1, [0, 10, 20, 30, 40]),
        (41, 1, [0, 20, 40, 60]),
        (200, 1, [0, 50, 100, 150, 200]),
        (0.9, 0, [0, 0.25, 0.5, 0.75, 1]),
        (10, 1, [0, 3, 6, 9, 12]),
        (10, 0, [0, 2.5, 5, 7.5, 10]),
    ],
)
def test_ticks(figures: t.Any, top: float, least: float, found: list[float]) -> None:
    assert figures("ticks", top, least) == pytest.approx(found)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], [0.01, 0.1]),
        ([0.004, 0.3], [0.001, 0.01, 0.1, 1]),
        ([0.001, 10], [0.001, 0.01, 0.1, 1, 10]),
    ],
)
def test_decades(figures: t.Any, values: list[float], found: list[float]) -> None:
    assert figures("decades", values) == pytest.approx(found)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("count", 1234567, "1,234,567"),
        ("short", 0, "0"),
        ("short", 0.1234, "0.12"),
        ("short", 12.34, "12.3"),
        ("short", 1234.5, "1,235"),
        ("duration", None, "–"),
        ("duration", 0, "0 ms"),
        ("duration", 0.00042, "0.42 ms"),
        ("duration", 0.25, "250 ms"),
        ("duration", 0.9999, "1 s"),
        ("duration", 12.52, "12.5 s"),
        ("duration", 59.99, "1 min"),
        ("duration", 95, "1 min 35 s"),
        ("brief", None, "–"),
        ("brief", 0, "0 s"),
        ("brief", 9.74e-06, "9.74 µs"),
        ("brief", 0.0262, "26.2 ms"),
        ("brief", 0.01, "10 ms"),
        ("brief", 1.05, "1.05 s"),
        ("brief", 95.2, "1 min 35 s"),
        ("brief", 3600, "1 h"),
        ("period", 7.9, "7 s"),
        ("period", 59.9, "59 s"),
        ("period", 7384.5, "2 h 3 min"),
        ("period", 86400 * 3 + 7, "3 d"),
        ("bytes", None, "–"),
        ("bytes", 0, "0 B"),
        ("bytes", 1023, "1,023 B"),
        ("bytes", 9 * 2**20 + 2**18, "9.3 MiB"),
        ("bytes", 2**80, "1,073,741,824 PiB"),
    ],
)
def test_texts(figures: t.Any, name: str, value: float | None, text: str) -> None:
    # Each number stays on a line with its unit; one of two units may be broken between.
    unbroken = re.sub(r"(?<=\d) (?=[^\d])", "\N{NO-BREAK SPACE}", text)
    assert figures(name, value) == unbroken


def test_the_present_is_the_last_sample(figures: t.Any) -> None:
    status = json.loads(Shown.render())
    # Who was ordered to accept counts as busy, but not who ends after a request; in the
    # observer's samples too.
    workers = [w for one in status["generations"] for w in one["workers"]]
    states = [("O", None), ("R", 3.0), ("R", None), ("K", 0.1), ("S", None)]
    for worker, (state, since) in zip(workers, states, strict=True):
        worker.update(state=state, busy_for=since)
    *history, last = figures("samples", status)
    assert history == status["history"]
    assert (last["age"], last["workers"], last["busy"]) == (0, 5, 1)
    assert last["requests"] == status["totals"]["requests"]
