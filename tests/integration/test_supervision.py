"""Another user's processes, and processes that lose their parent."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import signal
import stat
import sys
import tempfile
import typing as t
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from xprocess import XProcess

from . import namespaces
from .conftest import Fail
from .conftest import Serve
from .gate import Gate
from .server import command
from .server import running
from .server import wait_for

pytestmark = pytest.mark.measured

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
    server = serve(app, *args, host=f"unix://{path}", env=env, begun=None)
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

    assert sorted(os.listdir(private)) == ["web.pid", "web.pid.admin", "web.sock"]
    server.popen.terminate()
    assert server.wait() == 0
    assert os.listdir(private) == []
    assert "Traceback" not in server.log()


@needs_root
@pytest.mark.parametrize(
    ("args", "owner", "group", "mode"),
    [
        ((), "root", "root", 0o750),
        (("--user", "nobody"), "nobody", NOBODY.pw_gid, 0o750),
        (("--user", "nobody", "--socket-group", "sys"), "nobody", "sys", 0o660),
        (("--socket-mode", "666", "--socket-group", "sys"), "root", "sys", 0o666),
        (("--socket-owner", "nobody"), "nobody", "root", 0o750),
        (("--user", "nobody", "--socket-owner", "root"), "root", NOBODY.pw_gid, 0o750),
        (
            ("--socket-owner", "nobody", "--socket-group", "sys"),
            "nobody",
            "sys",
            0o660,
        ),
    ],
)
def test_whose_a_unix_socket_is(
    serve: Serve,
    public: Path,
    umask: None,
    args: tuple[str, ...],
    owner: str,
    group: str | int,
    mode: int,
) -> None:
    path = public / "web.sock"
    env = {"PYTHONPATH": str(public)}
    server = serve(str(public / "watched.py"), *args, host=f"unix://{path}", env=env)
    status = path.stat()
    gid = group if isinstance(group, int) else grp.getgrnam(group).gr_gid
    assert (path.owner(), status.st_gid) == (owner, gid)
    assert stat.S_IMODE(status.st_mode) == mode
    assert server.get().status == 200
    server.popen.terminate()
    assert server.wait() == 0
    assert not path.exists()


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@needs_root
@pytest.mark.parametrize("option", ["--error-logfile", "--log-config"])
def test_root_follows_no_link_in_the_users_directory_of_logs(
    serve: Serve, fail: Fail, public: Path, private: Path, option: str
) -> None:
    """At the start, and at a reload: else the user gets what is root's."""
    secret, logs = private / "secret", public / "logs"
    secret.write_text("root's")
    logs.mkdir()
    os.chown(logs, NOBODY.pw_uid, NOBODY.pw_gid)
    path = value = logs / "error.log"
    if option == "--log-config":
        value = public / "logging.json"
        handler = {"class": "logging.FileHandler", "filename": str(path)}
        config = {"version": 1, "handlers": {"it": handler}}
        value.write_text(json.dumps({**config, "root": {"handlers": ["it"]}}))
    args = ("--user", "nobody", "--min-idle", "1", option, str(value))
    app, env = str(public / "watched.py"), {"PYTHONPATH": str(public)}
    path.symlink_to(secret)
    assert str(path) in fail(app, *args, "--port", "0", env=env).output
    path.unlink()

    server = serve(app, *args, env=env, begun=None)
    wait_for(lambda: path.exists() and "Generation 1 serves" in path.read_text())
    assert path.owner() == "nobody"
    old = path.rename(logs / "old")
    path.symlink_to(secret)
    server.signal(signal.SIGHUP)
    wait_for(lambda: "Generation 2 has ended" in old.read_text())
    assert "Generation 2 could not be loaded; generation 1 serves on" in old.read_text()
    assert (secret.read_text(), secret.owner()) == ("root's", "root")


@needs_root
def test_a_promoted_worker_stays_the_user(serve: Serve, public: Path) -> None:
    args = ("--user", "nobody", "--min-idle", "1", "--refork-after", "1")
    env = {"USER": "root", "PYTHONPATH": str(public)}
    server = serve(str(public / "watched.py"), *args, env=env)
    for generation in (2, 4):
        server.get()
        server.wait_for_log(rf"^Generation {generation} serves")
        answer = server.get().json
        assert answer["generation"] == generation
        _assert_is_nobody(answer)
        zygote = answer["zygote"]
        wait_for(lambda zygote=zygote: [z.pid for z in server.zygotes()] == [zygote])
        server.signal(signal.SIGHUP)
        server.wait_for_log(rf"^Generation {generation + 1} serves")


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
def test_what_the_user_can_not_read_is_told(
    serve: Serve, fail: Fail, public: Path
) -> None:
    """At the start, and at a reload."""
    env = {"PYTHONPATH": str(public)}
    args = ("--user", "nobody", "--min-idle", "1", "--port", "0")
    hidden = public / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "hidden.py").write_text(APP)
    ended = fail(str(hidden / "hidden.py"), *args, env=env)
    # The interpreter may be such a place, too.
    (error,) = ended.errors
    assert re.search(
        rf"The user nobody can't read (.*, nor )?{hidden}(, nor |\.)", error
    )
    assert "Traceback" not in ended.output

    server = serve(str(public / "watched.py"), *args, env=env)
    (public / "watched.py").chmod(0o600)
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 could not be loaded")
    assert re.search(
        rf"^The user nobody can't read {public}/watched\.py\.",
        server.log(),
        re.M,
    )
    assert server.get().json["generation"] == 1
    (public / "watched.py").chmod(0o644)
    public.chmod(0o700)
    seen = len(server.log())
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 could not be loaded", seen)
    assert re.search(rf"(?m)^The user nobody .*{public}\b", server.log()[seen:])
    assert server.get().json["generation"] == 1
    assert "Traceback" not in server.log()


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
    how = r"(SIGKILL|the exit status is not known)\.$"
    serving = f"while serving GET {re.escape(gate.path)}"
    server.wait_for_log(rf"^Worker 0 \(pid {held.pid}\) {serving} died: {how}")
    wait_for(lambda: server.state().rest == "")
    wait_for(lambda: not psutil.pid_exists(held.pid))


@needs_linux
def test_an_apps_daemon_leaves_no_zombie(serve: Serve, gate: Gate, app: str) -> None:
    server = serve(app, "--min-idle", "1")
    request = server.send(f"/daemon?gate={gate.port}")
    held = gate.wait_for_one()
    wait_for(lambda: psutil.Process(held.pid).ppid() == server.pid)
    held.release()
    wait_for(lambda: not psutil.pid_exists(held.pid))
    assert request.answer().status == 200
    assert not server.zombies()


def test_pid_1(xprocess: XProcess, gate: Gate, tmp_path: Path, app: str) -> None:
    """As in a container: all that loses its parent is ours."""
    if why := namespaces.why_none():
        pytest.skip(f"no PID namespace can be made here: {why}")
    pid_file = tmp_path / "web.pid"
    pool = ("--min-idle", "1", "--pid", str(pid_file))
    line = command(app, "--port", "0", "--no-access-log", *pool)
    with running(xprocess, "pid-1", [*namespaces.FIRST, *line], tmp_path) as server:
        server.wait_for_log(r"Dispatcher 1, zygote \d+$")
        assert pid_file.read_text() == "1\n"
        (dispatcher,) = psutil.Process(server.pid).children()
        (zygote,) = dispatcher.children()

        request = server.send(f"/daemon?gate={gate.port}")
        gate.wait_for_one().release()
        assert request.answer().status == 200
        zygote.kill()
        server.wait_for_log(r"^Generation 2 serves")
        assert server.get().json["generation"] == 2

        def is_tidy() -> bool:
            family = dispatcher.children(recursive=True)
            try:
                zombies = [p for p in family if p.status() == psutil.STATUS_ZOMBIE]
            except psutil.NoSuchProcess:
                return False  # one was reaped at this moment
            # All that is left is a new zygote and its workers.
            return not zombies and len(dispatcher.children()) == 1

        wait_for(is_tidy)
        dispatcher.terminate()
        assert server.wait() == 0
        assert not pid_file.exists()
