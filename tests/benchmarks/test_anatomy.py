"""``benchmarks anatomy``: it runs, and its stamps are where the server is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import programs
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import stamps
from in_server import Case
from in_server import Cost
from in_server import Measured
from in_server import table

BENCHMARKS = Path(stamps.__file__).parent
#: Who has enough to do may never get there.
MAY_MISS = ("wait for a connection", "keep the connection", "wait for a request")
STEP = stamps.Step(stamps.OURS, "parse the head")


@pytest.mark.skipif(programs.find("wrk") is None, reason=programs.lack("wrk"))
def test_it_measures_each_step_in_a_server(tmp_path: Path) -> None:
    line = [sys.executable, str(BENCHMARKS), "anatomy", "--smoke"]
    line += ["--out", str(tmp_path)]
    run = subprocess.run(line, capture_output=True, text=True)
    path = tmp_path / "anatomy.inc"
    assert (run.returncode, run.stderr) == (0, f"wrote {path}\n")
    assert "Bytecodes" in path.read_text()
    for step in stamps.STEPS:
        if step != stamps.STAMP and step.name not in MAY_MISS:
            assert f"  {step.name}  " in run.stdout
    assert "Bytecodes" in run.stdout


@pytest.mark.skipif(programs.find("wrk") is None, reason=programs.lack("wrk"))
@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("steps", "write the worker's record"),
        ("connections", "a worker, the app hello"),
    ],
)
def test_it_measures_parts_of_a_request_alone(part: str, line: str) -> None:
    """Once each: as a whole they take half a minute."""
    code = (
        "import anatomy; anatomy.CALLS = anatomy.ROUNDS = anatomy.CONNECTIONS = 1;"
        f" print(dict(anatomy.{part}()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=True,
    )
    assert line in run.stdout


def test_the_stamps_own_time_is_no_step(tmp_path: Path) -> None:
    times = stamps.Times(tmp_path / "times", 2)
    for slot in range(2):
        # 10 requests, each with a step of 1 us that is done twice.
        for step, count, taken in ((stamps.STAMP, 10, 5_000), (STEP, 20, 30_000)):
            start = times.start(slot, step)
            times.view[start], times.view[start + 1] = count, taken
    assert times.found() == {STEP: 2.0}
    times.clear()
    assert times.found() == {}


@pytest.mark.parametrize(
    "path",
    [
        "flask_prefork.nowhere:Wire.finish",
        "flask_prefork.http.wire:Nobody.finish",
        "flask_prefork.http.wire:Wire.finnish",
    ],
)
def test_a_method_that_is_gone_is_named(path: str) -> None:
    with pytest.raises(SystemExit, match=f"There is no {path} any more: name what"):
        stamps.find(path)


def test_all_methods_are_there() -> None:
    for boundary in stamps.BOUNDARIES:
        stamps.find(boundary.path)


def test_a_step_that_a_case_has_not_is_no_zero() -> None:
    cost = Cost(1000.0, 30.0, 10.0, 2.0, 1.0)
    log = stamps.Step(stamps.OURS, "log")
    found = {
        Case("one", 1, keep_alive=False): Measured(cost, {STEP: 2.0}),
        Case("other", 1, keep_alive=False): Measured(cost, {STEP: 2.0, log: 3.0}),
    }
    rows = [line.split("  ") for line in table(found)]
    shown = {row[2]: [one.strip() for one in row[3:] if one] for row in rows if row[2:]}
    assert shown["log"] == ["3.0"]
    assert shown["parse the head"] == ["2.0", "2.0"]
