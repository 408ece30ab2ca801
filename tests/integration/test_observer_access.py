"""Who may ask the real observer, where, and what can't be asked for."""

from __future__ import annotations

import base64
import contextlib
import os
import pwd
import signal
import stat
import sys
from pathlib import Path

import psutil
import pytest

from .admin import Admin
from .admin import needs_proc
from .admin import ROUTES
from .conftest import Fail
from .conftest import Run
from .conftest import Serve
from .server import command
from .server import wait_for

pytestmark = pytest.mark.measured

ADMIN_TOKEN = "FLASK_PREFORK_RUN_ADMIN_TOKEN"


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
        (
            ("--admin", "localhost"),
            "--admin: 'localhost' is not an address; give",
        ),
        (
            ("--admin", "65536"),
            "--admin: 65536 is not a port; give one from 0 to",
        ),
        (("--admin", "*:80"), "--admin: '*' is not a host; give PORT,"),
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
        f"Can't bind the admin address 127.0.0.1:{taken_port}: Address already in use"
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
