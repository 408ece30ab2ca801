"""What the suite says of tests that are skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import programs
import pytest

ROOT = Path(__file__).parents[2]
SOURCE = """
import pytest

@pytest.mark.skipif(True, reason="wrk isn't installed (apt install wrk)")
@pytest.mark.parametrize("number", range(3))
def test_load(number): ...

def test_once():
    pytest.skip("there is no\\n    group www-data here")

def test_that_runs(): ...
"""


def run(folder: Path, **variables: str) -> str:
    """The output of a suite that has the conftest of this one."""
    (folder / "test_some.py").write_text(SOURCE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    line = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider"]
    environ = {k: v for k, v in os.environ.items() if k != "CI"}
    environ["PYTHONPATH"] = str(ROOT / "tests")
    return subprocess.run(
        [*line, folder],
        cwd=folder,
        env={**environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def test_each_reason_is_a_line(tmp_path: Path) -> None:
    lines = run(tmp_path).splitlines()
    assert [line for line in lines if line.startswith("skipped ")] == [
        "skipped 3 tests: wrk isn't installed (apt install wrk)",
        "skipped 1 test: there is no group www-data here",
    ]
    assert "1 passed, 4 skipped" in lines[-1]


def test_nothing_is_skipped_in_ci(tmp_path: Path) -> None:
    output = run(tmp_path, CI="true")
    assert "1 failed, 1 passed, 3 errors" in output
    assert "Nothing may be skipped when CI is set. Skipped: wrk isn't" in output


def test_a_missing_program_is_named_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "find", {"wrk": None}.get)
    assert programs.lack("wrk") in programs.lacking()
    there = Path(sys.executable).parent
    assert "curl isn't installed (apt install curl)" in run(tmp_path, PATH=str(there))


def test_ci_installs_every_program() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("a source package has no script for CI")
    words = script.read_text("utf-8").split()
    # A system has the package that its first process is from.
    assert set(programs.PACKAGES.values()) <= set(words)
