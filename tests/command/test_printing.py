"""``--print-config`` shows each setting, its value and where it is from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from flask_prefork.settings.keys import BORROWED
from flask_prefork.settings.table import option_name
from flask_prefork.settings.table import ROWS

APP = """\
from flask import Flask

app = Flask(__name__)
app.config["PREFORK_TIMEOUT"] = "5m"
app.config["PREFORK_LIMITS"] = {"/static/<path:filename>": {"timeout": "1m"}}
"""
SECRET = "not-to-be-seen"


class Print(t.Protocol):
    def __call__(
        self, *args: str, app: str = ..., **env: str
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def show(tmp_path: Path) -> Print:
    """Run the command in a process of its own."""

    def show(*args: str, app: str = APP, **env: str) -> t.Any:
        (tmp_path / "shop.py").write_text(app)
        known = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith("FLASK_") and k != "WEB_CONCURRENCY"
        }
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "shop", "prefork-run", *args],
            cwd=tmp_path,
            env={**known, "FLASK_SKIP_DOTENV": "1", **env},
            capture_output=True,
            text=True,
        )

    return show


ARGS = ("--admin", "9000", "--admin-token", SECRET, "--limit-request-body", "10M")
ENV = {"WEB_CONCURRENCY": "7", "FLASK_PREFORK_RUN_KEEP_ALIVE": "500ms"}


def test_json(show: Print) -> None:
    process = show("--print-config=json", *ARGS, **ENV, FLASK_RUN_PORT="5001")
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert set(found) == {*BORROWED, *ROWS, "limits"}
    assert SECRET not in process.stdout
    expected = {
        "min_idle": {"value": 2, "from": "default"},
        "max_idle": {"value": 4, "from": "derived"},
        "max_workers": {"value": 7, "from": "variable", "name": "WEB_CONCURRENCY"},
        "keep_alive": {
            "value": 0.5,
            "from": "variable",
            "name": "FLASK_PREFORK_RUN_KEEP_ALIVE",
        },
        "timeout": {"value": 300.0, "from": "key", "name": "PREFORK_TIMEOUT"},
        "limit_request_body": {
            "value": 10 * 2**20,
            "from": "option",
            "name": "--limit-request-body",
        },
        "admin": {"value": "9000", "from": "option", "name": "--admin"},
        "admin_token": {"value": "********", "from": "option", "name": "--admin-token"},
        "host": {"value": ["127.0.0.1"], "from": "default"},
        "port": {"value": 5001, "from": "variable", "name": "FLASK_RUN_PORT"},
        "debug": {"value": False, "from": "default"},
        "limits": {
            "value": [{"name": "/static/<path:filename>", "timeout": 60.0}],
            "from": "app",
        },
    }
    assert {name: found[name] for name in expected} == expected


def test_text(show: Print) -> None:
    process = show("--print-config", *ARGS, **ENV)
    assert process.returncode == 0, process.stderr
    assert SECRET not in process.stdout
    lines = [line.split(None, 2) for line in process.stdout.splitlines()]
    names = [option_name(name) for name in (*BORROWED, *ROWS)]
    assert [line[0] for line in lines] == [*names, "PREFORK_LIMITS"]
    found = {name: (value, origin) for name, value, origin in lines}
    assert found["--max-workers"] == ("7", "variable WEB_CONCURRENCY")
    assert found["--keep-alive"] == ("0.5s", "variable FLASK_PREFORK_RUN_KEEP_ALIVE")
    assert found["--timeout"] == ("300s", "key PREFORK_TIMEOUT")
    assert found["--min-workers"] == ("2", "derived")
    assert found["--access-log"] == ("on", "default")
    assert found["--pid"] == ("none", "default")
    assert found["--host"] == ("127.0.0.1", "default")
    assert found["--admin-token"] == ("********", "option")


def test_what_debug_mode_implies(show: Print) -> None:
    process = show("--print-config=json", "--debug", app=APP.partition("app.config")[0])
    found = json.loads(process.stdout)
    assert found["debug"] == {"value": True, "from": "option", "name": "--debug"}
    assert found["reload"] == {"value": True, "from": "derived"}
    assert found["debugger"] == {"value": True, "from": "derived"}
    assert found["timeout"] == {"value": 0.0, "from": "derived"}
    assert found["refork_after"] == {"value": 0, "from": "derived", "name": "--reload"}
    process = show("--print-config=json", FLASK_DEBUG="1")
    found = json.loads(process.stdout)
    assert found["debug"] == {"value": True, "from": "variable", "name": "FLASK_DEBUG"}


def test_what_the_app_prints_is_elsewhere(show: Print) -> None:
    process = show("--print-config=json", app="print('loaded')\n" + APP)
    assert json.loads(process.stdout)["port"]["value"] == 5000
    assert process.stderr == "loaded\n"


def test_nothing_is_printed_if_something_is_wrong(show: Print) -> None:
    process = show("--print-config", app=APP + "app.config['PREFORK_MIN_IDLE'] = 0\n")
    assert (process.returncode, process.stdout) == (2, "")
    assert "PREFORK_MIN_IDLE must be at least 1" in process.stderr
    process = show("--print-config", app="raise LookupError('lost')\n")
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.endswith("LookupError: lost\n")
    assert "flask/cli.py" not in process.stderr
    process = show("--print-config=xml")
    assert process.returncode == 2
