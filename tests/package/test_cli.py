"""The command line, up to where the server's processes part."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import typing as t
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from click.testing import Result
from flask import Flask
from flask.cli import cli as flask_command
from flask.cli import run_command
from flask.cli import ScriptInfo
from werkzeug.serving import WSGIRequestHandler

from flask_prefork import cli
from flask_prefork.cli import prefork_run
from flask_prefork.command.options import ValueType
from flask_prefork.http import access_log
from flask_prefork.ipc import spawn
from flask_prefork.settings.addresses import Address
from flask_prefork.settings.table import option_name
from flask_prefork.settings.table import ROWS
from flask_prefork.settings.table import Settings
from flask_prefork.system import log
from flask_prefork.system import process_title
from flask_prefork.worker import main
from flask_prefork.zygote import loading
from flask_prefork.zygote import process as zygote

Run = t.Callable[..., Result]
BORROWED = {
    "debug",
    "host",
    "port",
    "cert",
    "key",
    "reload",
    "debugger",
    "extra_files",
    "exclude_patterns",
}
#: What every `flask` command loads because this plugin is installed.
LIGHT = {"flask_prefork"} | {
    f"flask_prefork.{name}"
    for name in (
        "cli",
        "command",
        "command.options",
        "extension",
        "settings",
        "settings.certificates",
        "settings.keys",
        "settings.spec",
        "settings.table",
        "zygote",
        "zygote.hooks",
    )
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call ``flask prefork-run`` in this process, as the plugin it is."""
    for name in list(os.environ):
        if name.startswith("FLASK_") or name == "WEB_CONCURRENCY":
            monkeypatch.delenv(name)
    # The group, --debug and --reload set them; so they are taken back.
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    monkeypatch.setenv("FLASK_DEBUG", "0")
    monkeypatch.setenv("FLASK_SKIP_DOTENV", "1")
    monkeypatch.setenv("WERKZEUG_RUN_MAIN", "false")

    def run(*args: str, obj: ScriptInfo | None = None, **env: str) -> Result:
        return CliRunner().invoke(
            flask_command, ["prefork-run", *args], obj=obj or ScriptInfo(), env=env
        )

    return run


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets past the validation fails."""

    def start(*args: object, **kwargs: object) -> t.NoReturn:
        raise AssertionError("a process was to start")

    monkeypatch.setattr(log, "set_up", lambda *args: None)
    monkeypatch.setattr(log, "install_streams", lambda: None)
    monkeypatch.setattr(spawn, "inherited", start)
    monkeypatch.setattr(spawn, "by_fork", start)


class Zygote:
    """Takes down what the command would run in the zygote's process."""

    settings: Settings | None = None

    def __init__(
        self, begin: spawn.Inherited, settings: Settings, *rest: object
    ) -> None:
        type(self).settings = settings

    def run(self) -> None:
        pass


@pytest.fixture
def as_zygote(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Zygote]]:
    """The command takes this process for the zygote's."""
    ours, theirs = socket.socketpair()
    begin = spawn.Inherited(theirs, 1)

    class Mine(Zygote):
        pass

    monkeypatch.setattr(log, "set_up", lambda *args: None)
    monkeypatch.setattr(log, "install_streams", lambda: None)
    monkeypatch.setattr(log.logger, "identify", lambda name: None)
    monkeypatch.setattr(access_log, "allow_color", lambda allowed: None)
    monkeypatch.setattr(process_title, "show", lambda *role, **which: None)
    monkeypatch.setattr(spawn, "ignore_foreign_signals", lambda: None)
    monkeypatch.setattr(spawn, "show_on_request", lambda dump: None)
    monkeypatch.setattr(spawn, "by_fork", lambda generation: begin)
    monkeypatch.setattr(zygote, "Zygote", Mine)
    with ours, theirs:
        yield Mine


def error(result: Result) -> str:
    """The one line that a usage error ends in."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    *_, line = result.output.splitlines()
    assert line.startswith("Error: ")
    return line


# The options


def test_options_are_those_of_the_table_and_borrowed_ones() -> None:
    names = [parameter.name for parameter in prefork_run.params]
    assert len(names) == len(set(names))
    assert set(names) == BORROWED | set(ROWS) | {"check_config", "print_config"}


@pytest.mark.parametrize("name", ROWS)
def test_option_is_made_from_its_row(name: str) -> None:
    row = ROWS[name]
    (option,) = (p for p in prefork_run.params if p.name == name)
    assert isinstance(option, click.Option)
    assert option_name(name) in option.opts
    assert option.help == row.help
    assert (option.metavar or "") == row.shown_metavar
    assert bool(option.secondary_opts) == (row.kind is bool)
    if row.choices:
        assert isinstance(option.type, click.Choice)
        assert tuple(option.type.choices) == row.choices
    elif row.kind is not bool:
        assert isinstance(option.type, ValueType)
        assert option.type.row is row


def test_help_shows_every_option(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    for name, row in ROWS.items():
        assert option_name(name) in text
        # Words are broken at their hyphens.
        assert row.help.replace(" ", "") in text.replace(" ", "")
        shown = f"[default: {row.shown_default}"
        assert shown.replace(" ", "") in text.replace(" ", "")
    for parameter in prefork_run.params:
        assert parameter.opts[0] in text


_LOOK = """
import json
import sys

import click
import flask.cli

def look():
    command = flask.cli.run_command
    told = command.to_info_dict(click.Context(command))
    return json.dumps(told, default=repr), [id(p) for p in command.params]

before, loaded = look(), set(sys.modules)
import flask_prefork.cli
after = set(sys.modules) - loaded
own = flask_prefork.cli.prefork_run.params
print(json.dumps({
    "same": before == look(),
    "shared": [p.name for p in own if id(p) in before[1]],
    "loaded": sorted(after),
}))
"""


@pytest.fixture(scope="module")
def imported() -> t.Any:
    """What importing the command did to an interpreter with Flask's own."""
    process = subprocess.run(
        [sys.executable, "-c", _LOOK], check=True, stdout=subprocess.PIPE
    )
    return json.loads(process.stdout)


def test_options_of_flask_run_are_left_as_they_are(imported: t.Any) -> None:
    assert imported["same"]
    assert imported["shared"] == []


def test_import_costs_every_flask_command_next_to_nothing(imported: t.Any) -> None:
    assert set(imported["loaded"]) <= LIGHT


def test_borrowed_options_are_as_in_flask_run() -> None:
    theirs = {p.name: p for p in run_command.params}
    for ours in prefork_run.params:
        if ours.name in BORROWED:
            if ours.name in ("cert", "key"):
                continue  # several are possible, and nothing is loaded
            assert ours.opts == theirs[ours.name].opts
            # Theirs takes any number, and any host.
            if ours.name not in ("host", "port"):
                assert ours.type is theirs[ours.name].type


# Impossible settings


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("args", "named", "right"),
    [
        ("--min-idle 0", "--min-idle", "must be at least 1, not '0'"),
        ("--min-idle -1", "--min-idle", "must be at least 1, not '-1'"),
        ("--min-idle 10001", "--min-idle", "must be at most 10000"),
        ("--min-idle many", "--min-idle", "whole number"),
        ("--min-idle 1.5", "--min-idle", "whole number"),
        ("--max-idle 0", "--max-idle", "must be at least 1"),
        ("--min-workers 0", "--min-workers", "must be at least 1"),
        ("--max-workers 0", "--max-workers", "must be at least 1"),
        ("--max-workers -4", "--max-workers", "must be at least 1"),
        ("--idle-timeout 0", "--idle-timeout", "must be at least 0.1 s"),
        ("--idle-timeout soon", "--idle-timeout", "such as 500ms, 30s, 5m or 1h"),
        ("--idle-timeout 9weeks", "--idle-timeout", "such as 500ms, 30s, 5m or 1h"),
        ("--idle-timeout inf", "--idle-timeout", "must be a number of seconds"),
        ("--idle-timeout nan", "--idle-timeout", "must be a number of seconds"),
        ("--max-requests -1", "--max-requests", "must be at least 0"),
        ("--max-requests-jitter -1", "--max-requests-jitter", "must be at least 0"),
        ("--max-requests-jitter 5", "--max-requests-jitter", "--max-requests above 0"),
        ("--dispatch random", "--dispatch", "'ordered', 'blocking'"),
        ("--run-length 0", "--run-length", "must be at least 1"),
        ("--run-length 65536", "--run-length", "must be at most 65535"),
        ("--graceful-timeout -1", "--graceful-timeout", "must be at least 0 s"),
        ("--spawn-timeout 0", "--spawn-timeout", "must be at least 1 s"),
        ("--limit-request-body 10MB", "--limit-request-body", "such as 64K or 10M"),
        ("--limit-request-line 1M", "--limit-request-line", "at most 65,536 bytes"),
        ("--min-data-rate slow", "--min-data-rate", "a size such as 64K or 10M"),
        ("--buffer-body big", "--buffer-body", "a size such as 200M or 1G"),
        ("--backlog 0", "--backlog", "must be at least 1"),
        ("--port http", "--port", "'http' is not a port: 0 to 65535"),
        ("--port -1", "--port", "0 to 65535"),
        ("--port 65536", "--port", "0 to 65535"),
        ("-p /run/shop.pid", "--port", "a pid file is given by --pid"),
        ("--min-idle 6 --max-idle 5", "--min-idle (6)", "of 5 or less"),
        ("--min-idle 6 --max-workers 5", "--max-workers (5)", "of 6 or more"),
        ("--min-workers 6 --max-workers 5", "--min-workers (6)", "of 5 or less"),
        ("--min-spare 3", "--min-spare", "No such option"),
    ],
)
def test_impossible_setting_ends_in_one_line(
    run: Run, args: str, named: str, right: str
) -> None:
    line = error(run(*args.split()))
    assert named in line
    assert right in line


@pytest.mark.usefixtures("nothing_starts")
def test_the_apps_name_comes_before_the_command(run: Run) -> None:
    line = error(run("shop:app", "--min-idle", "3"))
    assert line.endswith("flask --app shop:app prefork-run")


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("name", [n for n, r in ROWS.items() if r.kind is not bool])
def test_option_needs_a_value(run: Run, name: str) -> None:
    assert f"'{option_name(name)}' requires an argument" in error(
        run(option_name(name))
    )


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("FLASK_PREFORK_RUN_MIN_IDLE", "--min-idle"),
        ("FLASK_PREFORK_RUN_MAX_WORKERS", "--max-workers"),
        ("WEB_CONCURRENCY", "--max-workers"),
    ],
)
def test_environment_is_checked(run: Run, variable: str, option: str) -> None:
    line = error(run(**{variable: "0"}))
    assert f"{variable} ({option}): must be at least 1" in line


@pytest.mark.usefixtures("nothing_starts")
def test_system_without_fork(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    line = error(run())
    assert "os.fork" in line
    assert "'flask run'" in line


_WITHOUT_UNIX = """
import os
import sys

del os.fork
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
from flask.cli import main
sys.argv = ["flask", "prefork-run"]
main()
"""


def test_system_without_unix_modules() -> None:
    process = subprocess.run(
        [sys.executable, "-c", _WITHOUT_UNIX],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert "os.fork" in process.stderr
    assert "Traceback" not in process.stderr


# What reaches the zygote


def test_precedence(run: Run, as_zygote: type[Zygote]) -> None:
    app = Flask("shop")
    app.config.update(
        PREFORK_MIN_IDLE=5,
        PREFORK_MAX_IDLE=6,
        PREFORK_MAX_WORKERS=7,
        PREFORK_RUN_LENGTH=8,
    )
    result = run(
        "--min-idle=3",
        obj=ScriptInfo(create_app=lambda: app),
        FLASK_PREFORK_RUN_MIN_IDLE="4",
        FLASK_PREFORK_RUN_MAX_IDLE="9",
        FLASK_PREFORK_RUN_MAX_WORKERS="30",
        WEB_CONCURRENCY="20",
    )
    assert result.exit_code == 0, result.output
    settings = as_zygote.settings
    assert settings is not None
    assert settings.min_idle == 3
    assert settings.max_idle == 9
    assert settings.max_workers == 30
    assert settings.run_length == 8
    assert settings.dispatch == "ordered"


def test_web_concurrency_is_max_workers(run: Run, as_zygote: type[Zygote]) -> None:
    run(obj=ScriptInfo(create_app=lambda: Flask("shop")), WEB_CONCURRENCY="20")
    assert as_zygote.settings is not None
    assert as_zygote.settings.max_workers == 20


@pytest.mark.usefixtures("as_zygote")
@pytest.mark.parametrize(
    ("config", "right"),
    [
        ({"PREFORK_MIN_IDLE": "many"}, "PREFORK_MIN_IDLE must be a whole number"),
        ({"PREFORK_MAX_WORKERS": 0}, "PREFORK_MAX_WORKERS must be at least 1"),
        (
            {"PREFORK_MIN_IDLE": 6, "PREFORK_MAX_WORKERS": 5},
            "PREFORK_MIN_IDLE (6) is above PREFORK_MAX_WORKERS (5)",
        ),
        ({"PREFORK_REQUEST_HANDLER": "no.such:Handler"}, "'no.such:Handler'"),
        ({"PREFORK_REQUEST_HANDLER": "os:getpid"}, "is no subclass of"),
    ],
)
def test_impossible_configuration(
    run: Run, config: dict[str, object], right: str
) -> None:
    app = Flask("shop")
    app.config.update(config)
    assert right in error(run(obj=ScriptInfo(create_app=lambda: app)))


@pytest.mark.usefixtures("as_zygote")
@pytest.mark.parametrize("debug", [True, False])
def test_debugger_goes_with_debug_mode(
    run: Run, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    seen = []

    def server_maker(
        app: Flask, settings: Settings, debugger: bool, hosts: list[str]
    ) -> None:
        seen.append((debugger, hosts))

    monkeypatch.setattr(loading, "server_maker", server_maker)
    info = ScriptInfo(create_app=lambda: Flask("shop"))
    run(f"--{'' if debug else 'no-'}debug", "--host=::1", obj=info)
    run("--debug", f"--{'' if debug else 'no-'}debugger", obj=info)
    assert seen == [(debug, ["::1"]), (debug, ["127.0.0.1"])]


@pytest.mark.usefixtures("as_zygote")
def test_the_debugger_is_used_under_the_names_of_hosts(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(loading, "server_maker", lambda *args: seen.append(args[-1]))
    info = ScriptInfo(create_app=lambda: Flask("shop"))
    run("--host=localhost:80", "--host=unix:/s", "--host=[::1]:80", obj=info)
    assert seen == [["localhost", "::1"]]


@pytest.fixture
def found(run: Run, monkeypatch: pytest.MonkeyPatch) -> t.Callable[..., list[str]]:
    """Calls the command, and returns where it would listen."""

    class Seen(Exception):
        pass

    def see(hosts: t.Sequence[str], wanted: t.Sequence[Address]) -> t.NoReturn:
        raise Seen(wanted)

    monkeypatch.setattr(cli, "_find", see)
    monkeypatch.setattr(log, "set_up", lambda *args: None)
    monkeypatch.setattr(spawn, "take_signals", lambda: None)

    def call(*args: str, **env: str) -> list[str]:
        result = run(*args, **env)
        assert isinstance(result.exception, Seen), result.output
        return [str(one) for one in result.exception.args[0]]

    return call


def test_several_hosts(found: t.Callable[..., list[str]], tmp_path: Path) -> None:
    assert found() == ["127.0.0.1:5000"]
    args = ("--host=::1", "-h", "shop.test:80", f"--host=unix:{tmp_path}/s", "-h[::1]")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert found("--host=unix://s") == [f"unix:{tmp_path}/s"]
    # A port of its own goes before --port.
    assert found(*args[:-1], "--port", "8000") == [
        "[::1]:8000",
        "shop.test:80",
        f"unix:{tmp_path}/s",
    ]
    env = {"FLASK_RUN_HOST": "127.0.0.1, ::1\n[::1]:80", "FLASK_RUN_PORT": "81"}
    assert found(**env) == ["127.0.0.1:81", "[::1]:81", "[::1]:80"]
    env["FLASK_PREFORK_RUN_HOST"] = "127.0.0.3"
    assert found(**env) == ["127.0.0.3:81"]
    assert found("--host=127.0.0.4", **env) == ["127.0.0.4:81"]


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("args", "right"),
    [
        ("--host 8000", "give --port 8000, or 127.0.0.1:8000."),
        ("--host http://a:80/", "give 'a:80'."),
        ("--host a:80 --host b:x", "'x' in 'b:x' is not a port"),
        ("--host unix: --host ::1", "'unix:' has no path"),
        (
            "--host ::1 --host [::1]:5000",
            "--host ::1 and --host [::1]:5000 are the same address; give it once.",
        ),
        (
            "--host unix:/a/./s --host unix:///a/s",
            "--host unix:/a/./s and --host unix:///a/s are the same address; give it"
            " once.",
        ),
        (
            "--host 127.0.0.1:80 --host 0.0.0.0 --port 80",
            "--host 0.0.0.0 includes --host 127.0.0.1:80; leave one of them out.",
        ),
        ("--socket-owner root", "--socket-owner has no effect without --host unix:"),
    ],
)
def test_hosts_that_are_none(run: Run, args: str, right: str) -> None:
    assert right in error(run(*args.split()))


@pytest.mark.usefixtures("nothing_starts")
def test_hosts_of_a_variable_that_are_none(run: Run) -> None:
    assert "'80' is a port without a host" in error(run(FLASK_RUN_HOST="::1,80"))
    assert "',' is not one address" in error(run(FLASK_PREFORK_RUN_HOST=","))


def test_any_subclass_of_werkzeugs_handler_will_do(
    run: Run, as_zygote: type[Zygote]
) -> None:
    name = f"{WSGIRequestHandler.__module__}:{WSGIRequestHandler.__qualname__}"
    info = ScriptInfo(create_app=lambda: Flask("shop"))
    result = run(f"--request-handler={name}", obj=info)
    assert result.exit_code == 0, result.output
    assert as_zygote.settings is not None
    assert as_zygote.settings.request_handler == name


def test_workers_run_workers_code() -> None:
    # The zygote gets its work from the command, as it doesn't import it.
    assert callable(main.serve)
    assert not hasattr(zygote, "worker")
