"""Loaded into the pytest that runs werkzeug's tests: puts our server in place."""

from __future__ import annotations

import os
import socket
import sys
import types
import typing as t
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _reserve(host: str) -> int:
    """A TCP port that is free."""
    with socket.create_server((host, 0)) as sock:
        return int(sock.getsockname()[1])


# What werkzeug's tests take from a package of this name.
_ports = types.ModuleType("ephemeral_port_reserve")
_ports.reserve = _reserve  # type: ignore[attr-defined]
sys.modules[_ports.__name__] = _ports


@pytest.fixture(autouse=True)
def _stand_in(tmp_path: Path) -> None:
    """Let the server's process, whose only path this is, begin with our code."""
    lines = f"import sys\nsys.path.append({os.fspath(HERE)!r})\n"
    lines += "import stand_in\nstand_in.install()\n"
    (tmp_path / "sitecustomize.py").write_text(lines)


@pytest.fixture(autouse=True)
def _our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell when our server has reloaded.

    While it does so it goes on serving, so that an answer says nothing.
    """
    client: t.Any = sys.modules["conftest"].DevServerClient

    def wait_for_reload(self: t.Any) -> None:
        self.wait_for_log("Generation 2 serves")

    monkeypatch.setattr(client, "wait_for_reload", wait_for_reload)
