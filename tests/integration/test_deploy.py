"""What the files of ``deploy/`` start, started: by their own command lines."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

import psutil
import pytest
from deploy.deployed import command_lines
from deploy.deployed import DEPLOY
from deploy.deployed import dockerfile
from deploy.deployed import ROOT
from deploy.deployed import SERVICE
from deploy.deployed import the
from deploy.deployed import unit

from . import namespaces
from .admin import Admin
from .conftest import Run
from .gate import Gate
from .server import APPS
from .server import wait_for
from .test_systemd import Manager


def replaced(line: list[str], **others: str) -> list[str]:
    """A command line with other values for some of its options."""
    line = list(line)
    for name, value in others.items():
        line[line.index(f"--{name}") + 1] = value
    return line


def test_what_systemd_starts(run: Run, gate: Gate, tmp_path: Path) -> None:
    """It is told of all that the unit lets it wait for."""
    values = unit(SERVICE)["Service"]
    directory = tmp_path / "run"
    directory.mkdir()
    _, *args = replaced(command_lines()["systemd"], admin=f"unix:{directory}/a.sock")
    args[args.index("shop")] = str(APPS / "held.py")
    manager = Manager(tmp_path / "notify")
    line = [sys.executable, "-m", "flask", *args, "--port", "0"]
    server = run(line, env={**manager.env, "WATCHDOG_USEC": "400000"})
    ready = manager.hear_of("READY", "MAINPID", "STATUS")
    assert Admin(server).get("/livez").status == 200
    request = server.send(gate.path)
    held = gate.wait_for_one()

    (reload,) = values["ExecReload"]
    main = ready["MAINPID"]
    subprocess.run(shlex.split(reload.replace("$MAINPID", main)), check=True)
    manager.hear_of("RELOADING", "MONOTONIC_USEC")
    assert manager.hear_of("READY", "MAINPID", "STATUS")["MAINPID"] == main
    manager.wait_for("WATCHDOG", "1")

    # KillMode=mixed: to the main process alone.
    os.kill(int(main), signal.SIGTERM)
    manager.hear_of("STOPPING")
    held.release()
    assert request.answer().status == 200
    assert server.wait() == 0
    assert os.listdir(directory) == []
    manager.empty()
    manager.sock.close()


def _context(target: Path) -> None:
    """Copy what Docker is sent."""
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    target.mkdir()
    for name in (line[1:] for line in ignored if line.startswith("!")):
        source = ROOT / name
        if source.is_dir():
            leave = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / name, ignore=leave)
        else:
            shutil.copy(source, target)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the Dockerfile's ``RUN`` lines make, run one by one."""
    root = tmp_path_factory.mktemp("image")
    _context(root / "src")
    environment = venv.EnvBuilder(with_pip=True)
    environment.create(root / "venv")
    for stage in dockerfile():
        line = the(stage, "RUN").rest.replace("/wheels", str(root / "wheels"))
        done = subprocess.run(
            line,
            shell=True,
            cwd=root / "src",
            env={**os.environ, "PATH": f"{root}/venv/bin:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if "No matching distribution" in done.stderr:
            pytest.skip("there is no package index")
        assert done.returncode == 0, done.stderr
    (root / "app").mkdir()
    shutil.copytree(root / "src" / "example_app", root / "app" / "example_app")
    shutil.rmtree(root / "src")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True])
def test_what_docker_starts(run: Run, image: Path, first: bool) -> None:
    """It serves, is healthy, and ends on TERM; also as process 1."""
    if first and (why := namespaces.why_none()):
        pytest.skip(f"no PID namespace can be made here: {why}")
    last = dockerfile()[-1]
    line = replaced(the(last, "CMD").words, host="127.0.0.1", admin="127.0.0.1:0")
    assert line[0] == "flask"
    line = [str(image / "venv" / "bin" / "flask"), *line[1:], "--port", "0"]
    # Else the project's own directory would be imported from.
    env = {"PYTHONPATH": "", "PYTHONUNBUFFERED": "1"}
    server = run(
        [*namespaces.FIRST, *line] if first else line, directory=image / "app", env=env
    )
    assert server.get().status == 200

    port = Admin(server).address.rpartition(":")[2]
    check = the(last, "HEALTHCHECK")
    _, *arguments = check.words
    healthy = [sys.executable, *(one.replace("9000", port) for one in arguments)]
    assert healthy != [sys.executable, *arguments]
    subprocess.run(healthy, check=True)

    dispatcher = psutil.Process(server.pid)
    if first:
        (dispatcher,) = dispatcher.children()
        server.wait_for_log(r"Dispatcher 1, ")
    dispatcher.send_signal(getattr(signal, the(last, "STOPSIGNAL").rest))
    assert server.wait() == 0
    assert "Traceback" not in server.log()
    unhealthy = subprocess.run(healthy, capture_output=True)
    assert unhealthy.returncode != 0
    wait_for(lambda: not dispatcher.is_running())
