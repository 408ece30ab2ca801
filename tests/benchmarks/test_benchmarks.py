"""The benchmarks' pure parts: schedule, resuming, rendering.

No server is started here, and nothing is measured.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import math
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import smaps
from arrivals import poisson
from certificate import Certificate
from histogram import Histogram
from load import Load
from load import run as run_wrk
from load import Unfinished
from measured_code import CHANGED
from measured_code import Code
from measured_code import code
from openloop import Exchange
from options import parse
from progress import duration
from progress import Progress
from progress import schedule
from results import Meta
from results import Outcome
from results import Results
from results import ResumeError
from results import Store
from results import Trial
from servers import lacks
from servers import SERVERS
from servers import Setup
from suites import SUITES
from suites.reaction import evaluated
from tables import spread
from tables import Table
from tables import to_rst

META = Meta("python benchmarks some", {"seconds": 3.0}, "a machine", {"Python": "3"})
TRIAL = Trial(0, "a case", "somebody")


# What a request takes


@pytest.mark.parametrize("name", ["bare", "hello"])
def test_bytecodes_are_counted_and_the_same_each_time(name: str) -> None:
    # In a process of its own: who measures coverage traces too.
    code = f"import anatomy; print(*anatomy.bytecodes({name!r}))"
    line = [sys.executable, "-c", code]
    folder = Path(__file__).parents[2] / "benchmarks"
    runs = {subprocess.check_output(line, cwd=folder) for _ in range(2)}
    assert len(runs) == 1
    own, every = map(int, runs.pop().split())
    assert 0 < own < every
    # The app bare has next to nothing of its own.
    assert own > every / 2 or name != "bare"


# The schedule


def test_each_round_has_every_contender_of_every_case_once() -> None:
    cases = {"one": ["a", "b", "c"], "two": ["a", "b"]}
    trials = schedule(2, cases)
    assert len(trials) == len(set(trials)) == 10
    for number in (0, 1):
        for case, contenders in cases.items():
            taken = [x.contender for x in trials if x[:2] == (number, case)]
            assert sorted(taken) == contenders


def test_another_contender_comes_first_in_each_round() -> None:
    trials = schedule(3, {"case": ["a", "b", "c"]})
    assert [trial.contender for trial in trials[::3]] == ["a", "b", "c"]


def test_the_case_that_others_depend_on_comes_first() -> None:
    trials = schedule(1, {"half": ["a"], "capacity": ["a"]}, shared="capacity")
    assert [trial.case for trial in trials] == ["capacity", "half"]


def test_the_remaining_time_follows_the_pace() -> None:
    one, two, three = schedule(1, {"case": ["a", "b", "c"]})
    progress = Progress({one: 10.0, two: 10.0, three: 20.0})
    assert progress.remaining() == 40.0
    progress.done(one, took=20.0)
    assert progress.remaining() == 60.0
    # What was there already says nothing about the pace.
    progress.done(two)
    assert progress.remaining() == 40.0
    assert progress.line(three) == "[3/3, 40 s left] round 1, case: c"


def test_the_remaining_time_of_later_suites_is_said_too() -> None:
    (trial,) = schedule(1, {"case": ["a"]})
    line = Progress({trial: 60.0}, later=3600.0).line(trial)
    assert line.startswith("[1/1, 60 s left, of all suites 1 h 01 min] round 1")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (120, "2 min"), (3600, "1 h 00 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# Results that are kept


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "some.jsonl")
    results = store.begin(META)
    store.add(results, Outcome(TRIAL, ({"rate": 5.0},)))
    store.add(results, Outcome(TRIAL._replace(round=1), failed="it ended"))
    store.leave_out(results, "another", "it needs a compiler")
    assert store.load() == results == store.resume(META)
    assert results.figures("a case", "somebody") == [{"rate": 5.0, "round": 0}]
    assert results.failures() == {
        "another": "it needs a compiler",
        "somebody, a case": "it ended",
    }


def test_half_a_line_is_no_result_and_is_written_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "some.jsonl")
    results = store.begin(META)
    with store.path.open("a") as file:
        file.write('{"trial": [0, "a ca')
    assert not store.resume(META).outcomes
    store.add(results, Outcome(TRIAL, ({"rate": 5.0},)))
    assert store.load().outcomes == results.outcomes


def test_a_trial_that_failed_and_then_did_not_counts_as_measured(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "some.jsonl")
    results = store.begin(META)
    store.add(results, Outcome(TRIAL, failed="it ended"))
    store.add(results, Outcome(TRIAL, ({"rate": 5.0},)))
    assert store.load().failures() == {}


def test_other_options_are_no_resumption(tmp_path: Path) -> None:
    store = Store(tmp_path / "some.jsonl")
    store.begin(META)
    other = Meta(META.command, {"seconds": 5.0}, META.machine, META.versions)
    with pytest.raises(ResumeError, match=r"with seconds=3\.0, not 5\.0"):
        store.resume(other)


def test_other_code_is_no_resumption_but_another_commit_is(tmp_path: Path) -> None:
    store = Store(tmp_path / "some.jsonl")
    begun = dataclasses.replace(META, commit="0123", tree="4567")
    store.begin(begun)
    # Such as one that has the results of the suite before.
    assert store.resume(dataclasses.replace(begun, commit="89ab")).meta == begun
    with pytest.raises(ResumeError, match=r"at commit 0123, .* another at 89ab"):
        store.resume(dataclasses.replace(begun, commit="89ab", tree="cdef"))


def test_which_code_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("measured_code.HERE", tmp_path / "benchmarks")
    # Not that of a repository around it.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code() == ("", "")
    source = tmp_path / "flask_prefork" / "cli.py"
    source.parent.mkdir()
    source.touch()

    def commit(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        for line in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "a")):
            subprocess.run(["git", *line], cwd=tmp_path, check=True)

    commit()
    first = code()
    assert re.fullmatch("[0-9a-f]{10}", first.commit)
    (tmp_path / "other").touch()
    commit()
    second = code()
    assert second.tree == first.tree and second.commit != first.commit
    source.write_text("changed")
    assert code() == Code(second.commit + CHANGED, second.tree + CHANGED)


# All suites


@pytest.fixture
def main() -> t.Any:
    """The command's module, which is called ``__main__`` where it runs."""
    path = Path(__file__).parents[2] / "benchmarks" / "__main__.py"
    spec = importlib.util.spec_from_file_location("benchmarks_main", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_suite_that_fails_keeps_no_other_from_running(
    main: t.Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, float]] = []

    def run(suite: t.Any, options: t.Any, store: t.Any, say: t.Any, later: float):  # type: ignore[no-untyped-def]
        ran.append((suite.name, later))
        if len(ran) == 1:
            raise ResumeError("made otherwise")

    monkeypatch.setattr(main, "run", run)
    monkeypatch.setattr(main, "_show", lambda *words: True)
    monkeypatch.setattr(main, "_anatomy", lambda options: 0)
    _, chosen = parse(SUITES, ["all", "--smoke"])
    assert main._measure("all", chosen) == 1
    assert [name for name, _ in ran] == list(SUITES)
    laters = [later for _, later in ran]
    assert laters == sorted(laters, reverse=True) and laters[-1] == 0


def test_what_was_not_measured_keeps_no_other_from_being_rendered(
    main: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def show(name: str, *others: t.Any) -> bool:
        shown.append(name)
        return name == "memory"

    monkeypatch.setattr(main, "_show", show)
    _, chosen = parse(SUITES, ["render"])
    assert main._render(chosen) == 0
    assert shown == list(SUITES)


def test_an_interruption_shows_what_there_is(
    main: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: t.Any) -> None:
        raise KeyboardInterrupt

    shown: list[str] = []
    monkeypatch.setattr(main, "run", run)
    monkeypatch.setattr(main, "_show", lambda name, *others: shown.append(name))
    _, chosen = parse(SUITES, ["all", "--smoke"])
    with pytest.raises(KeyboardInterrupt):
        main._measure("all", chosen)
    assert shown == ["throughput"]


# wrk

ENDED_EARLY = """\
trap 'echo RESULT 7 300000 0 0 0 0 0 1000 2000 3000; exit' INT
while :; do sleep 0.05; done
"""


@pytest.fixture
def wrk(tmp_path: Path) -> t.Callable[[str], str]:
    """Make a program that is run instead of wrk."""

    def make(script: str) -> str:
        path = tmp_path / "wrk"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        return str(path)

    return make


def _load(program: str, seconds: float) -> Load:
    return run_wrk(
        program, "url", clients=1, seconds=seconds, threads=1, keep_alive=True
    )


def test_wrk_is_ended_between_two_seconds(wrk: t.Callable[[str], str]) -> None:
    load = _load(wrk(ENDED_EARLY), 0.1)
    assert (load.requests, load.duration) == (7, 0.3)


def test_wrk_that_waits_for_a_connection_is_not_waited_for(
    wrk: t.Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("load.END", -1.0)
    program = wrk("exec sleep 600")
    with pytest.raises(Unfinished, match="come to its end"):
        _load(program, 1)
    # The shell catches Ctrl-C until it has become the program.
    monkeypatch.setattr("load._catches", lambda *args: False)
    with pytest.raises(Unfinished, match="begin"):
        _load(program, 0.1)


def test_a_suite_that_an_interrupted_run_did_not_reach_begins(tmp_path: Path) -> None:
    store = Store(tmp_path / "some.jsonl")
    assert store.resume(META) == Results(META) == store.load()


def test_nothing_can_be_shown_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no results"):
        Store(tmp_path / "some.jsonl").load()


# The open loop


def test_arrivals_are_known_ahead_and_the_same_again() -> None:
    moments = poisson(1000, 10, seed=1)
    assert moments == poisson(1000, 10, seed=1) != poisson(1000, 10, seed=2)
    assert moments == sorted(moments)
    assert moments[0] > 0 and moments[-1] < 10
    # Within five standard deviations of as many as there should be.
    assert abs(len(moments) - 10_000) < 500
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.05)


def exchange() -> Exchange:
    return Exchange(sock=t.cast(t.Any, None), due=0.0)


def test_a_response_is_complete_with_its_body_however_it_is_cut() -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-length: 5\r\n\r\nhello"
    for cut in range(1, len(response)):
        one = exchange()
        assert not one.take(response[:cut])
        assert one.take(response[cut:])


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_a_failure_is_no_answer(response: bytes) -> None:
    with pytest.raises(ValueError, match="status|length"):
        exchange().take(response)


def test_quantiles_are_right_to_two_percent_and_survive_json() -> None:
    histogram = Histogram.of(range(1, 100_001))
    again = Histogram.from_json(json.loads(json.dumps(histogram.json())))
    for fraction in (0.5, 0.9, 0.99, 0.999):
        value = again.quantile(fraction)
        assert value == pytest.approx(fraction * 100_000, rel=0.021)


def test_histograms_add_up() -> None:
    both = Histogram.of([10.0] * 50) + Histogram.of([1000.0] * 50)
    assert len(both) == 100
    assert both.quantile(0.5) == pytest.approx(10, rel=0.02)
    assert both.quantile(0.6) == pytest.approx(1000, rel=0.02)


def test_a_quantile_that_is_chance_is_not_told() -> None:
    histogram = Histogram.of([5.0] * 999)
    assert histogram.quantile(0.99) is None
    assert (histogram + Histogram.of([5.0])).quantile(0.99) is not None


# Measuring


def test_what_a_step_says() -> None:
    figures = evaluated(
        step=100.0,
        moments=[100.05, 100.4, None],
        ended=110.0,
        shrunk=121.5,
        rest=2,
        samples=[(99.0, 2), (100.2, 9), (121.5, 2)],
        spare=2,
    )
    assert figures["waits"] == [0.05, 0.4]
    assert figures["failed"] == 1
    # Four requests at the same time, two to be spare.
    assert figures["overshoot"] == 3
    assert figures["shrink"] == 11.5
    assert figures["samples"][1] == (0.2, 9)


def test_workers_of_who_has_only_loaded_and_of_who_has_served() -> None:
    line = [sys.executable, "refork.py", "--workers", "2", "--pages", "2"]
    line += ["--warm", "1", "--rounds", "1"]
    folder = Path(__file__).parents[2] / "benchmarks"
    text = subprocess.check_output(line, cwd=folder, stderr=subprocess.DEVNULL)
    rows = {
        name: [*map(float, re.findall(r"[\d.]+", row))]
        for name, _, row in (one.partition(" ") for one in text.decode().splitlines())
    }
    # Milliseconds depend on the machine. Pages that were shared don't.
    assert 0 < rows["warm"][3] < rows["loaded"][3]
    assert 0 < rows["warm"][4] < rows["loaded"][4]


def test_a_processes_memory() -> None:
    lines = [
        "55d0-7ffc ---p 00000000 00:00 0    [rollup]\n",
        "Pss:         120 kB\n",
        "Private_Clean:   10 kB\n",
        "Private_Dirty:   90 kB\n",
        "Swap:     7 kB\n",
    ]
    assert smaps.parse(lines) == (120, 100, 7)


@pytest.mark.parametrize("server", SERVERS.values(), ids=[*SERVERS])
def test_every_server_is_told_its_port_and_pool(
    server: t.Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    files = Certificate(*[Path("/a/certificate")] * 3)
    setup = Setup(
        python=Path("/peers/bin/python"),
        port=50_123,
        workers=3,
        app="hello",
        keep_alive=False,
        most=7 if server.scales else 0,
        folder=tmp_path,
        certificate=files if server.tls_only else None,
    )
    words = " ".join(server.command(setup))
    words += "".join(path.read_text() for path in tmp_path.iterdir())
    assert "50123" in words
    single = server.name in ("flask-run", "waitress")
    assert bool(re.search(r"\b3\b", words)) is not single
    assert bool(re.search(r"\b7\b", words)) is server.scales


def test_what_is_missing_of_the_system_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "apache2-dev" in str(lacks(SERVERS["apache-prefork"]))
    assert lacks(SERVERS["gunicorn-sync"]) is None
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert lacks(SERVERS["apache-prefork"]) is None


# Tables


def test_spread() -> None:
    assert spread([]) == "–"
    assert spread([1234.4]) == "1,234"
    assert spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0–3.0)"


TABLE = Table(
    title="Who, `--with` what",
    columns=["server", "requests/s"],
    rows=[["ours: `flask run`", "2"], ["floor", ""]],
    notes=["It *was* so."],
)


def test_a_table_in_markdown() -> None:
    assert TABLE.markdown() == (
        "**Who, `--with` what**\n\n"
        "| server | requests/s |\n| --- | --: |\n"
        "| ours: `flask run` | 2 |\n| floor |  |\n\n"
        "It *was* so."
    )


def test_a_table_in_rst() -> None:
    assert TABLE.rst() == (
        ".. list-table:: Who, ``--with`` what\n"
        "   :header-rows: 1\n"
        "   :class: benchmark\n\n"
        "   * - server\n     - requests/s\n"
        "   * - ours: ``flask run``\n     - 2\n"
        "   * - floor\n     -\n\n"
        "It \\*was\\* so.\n"
    )


def test_what_would_be_markup_is_text() -> None:
    assert to_rst("mod_wsgi_ |x| `a_b`") == r"mod\_wsgi\_ \|x\| ``a_b``"
