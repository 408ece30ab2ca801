"""In place of ``flask run``: the same apps, named and configured in the same ways."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from .conftest import Run
from .conftest import Serve
from .server import APPS
from .server import finish
from .server import Server

FLASK = [sys.executable, "-m", "flask"]
SERVE = ["prefork-run", "--port", "0", "--no-access-log"]
FORMS = f"{APPS / 'forms.py'}"


def reload(server: Server, generation: int = 2) -> None:
    server.signal(signal.SIGHUP)
    server.wait_for_log(rf"^Generation {generation} serves\.$")


# What --app takes


@pytest.mark.parametrize(
    ("app", "name"),
    [
        ("forms", "app"),
        ("forms.py", "app"),
        ("../apps/forms.py", "app"),
        (FORMS, "app"),
        ("forms:other", "other"),
        (f"{FORMS}:other", "other"),
        ("forms:create", "create"),
        ("forms:create()", "create"),
        ("forms:create('named')", "named"),
        ("forms:create('a, b', mark='!')", "a, b!"),
        ("shop", "shop"),
        ("shop/__init__.py", "shop"),
        ("shop.manage:create_app", "shop"),
    ],
)
def test_forms_of_app(run: Run, app: str, name: str) -> None:
    server = run([*FLASK, "--app", app, *SERVE], directory=APPS)
    assert server.get().json == {"name": name}
    # The next zygote is another process of the same command line.
    reload(server)
    assert server.get().json == {"name": name}


def test_app_in_the_environment(run: Run) -> None:
    server = run([*FLASK, *SERVE], directory=APPS, env={"FLASK_APP": "forms:other"})
    assert server.get().json == {"name": "other"}


@pytest.mark.parametrize("present", [("wsgi",), ("app",), ("wsgi", "app")])
def test_an_app_that_is_found(
    run: Run, tmp_path: Path, present: tuple[str, ...]
) -> None:
    for name in present:
        text = f"from forms import create\n\napp = create({name!r})\n"
        (tmp_path / f"{name}.py").write_text(text)
    server = run([*FLASK, *SERVE], env={"PYTHONPATH": str(APPS)})
    assert server.get().json == {"name": present[0]}
    reload(server)
    assert server.get().json == {"name": present[0]}


@pytest.mark.parametrize("args", [(), ("--app", "nowhere"), ("--app", "forms:nobody")])
def test_an_app_that_is_not_there(tmp_path: Path, args: tuple[str, ...]) -> None:
    """The error is the one of ``flask run``."""
    env = {"PYTHONPATH": str(APPS)}
    ours = finish([*FLASK, *args, *SERVE], tmp_path, env)
    theirs = finish([*FLASK, *args, "run", "--port", "0"], tmp_path, env)
    assert ours.status == theirs.status == 2
    told = theirs.output.partition("Error: ")[2]
    assert told
    # Then the dispatcher says that it has stopped.
    assert ours.output.partition("Error: ")[2].startswith(told)


def test_an_apps_own_arguments(run: Run) -> None:
    """The app sees the command line as it was typed, after a reload too."""
    line = ["--app", "forms", *SERVE]
    server = run([*FLASK, *line], directory=APPS)
    assert server.get("/settings").json["arguments"] == line
    reload(server)
    assert server.get("/settings").json["arguments"] == line


# Where settings come from


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with ``.flaskenv`` and ``.env``."""
    (tmp_path / ".flaskenv").write_text(
        "FLASK_APP=forms:other\n"
        "FLASK_RUN_PORT=0\n"
        "FLASK_PREFORK_RUN_MIN_IDLE=3\n"
        "SHOP_ONE=flaskenv\n"
        "SHOP_TWO=flaskenv\n"
        "SHOP_THREE=flaskenv\n"
    )
    (tmp_path / ".env").write_text("SHOP_ONE=env\nSHOP_TWO=env\n")
    return tmp_path


def settings(server: Server) -> object:
    return server.get("/settings").json["shop"]


def test_environment_files(run: Run, files: Path) -> None:
    env = {"PYTHONPATH": str(APPS), "SHOP_ONE": "shell"}
    server = run([*FLASK, "prefork-run"], env=env)
    server.wait_for_state("III")
    assert server.get().json == {"name": "other"}
    assert settings(server) == {
        "SHOP_ONE": "shell",
        "SHOP_TWO": "env",
        "SHOP_THREE": "flaskenv",
    }
    # A reload reads them again: what they said is not mistaken for the shell's.
    (files / ".env").write_text("SHOP_ONE=new\nSHOP_TWO=new\n")
    (files / ".flaskenv").write_text("FLASK_APP=forms\nFLASK_RUN_PORT=0\n")
    reload(server)
    server.wait_for_state("II")
    assert server.get().json == {"name": "app"}
    assert settings(server) == {"SHOP_ONE": "shell", "SHOP_TWO": "new"}


def test_a_file_that_is_named(run: Run, files: Path) -> None:
    path = files / "staging"
    path.write_text("SHOP_TWO=staging\nFLASK_APP=forms:create('staging')\n")
    line = [*FLASK, "--env-file", str(path), "prefork-run"]
    server = run(line, env={"PYTHONPATH": str(APPS)})
    assert server.get().json == {"name": "staging"}
    assert settings(server) == {
        "SHOP_ONE": "env",
        "SHOP_TWO": "staging",
        "SHOP_THREE": "flaskenv",
    }


def test_environment_files_can_be_passed_over(run: Run, files: Path) -> None:
    env = {"PYTHONPATH": str(APPS), "FLASK_SKIP_DOTENV": "1"}
    server = run([*FLASK, "--app", "forms", *SERVE], env=env)
    assert settings(server) == {}


def test_host_and_port(run: Run) -> None:
    env = {"FLASK_RUN_HOST": "127.0.0.2", "FLASK_RUN_PORT": "0"}
    line = [*FLASK, "--app", FORMS, "prefork-run"]
    assert run(line, env=env).url.startswith("http://127.0.0.2:")
    here = run([*line, "--host", "127.0.0.1"], env=env)
    assert here.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("args", "env", "debug"),
    [
        ((), {}, False),
        ((), {"FLASK_DEBUG": "1"}, True),
        ((), {"FLASK_DEBUG": "0"}, False),
        (("--debug",), {}, True),
        (("--no-debug",), {"FLASK_DEBUG": "1"}, False),
    ],
)
def test_debug_mode(
    run: Run, args: tuple[str, ...], env: dict[str, str], debug: bool
) -> None:
    """Given before the command's name or behind it, by option or variable."""
    for line in (
        [*FLASK, "--app", FORMS, *args, *SERVE],
        [*FLASK, "--app", FORMS, *SERVE, *args],
    ):
        server = run(line, env=env)
        assert f"; debug mode: {'on' if debug else 'off'};" in server.log()
        assert server.get("/settings").json["debug"] is debug
        error = server.get("/error")
        assert error.status == 500
        assert (b"LookupError: the catalogue is missing" in error.body) is debug
        assert ("Debugger is active!" in server.log()) is debug


# What apps do on their own


def test_an_app_that_configures_its_logging(serve: Serve) -> None:
    """It says which loggers there are to be; the server's warnings are told still."""
    server = serve("logs", "--access-log")
    assert "Before the first fork: the thread 'poller'" in server.log()
    assert server.get().status == 200
    server.wait_for_log("^INFO by the app: served$")
    server.wait_for_log(r'^INFO by the app: .*"GET / HTTP/1.1" 200')


def test_commands_of_app_and_blueprint() -> None:
    line = [*FLASK, "--app", "shop"]
    told = finish([*line, "catalogue", "count", "poems"], APPS)
    assert told == (0, "poems of shop: 5\n")
    assert finish([*line, "open"], APPS) == (0, "shop is open\n")
    status, output = finish([*line, "--help"], APPS)
    assert status == 0
    for name in ("catalogue", "open", "prefork-run", "run", "shell", "routes"):
        assert re.search(rf"^  {name}\b", output, re.MULTILINE)
    assert "Traceback" not in output
