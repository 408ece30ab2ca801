"""The wall clock is set while the server runs."""

from __future__ import annotations

import ast
import email.utils
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from pathlib import Path

import pytest
from integration.conftest import Serve
from integration.gate import Gate

import flask_prefork

from .load import Client
from .rows import get
from .rows import load

ROOT = Path(flask_prefork.__file__).parent
#: All that tells the wall clock's time, of the modules that have such.
WALL = {
    "time": {"time", "time_ns", "clock_gettime", "clock_gettime_ns"}
    | {"localtime", "gmtime", "ctime", "asctime", "strftime"},
    "datetime": {"datetime", "date"},
}
#: Who may: what people read has the date, a request's id begins with it, and proxies
#: and APM agents go by it in X-Request-Start.
READERS = {
    "date_line",
    "date_time",
    "log_time",
    "_times",
    "choose",
    "_add_request_start",
    "make_context",
}

#: Runs in every process of the server, before anything else.
SITE = '''\
"""A wall clock that is off by the seconds in the file CLOCK."""

import os
import time

_time = time.time
_path = os.environ["CLOCK"]


def shifted():
    with open(_path) as file:
        return _time() + float(file.read() or 0)


time.time = shifted
time.time_ns = lambda: int(shifted() * 1e9)
'''


class _Uses(ast.NodeVisitor):
    """Where a module asks for the wall clock's time."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._function = "the module"

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self._function = self._function, node.name
        self.generic_visit(node)
        self._function = outer

    def visit_Attribute(self, node: ast.Attribute) -> None:
        module = ast.unparse(node.value)
        if node.attr in WALL.get(module, ()):
            self.found.append(self._function)
        self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        names = {alias.name for alias in node.names}
        if not node.level and names & WALL.get(node.module or "", set()):
            self.found.append(f"from {node.module} import")


def uses(source: str) -> list[str]:
    finder = _Uses()
    finder.visit(ast.parse(source))
    return finder.found


def test_the_look_for_wall_clocks_finds_them() -> None:
    source = "import time\ndef f():\n    return time.time()\ndef g(): time.monotonic()"
    assert uses(source) == ["f"]
    assert uses("from time import time") == ["from time import"]
    assert uses("def f(): datetime.datetime.now()") == ["f"]


def test_no_deadline_is_of_the_wall_clock() -> None:
    """The source is searched for uses of the wall clock.

    It is used only for the Date field, the times in the log, request IDs,
    X-Request-Start, and to see whether a certificate has expired.
    """
    found = {
        f"{path.relative_to(ROOT)}: {where}"
        for path in ROOT.rglob("*.py")
        for where in uses(path.read_text())
        if where not in READERS
    }
    assert not found


@pytest.mark.parametrize("days", [1, -1], ids=["forward", "back"])
def test_the_clock_is_set(serve: Serve, gate: Gate, tmp_path: Path, days: int) -> None:
    """The clock is set a day forward or back.

    Nothing times out or waits longer. Running requests, kept-alive connections and idle
    workers don't change, and the server stops normally. Only the Date field changes.
    """
    (tmp_path / "sitecustomize.py").write_text(SITE)
    clock = tmp_path / "clock"
    clock.write_text("0")
    server = serve(
        *("fault_views", "--min-idle", "3", "--max-workers", "3"),
        *("--timeout", "30", "--keep-alive", "60", "--idle-timeout", "60"),
        env={"PYTHONPATH": str(tmp_path), "CLOCK": str(clock)},
    )
    server.wait_for_state("III")
    workers = server.workers()
    kept = Client(server.url, keep_alive=True)
    try:
        with load(server, 1) as traffic:
            kept.ask()
            request = server.send(gate.path)
            held = gate.wait_for_one()
            clock.write_text(str(days * 86400))
            traffic.wait_for_more(50)
            # On the same connection: it isn't closed.
            assert kept.ask().status == 200
            held.release()
            answer = request.answer()
            assert answer.status == 200
    finally:
        kept.close()
    date = email.utils.parsedate_to_datetime(answer.headers["Date"])
    off = date - datetime.now(timezone.utc)
    assert abs(off - timedelta(days=days)) < timedelta(hours=1)
    assert server.workers() == workers
    server.wait_for_state("III")
    assert get(server, "/").status == 200
    assert {"died:", "killed:", "threads:"}.isdisjoint(server.log().split())
