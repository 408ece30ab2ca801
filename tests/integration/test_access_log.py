"""The access log as data: its formats and where its lines go, with real processes."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from .conftest import Fail
from .conftest import Run
from .conftest import Serve
from .gate import Gate
from .server import command
from .server import wait_for

COMMON = r'127\.0\.0\.1 - - \[[^]]+\] "GET / HTTP/1\.1" 200 \d+'


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("common", rf"^{COMMON}$"),
        ("combined", rf'^{COMMON} "-" "-"$'),
        (
            "%(slot)s/%(generation)s %(m)s %({content-type}o)s %({x-request-id}i)s",
            r"^0/1 GET application/json [0-9a-f]{21}-000001$",
        ),
    ],
)
def test_formats(serve: Serve, text: str, pattern: str) -> None:
    server = serve("held", "--access-log", "--access-log-format", text)
    server.get()
    server.wait_for_log(pattern)


def test_json(serve: Serve) -> None:
    server = serve("held", "--access-log", "--access-log-format", "json")
    answer = server.get()
    found = json.loads(server.wait_for_log(r'^\{"time".*$')[0])
    assert found["status"] == 200
    assert found["sent"] == len(answer.body)
    assert found["pid"] == answer.json["pid"]
    assert 0 < found["seconds"] < 20


def test_ids_of_all_workers_differ(serve: Serve, gate: Gate) -> None:
    text = "%(slot)s %({x-request-id}i)s"
    server = serve("held", "--access-log", "--access-log-format", text)
    for _ in range(5):
        requests = [server.send(gate.path) for _ in range(4)]
        held = gate.wait_for(4)
        assert len({one.pid for one in held}) == 4
        for one in held:
            one.release()
        for request in requests:
            request.answer()
    found = wait_for(
        lambda: (
            (
                all_ := re.findall(
                    r"^(\d+) ([0-9a-f]{21}-[0-9a-f]+)$", server.log(), re.M
                )
            )[19:]
            and all_
        )
    )
    assert len({one for _, one in found}) == 20
    assert len({slot for slot, _ in found}) >= 4


def test_file(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    server = serve("held", "--access-log", "--access-logfile", str(path))
    server.get()
    wait_for(lambda: path.read_text().count("\n") == 1)
    # It may be moved away at any time, and a reload goes on with it.
    path.rename(tmp_path / "old.log")
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves\.$")
    server.get()
    wait_for(lambda: path.exists() and path.read_text().count("\n") == 1)
    for text in (path.read_text(), (tmp_path / "old.log").read_text()):
        assert re.fullmatch(rf'{COMMON} "-" "-"\n', text)
    assert "GET /" not in server.log()


def test_standard_output(run: Run, tmp_path: Path) -> None:
    line = command("held", "--port", "0", "--access-logfile", "-")
    out = tmp_path / "out"
    script = ["sh", "-c", f'exec "$@" >{out}', "sh", *line]
    server = run(script)
    server.get()
    wait_for(lambda: re.search(rf"(?m)^{COMMON} ", out.read_text()))


def test_the_apps_logging_takes_it(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "mine.log"
    server = serve(
        "access_logged",
        *("--access-log", "--access-log-format", "%(m)s %(U)s %(s)s %(B)s"),
        env={"ACCESS_LOG": str(path)},
    )
    server.get()
    wait_for(lambda: path.read_text() == "access: GET / 200 5\n")
    assert "GET /" not in server.log()


def test_logging_that_was_configured_does_not_silence_it(serve: Serve) -> None:
    server = serve("logs", "--access-log", "--access-log-format", "common")
    server.get()
    # Its body is empty.
    server.wait_for_log(rf"^{COMMON[:-3]}-$")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (
            ("--access-log-format", "%(statu)s"),
            "--access-log-format: there is no %(statu)s; did you mean '%(s)s'?",
        ),
        (
            ("--access-logfile", "/nowhere/access.log"),
            "Can't write the access log to /nowhere/access.log: No such file or"
            " directory.",
        ),
        (
            (
                *("--access-log-format", "json"),
                *("--request-handler", "werkzeug.serving:WSGIRequestHandler"),
            ),
            "The request handler 'werkzeug.serving:WSGIRequestHandler' has its own way"
            " of logging; derive it from"
            " flask_prefork.PreforkRequestHandler to use"
            " --access-log-format and --access-logfile.",
        ),
        (
            ("--proxy-protocol",),
            "--proxy-protocol needs a list of the proxies; give it by"
            " --proxy-allow-from, for example 10.0.0.0/8.",
        ),
    ],
)
def test_errors(fail: Fail, args: tuple[str, ...], error: str) -> None:
    finished = fail("held", *args)
    assert finished.status == 2
    assert finished.errors == [error]
