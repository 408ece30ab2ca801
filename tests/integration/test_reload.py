"""HUP: what is new afterwards, and what happens to who was there before."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

from .conftest import Serve
from .gate import Gate
from .server import BANNER
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.measured

APP = """\
from flask import Flask

import dependency

app = Flask(__name__)
app.config.from_file("config.json", load=__import__("json").load)
app.route("/")(lambda: dependency.TEXT)
"""


class Files:
    """An app's files, which change.

    :param directory: Where they are.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "changing.py"
        self._dependency = directory / "dependency.py"
        self._config = directory / "config.json"
        self.path.write_text(APP)
        self.write("first")

    def write(self, text: str, **config: object) -> None:
        """Let the dependency say so, and the configuration have these values."""
        self._dependency.write_text(f"TEXT = {text!r}\n")
        self._config.write_text(json.dumps(config))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def start(serve: Serve, files: Files, *args: str) -> Server:
    # A new version may be as long and as old, in seconds, as the compiled one.
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    return serve(str(files.path), *args, env=env)


def reload(server: Server, generation: int) -> None:
    server.signal(signal.SIGHUP)
    server.wait_for_log(rf"^Generation {generation} serves\.$")


def test_a_changed_dependency_is_seen(serve: Serve, files: Files) -> None:
    server = start(serve, files)
    assert server.get().body == b"first"
    files.write("second")
    assert server.get().body == b"first"
    reload(server, 2)
    assert server.get().body == b"second"


def test_changed_settings_hold(serve: Serve, files: Files) -> None:
    server = start(serve, files)
    server.wait_for_state("II")
    files.write("second", PREFORK_MIN_IDLE=4, PREFORK_MAX_WORKERS=5)
    reload(server, 2)
    server.wait_for_state("IIII")
    files.write("third", PREFORK_MIN_IDLE=1, PREFORK_MAX_WORKERS=1)
    reload(server, 3)
    server.wait_for_state("I")
    assert server.get().body == b"third"


def test_impossible_settings(serve: Serve, files: Files) -> None:
    server = start(serve, files)
    files.write("second", PREFORK_MIN_IDLE=4, PREFORK_MAX_WORKERS=3)
    server.signal(signal.SIGHUP)
    server.wait_for_log("could not be loaded; generation 1 serves on")
    assert "PREFORK_MIN_IDLE (4) is above PREFORK_MAX_WORKERS (3)" in (server.log())
    assert server.get().body == b"first"


def test_the_command_line_goes_on_to_win(serve: Serve, files: Files) -> None:
    server = start(serve, files, "--min-idle", "3")
    files.write("second", PREFORK_MIN_IDLE=1)
    reload(server, 2)
    server.wait_for_state("III")


def test_an_app_that_cannot_be_loaded(serve: Serve, files: Files) -> None:
    server = start(serve, files)
    files.path.write_text("raise LookupError('the catalogue is missing')")
    server.signal(signal.SIGHUP)
    server.wait_for_log("Generation 2 could not be loaded; generation 1 serves on")
    assert server.log().count("LookupError: the catalogue is missing") == 1
    assert server.get().body == b"first"
    wait_for(lambda: len(server.zygotes()) == 1)
    files.path.write_text(APP)
    files.write("third")
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation \d+ serves\.$")
    assert server.get().body == b"third"


def test_workers_finish_what_they_serve(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "2", "--max-workers", "4")
    requests = [server.send(gate.path) for _ in range(2)]
    held = gate.wait_for(2)
    reload(server, 2)
    answer = server.get().json
    assert (answer["generation"], answer["slot"]) == (2, 0)
    # Each leaves with its own request.
    held[0].release()
    wait_for(lambda: not psutil.pid_exists(held[0].pid))
    assert len(server.zygotes()) == 2
    held[1].release()
    assert {r.answer().json["generation"] for r in requests} == {1}
    wait_for(lambda: len(server.zygotes()) == 1)


def test_one_that_does_not_finish_is_killed(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--graceful-timeout", "0.5")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    reload(server, 2)
    held.wait_until_dead()
    with pytest.raises(ConnectionError):
        request.read()
    server.wait_for_log(rf"\(pid {held.pid}\).* was killed: it did not finish within")
    assert server.get().json["generation"] == 2


def test_who_waits_is_served_by_the_new_generation(serve: Serve, gate: Gate) -> None:
    """Its first worker's readiness is the last event for a while."""
    server = serve("held", "--min-idle", "1", "--max-workers", "1")
    held = server.send(gate.path)
    gate.wait_for_one()
    waiting = server.send("/")
    server.signal(signal.SIGHUP)
    assert waiting.answer().json["generation"] == 2
    gate.close()
    assert held.answer().json["generation"] == 1


def test_hup_while_the_first_generation_loads(serve: Serve, gate: Gate) -> None:
    """It is loading what HUP asks for."""
    server = serve(
        "waits_at_import", env={"GATE": str(gate.port)}, begun="Serving Flask app"
    )
    held = gate.wait_for_one()
    server.signal(signal.SIGHUP)
    server.state()  # it has heard the signals
    held.release()
    server.wait_for_log(BANNER)
    assert "Generation 2" not in server.log()
