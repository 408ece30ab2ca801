"""Nothing can be written to: a container with a read-only root, or a full disk."""

from __future__ import annotations

import signal
import ssl
import urllib.request
from pathlib import Path

import pytest

from . import namespaces
from .conftest import Run
from .server import command
from .server import finish

#: Imports nothing that makes a file.
APP = """
from flask import Flask
from flask import request

app = Flask(__name__)


@app.get("/")
def index():
    try:
        open("written", "w")
    except OSError as e:
        generation = request.environ["flask_prefork.generation"]
        return {"error": e.errno, "generation": generation}
    return {}
"""


@pytest.fixture
def app(tmp_path: Path) -> str:
    (tmp_path / "shop.py").write_text(APP)
    if why := namespaces.why_none(namespaces.READ_ONLY):
        pytest.skip(f"no mount namespace can be made here: {why}")
    return "shop"


@pytest.mark.parametrize("more", [(), ("--cert", "adhoc")], ids=["plain", "tls"])
def test_it_serves_and_reloads(run: Run, app: str, more: tuple[str, ...]) -> None:
    line = command(app, "--port", "0", "--no-access-log", "--admin", "0", *more)
    server = run([*namespaces.READ_ONLY, *line])
    context = ssl._create_unverified_context()
    for generation in (1, 2, 3):
        if generation > 1:
            server.signal(signal.SIGHUP)
            server.wait_for_log(rf"^Generation {generation} serves")
        with urllib.request.urlopen(server.url, context=context) as response:
            body = response.read()
        # EROFS, so the test is about what it says.
        assert body.replace(b" ", b"").rstrip() == (
            b'{"error":30,"generation":%d}' % generation
        )
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "Traceback" not in server.log()
    assert "observer" not in server.log()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--pid", "web.pid"), "Can't write the pid file {}/web.pid: Read-only file"),
        (("--host", "unix://web.sock"), "Can't listen on {}/web.sock: Read-only file"),
        (("--access-logfile", "log"), "Can't write the access log to log: Read-only"),
    ],
    ids=["pid file", "unix socket", "access log"],
)
def test_what_needs_a_place_says_so(
    tmp_path: Path, app: str, more: tuple[str, ...], says: str
) -> None:
    line = command(app, "--port", "0", *more)
    ended = finish([*namespaces.READ_ONLY, *line], tmp_path)
    assert ended.status
    assert says.format(tmp_path) in ended.output
    assert "Traceback" not in ended.output
