"""Started by systemd: sockets, and what it is told."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import sys
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from xprocess import XProcess

from .conftest import Fail
from .conftest import Serve
from .gate import Gate
from .server import command
from .server import Request
from .server import running
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.measured

#: Tells what it was started with.
APP = """
import os

from flask import Flask
from flask import request

app = Flask(__name__)
environ = dict(os.environ)


@app.get("/")
def index():
    generation = request.environ["flask_prefork.generation"]
    return {"environ": environ, "generation": generation}
"""


@pytest.fixture
def app(tmp_path: Path) -> str:
    """The app's path."""
    path = tmp_path / "watched.py"
    path.write_text(APP)
    return str(path)


# Sockets from systemd

#: Does what systemd does between fork and exec: puts the sockets to 3 and the
#: following, and tells the process its own number.
ACTIVATE = """
import os
import sys

fds, argv = [int(fd) for fd in sys.argv[1].split(",")], sys.argv[2:]
# Out of the way of the numbers that they get.
high = [os.dup(fd) for fd in fds]
while min(high) < 3 + len(fds):
    high = [os.dup(fd) for fd in high]
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
for fd in fds:
    if fd >= 3 + len(fds):
        os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid() + int(os.environ.pop("OFF_BY", "0")))
os.execv(argv[0], argv)
"""


class Activate(t.Protocol):
    """Starts a server as systemd does.

    :param listeners: The unit's sockets.
    :param env: More environment variables.
    """

    def __call__(
        self, *listeners: socket.socket, env: dict[str, str] | None = None
    ) -> Server: ...


@pytest.fixture
def activate(xprocess: XProcess, tmp_path: Path, app: str) -> Iterator[Activate]:
    """Starts socket-activated servers that end with the test."""
    with contextlib.ExitStack() as stack:

        def start(
            *listeners: socket.socket, env: dict[str, str] | None = None
        ) -> Server:
            fds = tuple(listener.fileno() for listener in listeners)
            line = [sys.executable, "-I", "-S", "-c", ACTIVATE]
            line.append(",".join(str(fd) for fd in fds))
            line += command(app, "--port", "0", "--no-access-log", "--min-idle", "1")
            variables = {
                "LISTEN_FDS": str(len(fds)),
                "LISTEN_FDNAMES": ":".join("web" for _ in fds),
                **(env or {}),
            }
            return stack.enter_context(
                running(xprocess, "activated", line, tmp_path, variables, fds)
            )

        yield start


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "web.sock"))
        sock.listen()
        yield sock


def get_by(listener: socket.socket, path: str = "/") -> t.Any:
    """Ask whoever accepts on a socket of ours.

    :return: The JSON that was answered.
    """
    sock = socket.socket(listener.family)
    sock.settimeout(20)
    sock.connect(listener.getsockname())
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    sock.sendall(head.encode())
    answer = Request(sock).answer()
    assert answer.status == 200
    return answer.json


def test_one_activated_socket(activate: Activate, tcp: socket.socket) -> None:
    # It came before the server was there, and that is why systemd started it.
    sock = socket.create_connection(tcp.getsockname(), 20)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    server = activate(tcp)
    assert server.url == f"http://127.0.0.1:{tcp.getsockname()[1]}"
    assert Request(sock).answer().status == 200
    assert get_by(tcp)["generation"] == 1
    # A new zygote is a new program: the sockets have to reach it, too.
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves")
    assert get_by(tcp)["generation"] == 2
    server.popen.terminate()
    assert server.wait() == 0
    # It is systemd's, which starts the server again for whoever comes next.
    socket.create_connection(tcp.getsockname(), 20).close()


def test_several_activated_sockets(
    activate: Activate, tcp: socket.socket, unix: socket.socket
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as second:
        server = activate(tcp, unix, second)
        server.wait_for_log(rf"Running on \S+:{second.getsockname()[1]}")
        urls = re.findall(r"Running on (\S+)\n", server.log())
        assert urls == [
            f"http://127.0.0.1:{tcp.getsockname()[1]}",
            f"unix://{unix.getsockname()}",
            f"http://127.0.0.1:{second.getsockname()[1]}",
        ]
        for listener in (tcp, unix, second, unix, tcp):
            assert get_by(listener)["generation"] == 1
        server.popen.terminate()
        assert server.wait() == 0
        assert Path(unix.getsockname()).is_socket(), "who made it removes it"


def test_sockets_of_another_process_are_left(
    activate: Activate, tcp: socket.socket
) -> None:
    """As when a shell stands between systemd and the server."""
    server = activate(tcp, env={"OFF_BY": "1"})
    assert server.url != f"http://127.0.0.1:{tcp.getsockname()[1]}"
    assert server.get().status == 200


@pytest.mark.parametrize("generation", [1, 2])
def test_systemds_variables_do_not_reach_the_app(
    activate: Activate, tcp: socket.socket, tmp_path: Path, generation: int
) -> None:
    env = {
        "NOTIFY_SOCKET": str(tmp_path / "nobody-listens"),
        "WATCHDOG_USEC": "10000000",
        "OTHER": "stays",
    }
    server = activate(tcp, env=env)
    if generation == 2:
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"^Generation 2 serves")
    answer = get_by(tcp)
    assert answer["generation"] == generation
    assert answer["environ"]["OTHER"] == "stays"
    leaked = re.compile("LISTEN_|NOTIFY_|WATCHDOG_")
    assert not [name for name in answer["environ"] if leaked.match(name)]


# Telling systemd


class Manager:
    """systemd's end of ``sd_notify(3)``.

    :param path: The socket's.
    """

    def __init__(self, path: Path) -> None:
        self.env = {"NOTIFY_SOCKET": str(path)}
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.settimeout(20)

    def hear(self) -> dict[str, str]:
        """Wait for the next message."""
        lines = self.sock.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def hear_of(self, *names: str) -> dict[str, str]:
        """Wait for the next message of other things than the daily ones.

        :param names: The message's, in order.
        """
        while {"WATCHDOG", "STATUS"} >= set(message := self.hear()):
            pass
        assert tuple(message) == names
        return message

    def wait_for(self, name: str, value: str) -> None:
        """Wait for an assignment, whatever comes before it."""
        while self.hear().get(name) != value:
            pass

    def hears_nothing(self, seconds: float) -> bool:
        """Whether there is silence for so long."""
        self.sock.settimeout(seconds)
        try:
            self.sock.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(20)
        return False

    def empty(self) -> None:
        """Pass over what has been said."""
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.sock.recv(4096):
                pass
        self.sock.settimeout(20)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.sock.close()


def test_ready_and_stopping(serve: Serve, gate: Gate, manager: Manager) -> None:
    server = serve("held", "--min-idle", "1", env=manager.env)
    ready = manager.hear_of("READY", "MAINPID", "STATUS")
    assert (ready["READY"], ready["MAINPID"]) == ("1", str(server.pid))
    assert ready["STATUS"] == "workers: I, 0 waiting"
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGTERM)
    assert manager.hear_of("STOPPING") == {"STOPPING": "1"}
    # It is said when it begins, not when it is done.
    assert server.popen.poll() is None
    held.release()
    assert request.answer().status == 200
    assert server.wait() == 0
    manager.empty()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_stopping_at_once(
    serve: Serve, manager: Manager, number: signal.Signals
) -> None:
    server = serve("held", env=manager.env)
    manager.hear_of("READY", "MAINPID", "STATUS")
    server.signal(number)
    manager.hear_of("STOPPING")
    assert server.wait() == 0


def test_a_reload_is_told(serve: Serve, manager: Manager) -> None:
    server = serve("held", "--min-idle", "1", env=manager.env)
    manager.hear_of("READY", "MAINPID", "STATUS")
    for generation in (2, 3):
        before = time.monotonic_ns()
        server.signal(signal.SIGHUP)
        reloading = manager.hear_of("RELOADING", "MONOTONIC_USEC")
        # Younger than the signal: by that systemd knows whose answer it is.
        since = int(reloading["MONOTONIC_USEC"])
        assert before // 1000 <= since <= time.monotonic_ns() // 1000
        ready = manager.hear_of("READY", "MAINPID", "STATUS")
        assert ready["MAINPID"] == str(server.pid)
        assert ready["STATUS"] == f"generation {generation} serves"


def test_a_reload_that_fails_is_over_too(
    serve: Serve, manager: Manager, app: str
) -> None:
    server = serve(app, "--min-idle", "1", env=manager.env)
    manager.hear_of("READY", "MAINPID", "STATUS")
    Path(app).write_text("raise LookupError('not now')\n")
    server.signal(signal.SIGHUP)
    manager.hear_of("RELOADING", "MONOTONIC_USEC")
    ready = manager.hear_of("READY", "MAINPID", "STATUS")
    assert ready["STATUS"] == "generation 1 serves on"
    assert server.get().json["generation"] == 1


def test_status_counts(serve: Serve, gate: Gate, manager: Manager) -> None:
    env = {**manager.env, "WATCHDOG_USEC": "200000"}
    server = serve("held", "--min-idle", "2", "--max-workers", "2", env=env)
    manager.wait_for("STATUS", "workers: II, 0 waiting")
    requests = [server.send(gate.path) for _ in range(3)]
    held = gate.wait_for(2)
    manager.wait_for("STATUS", "workers: BB, 1 waiting")
    for one in held:
        one.release()
    gate.wait_for_one().release()
    for request in requests:
        assert request.answer().status == 200
    manager.wait_for("STATUS", "workers: II, 0 waiting")


def test_only_a_loop_that_turns_feeds_the_watchdog(
    serve: Serve, manager: Manager
) -> None:
    env = {**manager.env, "WATCHDOG_USEC": "200000"}
    server = serve("held", env=env)
    for _ in range(3):
        manager.wait_for("WATCHDOG", "1")
    server.signal(signal.SIGSTOP)
    dispatcher = psutil.Process(server.pid)
    try:
        wait_for(lambda: dispatcher.status() == psutil.STATUS_STOPPED)
        manager.empty()
        # The workers and the zygote live on; it isn't theirs to say.
        assert manager.hears_nothing(0.5)
    finally:
        server.signal(signal.SIGCONT)
    for _ in range(3):
        manager.wait_for("WATCHDOG", "1")


def test_somebody_elses_watchdog_is_not_fed(serve: Serve, manager: Manager) -> None:
    env = {**manager.env, "WATCHDOG_USEC": "2000", "WATCHDOG_PID": "1"}
    server = serve("held", env=env)
    manager.hear_of("READY", "MAINPID", "STATUS")
    server.popen.terminate()
    server.wait()
    said = []
    manager.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            said += list(manager.hear())
    assert "STOPPING" in said
    assert "WATCHDOG" not in said


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"NOTIFY_SOCKET": "relative"}, "NOTIFY_SOCKET is 'relative'"),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, "WATCHDOG_USEC is 'soon'"),
    ],
)
def test_wrong_variables_end_the_start(
    fail: Fail, env: dict[str, str], told: str
) -> None:
    finished = fail("held", "--port", "0", env=env)
    assert finished.status == 2
    (error,) = finished.errors
    assert told in error
    assert "Traceback" not in finished.output
