"""Releases that take turns: a reload is what a second start would be."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import typing as t
from pathlib import Path

import psutil
import pytest

from .admin import Admin
from .conftest import Run
from .server import command
from .server import runs
from .server import Server

pytestmark = pytest.mark.measured

APP = """
import os
import resource
import sys

from flask import Flask
from flask import request

import beside

app = Flask(__name__)


@app.get("/")
def index():
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    return {
        "beside": beside.RELEASE,
        "cwd": os.getcwd(),
        "generation": request.environ["flask_prefork.generation"],
        "instance": app.instance_path,
        "limit": resource.getrlimit(resource.RLIMIT_NOFILE),
        "nice": os.nice(0),
        "oom": open("/proc/self/oom_score_adj").read(),
        "setting": os.environ.get("SETTING"),
        "umask": int(status["Umask"], 8),
    }
"""

LINE = command("shop", "--port", "0", "--no-access-log")


class Releases:
    """``current`` is a link to one of the releases ``1`` and ``2``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.current = root / "current"
        for number in ("1", "2"):
            folder = root / number
            folder.mkdir()
            (folder / "shop.py").write_text(APP)
            (folder / "beside.py").write_text(f"RELEASE = {number!r}\n")
            (folder / ".flaskenv").write_text(f"SETTING=of {number}\n")
            (folder / "bin").mkdir()
            (folder / "bin" / "python").symlink_to(sys.executable)
            (folder / "bin" / "flask").write_text(
                f"#!{folder}/bin/python\nimport sys\nfrom flask.cli import main\n"
                "sys.exit(main())\n"
            )
            (folder / "bin" / "flask").chmod(0o755)
            config = Path(sys.prefix) / "pyvenv.cfg"
            if config.exists():
                shutil.copy(config, folder)
                (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
        self.current.symlink_to("1")

    def relink(self) -> None:
        (self.root / "new").symlink_to("2")
        (self.root / "new").rename(self.current)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path.resolve())


def reload(server: Server, number: int = 2) -> t.Any:
    server.signal(signal.SIGHUP)
    server.wait_for_log(rf"^Generation {number} serves")
    return server.get().json


@pytest.mark.parametrize("stays", [True, False], ids=["kept", "removed"])
@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ([sys.executable, "-m", "flask", "--app", "shop"], {}),
        ([sys.executable, "-m", "flask"], {"FLASK_APP": "shop.py"}),
        ([sys.executable, "-m", "flask", "--app", "../current/shop"], {}),
        (["bin/python", "-m", "flask", "--app", "./shop.py"], {}),
        (["{current}/bin/flask", "--app", "shop:app"], {}),
    ],
    ids=["module", "variable", "above", "interpreter", "script"],
)
def test_a_reload_loads_what_the_link_means_now(
    run: Run,
    releases: Releases,
    line: list[str],
    variables: dict[str, str],
    stays: bool,
) -> None:
    line = [word.replace("{current}", str(releases.current)) for word in line]
    server = run(
        [*line, "prefork-run", "--port", "0", "--no-access-log"],
        directory=releases.current,
        env={"PWD": str(releases.current), **variables},
    )
    first = server.get().json
    assert (first["beside"], first["setting"]) == ("1", "of 1")
    releases.relink()
    if not stays:
        shutil.rmtree(releases.root / "1")
    second = reload(server)
    here = str(releases.root / "2")
    assert second == {
        **first,
        "beside": "2",
        "cwd": here,
        "generation": 2,
        "instance": first["instance"].replace(str(releases.root / "1"), here),
        "setting": "of 2",
    }
    # Nor does anything hold on to the old one.
    assert psutil.Process(server.pid).cwd() == here


def test_a_directory_that_is_gone_is_told_and_the_server_serves_on(
    run: Run, releases: Releases
) -> None:
    server = run(LINE, directory=releases.current, env={"PWD": str(releases.current)})
    assert server.get().json["generation"] == 1
    releases.current.unlink()
    server.signal(signal.SIGHUP)
    server.wait_for_log(
        rf"^Can't start a zygote: can't go to {releases.current}, where it was started:"
        r" No such file or directory\.$"
    )
    assert server.get().json["generation"] == 1
    releases.current.symlink_to("2")
    assert reload(server)["beside"] == "2"
    assert "Traceback" not in server.log()


def test_without_a_name_it_is_the_directory_itself(
    run: Run, releases: Releases
) -> None:
    """Whoever has started the server doesn't say how it got there."""
    server = run(LINE, directory=releases.current, env={"PWD": "/"})
    releases.relink()
    assert reload(server)["beside"] == "1"


def test_limits_are_those_of_the_start(run: Run, releases: Releases) -> None:
    """Whichever way a process has come: by fork, exec, promotion, or the observer."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = 300
    assert hard == resource.RLIM_INFINITY or hard > soft
    script = f'ulimit -S -n {soft}; umask 027; exec nice -n 3 "$@"'
    server = run(
        [
            *("sh", "-c", script, "sh", *LINE),
            *("--admin", "0", "--refork-after", "5", "--min-idle", "1"),
        ],
        directory=releases.root / "1",
    )
    told = ("limit", "nice", "oom", "umask")
    first = server.get().json
    assert first["limit"] == [soft, hard]
    assert (first["nice"], first["umask"]) == (os.nice(0) + 3, 0o27)
    for _ in range(6):
        server.get()
    server.wait_for_log(r"^Generation 2 serves")
    promoted = server.get().json
    assert promoted["generation"] == 2
    assert [promoted[name] for name in told] == [first[name] for name in told]
    reloaded = reload(server, 3)
    assert [reloaded[name] for name in told] == [first[name] for name in told]

    assert Admin(server).status()["pid"] == server.pid
    dispatcher = psutil.Process(server.pid)
    (observer,) = (one for one in dispatcher.children() if runs(one, "observe"))
    assert observer.rlimit(psutil.RLIMIT_NOFILE) == (soft, hard)
    # It has raised its own, for the connections that it holds.
    assert dispatcher.rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
