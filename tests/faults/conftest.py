"""The fixtures of the integration tests, for the rows of the fault matrix.

Each test here is a row. The first line of its docstring says what is done to the
server, the rest what must hold.
"""

from __future__ import annotations

from integration.conftest import fail
from integration.conftest import gate
from integration.conftest import pytest_runtest_makereport
from integration.conftest import run
from integration.conftest import serve
from integration.conftest import shared
from integration.conftest import shared_servers

__all__ = [
    "fail",
    "gate",
    "pytest_runtest_makereport",
    "run",
    "serve",
    "shared",
    "shared_servers",
]
