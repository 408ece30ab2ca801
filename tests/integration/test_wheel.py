"""The wheel, installed as its users do, serves in a container that has nothing else."""

from __future__ import annotations

import contextlib
import errno
import json
import signal
import ssl
import subprocess
import sys
import typing as t
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from package.building import build
from package.building import copy_tree
from werkzeug.serving import make_ssl_devcert

from flask_prefork.observe import page

from . import bare_root
from . import namespaces
from .admin import Admin
from .admin import ROUTES
from .conftest import Run
from .gate import DEADLINE
from .server import Server
from .slow_client import SlowClient

pytestmark = pytest.mark.slow

#: A user that no table of the system has.
UID = 987_654
#: Bytes of a response: more than the kernels take of it.
BIG = 16 << 20
APP = """
import os
import pwd

from flask import Flask
from flask import request

app = Flask(__name__)


def name():
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


def error(path):
    try:
        open(path, "w").close()
    except OSError as e:
        return e.errno
    return None


@app.get("/")
def index():
    return {
        "errors": [error("/written"), error("written"), error("/tmp/written")],
        "generation": request.environ["flask_prefork.generation"],
        "home": os.environ.get("HOME"),
        "name": name(),
        "there": [p for p in ("/bin/sh", "/dev/shm", "/etc") if os.path.exists(p)],
        "uids": os.getresuid(),
    }


@app.post("/")
def upload():
    return {"size": len(request.get_data())}


@app.get("/big")
def big():
    return bytes(SIZE)
""".replace("SIZE", str(BIG))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What :mod:`.bare_root` wants: with an app, and the wheel in an environment."""
    if why := namespaces.why_none():
        pytest.skip(f"no PID namespace can be made here: {why}")
    folder = tmp_path_factory.mktemp("container")
    (folder / "root").mkdir()
    (folder / "srv").mkdir()
    (folder / "srv" / "shop.py").write_text(APP)
    for path in make_ssl_devcert(str(folder / "srv" / "shop"), host="shop.test"):
        Path(path).chmod(0o644)
    wheel = build("wheel", copy_tree(folder / "source"), folder / "made")
    environment = folder / "srv" / "environment"
    venv.create(environment)
    # By our own pip: to install another one takes longer than the rest.
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    done = subprocess.run(
        # A package that would have to be compiled is an error.
        [*pip, "install", "--quiet", "--only-binary", ":all:", str(wheel)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        errors = [e for e in done.stderr.splitlines() if e.startswith("ERROR")]
        pytest.skip(f"the wheel can't be installed: {(errors or ['?'])[-1]}")
    return folder


class Start(t.Protocol):
    """Starts the container with more options for ``prefork-run``."""

    def __call__(self, *more: str) -> Container: ...


class Container:
    """A server in a container."""

    def __init__(self, server: Server) -> None:
        self.server = server
        # The first process here is that which has made the namespaces.
        (self.first,) = psutil.Process(server.pid).children()

    def ask(self, data: bytes | None = None) -> t.Any:
        context = ssl._create_unverified_context()
        url = self.server.url
        with urllib.request.urlopen(url, data, DEADLINE, context=context) as response:
            return json.load(response)

    def reload(self, generation: int) -> None:
        self.first.send_signal(signal.SIGHUP)
        self.server.wait_for_log(rf"^Generation {generation} serves")

    def stop(self) -> None:
        """Stop it, and check that nothing went wrong in its life."""
        self.first.terminate()
        assert self.server.wait() == 0
        log = self.server.log()
        assert "Traceback" not in log
        assert "Stopped after" in log
        assert "rror" not in log


@pytest.fixture
def start(run: Run, folder: Path) -> Iterator[Start]:
    containers = []

    def start(*more: str) -> Container:
        python = str(bare_root.HERE / "environment" / "bin" / "python")
        line = [python, "-m", "flask", "--app", "shop", "prefork-run", "--port", "0"]
        enter = [sys.executable, bare_root.__file__, str(folder), str(UID)]
        quiet = ("--no-access-log", "--admin", "0")
        server = run([*namespaces.FIRST, *enter, *line, *quiet, *more])
        containers.append(Container(server))
        return containers[-1]

    yield start
    for container in containers:
        # Signals for all that a test has left end at the namespace.
        with contextlib.suppress(psutil.NoSuchProcess):
            container.first.kill()


@pytest.mark.parametrize(
    "more", [(), ("--cert", "shop.crt", "--key", "shop.key")], ids=["plain", "tls"]
)
def test_it_serves_and_reloads(start: Start, more: tuple[str, ...]) -> None:
    container = start(*more)
    container.server.wait_for_log(r"Dispatcher 1, zygote \d+$")
    for generation in (1, 2):
        if generation > 1:
            container.reload(generation)
        assert container.ask() == {
            "errors": [errno.EROFS, errno.EROFS, None],
            "generation": generation,
            "home": None,
            "name": None,
            "there": [],
            "uids": [UID] * 3,
        }
    # A body that waits in a file.
    assert container.ask(bytes(1 << 20)) == {"size": 1 << 20}
    container.stop()


def test_the_page_and_a_slow_client(start: Start) -> None:
    """What isn't Python in the package, and the sender, a program of its own."""
    container = start()
    admin = Admin(container.server)
    for route in ROUTES:
        admin.wait_until(lambda status: status["ready"])
        assert admin.get(route).status == 200, route
    for path in page._FILES:
        _, content = page.get(path) or ("", b"")
        assert admin.get(path) == (200, content.decode()), path
    with SlowClient(container.server) as client:
        client.ask("/big")
        admin.wait_until(lambda status: status["delivering"] == 1)
        assert client.read() == (200, bytes(BIG))
    container.stop()
