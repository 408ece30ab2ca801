"""Load of all kinds and faults together: a short run of ``benchmarks soak``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SOAK = [sys.executable, "-W", "error", str(BENCHMARKS), "soak"]
#: What an app does wrong, and what is found then.
DEFECTS = {
    "slow": "refused for no reason: ",
    "wrong": "answered wrongly: ",
    "twice": "the app was called twice for ",
    "leak": "the file disk/",
    "drop": "lost for no reason: ",
    "exit": "died: exit status 0.",
}


def soak(*args: str) -> subprocess.CompletedProcess[str]:
    run = subprocess.run([*SOAK, *args], capture_output=True, text=True, check=False)
    print(run.stdout, run.stderr)
    return run


def test_soak() -> None:
    """Load of all kinds, and each kind of process is killed and stopped; HUP, also of
    an app that can't be loaded; logs are moved away; the disk is full; workers get too
    much memory; there are too many requests.

    Every request is answered, refused for a reason, or was in a process that was killed
    then. No log line is lost. Memory and descriptors don't grow, and no zombie, process
    or file is left.
    """
    run = soak("--cycles", "1")
    assert run.returncode == 0
    assert "All holds." in run.stdout


def test_what_a_soak_finds() -> None:
    run = soak("--no-faults", "--defects", ",".join(DEFECTS))
    assert run.returncode == 1
    failures = [line for line in run.stdout.splitlines() if line.startswith("FAILED")]
    for found in DEFECTS.values():
        assert any(found in line for line in failures), found
