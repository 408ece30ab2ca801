"""The benchmarks' suites and their command line, with invented figures.

No server is started here, and nothing is measured.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
import tempfile
import typing as t
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import options
import pages
from commands import commands
from histogram import Histogram
from progress import schedule
from results import Meta
from results import Outcome
from results import Results
from runner import expected
from servers import SERVERS
from suites import SUITES
from suites.reaction import evaluated
from suites.slow_clients import p99
from suites.suite import Contender
from suites.throughput import ALONE


def made_up(name: str) -> Results:
    """Results of a suite as a run would write them, of invented figures."""
    _, chosen = options.parse(SUITES, [name, "--rounds", "2"])
    chosen_here = chosen[name]
    suite = SUITES[name]
    trials = schedule(2, suite.cases(chosen_here), suite.shared)
    settings = {
        key: value
        for key, value in vars(chosen_here).items()
        if not isinstance(value, Path)
    }
    results = Results(Meta("python benchmarks", settings, "a machine", {}))
    for number, trial in enumerate(trials, 1):
        counts = chosen_here.clients if name == "throughput" else [1]
        figures = [FIGURES[name](number, clients) for clients in counts]
        results.outcomes[trial] = Outcome(trial, tuple(json.loads(json.dumps(figures))))
    return results


def _latencies(value: float) -> dict[str, int]:
    """A histogram of 2,000 samples of the same value."""
    return dict.fromkeys(Histogram.of([value]).json(), 2000)


def _load(number: int) -> dict[str, t.Any]:
    return {"rate": 1000.0 + number, "cpu": 50.0, "p50": 1.0, "p99": 2.0, "errors": {}}


def _group(pss: float) -> dict[str, float]:
    return {"workers": 2, "pss": pss, "private": 1024, "swapped": 0}


def _handshakes(requests: int, resumed: int) -> dict[str, t.Any]:
    return {
        "seconds": 1.0,
        "requests": requests,
        "resumed": resumed,
        "tickets": resumed,
        "failed": 0,
        "cpu": 0.5,
    }


FIGURES: dict[str, t.Callable[[int, int], dict[str, t.Any]]] = {
    "throughput": lambda number, clients: {
        **_load(number),
        "clients": clients,
        "pss": 30.0,
        "processes": 3,
    },
    "latency": lambda number, clients: {
        "rate": 100.0 + number,
        "planned": 2000,
        "answered": 2000,
        "errors": {"timeout": 3},
        "latencies": _latencies(900.0 + number),
        "lag_p99": 9000,
        "kept_up": bool(number % 2),
    },
    "dispatch": lambda number, clients: {
        **_load(number),
        "size": 10,
        "dispatcher": 5.0,
        "orders": 1.0,
        "order": 5.0 if number % 2 else None,
    },
    "reaction": lambda number, clients: dict(
        evaluated(0.0, [0.05, 0.2], 10.0, None, 2, [(0.0, 2), (1.0, 7)], 2)
    ),
    "slow-clients": lambda number, clients: {
        "rate": 1000.0 + number,
        "latencies": _latencies(900.0),
        "missed": 0,
        "planned": 2000,
        "connected": 9,
        "cut": 1,
        "pss": 30.0,
    },
    "overload": lambda number, clients: {
        "goodput": 70.0 + number,
        "latencies": _latencies(900.0),
        "planned": 2000,
        "missed": 0,
        "endings": {"200": 1500, "status 503": 400, "timeout": 99, "ECONNRESET": 1},
        "kept_up": True,
        "recovery": 0.5 if number % 2 else None,
        "slow_planned": 9,
        "slow_answered": 8,
    },
    "tls": lambda number, clients: {
        **_load(number),
        "full": _handshakes(100 + number, 0),
        "resumed": _handshakes(200 + number, 150),
        "latencies": [900.0 + number] * 200,
        "again": 0,
        **{"pss_all": 200_000, "pss_one": 150_000, "rss_one": 160_000},
        **{"connected": 10_000, "closed": 3, "waits": [0.002, 0.004], "unserved": 0},
    },
    "memory": lambda number, clients: {
        **_load(number),
        "failed": 0,
        "latencies": [1.0, 2.0],
        "served": [90, 10],
        "hot": _group(2048),
        "cold": {"workers": 0},
        **{"private": 6000, "pss": 13000, "others": 25000, "all": 60000},
    },
}


@pytest.mark.parametrize("name", SUITES)
def test_every_contender_is_in_a_table(name: str) -> None:
    results = made_up(name)
    text = pages.markdown(SUITES[name], results)
    for case in results.cases():
        for contender in results.contenders(case):
            first = contender.split(",")[0].split(" workers")[0]
            number = f"| {int(first):,} |" if first.isdigit() else first
            assert number in text or case.endswith(ALONE), (case, contender)
    for table in SUITES[name].tables(results):
        assert {len(row) for row in table.rows} == {len(table.columns)}


@pytest.mark.parametrize("name", SUITES)
def test_every_plot_is_shown_where_the_page_looks_for_it(name: str) -> None:
    results = made_up(name)
    charts = SUITES[name].charts(results)
    text = pages.rst(SUITES[name], results)
    names = Counter(chart.file for chart in charts)
    assert charts
    assert set(names.values()) == {1}
    assert re.findall(r"image:: results/(\S+)", text) == list(names)
    assert all(chart.series for chart in charts)


@pytest.mark.parametrize("name", SUITES)
def test_a_run_that_had_just_begun_has_no_tables(name: str) -> None:
    whole = made_up(name)
    results = Results(whole.meta)
    assert list(SUITES[name].tables(results)) == []
    assert list(SUITES[name].charts(results)) == []


def test_an_interrupted_run_says_so() -> None:
    results = made_up("throughput")
    assert "Interrupted" not in pages.markdown(SUITES["throughput"], results)
    count = len(results.outcomes)
    results.outcomes.popitem()
    text = pages.markdown(SUITES["throughput"], results)
    assert f"Interrupted: 1 of {count} trials are missing." in text


def test_a_late_generator_is_not_hidden() -> None:
    text = pages.markdown(SUITES["latency"], made_up("latency"))
    assert "late by 9.0 ms" in text


def test_results_are_included_and_images_found() -> None:
    page = (options.DOCS.parent / "index.rst").read_text()
    included = re.findall(r"include:: results/([\w-]+)\.inc", page)
    assert [name for name in included if name != options.ANATOMY] == list(SUITES)
    assert options.ANATOMY in included
    for name in included:
        text = (options.DOCS / f"{name}.inc").read_text()
        for image in re.findall(r"image:: results/(\S+)", text):
            assert (options.DOCS / image).exists()
        # Of which day, code, machine and versions, and by which command.
        assert re.search(r"^Measured on .+, flask\\_prefork at .+\. \d+ x ", text, re.M)
        assert re.search(r"Python 3\.\d+\.\d+", text)
        assert f"python benchmarks {name}" in text


def test_who_is_quick_while_nobody_is_slow_is_in_each_kinds_table() -> None:
    results = made_up("slow-clients")
    assert "body, 0" in results.cases() and "read, 0" not in results.cases()
    tables = SUITES["slow-clients"].tables(results)
    assert len(tables) == 4
    first, other = [
        {row[0]: row[1] for row in table.rows}
        for table in tables
        if table.title.startswith("Requests/s")
    ]
    assert first == other and "–" not in first.values()


def _tried(answered: int, missed: int) -> dict[str, t.Any]:
    latencies = [1000.0] * answered + [2e6] * missed
    planned = answered + missed
    counts = Histogram.of(latencies).json()
    return {"latencies": counts, "missed": missed, "planned": planned}


def test_who_got_nothing_is_in_the_quantile() -> None:
    assert p99([], 2.0) == "–"
    assert p99([_tried(2000, 0)], 2.0).startswith("1.0")
    assert p99([_tried(900, 100)], 2.0) == "> 2,000"
    assert p99([_tried(0, 100)], 2.0) == "nothing"


# What is said about them


def test_where_results_are_from_is_said_below_them() -> None:
    results = made_up("latency")
    meta = dataclasses.replace(
        results.meta,
        versions={"Python": "3.11.7", "uWSGI": "2.0.31"},
        date="2026-11-29",
        commit="0123456789",
        commands={"ours": ["flask --port 8000"], "uwsgi": ["uwsgi a", "uwsgi b"]},
    )
    text = pages.rst(SUITES["latency"], dataclasses.replace(results, meta=meta))
    assert (
        "Measured on 2026-11-29, flask\\_prefork at commit 0123456789. a mach" in text
    )
    assert "Python 3.11.7, uWSGI 2.0.31." in text
    assert "   * - ours\n     - ``flask --port 8000``\n" in text
    assert "``uwsgi a`` and, for connections that are kept alive, ``uwsgi b``" in text


def test_anatomy_is_written_as_it_was_printed(tmp_path: Path) -> None:
    pages.write_anatomy(["Of a request:", "  ours   1.0"], tmp_path / "new")
    text = (tmp_path / "new" / "anatomy.inc").read_text()
    assert "::\n\n    Of a request:\n      ours   1.0\n\nMeasured on 20" in text


@pytest.mark.parametrize("name", SUITES)
def test_each_contenders_command_is_shown_without_this_machines_paths(
    name: str,
) -> None:
    _, chosen = options.parse(SUITES, [name])
    contenders = SUITES[name].contenders(chosen[name])
    shown = commands(contenders, getattr(chosen[name], "workers", 2))
    assert list(shown) == [one.name for one in contenders]
    for one in contenders:
        for line in shown[one.name]:
            assert "APP" in line or SERVERS[one.server].fastcgi
            assert str(options.HERE) not in line and tempfile.gettempdir() not in line
            assert "8000" in line
            assert shlex.join(one.options) in line


def test_another_command_for_kept_alive_connections_is_shown_too() -> None:
    closing, keeping = commands([Contender("uwsgi", "uwsgi")], 2)["uwsgi"]
    assert "--http-socket" in closing and "--http11-socket" in keeping


def test_files_that_servers_are_given_are_shown() -> None:
    one = Contender("php-fpm", "php-fpm", workers=2, most=7)
    (line,) = commands([one], 0)["php-fpm"]
    assert line.startswith("php-fpm") and "pm.max_children = 7; " in line


# The command line


def test_the_whole_fits_into_a_hundred_minutes() -> None:
    _, chosen = options.parse(SUITES, ["all"])
    costs = {name: expected(SUITES[name], one) for name, one in chosen.items()}
    assert sum(costs.values()) < 100 * 60, costs
    assert all(one.rounds >= 3 for one in chosen.values())


@pytest.mark.parametrize("name", SUITES)
def test_help_has_the_suites_own_defaults(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, chosen = options.parse(SUITES, [name])
    with pytest.raises(SystemExit):
        options.parse(SUITES, [name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    rounds, seconds = chosen[name].rounds, chosen[name].seconds
    assert f"--rounds N how many (default: {rounds})" in text
    assert f"of one measurement (default: {seconds:g})" in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "required: COMMAND"),
        ("slowness", "invalid choice: 'slowness'"),
        ("throughput --servers apache", "unknown 'apache'; choose from prefork-"),
        ("throughput --apps hello,,bare", "nothing empty"),
        ("throughput --clients 0", "must be 1 or more"),
        ("latency --fractions 1.5", "at most 1"),
        ("latency --seconds 0", "more than 0"),
        ("slow-clients --slow -1", "must be 0 or more"),
        ("memory --workers 3", "unrecognized arguments: --workers"),
    ],
)
def test_what_is_wrong_is_said(
    words: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        options.parse(SUITES, words.split())
    assert error.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_smoke_run_leaves_the_docs_alone() -> None:
    _, chosen = options.parse(SUITES, ["all", "--smoke"])
    assert list(chosen) == list(SUITES)
    for one in chosen.values():
        assert options.DOCS not in (one.out, *one.out.parents)
        assert one.cache != options.RESULTS
        assert one.rounds == 1
        assert one.seconds <= 2


def test_what_is_said_goes_before_what_a_smoke_run_has() -> None:
    _, chosen = options.parse(SUITES, ["reaction", "--smoke", "--step", "9"])
    assert chosen["reaction"].step == 9
