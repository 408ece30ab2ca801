"""``--check-config`` tells all that is wrong, and starts nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

import pytest

from flask_prefork.command import checking
from flask_prefork.command.startup import Mode
from flask_prefork.settings.addresses import Address
from flask_prefork.settings.spec import SettingsError
from flask_prefork.settings.table import ROWS

APP = """\
from flask import Flask
from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)


@app.get("/report")
def report():
    return ""
"""


class Told(t.NamedTuple):
    """What the command has said."""

    status: int
    output: str
    lines: list[str]


class Check(t.Protocol):
    def __call__(
        self, *args: str, code: str = ..., folder: Path = ..., **env: str
    ) -> Told: ...


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Run the command in a process of its own, for an app with these lines more."""

    def check(
        *args: str,
        code: str = "",
        app: str = APP,
        folder: Path = tmp_path,
        **env: str,
    ) -> Told:
        (folder / "shop.py").write_text(app + code)
        known = {k: v for k, v in os.environ.items() if not k.startswith("FLASK_")}
        process = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "shop", "prefork-run", *args],
            cwd=folder,
            env={**known, "FLASK_SKIP_DOTENV": "1", **env},
            capture_output=True,
            text=True,
        )
        errors = [
            line.removeprefix("Error: ")
            for line in process.stderr.splitlines()
            if line.startswith("Error: ")
        ]
        return Told(process.returncode, process.stdout + process.stderr, errors)

    return check


def test_what_is_right(check: Check, tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        # It would be in use.
        port = str(sock.getsockname()[1])
        log, pid = tmp_path / "log", tmp_path / "pid"
        told = check(
            "--check-config",
            *("--port", port, "--admin", port.replace(port, "0")),
            *("--access-logfile", str(log), "--pid", str(pid)),
        )
    assert told.status == 0, told.output
    assert told.output == "The app can be loaded, and the settings are right.\n"
    assert not log.exists() and not pid.exists()


WRONG_CONFIG = """
app.config["PREFORK_TIMEOUT"] = "soon"
app.config["PREFORK_MIN_IDEL"] = 3
app.config["PREFORK_MAX_IDEL"] = 3
app.config["PREFORK_USER"] = "shop"
app.config["PREFORK_LIMITS"] = {"/repord": {"concurrency": 1}, "/report": {}}
app.config["PREFORK_REQUEST_HANDLER"] = "no.such:Handler"
prefork.stream_body("uplaod")
"""


def test_all_that_is_wrong(check: Check, tmp_path: Path) -> None:
    """Of the command line, the environment, files and the app, in a line for each."""
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    told = check(
        "--check-config",
        *("--min-idle", "0"),
        *("--keep-alive", "long"),
        *("--limit-request-body", "10MB"),
        *("--cert", str(bad), "--key", str(bad)),
        *("--admin", "x:y"),
        *("--proxy-allow-from", "::1"),
        *("--socket-mode", "660"),
        *("--pid", str(tmp_path / "nowhere" / "pid")),
        *("--access-logfile", str(tmp_path)),
        *("--max-requests-jitter", "5"),
        code=WRONG_CONFIG,
        FLASK_PREFORK_RUN_RUN_LENGTH="many",
        FLASK_PREFORK_RUN_MAX_WORKER="3",
        FLASK_PREFORK_MIN_IDLE="3",
    )
    assert told.status == 1
    expected = [
        "Invalid value for '--min-idle': must be at least 1",
        "Invalid value for '--keep-alive': must be a number of seconds, or",
        "Invalid value for '--limit-request-body': must be a number of bytes, or",
        "Invalid value for FLASK_PREFORK_RUN_RUN_LENGTH (--run-length): must be",
        "There is no variable 'FLASK_PREFORK_RUN_MAX_WORKER'; did you mean",
        f"Can't use the certificate {bad}",
        "--socket-mode has no effect",
        "Can't write the pid file to",
        "There is no key 'PREFORK_MIN_IDEL'",
        "There is no key 'PREFORK_MAX_IDEL'",
        "PREFORK_TIMEOUT must be a number of seconds, or",
        "PREFORK_USER comes too late",
        "--max-requests-jitter has no effect",
        "--admin: 'x:y' is not an address",
        "--proxy-allow-from has no effect",
        "FLASK_PREFORK_MIN_IDLE has no effect",
        "PREFORK_LIMITS: the app has no rule '/repord'; did you mean '/report'?",
        "PREFORK_LIMITS['/report'] limits nothing",
        "Can't import the request handler 'no.such:Handler'",
        "Can't write the access log to",
        "Prefork.stream_body('uplaod'): the app has no such endpoint",
    ]
    for words in expected:
        assert [line for line in told.lines if line.startswith(words)], words
    assert len(told.lines) == len(expected), told.output
    assert f"{len(expected)} errors." in told.output
    assert "Traceback" not in told.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--host", "nowhere.invalid"), "Can't find the address of 'nowhere.invalid'"),
        (
            ("--host", "unix:///nowhere/at/all"),
            "Can't listen on /nowhere/at/all: No such",
        ),
        (("--host", "unix:shop.py"), "Can't listen on {}/shop.py: a file that is no"),
        (
            ("--host", "unix:shop.py/a"),
            "Can't listen on {}/shop.py/a: Not a directory:",
        ),
        (("--host", "unix:../{name}"), "Can't listen on {}: it is a folder;"),
        (("--host", f"unix:{'x' * 108}"), "Can't listen on {}/xxx"),
        (("--admin", f"unix:{'x' * 108}"), "--admin: Can't listen on {}/xxx"),
        (
            ("--admin", "unix:none/a"),
            "--admin: Can't listen on {}/none/a: No such file",
        ),
        (
            ("--host", "unix:a.sock", "--admin", "unix:a.sock"),
            "--admin: the app is to be served on unix:{}/a.sock too; give another",
        ),
        (
            tuple(f"--host=127.0.0.1:{port}" for port in range(7001, 7032)),
            "There are 31 addresses to listen on; 30 are possible.",
        ),
        (("--admin", "nowhere.invalid:9000"), "Can't find the address of"),
        (("--admin", "5000"), "--admin: the app is to be served on 127.0.0.1:5000 too"),
        (("--user", "nobody-of-this-name"), "There is no user"),
        (
            ("--host", "unix://a.sock", "--socket-group", "no-group-of-this-name"),
            "There is no group",
        ),
        (("--cert", "adhoc", "--key", __file__), "When"),
        (("--cert", __file__), "Give a --key for each --cert"),
        (("--cert", "shop:no_context"), "--cert shop:no_context is neither a file"),
        (("--key", "/no/such/file"), "Invalid value for '--key': File"),
    ],
)
def test_a_single_thing(
    check: Check, tmp_path: Path, args: tuple[str, ...], words: str
) -> None:
    told = check("--check-config", *(arg.format(name=tmp_path.name) for arg in args))
    assert told.status == 1, told.output
    (line,) = told.lines
    assert line.startswith(words.format(tmp_path))
    assert told.output.endswith("1 error.\n")


def test_two_names_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(address: Address) -> Address:
        return address._replace(host="192.0.2.1", name=address.host)

    monkeypatch.setattr(checking, "find", find)
    mode = Mode(dict.fromkeys(ROWS), {}, reload=False, debugger=False)
    errors: list[SettingsError] = []
    hosts = [Address("a.test", 80), Address("b.test", 80), Address("b.test", 81)]
    checking._check_outside(mode, hosts, [], errors)
    (error,) = errors
    told = "--host a.test:80 and --host b.test:80 are the same address; give it once."
    assert str(error) == told


NOWHERE = {"class": "logging.FileHandler", "filename": "nowhere/log"}
FOLDER = {"class": "logging.FileHandler", "filename": "."}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"handlers": {"x": {"class": "nope.Nope"}}},
            "Unable to configure handler 'x'",
        ),
        ({"root": {"handlers": ["x"]}}, "Unable to configure root logger"),
        ({"loggers": {"shop": {"level": "LOUD"}}}, "Unknown level: 'LOUD'"),
        (
            {"formatters": {"x": {"()": "nope.Nope"}}},
            "Unable to configure formatter 'x'",
        ),
        ({"version": 2}, "Unsupported version: 2"),
        ({"handlers": {"x": NOWHERE}}, "No such file or directory"),
        ({"handlers": {"x": FOLDER}}, "Is a directory"),
        ({"handlers": {"x": {"()": "os._exit", "status": 0}}}, "ends the process"),
        ({"handlers": {"x": {"()": "os._exit", "status": 3}}}, "ends the process"),
        ({"handlers": {"x": {"()": "sys.exit"}}}, "ends the process"),
    ],
)
def test_a_configuration_of_logging(
    check: Check, tmp_path: Path, config: dict[str, t.Any], words: str
) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"version": 1, **config}))
    told = check("--check-config", "--log-config", str(path))
    assert told.status == 1, told.output
    (line,) = told.lines
    assert line.startswith(f"--log-config: {path} ")
    assert words in line


def test_a_configuration_of_logging_that_a_variable_names(
    check: Check, tmp_path: Path
) -> None:
    path = tmp_path / "log.json"
    path.write_text("{}")
    told = check("--check-config", FLASK_PREFORK_RUN_LOG_CONFIG=str(path))
    (line,) = told.lines
    assert line.startswith(f"FLASK_PREFORK_RUN_LOG_CONFIG: {path} is no configuration")


def test_the_log_of_a_configuration_is_not_made(check: Check, tmp_path: Path) -> None:
    old = tmp_path / "old.log"
    old.write_text("first\n")
    names = {
        "new.log": {"class": "logging.handlers.WatchedFileHandler"},
        "old.log": {"class": "logging.FileHandler", "mode": "w"},
        "turned.log": {"class": "logging.handlers.RotatingFileHandler"},
    }
    handlers = {key: {**one, "filename": key} for key, one in names.items()}
    config = {"version": 1, "handlers": handlers, "root": {"handlers": list(names)}}
    path = tmp_path / "log.json"
    path.write_text(json.dumps(config))
    told = check("--check-config", "--log-config", str(path))
    assert told.status == 0, told.output
    assert old.read_text() == "first\n"
    assert [one.name for one in tmp_path.glob("*.log")] == ["old.log"]


@pytest.mark.parametrize(
    ("code", "words", "is_traced"),
    [
        ("raise LookupError('lost')\n", "LookupError: lost", True),
        ("import nowhere.to.be.found\n", "ModuleNotFoundError: No module", True),
        ("def x(:\n", "SyntaxError: invalid syntax", False),
        ("import sys; sys.exit(3)\n", "it has ended the command", False),
    ],
)
def test_an_app_that_can_not_be_loaded(
    check: Check, code: str, words: str, is_traced: bool
) -> None:
    told = check("--check-config", "--admin", "x:y", code=code)
    assert told.status == 1
    first, second = told.lines
    assert first.startswith(f"The app can't be loaded: {words}")
    # The rest is checked all the same.
    assert second.startswith("--admin: 'x:y'")
    assert told.output.count("Traceback") == is_traced
    for module in ("click", "flask/cli.py", "flask_prefork/"):
        assert module not in told.output


def test_what_the_command_line_can_not_be(check: Check) -> None:
    for args in (("--bogus",), ("--bind", "x"), ("more",), ("--print-config",)):
        told = check("--check-config", *args)
        assert told.status == 2, told.output
        assert len(told.lines) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_the_app_is_loaded_as_its_user(check: Check) -> None:
    code = "import os; print(f'loaded as {os.getuid()}')\n"
    args = ("--check-config", "--user", "65534", "--group", "65534")
    # Others can't enter pytest's folders.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        told = check(*args, code=code, folder=folder)
    assert "loaded as 65534" in told.output


@pytest.mark.parametrize("name", ["RELOAD", "DEBUGGER", "ACCESS_LOG", "GC_FREEZE"])
def test_a_variable_of_a_switch(check: Check, name: str) -> None:
    """The start refuses it, too."""
    variable = f"FLASK_PREFORK_RUN_{name}"
    told = check("--check-config", "--port", "x", **{variable: "maybe"})
    assert told.status == 1, told.output
    (switch,) = [line for line in told.lines if variable in line]
    assert "'maybe' is not a valid boolean" in switch
    assert any("--port" in line for line in told.lines), "nothing else is left out"


def test_a_variable_of_debug_mode(check: Check) -> None:
    told = check("--check-config", FLASK_PREFORK_RUN_DEBUG="x")
    assert told.status == 1, told.output
    assert "FLASK_PREFORK_RUN_DEBUG" in told.lines[0]


def test_warnings_are_no_errors(check: Check) -> None:
    told = check("--check-config", PREFORK_MIN_IDLE="3")
    assert told.status == 0, told.output
    assert "PREFORK_MIN_IDLE, and the app's configuration doesn't" in told.output
    assert "FLASK_PREFORK_RUN_MIN_IDLE" in told.output
    # The app has read it.
    code = "app.config['PREFORK_MIN_IDLE'] = 3\n"
    told = check("--check-config", code=code, PREFORK_MIN_IDLE="3")
    assert "has no effect" not in told.output


@pytest.mark.parametrize("value", ["2", "3"])
def test_variables_that_the_app_reads(check: Check, value: str) -> None:
    code = "app.config.from_prefixed_env()\n"
    told = check("--check-config", code=code, FLASK_PREFORK_MIN_IDLE=value)
    assert told.status == 0, told.output
