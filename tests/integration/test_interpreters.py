"""The server by every interpreter that is found here besides the suite's own.

``tox`` runs the whole suite by each. This sees in seconds that each can start it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Run
from .environments import installed
from .environments import version_of
from .server import APPS

#: The minor versions of Python 3 that are supported.
SUPPORTED = range(10, 14)


def candidates(version: str) -> Iterator[str]:
    """Where an interpreter may be."""
    found = shutil.which(f"python{version}")
    if found is not None:
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for folder in sorted(pyenv.glob(f"versions/{version}.*")):
        yield str(folder / "bin" / "python")


def interpreters() -> list[str]:
    """Paths of interpreters of other versions, one of each; of none its own."""
    found = []
    for minor in SUPPORTED:
        version = f"3.{minor}"
        if minor != sys.version_info.minor:
            right = (one for one in candidates(version) if version_of(one) == version)
            found += list(right)[:1]
    return found or [sys.executable]


@pytest.mark.slow
@pytest.mark.parametrize("python", interpreters(), ids=version_of)
def test_it_serves_and_reloads(python: str, run: Run) -> None:
    environment = installed("interpreters", python=python)
    line = [environment.program("flask"), "--app", str(APPS / "verbose.py")]
    server = run([*line, "prefork-run", "--port", "0"])
    for generation in (2, 3):
        assert server.get("/print-exc?n=1").status == 200
        server.signal(signal.SIGHUP)
        server.wait_for_log(rf"^Generation {generation} serves\.$")
    assert "Traceback (most recent call last):" in server.log()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
