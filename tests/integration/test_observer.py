"""The real observer, beside servers that are saturated, stopped, killed or reloaded."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import signal
import socket
import stat
import sys
import threading
import typing as t
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from .conftest import Fail
from .conftest import Run
from .conftest import Serve
from .gate import DEADLINE
from .gate import Gate
from .server import command
from .server import Server
from .server import wait_for

ADMIN_TOKEN = "FLASK_PREFORK_RUN_ADMIN_TOKEN"
ROUTES = ("/", "/status.json", "/metrics", "/livez", "/readyz")
needs_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="the system has no proc(5)"
)


class Response(t.NamedTuple):
    """What the admin address says."""

    status: int
    text: str

    @property
    def json(self) -> t.Any:
        return json.loads(self.text)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self._path)


class Admin:
    """A server's admin address."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.address: str = server.wait_for_log(r" \* Status on (\S+)\n")[1]

    def connect(self) -> HTTPConnection:
        if self.address.startswith("unix:"):
            return _UnixConnection(self.address.removeprefix("unix:"))
        return HTTPConnection(self.address.removeprefix("http://"), timeout=DEADLINE)

    def get(self, path: str, **headers: str) -> Response:
        """Ask it."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return Response(response.status, response.read().decode())

    def status(self) -> t.Any:
        response = self.get("/status.json")
        assert response.status == 200, response
        return response.json

    def wait_until(self, condition: t.Callable[[t.Any], object]) -> t.Any:
        """Wait until the status is so.

        :return: The status.
        """

        def look() -> t.Any:
            status = self.status()
            return status if condition(status) else None

        return wait_for(look)

    def wait_for_answer(self, path: str, status: int) -> Response:
        """Wait until a path is answered with a status."""

        def look() -> Response | None:
            response = self.get(path)
            return response if response.status == status else None

        return wait_for(look)

    def process(self) -> psutil.Process | None:
        """The observer, if there is one."""
        for child in psutil.Process(self.server.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if any("flask_prefork.observe" in word for word in child.cmdline()):
                    return child
        return None


def letters(status: t.Any) -> str:
    return str(status["generations"][0]["letters"])


# What is seen


def test_what_is_seen_of_a_server(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "2", "--admin", "0")
    admin = Admin(server)
    assert server.get().status == 200
    # Until its worker is idle again, the next request is for another one.
    admin.wait_until(lambda s: s["totals"]["requests"] == 1 and letters(s)[0] == "I")
    server.send(f"{gate.path}&x=1")
    held = gate.wait_for_one()
    status = admin.wait_until(lambda s: letters(s) == "BII")
    assert status["pid"] == server.pid
    assert (status["phase"], status["ready"]) == ("serving", True)
    assert status["addresses"] == [server.url]
    (generation,) = status["generations"]
    assert (generation["number"], generation["role"]) == (1, "current")
    busy, idle, _ = generation["workers"]
    assert (busy["slot"], busy["pid"], busy["requests"]) == (0, held.pid, 1)
    assert (busy["method"], busy["target"]) == ("GET", f"{gate.path}&x=1")
    assert busy["busy_for"] > 0
    assert idle["busy_for"] is None
    totals = status["totals"]
    assert totals["requests"] == totals["classes"][2] == 1
    assert totals["connections"] == 2
    # The second may have come by the first one's standing order.
    assert 1 <= totals["orders"] <= 2
    assert totals["spawned"] == 3
    status = admin.wait_until(lambda s: len(s["history"]) >= 2)
    assert status["history"][0]["age"] > status["history"][1]["age"]
    assert status["history"][-1]["workers"] == 3
    if Path("/proc/self/smaps_rollup").exists():
        admin.wait_until(lambda s: s["generations"][0]["workers"][0]["pss"])


def test_parked_connections_are_seen(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=DEADLINE)
    with contextlib.closing(connection):
        for turn in (1, 2):
            connection.request("GET", "/")
            connection.getresponse().read()
            # Right after the answer it may still be seen as it was before the request.
            status = admin.wait_until(lambda s, n=turn: s["totals"]["parked"] >= n)
            assert status["parked"] == 1
            assert status["totals"]["parked"] == turn
            assert status["totals"]["resumed"] == turn - 1
    admin.wait_until(lambda s: s["parked"] == 0)


def test_connections_without_a_request_are_counted(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    address = server.url.removeprefix("http://").rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = socket.create_connection((address[0], int(address[1])))
            stack.enter_context(connection)
            # The kernel keeps those to itself that have sent nothing.
            connection.sendall(b"GET / HTTP/1.1\r\n")
        status = admin.wait_until(lambda s: s["totals"]["parked"] == 3)
        assert status["totals"]["connections"] == 3
        assert status["totals"]["requests"] == 0


def test_the_app_and_the_observer_dont_see_each_others_requests(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    for path in ROUTES:
        assert admin.get(path).status == 200
    assert admin.status()["totals"]["requests"] == 0
    for path in ROUTES[1:]:
        assert server.get(path).status == 404
    assert admin.get("/hold").status == 404
    # A worker counts a request when its client may have read the response already.
    served = len(ROUTES) - 1
    admin.wait_until(lambda status: status["totals"]["requests"] >= served)
    assert admin.status()["totals"]["requests"] == served


def test_without_admin_there_is_no_observer(run: Run) -> None:
    server = run(command("held", "--port", "0"))
    assert len(psutil.Process(server.pid).children()) == 1


# While the server is in need


def test_a_saturated_server_is_seen(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--max-workers", "2", "--backlog", "4", "--admin", "0")
    admin = Admin(server)
    for _ in range(2):
        server.send(gate.path)
    gate.wait_for(2)
    # Linux lets one more in than the limit (sk_acceptq_is_full).
    full = 5 if sys.platform == "linux" else 1
    waiting = [server.send("/") for _ in range(5)]
    status = admin.wait_until(lambda s: s["queue"] == full)
    if sys.platform == "linux":
        assert status["queue_limit"] == 4
    admin.wait_until(lambda s: s["saturated"] and letters(s) == "BB")
    admin.wait_for_answer("/readyz", 503)
    for path in ROUTES[:-1]:
        assert admin.get(path).status == 200
    assert "no worker is idle" in admin.get("/readyz").text
    status = admin.status()
    assert status["queue"] == full, "nobody else was served meanwhile"
    assert status["totals"]["requests"] == 0
    assert status["totals"]["saturated"] > 0
    for held in gate.held:
        held.release()
    for request in waiting:
        assert request.answer().status == 200
    status = admin.wait_until(lambda s: s["totals"]["requests"] == 7)
    assert status["queue"] == 0
    # The dispatcher hears of it a moment later.
    admin.wait_until(lambda s: s["ready"] and not s["saturated"])


@needs_proc
def test_a_stopped_dispatcher_is_seen(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    assert admin.get("/livez").status == 200
    server.signal(signal.SIGSTOP)
    try:
        answer = admin.wait_for_answer("/livez", 503)
        assert answer.text == "the dispatcher doesn't answer\n"
        assert admin.get("/readyz").status == 503
        status = admin.status()
        assert (status["responsive"], letters(status)) == (False, "II")
        assert admin.get("/metrics").status == 200
        assert admin.get("/").status == 200
    finally:
        server.signal(signal.SIGCONT)
    admin.wait_for_answer("/livez", 200)
    admin.wait_for_answer("/readyz", 200)


def test_a_killed_observer_comes_back(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    assert server.get().status == 200
    before = admin.status()
    for _ in range(2):
        first = wait_for(admin.process)
        first.kill()
        server.wait_for_log(rf"^The observer \(pid {first.pid}\) died: status -9\.")
        assert server.get().status == 200
        # Who asks meanwhile waits.
        assert admin.get("/livez").status == 200
        second = wait_for(admin.process)
        assert second.pid != first.pid
    after = admin.status()
    assert after["totals"]["requests"] == before["totals"]["requests"] + 2
    assert after["uptime"] > before["uptime"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_for_all_are_for_the_dispatcher(
    serve: Serve, number: signal.Signals
) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    assert admin.get("/livez").status == 200
    server.signal_group(number)
    assert server.wait() == 0
    assert "Traceback" not in server.log()
    assert "died" not in server.log()


def test_the_observer_ends_with_a_killed_dispatcher(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    assert admin.get("/livez").status == 200
    observer = wait_for(admin.process)
    server.popen.kill()
    server.wait()
    wait_for(lambda: not observer.is_running() or _is_dead(observer))


def _is_dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_many_kept_connections_keep_nobody_out(serve: Serve) -> None:
    admin = Admin(serve("held", "--admin", "0"))
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            connection = stack.enter_context(contextlib.closing(admin.connect()))
            connection.request("GET", "/livez")
            assert connection.getresponse().read() == b"alive\n"
        assert admin.get("/livez").status == 200


# Counters


class Watcher:
    """Looks at a server's counters again and again, in a thread.

    :ivar seen: The totals, as numbers by name.
    """

    def __init__(self, admin: Admin) -> None:
        self.seen: list[dict[str, float]] = []
        self._admin = admin
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.is_set():
            self.seen.append(self._flat(self._admin.status()["totals"]))

    @staticmethod
    def _flat(totals: dict[str, t.Any]) -> dict[str, float]:
        flat: dict[str, float] = {}
        for name, value in totals.items():
            if isinstance(value, dict):
                flat.update({f"{name}-{key}": one for key, one in value.items()})
            elif isinstance(value, list):
                flat.update({f"{name}-{i}": one for i, one in enumerate(value)})
            else:
                flat[name] = value
        return flat

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


@pytest.fixture
def watch() -> Iterator[t.Callable[[Admin], Watcher]]:
    with contextlib.ExitStack() as stack:

        def start(admin: Admin) -> Watcher:
            watcher = Watcher(admin)
            stack.callback(watcher.stop)
            return watcher

        yield start


def test_counters_only_grow(serve: Serve, watch: t.Callable[[Admin], Watcher]) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    watcher = watch(admin)
    for turn in range(1, 31):
        assert server.get().status == 200
        with pytest.raises(ConnectionError):
            server.send("/exit").read()
        if not turn % 15:
            seen = len(server.log())
            server.signal(signal.SIGHUP)
            server.wait_for_log(r"^Generation \d+ serves", seen)
            # Else the next one has no place to go to.
            admin.wait_until(lambda s: len(s["generations"]) == 1)

    def is_complete(status: t.Any) -> bool:
        """Whether what became of everybody is known; zygotes tell it when they end."""
        totals = status["totals"]
        alive = sum(len(one["workers"]) for one in status["generations"])
        ended = totals["retired"] + sum(totals["deaths"].values())
        return bool(totals["spawned"] == alive + ended)

    totals = admin.wait_until(is_complete)["totals"]
    watcher.stop()
    assert totals["requests"] == 60
    assert totals["reloads"] == 2
    assert (totals["classes"][0], totals["classes"][2]) == (30, 30)
    assert sum(totals["buckets"]) == 60
    assert totals["deaths"]["exit"] == sum(totals["deaths"].values()) == 30
    assert len(watcher.seen) > 30
    for before, after in zip(watcher.seen, watcher.seen[1:], strict=False):
        assert all(after[name] >= before[name] for name in before), (before, after)
    assert max(seen["requests"] for seen in watcher.seen) <= 60


def test_a_reload_is_seen(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGHUP)
    server.wait_for_log("^Generation 2 serves")
    status = admin.wait_until(lambda s: s["generations"][0]["number"] == 2)
    status = admin.wait_until(lambda s: s["generations"][-1]["letters"] == "R")
    roles = [(g["number"], g["role"]) for g in status["generations"]]
    assert roles == [(2, "current"), (1, "leaving")]
    assert status["generations"][1]["workers"][0]["pid"] == held.pid
    assert status["totals"]["reloads"] == 1
    held.release()
    assert request.answer().status == 200
    status = admin.wait_until(lambda s: len(s["generations"]) == 1)
    assert status["totals"]["requests"] == 1, "it is remembered"


# The end


def test_readyz_says_no_while_load_balancers_take_notice(serve: Serve) -> None:
    server = serve("held", "--admin", "0", "--drain-delay", "600")
    admin = Admin(server)
    assert admin.get("/readyz").status == 200
    server.signal(signal.SIGTERM)
    answer = admin.wait_for_answer("/readyz", 503)
    assert answer.text == "the server is draining\n"
    assert admin.get("/livez").status == 200
    assert server.get().status == 200
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_the_end_is_seen(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGTERM)
    status = admin.wait_until(lambda s: s["phase"] == "closing")
    assert not status["ready"]
    # The observer keeps no socket open at which nobody serves.
    assert wait_for(lambda: not server.is_accepting())
    held.release()
    assert request.answer().status == 200
    assert server.wait() == 0


# Who may


def test_a_token(serve: Serve) -> None:
    server = serve("held", "--admin", "0", env={ADMIN_TOKEN: "s3cret"})
    admin = Admin(server)
    for path in ROUTES:
        is_probe = path.endswith("z")
        assert admin.get(path).status == (200 if is_probe else 401)
        assert admin.get(path, Authorization="Bearer s3cret").status == 200
        wrong = admin.get(path, Authorization="Bearer secret").status
        assert wrong == (200 if is_probe else 401)
    password = base64.b64encode(b"me:s3cret").decode()
    assert admin.get("/", Authorization=f"Basic {password}").status == 200
    if sys.platform == "linux":
        for process in (server.pid, *(p.pid for p in server.zygotes())):
            line = Path(f"/proc/{process}/cmdline").read_bytes()
            assert b"s3cret" not in line


def test_the_app_may_configure_it(run: Run, tmp_path: Path) -> None:
    app = tmp_path / "own.py"
    app.write_text(
        "from flask import Flask\n"
        "app = Flask(__name__)\n"
        "app.config.update(PREFORK_ADMIN='0', PREFORK_ADMIN_TOKEN='s3cret')\n"
    )
    admin = Admin(run(command(str(app), "--port", "0")))
    assert admin.get("/metrics").status == 401
    assert admin.get("/metrics", Authorization="Bearer s3cret").status == 200


def test_only_this_machine_is_served_by_default(serve: Serve) -> None:
    server = serve("held", "--admin", ":0")
    assert Admin(server).address.startswith("http://127.0.0.1:")
    assert "Whoever reaches" not in server.log()


def test_who_serves_everybody_is_warned(serve: Serve) -> None:
    server = serve("held", "--admin", "0.0.0.0:0")
    server.wait_for_log("^Press CTRL")
    assert "Whoever reaches 0.0.0.0:" in server.log()
    assert Admin(server).get("/metrics", Host="shop.example").status == 200


def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    path, pid_file = folder / "admin.sock", folder / "web.pid"
    server = serve("held", "--admin", f"unix:{path}", "--pid", str(pid_file))
    admin = Admin(server)
    assert admin.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert admin.get("/livez").status == 200
    assert admin.status()["pid"] == server.pid
    beside = folder / "web.pid.admin"
    assert beside.read_text() == f"unix:{path}\n"
    assert stat.S_IMODE(beside.stat().st_mode) == 0o644
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert os.listdir(folder) == []


def test_what_a_killed_server_has_left(serve: Serve, run: Run, tmp_path: Path) -> None:
    path, pid_file = tmp_path / "admin.sock", tmp_path / "web.pid"
    args = ("--pid", str(pid_file))
    killed = serve("held", "--admin", f"unix:{path}", *args)
    killed.popen.kill()
    killed.wait()
    assert (tmp_path / "web.pid.admin").exists()
    server = serve("held", "--admin", f"unix:{path}", *args)
    assert Admin(server).status()["pid"] == server.pid
    server.popen.kill()
    server.wait()
    # Nobody is to be led to an address where nobody is, or somebody else.
    run(command("held", "--port", "0", *args))
    assert not (tmp_path / "web.pid.admin").exists()


@needs_proc
def test_nobody_else_has_the_admin_socket(serve: Serve) -> None:
    """A zygote or a worker that held it would keep it after the server's end."""
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    server.signal(signal.SIGHUP)
    server.wait_for_log("^Generation 2 serves")
    wait_for(lambda: len(server.zygotes()) == 1)
    observer = wait_for(admin.process)
    mine = _sockets(observer.pid)
    port = int(admin.address.rpartition(":")[2])
    # A connection of ours may be about to end, and has the same port.
    listening = [
        c for c in observer.net_connections() if c.status == psutil.CONN_LISTEN
    ]
    (admin_fd,) = [c.fd for c in listening if c.laddr.port == port]
    admin_socket = mine[admin_fd]
    assert admin_socket in _sockets(server.pid).values()
    others = [p.pid for p in server.zygotes() if p.pid != observer.pid]
    others += server.workers()
    assert len(others) > 2
    for pid in others:
        assert admin_socket not in _sockets(pid).values()
    # And it has none of the workers' channels.
    shared = set(mine.values()) & set(_sockets(others[-1]).values())
    assert len(shared) == 1, "the app's listening socket"


def _sockets(pid: int) -> dict[int, str]:
    """A process's sockets, by descriptor."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:"):
                found[int(name)] = target
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_observer_is_who_the_app_is(serve: Serve, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    # Before the rights are dropped, what the zygote imports after it: the
    # interpreter's files may be out of the user's reach.
    (tmp_path / "sitecustomize.py").write_text("import encodings.idna\n")
    path = tmp_path / "admin.sock"
    args = ("--user", "nobody", "--admin", f"unix:{path}")
    server = serve("held", *args, env={"PYTHONPATH": str(tmp_path)})
    admin = Admin(server)
    assert admin.get("/livez").status == 200
    assert path.stat().st_uid == nobody.pw_uid
    observer = wait_for(admin.process)
    assert set(observer.uids()) == {nobody.pw_uid}
    assert set(observer.gids()) == {nobody.pw_gid}
    observer.kill()
    server.wait_for_log("^The observer .* died")
    assert admin.get("/livez").status == 200
    assert set(wait_for(admin.process).uids()) == {nobody.pw_uid}
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not path.exists()


# What can't be


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("--admin", "localhost"), "--admin: 'localhost' is no address; give PORT,"),
        (("--admin", "65536"), "--admin: 65536 is no port; give one from 0 to 65535."),
        (("--admin", "*:80"), "--admin: '*' is no host; give PORT,"),
        (("--admin", "unix:"), "--admin: 'unix:' has no path;"),
        (("--admin-token", "x"), "--admin-token has no effect without --admin."),
        (("--admin", "0", "--admin-token", ""), "--admin-token must be of printable"),
        (("--admin", "0", "--admin-token", "a b"), "--admin-token must be of"),
    ],
)
def test_impossible_settings(fail: Fail, args: tuple[str, ...], error: str) -> None:
    finished = fail("held", "--port", "0", *args)
    assert finished.status == 2
    (said,) = finished.errors
    assert said.startswith(error)
    assert "Traceback" not in finished.output


def test_a_taken_port(fail: Fail, taken_port: int, tmp_path: Path) -> None:
    pid_file = tmp_path / "web.pid"
    finished = fail(
        "held",
        *("--port", "0", "--admin", str(taken_port), "--pid", str(pid_file)),
    )
    assert finished.status == 1
    assert (
        f"The admin address 127.0.0.1:{taken_port} can't be had. Address already in use"
        in finished.output
    )
    assert "Traceback" not in finished.output
    assert "Running on" not in finished.output
    assert not pid_file.exists()


def test_the_apps_own_address(fail: Fail, tmp_path: Path, taken_port: int) -> None:
    path = f"{tmp_path}/web.sock"
    told = {
        ("--port", "5999", "--admin", "5999"): (
            "The app is to be served on 127.0.0.1:5999; give the admin address another"
            " port."
        ),
        ("--host", f"unix://{path}", "--admin", f"unix:{path}"): (
            f"The app is to be served on unix:{path}; give the admin address another"
            " path."
        ),
    }
    for args, text in told.items():
        finished = fail("held", *args)
        assert (finished.status, text in finished.output.splitlines()) == (1, True)
        assert "Traceback" not in finished.output
        assert not os.path.exists(path)
