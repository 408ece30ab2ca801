"""Other servers' options get the right answer."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from flask.cli import cli as flask_command
from flask.cli import run_command

from flask_prefork.cli import prefork_run
from flask_prefork.command import foreign
from flask_prefork.command.foreign import answer
from flask_prefork.command.foreign import FOREIGN

#: What the options of ours, and of the ``flask`` command, are called.
KNOWN = {
    name
    for command in (prefork_run, flask_command, run_command)
    for parameter in command.params
    for name in (*parameter.opts, *parameter.secondary_opts)
} | {"--help"}
OURS = {
    name
    for parameter in prefork_run.params
    for name in (*parameter.opts, *parameter.secondary_opts)
}
#: Those that somebody is sure to try, and what the answer names.
EXPECTED = {
    "--bind": "--host",
    "-b": "--host",
    "--workers": "--max-workers",
    "-w": "--min-idle",
    "--threads": "one request at a time",
    "-k": "one request at a time",
    "--worker-class": "--max-workers",
    "--preload": "always loaded once",
    "--certfile": "--cert",
    "--keyfile": "--key",
    "--http-socket": "--host",
    "--socket": "HTTP",
    "--processes": "--max-workers",
    "--harakiri": "--timeout",
    "--master": "always",
    "--cheaper": "--min-idle",
    "--cheaper-algo": "--min-idle",
    "--daemon": "foreground",
    "--chdir": "WorkingDirectory",
    "--env": "environment",
    "--config": "no configuration file",
    "-c": "no configuration file",
    "--reload-extra-file": "--extra-files",
    "--statsd-host": "--admin",
    "--uid": "--user",
    "--gid": "--group",
    "--umask": "--socket-mode",
    "--chown-socket": "--socket-owner and --socket-group",
    "--log-syslog": "--error-logfile",
    "--syslog": "SysLogHandler",
    "--pidfile": "--pid",
    "--app": "before the command",
    "--with-threads": "--max-workers",
    "--static-map": "nginx",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group of commands sets it; so it is taken back."""
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    monkeypatch.setenv("FLASK_SKIP_DOTENV", "1")


def example(name: str) -> str:
    """An option that an entry is about."""
    return name.replace("*", "rest")


@pytest.mark.parametrize("name", FOREIGN)
def test_the_command_answers(name: str) -> None:
    result = CliRunner().invoke(flask_command, ["prefork-run", example(name), "4"])
    assert result.exit_code == 2
    *_, line = result.output.splitlines()
    assert line == f"Error: There is no {example(name)} here. {FOREIGN[name]}"


@pytest.mark.parametrize("name", FOREIGN)
def test_an_answer_names_what_exists(name: str) -> None:
    told = re.findall(r"(?<![\w-])--[a-z][a-z-]*", FOREIGN[name])
    assert set(told) <= KNOWN
    assert FOREIGN[name].endswith(".")


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_answered_is_no_option_of_ours(name: str) -> None:
    assert name not in OURS, f"{name} is an option now: take it out of the table"


def test_no_name_is_there_twice() -> None:
    names = [name for names, _ in foreign._ROWS for name in names.split()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("name", "words"), EXPECTED.items())
def test_what_many_will_try(name: str, words: str) -> None:
    found = answer(name)
    assert found is not None and words in found


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["-w4"], "-w"),
        (["-w", "4"], "-w"),
        (["--bind=0.0.0.0:80"], "--bind"),
        (["-k", "gevent"], "-k"),
        (["--min-idle", "3", "--threads", "4"], "--threads"),
    ],
)
def test_however_it_is_written(args: list[str], name: str) -> None:
    result = CliRunner().invoke(flask_command, ["prefork-run", *args])
    assert result.exit_code == 2
    assert f"Error: There is no {name} here." in result.output


def test_what_nobody_has() -> None:
    assert answer("--min-spare") is None
    result = CliRunner().invoke(flask_command, ["prefork-run", "--min-spare", "3"])
    assert result.exit_code == 2
    assert "No such option" in result.output
