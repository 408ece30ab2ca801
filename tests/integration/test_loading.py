"""The app is loaded once, before the fork; or it can't be."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from .conftest import Fail
from .conftest import Serve
from .gate import Gate
from .server import APPS

pytestmark = pytest.mark.measured


def test_the_factory_runs_once_before_the_fork(
    serve: Serve, gate: Gate, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    server = serve("counted", "--min-idle", "4", env={"CALLS": str(calls)})
    server.wait_for_state("IIII")
    requests = [server.send(gate.path) for _ in range(4)]
    told = [held.told for held in gate.wait_for(4)]
    assert len({one["slot"] for one in told}) == 4
    assert len({one["pid"] for one in told}) == 4
    assert len({one["token"] for one in told}) == 1
    (maker,) = {one["maker"] for one in told}
    assert [zygote.pid for zygote in server.zygotes()] == [maker]
    assert calls.read_text() == f"{maker}\n"
    gate.close()
    assert {request.answer().status for request in requests} == {200}


@pytest.mark.parametrize("app", ["raises_at_import", "raises_in_factory"])
def test_an_app_that_raises(fail: Fail, app: str) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    status, output = fail(app, "--port", str(port))
    assert status == 1
    assert "LookupError: the catalogue is missing" in output
    assert output.count("Traceback") == 1
    # The callers' frames are of no use.
    assert f"{app}.py" in output.partition("Traceback")[2].splitlines()[1]
    assert "click" not in output and "flask/cli.py" not in output
    assert "Running on" not in output
    with socket.create_server(("127.0.0.1", port)):
        pass  # the port is free


def test_a_wrong_import_path(fail: Fail) -> None:
    status, output = fail("nowhere.to.be.found")
    assert status == 2
    assert "Could not import 'nowhere.to.be.found'" in output
    assert "Traceback" not in output


def test_a_module_without_an_app(fail: Fail) -> None:
    status, output = fail("no_app")
    assert status == 2
    assert "Failed to find Flask application or factory" in output
    assert "Traceback" not in output


def test_an_app_of_another_kind(fail: Fail) -> None:
    status, output = fail(f"{APPS / 'fault_wsgi.py'}:raises")
    assert status == 2
    assert "is a plain WSGI callable" in output
    assert "Traceback" not in output


def test_workers_that_end_before_they_serve(fail: Fail) -> None:
    status, output = fail("exits_at_start", "--port", "0")
    assert status == 1
    assert "died: exit status 7" in output
    assert "giving up" in output
    assert 1 <= output.count("died: exit status 7") <= 10
    assert "Running on" not in output
