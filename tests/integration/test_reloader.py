"""``--reload`` and ``--debug``: a changed file is seen, in the browser too."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Serve
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.measured

APP = """\
from flask import Flask

app = Flask(__name__)


@app.get("/")
def index():
    return "{text}"


@app.get("/error")
def error():
    raise LookupError("the catalogue is missing")
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "watched.py"
    path.write_text(APP.format(text="first"))
    return path


def start(serve: Serve, app: Path, *args: str) -> Server:
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    return serve(str(app), *args, env=env)


def wait_for_body(server: Server, body: bytes) -> None:
    wait_for(lambda: server.get().body == body)


def test_a_change_starts_a_new_generation(serve: Serve, app: Path) -> None:
    server = start(serve, app, "--reload")
    assert server.get().body == b"first"
    for number, text in enumerate(("second", "the third"), 2):
        app.write_text(APP.format(text=text))
        server.wait_for_log(rf"^Generation {number} serves\.$")
        assert server.get().body == text.encode()
    assert "Detected change in" in server.log()
    wait_for(lambda: len(server.zygotes()) == 1)


def test_without_it_nobody_looks(serve: Serve, app: Path) -> None:
    server = start(serve, app, "--debug", "--no-reload")
    # No process beside the workers watches.
    wait_for(lambda: len(server.workers()) == len(server.state().letters))
    assert server.get().body == b"first"


def test_a_syntax_error_is_shown_and_healed(serve: Serve, app: Path) -> None:
    server = start(serve, app, "--debug")
    assert server.get().body == b"first"
    app.write_text("def index(:\n")
    # In the browser and in the terminal.
    answer = wait_for(lambda: found if (found := server.get()).status == 500 else None)
    assert b"SyntaxError" in answer.body
    assert "SyntaxError" in server.log()
    server.wait_for_log(
        r"The app of generation 2 can't be loaded; its requests show the traceback"
    )
    app.write_text(APP.format(text="healed"))
    wait_for_body(server, b"healed")
    server.wait_for_log(r"Generation 3 serves; the app can be loaded again\.$")
    assert "Generation 2 serves" not in server.log()


def test_only_the_apps_part_of_a_traceback_is_shown(serve: Serve, app: Path) -> None:
    server = start(serve, app, "--reload")
    app.write_text("def lose():\n    raise LookupError('lost')\n\n\nlose()\n")
    server.wait_for_log(r"^LookupError: lost$")
    _, _, shown = server.log().partition("Traceback (most recent call last):\n")
    first = shown.splitlines()[0]
    assert f'"{app}", line 5, in <module>' in first


def test_extra_files_are_watched(serve: Serve, app: Path, tmp_path: Path) -> None:
    extra = tmp_path / "settings.ini"
    extra.write_text("1")
    server = start(serve, app, "--reload", "--extra-files", str(extra))
    extra.write_text("22")
    server.wait_for_log(r"^Generation 2 serves\.$")
    assert "settings.ini" in server.log()


def test_excluded_files_are_not(serve: Serve, app: Path, tmp_path: Path) -> None:
    extra = tmp_path / "settings.ini"
    extra.write_text("1")
    args = ("--extra-files", str(extra), "--exclude-patterns", "*watched.py")
    server = start(serve, app, "--reload", *args)
    app.write_text(APP.format(text="second"))
    # The watcher looks at all files in turn: it would have seen the former.
    extra.write_text("22")
    server.wait_for_log(r"^Generation 2 serves\.$")
    assert "settings.ini" in server.log()
    assert "watched.py', reloading" not in server.log()
    assert "Generation 3" not in server.log()


def test_the_debugger_shows_tracebacks(serve: Serve, app: Path) -> None:
    server = start(serve, app, "--debug", "--max-workers", "4")
    answer = server.get("/error")
    assert answer.status == 500
    assert b"LookupError: the catalogue is missing" in answer.body
    assert b"EVALEX = false" in answer.body
    assert "its console needs a single worker (--max-workers 1)" in server.log()


def test_the_console_is_offered_by_a_single_worker(serve: Serve, app: Path) -> None:
    server = start(serve, app, "--debug", "--max-workers", "1")
    answer = server.get("/error")
    assert answer.status == 500
    assert b"EVALEX = true" in answer.body
    assert "its console needs" not in server.log()


def test_no_debugger_without_debug(serve: Serve, app: Path) -> None:
    server = start(serve, app)
    answer = server.get("/error")
    assert answer.status == 500
    assert b"catalogue" not in answer.body
    assert "LookupError: the catalogue is missing" in server.log()
