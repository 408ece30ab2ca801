"""The pid file of the real command."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .conftest import Fail
from .conftest import Serve
from .gate import Gate
from .server import wait_for

pytestmark = pytest.mark.measured


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    """Alone in its directory."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder / "web.pid"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_pid_file_tells_the_pid(
    serve: Serve, pid_file: Path, number: signal.Signals
) -> None:
    server = serve("held", "--pid", str(pid_file))
    assert pid_file.read_text() == f"{server.pid}\n"
    # A reload leaves it as it is.
    about = pid_file.stat()
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves")
    wait_for(lambda: len(server.zygotes()) == 1)
    assert os.path.samestat(about, pid_file.stat())
    server.signal(number)
    assert server.wait() == 0
    assert os.listdir(pid_file.parent) == []


def test_no_pid_file_is_left_when_the_graceful_timeout_ends_it(
    serve: Serve, gate: Gate, pid_file: Path
) -> None:
    args = ("--graceful-timeout", "0.1", "--pid", str(pid_file))
    server = serve("held", *args)
    request = server.send(gate.path)
    gate.wait_for_one()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    with pytest.raises(ConnectionError):
        request.read()
    assert os.listdir(pid_file.parent) == []


def test_no_pid_file_is_left_by_failed_starts(
    fail: Fail, pid_file: Path, taken_port: int, tmp_path: Path
) -> None:
    app = tmp_path / "workers_die.py"
    app.write_text(
        "import os\n"
        "from flask import Flask\n"
        "app = Flask(__name__)\n"
        "os.register_at_fork(after_in_child=lambda: os._exit(3))\n"
    )
    at = ("--pid", str(pid_file))
    assert fail("raises_in_factory", "--port", "0", *at).status == 1
    assert os.listdir(pid_file.parent) == []
    assert fail("held", "--port", str(taken_port), *at).status == 1
    assert os.listdir(pid_file.parent) == []
    hopeless = fail(str(app), "--port", "0", *at)
    assert hopeless.status == 1
    assert "giving up" in hopeless.output
    assert os.listdir(pid_file.parent) == []


def test_a_stale_pid_file_is_replaced(serve: Serve, pid_file: Path) -> None:
    killed = serve("held", "--pid", str(pid_file))
    killed.popen.kill()
    killed.wait()
    assert pid_file.read_text() == f"{killed.pid}\n"
    server = serve("held", "--pid", str(pid_file))
    assert pid_file.read_text() == f"{server.pid}\n"


def test_a_number_that_lives_again_is_stale_too(serve: Serve, pid_file: Path) -> None:
    """Pids are reused: this one is the test runner's."""
    pid_file.write_text(f"{os.getpid()}\n")
    server = serve("held", "--pid", str(pid_file))
    assert pid_file.read_text() == f"{server.pid}\n"


def test_a_living_servers_pid_file_is_refused(
    serve: Serve, fail: Fail, pid_file: Path
) -> None:
    server = serve("held", "--pid", str(pid_file), begun=None)
    refused = fail("held", "--port", "0", "--pid", str(pid_file))
    assert refused.status == 1
    told = (
        f"The pid file {pid_file} belongs to another server (pid {server.pid})."
        " Either stop that server, or start this one with a different pid file."
    )
    assert refused.output.count(told) == 1
    assert "Traceback" not in refused.output
    assert "Running on" not in refused.output
    assert pid_file.read_text() == f"{server.pid}\n"
    assert sorted(os.listdir(pid_file.parent)) == ["web.pid", "web.pid.admin"]
    assert server.get().status == 200


def test_an_impossible_pid_file(fail: Fail, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "web.pid"
    finished = fail("held", "--port", "0", "--pid", str(path))
    assert finished.status == 1
    told = f"Can't write the pid file {path}: No such file or directory."
    assert told in finished.output.splitlines()
    assert "Traceback" not in finished.output
