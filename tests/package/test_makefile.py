"""What ``make run`` would do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def planned(*settings: str) -> str:
    """The commands of ``make run``."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make isn't here")
    # Those of the make that runs the suite are not this one's.
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PORT", "ADMIN", "HOST")
    environ = {name: value for name, value in os.environ.items() if name not in outer}
    line = [make, "-n", "run", *settings]
    return subprocess.check_output(line, cwd=ROOT, env=environ, text=True, timeout=60)


@pytest.mark.parametrize(
    ("settings", "port", "admin"),
    [
        ((), 5000, 9000),
        (("PORT=8000",), 8000, 9000),
        (("PORT=8000", "ADMIN=8001"), 8000, 8001),
        # They don't clash by default.
        (("PORT=9000",), 9000, 9001),
    ],
)
def test_run_has_a_status_page_and_says_where(
    settings: tuple[str, ...], port: int, admin: int
) -> None:
    *_, command = lines = planned(*settings).splitlines()
    assert command.split()[-6:] == [
        *("--host", "127.0.0.1", "--port", str(port), "--admin", str(admin))
    ]
    assert any(f"http://127.0.0.1:{port}/" in line for line in lines)
    assert any(f"http://127.0.0.1:{admin}/" in line for line in lines)
