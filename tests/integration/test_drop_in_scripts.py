"""Served by a command of the app's own: ``FlaskGroup`` instead of ``flask``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run
from .server import APPS
from .server import finish
from .server import Server
from .server import wait_for

SERVE = ["prefork-run", "--port", "0", "--no-access-log"]
METADATA = """\
[project]
name = "shop"
version = "1"

[project.scripts]
shop = "shop.manage:cli"

[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
"""


def reload(server: Server, generation: int) -> None:
    server.signal(signal.SIGHUP)
    server.wait_for_log(rf"^Generation {generation} serves\.$")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop as pip installs it, with its console script."""
    directory = tmp_path_factory.mktemp("shop")
    (directory / "pyproject.toml").write_text(METADATA)
    (directory / "shop").mkdir()
    for name in ("__init__.py", "manage.py"):
        (directory / "shop" / name).write_text((APPS / "shop" / name).read_text())
    target = directory / "installed"
    options = "--quiet --no-index --no-deps --no-build-isolation --target"
    line = [sys.executable, "-m", "pip", "install", *options.split(), target, directory]
    # Warnings of the build are its user's business.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    process = subprocess.run(line, env=env, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return target


Script = tuple[list[str], Path, dict[str, str]]


@pytest.fixture(params=["file", "module", "console"])
def script(request: pytest.FixtureRequest, tmp_path: Path) -> Script:
    """The script's command line, where it is run, and the variables it needs."""
    if request.param == "file":
        # By a relative path, and the directory on the path is the script's.
        line = [sys.executable, os.path.join("shop", "manage.py")]
        return line, APPS, {"PYTHONPATH": str(APPS)}
    if request.param == "module":
        return [sys.executable, "-m", "shop.manage"], APPS, {}
    installed: Path = request.getfixturevalue("installed")
    env = {"PYTHONPATH": str(installed)}
    return [str(installed / "bin" / "shop")], tmp_path, env


def test_a_script_of_the_apps_own(run: Run, script: Script) -> None:
    line, directory, env = script
    server = run([*line, *SERVE, "--min-idle", "3"], directory=directory, env=env)
    server.wait_for_state("III")
    assert server.get().json == {"name": "shop"}
    # Another one may have come; but this client is back before slot 0 has told of it.
    wait_for(lambda: set(server.state().letters) == {"I"})
    assert server.get("/catalogue/").json == {"slot": 0}
    old = server.zygotes()
    # Each next zygote is the same command line again.
    for generation in (2, 3):
        reload(server, generation)
        assert server.get().json == {"name": "shop"}
    assert not set(old) & set(server.zygotes())


def test_its_other_commands(script: Script) -> None:
    line, directory, env = script
    for args, told in (
        (["close"], "the shop is closed\n"),
        (["open"], "shop is open\n"),
        (["catalogue", "count", "novels"], "novels of shop: 6\n"),
    ):
        assert finish([*line, *args], directory, env) == (0, told)
    status, output = finish([*line, "--help"], directory, env)
    assert status == 0
    for name in ("close", "open", "catalogue", "prefork-run", "run"):
        assert re.search(rf"^  {name}\b", output, re.MULTILINE)


def test_a_reload_sees_the_scripts_own_changes(run: Run, tmp_path: Path) -> None:
    """What the script imports is new too, though the command has it as it was."""
    path = tmp_path / "manage.py"
    text = """\
import click
from flask import Flask
from flask.cli import FlaskGroup

import greeting

app = Flask(__name__)
app.route("/")(lambda: greeting.TEXT)
cli = FlaskGroup(create_app=lambda: app)
if __name__ == "__main__":
    cli()
"""
    path.write_text(text)
    (tmp_path / "greeting.py").write_text("TEXT = 'first'\n")
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    server = run([sys.executable, "manage.py", *SERVE], env=env)
    assert server.get().body == b"first"
    (tmp_path / "greeting.py").write_text("TEXT = 'second'\n")
    reload(server, 2)
    assert server.get().body == b"second"
