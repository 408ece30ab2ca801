"""The command ``prefork-status``, against a server that says what a test wants."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import typing as t
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from click.testing import Result

from flask_prefork.dispatcher.service import ADMIN_SUFFIX
from flask_prefork.observe import client
from flask_prefork.observe import discovery
from flask_prefork.observe.client import AskError
from flask_prefork.observe.client import NobodyThere
from flask_prefork.observe.command import prefork_status
from flask_prefork.observe.json import render
from flask_prefork.observe.snapshot import Snapshot
from flask_prefork.observe.text import render as render_text
from flask_prefork.observe.watch import watch
from flask_prefork.settings.addresses import parse

from .fake_observer import Admin
from .fake_observer import serving
from .snapshots import SAMPLE

HEAD = "flask_prefork 0.1.0 serving, ready, pid 3003"
TOKEN = "open sesame"


@pytest.fixture
def admin() -> Iterator[Admin]:
    with serving(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def nobody() -> str:
    """An address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return "127.0.0.1:{1}".format(*sock.getsockname())


def run(*args: str, **variables: str) -> Result:
    """Run the command.

    :param variables: Environment variables, without their prefix.
    """
    ours = ("ADMIN", "PID", "ADMIN_TOKEN")
    env = {f"FLASK_PREFORK_RUN_{name}": variables.get(name) for name in ours}
    env["COLUMNS"] = None  # what this process has is no matter
    return CliRunner().invoke(prefork_status, args, env=env)


def error(result: Result, status: int = 1) -> str:
    """The one error that the command told."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert result.stderr.count("Error: ") == 1
    return result.stderr.partition("Error: ")[2].strip()


# Finding the server


@pytest.mark.parametrize("form", ["{}", "http://{}", "http://{}/"])
def test_by_address(admin: Admin, form: str) -> None:
    result = run("--admin", form.format(admin.url))
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{render_text(SAMPLE, 400)}\n"
    assert admin.asked == [("/status.json", None)]


def test_by_port(admin: Admin) -> None:
    result = run("--admin", admin.url.partition(":")[2])
    assert result.stdout.startswith(HEAD)


def test_by_all_addresses(admin: Admin) -> None:
    """What is bound to all of them is reached by loopback."""
    result = run("--admin", f"0.0.0.0:{admin.url.partition(':')[2]}")
    assert result.stdout.startswith(HEAD)


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
def test_by_unix_socket(tmp_path: Path, form: str) -> None:
    path = f"{tmp_path}/admin.sock"
    with serving(path):
        assert run("--admin", form.format(path)).stdout.startswith(HEAD)


def test_by_environment(admin: Admin) -> None:
    assert run(ADMIN=admin.url).stdout.startswith(HEAD)


class PidFile(t.NamedTuple):
    path: Path
    beside: Path

    def write(self, pid: int, address: str | None) -> None:
        self.path.write_text(f"{pid}\n")
        if address is not None:
            self.beside.write_text(f"{address}\n")


@pytest.fixture
def pid_file(tmp_path: Path) -> PidFile:
    path = tmp_path / "web.pid"
    return PidFile(path, Path(f"{path}{discovery.SUFFIX}"))


@pytest.fixture(scope="module")
def dead() -> int:
    """The pid of a process that there is not any more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_server_and_the_command_agree_on_the_name() -> None:
    assert discovery.SUFFIX == ADMIN_SUFFIX


def test_by_pid_file(admin: Admin, pid_file: PidFile) -> None:
    pid_file.write(SAMPLE.pid, admin.url)
    assert run("--pid", str(pid_file.path)).stdout.startswith(HEAD)
    assert run(PID=str(pid_file.path)).stdout.startswith(HEAD)


def test_the_command_line_goes_before_the_environment(
    admin: Admin, pid_file: PidFile, nobody: str
) -> None:
    pid_file.write(SAMPLE.pid, admin.url)
    path = str(pid_file.path)
    assert run("--pid", path, ADMIN=nobody).stdout.startswith(HEAD)
    assert run("--admin", admin.url, PID="/nowhere").stdout.startswith(HEAD)
    assert run(PID=path, ADMIN=admin.url).stdout.startswith(HEAD)


# Uses that can't be


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "Name the server by its --admin address or its --pid file"),
        (["--admin", "1", "--pid", "x"], "both name the server; use only one"),
        (["--admin", "shop"], "'shop' is not an address; give PORT, HOST:PORT"),
        (["--admin", ""], "'' is not an address; give PORT, HOST:PORT"),
        (["--admin", "0"], "0 stands for any free port; use the one that the"),
        (["--admin", "70000"], "70000 is not a port"),
        (["--admin", "https://shop:1"], "is not an http:// or unix: URL"),
        (["--admin", "http://"], "is not an http:// or unix: URL"),
        (["--admin", "http://shop:1/x"], "has more than a host and a port"),
        (["--admin", "http://me:secret@shop:1"], "is not an address; give PORT"),
        (["--admin", "http://[::1"], "Invalid value for '--admin'"),
        (["--admin", "unix:"], "has no path"),
        (["--admin", "1", "--json", "--watch"], "--json prints the status once"),
        (["--admin", "1", "--interval", "2"], "has no effect without --watch"),
        (["--admin", "1", "--watch", "--interval", "0"], "not in the range"),
        (
            ["--admin", "1", "--watch", "--interval", "nan"],
            "must be a number of seconds, or",
        ),
        (["--admin", "1", "--admin-token", "a\nb"], "printable ASCII"),
    ],
)
def test_wrong_use(args: list[str], told: str) -> None:
    assert told in error(run(*args), status=2)


# Servers without a status


@pytest.mark.parametrize("args", [[], ["--json"], ["--watch"]])
def test_nobody_is_there(nobody: str, args: list[str]) -> None:
    assert error(run("--admin", nobody, *args)) == (
        f"Nothing listens on {nobody}: the server isn't running, or was started with"
        " another --admin."
    )


def test_nobody_is_there_by_unix_socket(tmp_path: Path) -> None:
    path = f"{tmp_path}/admin.sock"
    assert error(run("--admin", f"unix:{path}")).startswith(
        f"Nothing listens on unix:{path}: "
    )
    # A socket that a killed server has left.
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    assert error(run("--admin", f"unix:{path}")).startswith("Nothing listens")


def test_a_file_that_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.touch()
    assert error(run("--admin", f"unix:{path}")).startswith("Nothing listens")


def test_an_impossible_socket() -> None:
    told = error(run("--admin", f"unix:/{'a' * 300}"))
    assert told.startswith("Can't connect to unix:/aaa")
    assert told.endswith(": AF_UNIX path too long.")


def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TIMEOUT", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        at = "127.0.0.1:{1}".format(*sock.getsockname())
        assert error(run("--admin", at)) == f"No response from {at} within 0.01 s."


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, b"", "status 404 for /status.json"),
        (302, b"", "status 302 for /status.json"),
        (500, b"", "status 500 for /status.json"),
        (200, b"<!doctype html>", "("),
        (200, b"{}", "the status is incomplete"),
        (200, b'{"pid": "1"}', "pid is wrong"),
        (200, b"\xff", "("),
    ],
)
def test_not_our_server(admin: Admin, status: int, body: bytes, told: str) -> None:
    admin.status, admin.body = status, body
    for args in ([], ["--json"]):
        said = error(run("--admin", admin.url, *args))
        assert said.startswith(f"The response from {admin.url} isn't flask_prefork's")
        assert told in said
        assert said.endswith("use the address of the server's --admin, not the app's.")


@pytest.mark.parametrize("raw", [b"220 mail.example ESMTP\r\n", b"\0" * 9, b""])
def test_no_http(admin: Admin, raw: bytes) -> None:
    admin.raw = raw
    error(run("--admin", admin.url))


def test_a_token_is_wanted(admin: Admin) -> None:
    admin.status = 401
    assert error(run("--admin", admin.url)) == (
        f"The server at {admin.url} requires a token; set --admin-token or"
        " FLASK_PREFORK_RUN_ADMIN_TOKEN."
    )
    assert error(run("--admin", admin.url, "--admin-token", TOKEN)) == (
        f"The server at {admin.url} rejects this --admin-token."
    )


def test_the_token_is_given(admin: Admin) -> None:
    assert run("--admin", admin.url, "--admin-token", TOKEN).exit_code == 0
    assert run(ADMIN=admin.url, ADMIN_TOKEN=TOKEN).exit_code == 0
    assert admin.asked == [("/status.json", f"Bearer {TOKEN}")] * 2


# Pid files that lead nowhere


def test_no_pid_file(pid_file: PidFile) -> None:
    assert error(run("--pid", str(pid_file.path))) == (
        f"There is no pid file {pid_file.path}: the server isn't running, or writes"
        " another one."
    )


@pytest.mark.parametrize("text", ["", "\n", "shop\n", "-1\n", "0\n", "\xff", "1 2"])
def test_no_number(pid_file: PidFile, text: str) -> None:
    pid_file.path.write_text(text, "latin-1")
    told = f"{pid_file.path} is not a pid file: it has no number in it."
    assert error(run("--pid", str(pid_file.path))) == told


def test_a_directory(tmp_path: Path) -> None:
    told = f"Can't read {tmp_path}: Is a directory."
    assert error(run("--pid", str(tmp_path))) == told


def test_a_server_without_admin(pid_file: PidFile) -> None:
    pid_file.write(os.getpid(), None)
    assert error(run("--pid", str(pid_file.path))) == (
        f"The server {os.getpid()} was started without --admin, so it serves no status."
    )


@pytest.mark.parametrize("has_address", [True, False])
def test_a_stale_pid_file(
    pid_file: PidFile, nobody: str, dead: int, has_address: bool
) -> None:
    pid_file.write(dead, nobody if has_address else None)
    told = f"The pid file {pid_file.path} is stale: there is no process {dead}."
    assert error(run("--pid", str(pid_file.path))) == told


def test_a_stale_pid_file_whose_number_lives_again(
    pid_file: PidFile, nobody: str
) -> None:
    pid_file.write(os.getpid(), nobody)
    assert error(run("--pid", str(pid_file.path))).startswith("Nothing listens on")


def test_a_pid_file_that_leads_to_another_server(
    admin: Admin, pid_file: PidFile
) -> None:
    pid_file.write(1, admin.url)
    assert error(run("--pid", str(pid_file.path))) == (
        f"The pid file {pid_file.path} is stale: it has 1, but the pid of the"
        f" server at {admin.url} is 3003."
    )


def test_an_address_file_with_something_else(pid_file: PidFile) -> None:
    pid_file.write(os.getpid(), "shop")
    told = error(run("--pid", str(pid_file.path)))
    assert told.startswith(f"{pid_file.beside} is invalid: 'shop' is not an address")


# What is shown


def test_json_is_what_the_server_said(admin: Admin) -> None:
    # Of a later version.
    admin.body = json.dumps({"hotness": 11, **json.loads(render(SAMPLE))}).encode()
    result = run("--admin", admin.url, "--json")
    assert result.exit_code == 0
    assert result.stdout_bytes == admin.body + b"\n"


def test_width_is_that_of_the_environment(admin: Admin) -> None:
    env = {"FLASK_PREFORK_RUN_ADMIN": admin.url, "COLUMNS": "60"}
    result = CliRunner().invoke(prefork_status, env=env)
    assert result.stdout == f"{render_text(SAMPLE, 60)}\n"


# Look after look


class Looks:
    """Is asked for look after look, by a loop that doesn't wait.

    :param looks: What it answers with, or raises.
    """

    def __init__(self, *looks: Snapshot | AskError) -> None:
        self._looks = iter(looks)
        self.slept: list[float] = []

    def __call__(self) -> Snapshot:
        look = next(self._looks)
        if isinstance(look, AskError):
            raise look
        return look

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_watch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    later = replace(SAMPLE, uptime=8000.0)
    looks = Looks(SAMPLE, later, AskError("Too late."), later, NobodyThere("Gone."))
    with pytest.raises(AskError, match=r"^The server has ended\.$"):
        watch(looks, 2.5, looks.sleep)
    assert looks.slept == [2.5] * 4
    first, second = render_text(SAMPLE, 400), render_text(later, 400)
    assert capsys.readouterr().out == (
        f"{first}\n\n{second}\n\nToo late.\n\n{second}\n\n{second}\n\n"
    )


def test_watch_of_a_server_that_can_not_be_asked() -> None:
    looks = Looks(NobodyThere("Gone."))
    with pytest.raises(NobodyThere, match=r"^Gone\.$"):
        watch(looks, 1.0, looks.sleep)


def test_watch_ends_at_ctrl_c(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    from flask_prefork.observe import watch as module

    def interrupted(ask: t.Any, interval: float) -> None:
        assert interval == 0.5
        ask()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "watch", interrupted)
    result = run("--admin", admin.url, "--watch", "--interval", "500ms")
    assert result.exit_code == 0
    assert result.output == ""


# What it costs


def test_other_commands_pay_next_to_nothing() -> None:
    """The module is imported by every ``flask`` command."""
    code = (
        "import flask.cli, sys; before = set(sys.modules);"
        "import flask_prefork.observe.command; print(*set(sys.modules) - before)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    base = subprocess.run(
        [sys.executable, "-c", code.replace(".observe.command", "")],
        check=True,
        capture_output=True,
        text=True,
    )
    more = set(found.stdout.split()) - set(base.stdout.split())
    assert more == {"flask_prefork.observe", "flask_prefork.observe.command"}


def test_address_of_a_name() -> None:
    server = discovery.by_address("http://shop.internal")
    assert server.address == parse("shop.internal:80")
