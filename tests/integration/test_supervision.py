"""Who watches over the server from outside: systemd, pid files, users, PID 1."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
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

needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has it: systemd(1), PR_SET_CHILD_*"
)
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become somebody else"
)

#: Tells who serves, and has children that lose their parent. It imports nothing that
#: isn't loaded already.
APP = """
import json
import os
import socket

from flask import Flask
from flask import request

app = Flask(__name__)
environ = dict(os.environ)


@app.get("/")
def index():
    return {
        "environ": environ,
        "generation": request.environ["flask_prefork.generation"],
        "groups": os.getgroups(),
        "gids": os.getresgid() if hasattr(os, "getresgid") else [os.getgid()] * 3,
        "pid": os.getpid(),
        "uids": os.getresuid() if hasattr(os, "getresuid") else [os.getuid()] * 3,
        "zygote": os.getppid(),
    }


@app.get("/daemon")
def daemon():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return {}
    if os.fork():
        os._exit(0)
    # Nobody reads or writes what it shares with the worker.
    with socket.create_connection(("127.0.0.1", int(request.args["gate"]))) as gate:
        gate.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\\n")
        gate.recv(1)
    os._exit(0)
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
        urls = re.findall(r"\* Running on (\S+)\n", server.log())
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


# The pid file


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
    server = serve("held", "--pid", str(pid_file))
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
    assert os.listdir(pid_file.parent) == [pid_file.name]
    assert server.get().status == 200


def test_an_impossible_pid_file(fail: Fail, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "web.pid"
    finished = fail("held", "--port", "0", "--pid", str(path))
    assert finished.status == 1
    told = f"Can't write the pid file {path}: No such file or directory."
    assert told in finished.output.splitlines()
    assert "Traceback" not in finished.output


# User and group


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody can read."""
    folder = Path(tempfile.mkdtemp(prefix="flask-prefork-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "watched.py").write_text(APP)
    (folder / "watched.py").chmod(0o644)
    # Before the rights are dropped, what the zygote imports after it: the
    # interpreter's files may be out of the user's reach.
    (folder / "sitecustomize.py").write_text("import encodings.idna\n")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A directory for nobody but root."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder


NOBODY = pwd.getpwnam("nobody")


def _assert_is_nobody(answer: t.Any) -> None:
    assert answer["uids"] == [NOBODY.pw_uid] * 3
    assert answer["gids"] == [NOBODY.pw_gid] * 3
    assert set(answer["groups"]) <= set(os.getgrouplist("nobody", NOBODY.pw_gid))


@needs_root
def test_the_app_is_served_by_the_user(
    serve: Serve, public: Path, private: Path
) -> None:
    path, pid_file = private / "web.sock", private / "web.pid"
    args = ("--user", "nobody", "--pid", str(pid_file), "--min-idle", "1")
    app = str(public / "watched.py")
    env = {"USER": "root", "PYTHONPATH": str(public)}
    server = serve(app, *args, host=f"unix://{path}", env=env)
    answer = server.get().json
    _assert_is_nobody(answer)
    assert answer["environ"]["HOME"] == NOBODY.pw_dir
    assert answer["environ"]["USER"] == answer["environ"]["LOGNAME"] == "nobody"
    assert set(psutil.Process(answer["zygote"]).uids()) == {NOBODY.pw_uid}
    # The dispatcher acts as the user too, and could bind again.
    dispatcher = psutil.Process(server.pid)
    assert dispatcher.uids()[:2] == (0, NOBODY.pw_uid)
    assert dispatcher.gids()[:2] == (0, NOBODY.pw_gid)

    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves")
    answer = server.get().json
    assert answer["generation"] == 2
    _assert_is_nobody(answer)
    assert dispatcher.uids()[:2] == (0, NOBODY.pw_uid)

    # It may signal them: a zygote's end is its workers' end in time.
    os.kill(answer["zygote"], signal.SIGKILL)
    server.wait_for_log(r"^Generation 3 serves")
    _assert_is_nobody(server.get().json)
    wait_for(lambda: not psutil.pid_exists(answer["pid"]))

    assert sorted(os.listdir(private)) == ["web.pid", "web.sock"]
    server.popen.terminate()
    assert server.wait() == 0
    assert os.listdir(private) == []
    assert "Traceback" not in server.log()


@needs_root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_users_busy_workers_can_be_killed(
    serve: Serve, gate: Gate, public: Path, number: signal.Signals
) -> None:
    args = ("--user", "nobody", "--graceful-timeout", "0.1", "--min-idle", "1")
    app = public / "held.py"
    app.write_text((Path(__file__).parent.parent / "apps/held.py").read_text())
    server = serve(str(app), *args, env={"PYTHONPATH": str(public)})
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(number)
    held.wait_until_dead()
    with pytest.raises(ConnectionError):
        request.read()
    assert server.wait() == 0


@needs_root
def test_a_group_alone(serve: Serve, app: str) -> None:
    server = serve(app, "--group", str(NOBODY.pw_gid), "--min-idle", "1")
    answer = server.get().json
    assert answer["uids"] == [0] * 3
    assert answer["gids"] == [NOBODY.pw_gid] * 3


@pytest.mark.parametrize("option", ["user", "group"])
def test_an_unknown_user_or_group(fail: Fail, taken_port: int, option: str) -> None:
    # Binding first would fail in its own way.
    name = "no-such-one"
    finished = fail("held", "--port", str(taken_port), f"--{option}", name)
    assert finished.status == 2
    assert finished.errors == [f"There is no {option} {name!r}."]
    assert "Traceback" not in finished.output


@pytest.mark.parametrize("option", ["USER", "GROUP", "PID"])
def test_what_the_apps_configuration_comes_too_late_for(
    fail: Fail, taken_port: int, option: str
) -> None:
    env = {"CONFIG": json.dumps({f"PREFORK_{option}": "nobody"})}
    finished = fail("configured", "--port", str(taken_port), env=env)
    assert finished.status == 2
    (error,) = finished.errors
    assert f"PREFORK_{option}" in error
    assert "Traceback" not in finished.output


# Orphans


@needs_linux
def test_a_killed_zygote_leaves_no_zombie(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "2", "--max-workers", "4")
    server.wait_for_state("II")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    dead = server.workers()
    (zygote,) = server.zygotes()
    zygote.kill()
    server.wait_for_log(r"^Generation 2 serves")
    # Nobody else but the dispatcher is there to bury them.
    assert psutil.Process(held.pid).ppid() == server.pid
    held.release()
    assert request.answer().status == 200
    for pid in (zygote.pid, *dead):
        wait_for(lambda pid=pid: not psutil.pid_exists(pid))
    assert not server.zombies()
    assert "died: " not in server.log()


@needs_linux
def test_an_orphans_death_is_told(serve: Serve, gate: Gate) -> None:
    """Its zygote isn't there any more to tell."""
    server = serve("held", "--min-idle", "1", "--max-workers", "4")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    (zygote,) = server.zygotes()
    zygote.kill()
    server.wait_for_log(r"^Generation 2 serves")
    os.kill(held.pid, signal.SIGKILL)
    with pytest.raises(ConnectionError):
        request.read()
    # Its generation may be gone before it is reaped, a moment later.
    how = r"(SIGKILL|nobody is left to tell how)\.$"
    serving = f"while serving GET {re.escape(gate.path)}"
    server.wait_for_log(rf"^Worker 0 \(pid {held.pid}\) {serving} died: {how}")
    wait_for(lambda: server.state().rest == "")
    wait_for(lambda: not psutil.pid_exists(held.pid))


@needs_linux
def test_an_apps_daemon_leaves_no_zombie(serve: Serve, gate: Gate, app: str) -> None:
    server = serve(app, "--min-idle", "1")
    request = server.send(f"/daemon?gate={gate.port}")
    held = gate.wait_for_one()
    assert psutil.Process(held.pid).ppid() == server.pid
    held.release()
    wait_for(lambda: not psutil.pid_exists(held.pid))
    assert request.answer().status == 200
    assert not server.zombies()


def _why_no_namespace() -> str:
    """Why this process can't start another one's PID 1; empty if it can."""
    line = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "true"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    except FileNotFoundError as e:
        return str(e)
    return done.stderr.strip() if done.returncode else ""


def test_pid_1(xprocess: XProcess, gate: Gate, tmp_path: Path, app: str) -> None:
    """As in a container: all that loses its parent is ours."""
    if why := _why_no_namespace():
        pytest.skip(f"no PID namespace can be made here: {why}")
    line = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    pid_file = tmp_path / "web.pid"
    pool = ("--min-idle", "1", "--pid", str(pid_file))
    line += command(app, "--port", "0", "--no-access-log", *pool)
    with running(xprocess, "pid-1", line, tmp_path) as server:
        assert re.search(r"\* Dispatcher 1, zygote \d+$", server.log(), re.MULTILINE)
        assert pid_file.read_text() == "1\n"
        (dispatcher,) = psutil.Process(server.pid).children()

        request = server.send(f"/daemon?gate={gate.port}")
        gate.wait_for_one().release()
        assert request.answer().status == 200
        (zygote,) = dispatcher.children()
        zygote.kill()
        server.wait_for_log(r"^Generation 2 serves")
        assert server.get().json["generation"] == 2

        def is_tidy() -> bool:
            family = dispatcher.children(recursive=True)
            zombies = [p for p in family if p.status() == psutil.STATUS_ZOMBIE]
            # All that is left is a new zygote and its workers.
            return not zombies and len(dispatcher.children()) == 1

        wait_for(is_tidy)
        dispatcher.terminate()
        assert server.wait() == 0
        assert not pid_file.exists()
