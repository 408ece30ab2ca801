"""``prefork-status`` of a real server: by the real command, and in a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from flask_prefork.ipc.durations import ERROR
from flask_prefork.observe.json import parse
from flask_prefork.observe.text import brief

from .admin import Admin
from .conftest import Serve
from .gate import DEADLINE
from .gate import Gate
from .server import environment
from .server import finish
from .server import Finished
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.measured

#: No app is told, and there is none in the directory.
COMMAND = [sys.executable, "-m", "flask", "prefork-status"]
WITHOUT_RICH = [
    sys.executable,
    "-c",
    "import sys; sys.modules['rich.live'] = None;"
    " from flask_prefork.observe.command import prefork_status; prefork_status()",
]
TOKEN = "open-sesame"
WIDTH, HEIGHT = 100, 40


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path


def told_address(server: Server) -> str:
    """Where the server says that it tells of itself."""
    return server.wait_for_log(r"^Status on (\S+)$")[1]


def status(cwd: Path, *args: str, **variables: str) -> Finished:
    """Run the command to its end."""
    env = {f"FLASK_PREFORK_RUN_{k}": v for k, v in variables.items()}
    return finish([*COMMAND, *args], cwd, env)


def test_all_ways_tell_the_same_quantiles(serve: Serve, cwd: Path, gate: Gate) -> None:
    """One request took as long as all together, so what is right is known."""
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    admin.wait_until(lambda s: s["history"])
    server.send(gate.path)
    gate.wait_for_one().release()
    # Its worker writes one after the other.
    shown = admin.wait_until(
        lambda s: s["latency"]["requests"] and s["totals"]["spent"]
    )
    latency, spent = shown["latency"], shown["totals"]["spent"]
    assert latency["p50"] == latency["p90"] == latency["p99"]
    assert latency["p50"] == pytest.approx(spent, rel=ERROR)
    assert shown["queue_time"]["requests"] == 1
    told = brief(latency["p50"])
    output = status(cwd, "--admin", admin.address).output
    assert f"latency    p50 {told}, p90 {told}, p99 {told} over " in output
    metrics = admin.get("/metrics").text
    name = "flask_prefork_recent_request_duration_seconds"
    for part in (0.5, 0.9, 0.99):
        assert f'{name}{{quantile="{part}"}} {latency["p50"]!r}\n' in metrics
    # The charts are drawn of these.
    sampled = admin.wait_until(lambda s: s["history"][-1]["latency"]["requests"])
    assert sampled["history"][-1]["latency"]["p50"] == latency["p50"]


def test_by_every_way(serve: Serve, cwd: Path, tmp_path: Path) -> None:
    pid_file = str(tmp_path / "web.pid")
    server = serve("held", "--admin", "0", "--pid", pid_file)
    address = told_address(server)
    ways: list[tuple[list[str], dict[str, str]]] = [
        (["--admin", address], {}),
        (["--pid", pid_file], {}),
        ([], {"ADMIN": address}),
        ([], {"PID": pid_file}),
    ]
    for args, variables in ways:
        finished = status(cwd, *args, **variables)
        assert finished.status == 0, finished.output
        assert f" serving, ready, pid {server.pid}, up " in finished.output
        assert server.url in finished.output
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert status(cwd, "--admin", address).errors[0].startswith("Nothing listens on")
    assert status(cwd, "--pid", pid_file).errors[0].startswith("There is no pid file")


def test_by_unix_socket(serve: Serve, cwd: Path, tmp_path: Path) -> None:
    server = serve("held", "--admin", f"unix:{tmp_path}/admin.sock")
    finished = status(cwd, "--admin", f"unix:{tmp_path}/admin.sock")
    assert finished.status == 0, finished.output
    assert f"pid {server.pid}" in finished.output


def test_a_killed_servers_pid_file_is_stale(
    serve: Serve, cwd: Path, tmp_path: Path
) -> None:
    pid_file = str(tmp_path / "web.pid")
    server = serve("held", "--admin", "0", "--pid", pid_file)
    address = told_address(server)
    server.signal(signal.SIGKILL)
    server.wait()
    # The observer ends with it.
    wait_for(lambda: status(cwd, "--admin", address).status == 1)
    finished = status(cwd, "--pid", pid_file)
    assert finished.status == 1
    assert finished.errors == [
        f"The pid file {pid_file} is stale: there is no process {server.pid}."
    ]


def test_a_server_without_admin(serve: Serve, cwd: Path, tmp_path: Path) -> None:
    pid_file = str(tmp_path / "web.pid")
    server = serve("held", "--pid", pid_file)
    finished = status(cwd, "--pid", pid_file)
    assert finished.status == 1
    assert finished.errors == [
        f"The server {server.pid} was started without --admin, so it serves no status."
    ]


def test_the_apps_address_is_not_the_servers(serve: Serve, cwd: Path) -> None:
    server = serve("held", "--admin", "0")
    finished = status(cwd, "--admin", server.url)
    assert finished.status == 1
    assert "isn't flask_prefork's status (status 404" in finished.errors[0]


def test_the_token(serve: Serve, cwd: Path) -> None:
    address = told_address(serve("held", "--admin", "0", "--admin-token", TOKEN))
    assert "requires a token" in status(cwd, "--admin", address).errors[0]
    wrong = status(cwd, "--admin", address, "--admin-token", TOKEN + "!")
    assert "rejects this" in wrong.errors[0]
    assert status(cwd, "--admin", address, "--admin-token", TOKEN).status == 0
    assert status(cwd, ADMIN=address, ADMIN_TOKEN=TOKEN).status == 0


def test_a_saturated_server_tells_what_it_does(
    serve: Serve, gate: Gate, cwd: Path
) -> None:
    server = serve("held", "--admin", "0", "--min-idle", "1", "--max-workers", "2")
    for _ in range(4):
        server.send(gate.path)
    held = gate.wait_for(2)
    address = told_address(server)
    # Its kernel has accepted them, sooner or later.
    wait_for(lambda: look(cwd, address).waiting == 2)
    finished = status(cwd, "--admin", address)
    assert finished.status == 0
    assert re.search(r"^generation 1  current   BB$", finished.output, re.M)
    assert re.search(r"^waiting    2 for a worker, ", finished.output, re.M)
    for one in held:
        row = rf"^ *1 +{one.slot} +{one.pid}  busy .*GET {re.escape(gate.path)}$"
        assert re.search(row, finished.output, re.M)


def look(cwd: Path, address: str) -> t.Any:
    return parse(status(cwd, "--admin", address, "--json").output.encode())


def test_json(serve: Serve, cwd: Path) -> None:
    server = serve("held", "--admin", "0")
    assert server.get().status == 200
    finished = status(cwd, "--admin", told_address(server), "--json")
    assert finished.status == 0
    assert json.loads(finished.output)["pid"] == server.pid


def test_no_app_is_loaded(serve: Serve, cwd: Path) -> None:
    """Not even one that is told, or that a command of its own would make."""
    address = told_address(serve("held", "--admin", "0"))
    (cwd / "app.py").write_text("raise SystemExit('loaded')\n")
    finished = finish([*COMMAND, "--admin", address], cwd, {"FLASK_APP": "app.py"})
    assert finished.status == 0, finished.output
    (cwd / "manage.py").write_text(
        "import click\n"
        "from flask.cli import FlaskGroup\n"
        "def create_app():\n"
        "    raise SystemExit('loaded')\n"
        "@click.group(cls=FlaskGroup, create_app=create_app)\n"
        "def cli():\n"
        "    pass\n"
        "cli()\n"
    )
    line = [sys.executable, "manage.py", "prefork-status", "--admin", address]
    finished = finish(line, cwd)
    assert finished.status == 0, finished.output
    assert " serving, ready" in finished.output


class Watch:
    """``--watch``, and all that it has written.

    :param popen: Its process.
    :param fd: Where its output is read.
    """

    def __init__(self, popen: subprocess.Popen[bytes], fd: int) -> None:
        self.popen = popen
        self._fd = fd
        self.output = b""

    def read(self) -> bool:
        """Read what there is, waiting for some.

        :return: Whether there may be more.
        """
        readable, _, _ = select.select([self._fd], [], [], DEADLINE)
        assert readable, "waited in vain"
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            # So Linux tells that the terminal's other end is closed.
            data = b""
        self.output += data
        return bool(data)

    @property
    def text(self) -> str:
        """What a reader sees of it, without escapes."""
        return click.unstyle(self.output.decode())

    def wait_for(self, pattern: str) -> None:
        """Read until a pattern shows beyond what was there."""
        seen = len(self.text)
        end = time.monotonic() + DEADLINE
        while not re.search(pattern, self.text[seen:], re.M):
            assert time.monotonic() < end, f"never shown: {pattern}\n{self.text}"
            assert self.read(), f"ended without: {pattern}\n{self.text}"

    def wait(self) -> int:
        """Read to its end.

        :return: The exit status.
        """
        end = time.monotonic() + DEADLINE
        while self.read():
            assert time.monotonic() < end, f"never ended\n{self.text}"
        return self.popen.wait(DEADLINE)


@contextlib.contextmanager
def watching(line: list[str], cwd: Path, terminal: bool) -> Iterator[Watch]:
    """Watch in a terminal or into a pipe."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        size = struct.pack("HHHH", HEIGHT, WIDTH, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    env = {**environment(), "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        env.pop(name, None)
    process = subprocess.Popen(
        [*line, "--watch", "--interval", "0.1"],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        with process:
            try:
                yield Watch(process, ours)
            finally:
                process.kill()
    finally:
        os.close(ours)


VIEWS = [
    pytest.param(COMMAND, True, id="rich"),
    pytest.param(WITHOUT_RICH, True, id="redrawn"),
    pytest.param(COMMAND, False, id="no-terminal"),
]


@pytest.mark.parametrize(("line", "terminal"), VIEWS)
def test_watch_follows_and_ends_at_ctrl_c(
    serve: Serve, gate: Gate, cwd: Path, line: list[str], terminal: bool
) -> None:
    server = serve("held", "--admin", "0", "--min-idle", "1", "--max-workers", "1")
    line = [*line, "--admin", told_address(server)]
    with watching(line, cwd, terminal) as view:
        view.wait_for(r"generation 1  current   I\b")
        request = server.send(gate.path)
        held = gate.wait_for_one()
        view.wait_for(r"generation 1  current   B\b")
        view.wait_for(re.escape(f"GET {gate.path}"))
        held.release()
        assert request.answer().status == 200
        view.wait_for(r"generation 1  current   I\b")
        view.popen.send_signal(signal.SIGINT)
        assert view.wait() == 0
    assert "Traceback" not in view.text
    assert "Aborted" not in view.text
    assert (b"\x1b" in view.output) == terminal
    # Rich leaves what was on the terminal as it was.
    assert (b"\x1b[?1049h" in view.output) == (terminal and line[:4] == COMMAND)


@pytest.mark.parametrize(("line", "terminal"), VIEWS)
def test_watch_says_that_the_server_has_ended(
    serve: Serve, cwd: Path, line: list[str], terminal: bool
) -> None:
    server = serve("held", "--admin", "0")
    line = [*line, "--admin", told_address(server)]
    with watching(line, cwd, terminal) as view:
        view.wait_for("serving, ready")
        server.signal(signal.SIGTERM)
        assert view.wait() == 1
    assert view.text.rstrip().endswith("Error: The server has ended.")
    assert "Traceback" not in view.text


@pytest.mark.parametrize(("line", "terminal"), VIEWS[:2])
def test_the_view_fits_the_terminal(
    serve: Serve, cwd: Path, line: list[str], terminal: bool
) -> None:
    server = serve("held", "--admin", "0", "--min-idle", str(HEIGHT))
    line = [*line, "--admin", told_address(server)]
    with watching(line, cwd, terminal) as view:
        view.wait_for("GEN +SLOT")
        view.wait_for("GEN +SLOT")
        view.popen.send_signal(signal.SIGINT)
        assert view.wait() == 0
    # From one look to the next the cursor goes home; no look scrolls it away.
    looks = view.output.split(b"\x1b[H")[1:]
    assert len(looks) >= 2
    assert max(look.count(b"\n") for look in looks) < HEIGHT
