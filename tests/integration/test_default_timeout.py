"""Sockets have a default timeout in all processes (socket.setdefaulttimeout)."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from .admin import Admin
from .admin import letters
from .conftest import Serve
from .gate import DEADLINE
from .server import Server
from .server import wait_for

#: Run by each interpreter when it starts.
SETS_DEFAULT = "import socket; socket.setdefaulttimeout({})"
POOL = ("--min-idle", "2", "--max-workers", "2")


def ask_in_two_parts(server: Server) -> bytes:
    """Send a request whose head is parked in between."""
    host, _, port = server.url.rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        server.wait_for_state("II")
        client.sendall(b"\r\n")
        return client.recv(4096)


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_workers_wait(
    serve: Serve, tmp_path: Path, seconds: float, dispatch: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SETS_DEFAULT.format(seconds))
    env = {"PYTHONPATH": str(tmp_path)}
    server = serve("held", *POOL, "--dispatch", dispatch, "--admin", "0", env=env)
    server.wait_for_state("II")
    pids = server.workers()
    assert server.get().status == 200
    assert ask_in_two_parts(server).startswith(b"HTTP/1.1 200 ")
    # Each of these takes longer than the timeout.
    for _ in range(3):
        server.wait_for_state("II")
    assert server.workers() == pids
    # The observer hears from the dispatcher, and we from it.
    Admin(server).wait_until(lambda status: letters(status) == "II")
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves")
    wait_for(lambda: server.get().json["generation"] == 2)
    assert "died" not in server.log()


def test_the_watcher_waits(serve: Serve, tmp_path: Path) -> None:
    """It goes on when the zygote's end of its socket pair is silent."""
    (tmp_path / "sitecustomize.py").write_text(SETS_DEFAULT.format(0.01))
    app = tmp_path / "watched.py"
    app.write_text("from flask import Flask\napp = Flask(__name__)\n")
    env = {"PYTHONPATH": str(tmp_path)}
    server = serve(str(app), *POOL, "--reload", env=env)
    server.wait_for_state("II")
    app.write_text(app.read_text() + "again = 1\n")
    server.wait_for_log(r"^Generation 2 serves")
