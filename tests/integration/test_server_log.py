"""The server's log: its lines, levels and files, with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from manual.pages import PAGES

from .conftest import Fail
from .conftest import Run
from .conftest import Serve
from .gate import Gate
from .server import assert_group_ends
from .server import command
from .server import environment
from .server import PREFIX
from .server import Server
from .server import wait_for

(_LINE,) = re.findall(r"^ +(\^\(\?:<.*\$)$", PAGES["docs/log.rst"], re.MULTILINE)
#: As the manual has it.
LINE = re.compile(_LINE)
LIFE = ("--no-access-log", "--slow-log", "0.1", "--log-level", "debug")


def test_the_tests_go_by_the_manual() -> None:
    assert _LINE == PREFIX + "(?P<message>.*)$"


def records(text: str) -> list[re.Match[str]]:
    """The first lines of all records, and a check that all others continue one."""
    found = []
    for line in text.splitlines():
        match = LINE.match(line)
        if match is None:
            assert found, line
            assert not line.startswith("["), line
        else:
            found.append(match)
    return found


def live(server: Server, gate: Gate) -> None:
    """Start, reload, the death of a worker, a slow request, a drain."""
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 1 has ended\.$")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.wait_for_log(rf"\(pid {held.pid}\).* GET /hold")
    held.release()
    request.answer()
    request = server.send(gate.path)
    os.kill(gate.wait_for_one().pid, signal.SIGKILL)
    server.wait_for_log("died: SIGKILL")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGTERM)
    server.wait_for_log(
        "^Draining for 30 s at most; requests being served: 1, connections waiting: 0"
    )
    held.release()
    request.answer()
    assert server.wait() == 0


def test_every_line_of_a_whole_life(serve: Serve, gate: Gate) -> None:
    server = serve("held", *LIFE)
    live(server, gate)
    found = records(server.log_path.read_text())
    assert all(one["time"] for one in found)
    processes = {one["process"] for one in found}
    assert {"dispatcher", "zygote 1", "zygote 2", "worker 0", "worker 1"} <= processes
    pids = {int(one["pid"]) for one in found if one["process"] == "dispatcher"}
    assert pids == {server.pid}
    text = "\n".join(one["message"] for one in found)
    for pattern in (
        r"^Serving Flask app .*flask_prefork \S+",
        r"^Running on http://127\.0\.0\.1:\d+$",
        r"^SIGHUP: the app is reloaded\.$",
        r"^Generation 2 serves\.$",
        r"^Generation 2 took over \d+\.\d s after its beginning; generation 1 retires",
        r"^SIGTERM: the server drains",
        r"^Stopped after .*, exit status 0; the reason: SIGTERM\. The drain took",
    ):
        assert re.search(pattern, text, re.MULTILINE), pattern
    levels = {one["level"] for one in found}
    assert {"DEBUG", "INFO", "WARNING", "ERROR"} <= levels


@contextlib.contextmanager
def in_the_journal(path: Path, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server whose standard error is a stream of the journal, as far as it knows."""
    with path.open("ab") as file:
        found = os.fstat(file.fileno())
        process = subprocess.Popen(
            command("held", "--port", "0", *args),
            env=environment({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}),
            stdin=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert_group_ends(process.pid)


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    path = tmp_path / "log"

    def has(text: str) -> bool:
        return text in path.read_text()

    with in_the_journal(path, *LIFE, "--admin", "0") as process:
        wait_for(lambda: has("Press CTRL+C to quit\n"))
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: has("Generation 1 has ended"))
        # The zygote shows nothing, but each of its lines would have a priority.
        process.send_signal(signal.SIGUSR2)
        wait_for(lambda: has("SIGUSR2"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    found = [LINE.match(line) for line in path.read_text().splitlines()]
    assert all(found)
    for one in found:
        assert one is not None
        assert one["time"] is None
        assert one["priority"] == {"DEBUG": "7", "INFO": "6"}[one["level"]]
    assert {"zygote 2", "observer"} <= {one["process"] for one in found if one}


def start(run: Run, line: list[str], env: dict[str, str] | None = None) -> Server:
    """Start a server whose address isn't in what it writes to standard error."""
    server = run(line, env=env, begun=None)
    server._url = server.status().addresses[0]
    return server


def test_levels(serve: Serve) -> None:
    path = Path(serve("held", "--log-level", "INFO").log_path)
    assert "[DEBUG]" not in path.read_text()


def test_a_high_level(run: Run, tmp_path: Path) -> None:
    line = command("held", "--port", "0", "--log-level", "error")
    server = run(line, begun=None)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert server.log() == ""


def test_a_file(run: Run, tmp_path: Path) -> None:
    path, access = tmp_path / "error.log", tmp_path / "access.log"
    line = command("held", "--port", "0", "--error-logfile", str(path))
    server = start(run, [*line, "--access-logfile", str(access)])
    assert server.log() == ""
    server.get()
    wait_for(lambda: access.read_text().count("\n") == 1)
    olds = []
    for one in (path, access):
        olds.append(one.with_suffix(".old"))
        one.rename(olds[-1])
    size = olds[0].stat().st_size
    server.signal(signal.SIGUSR1)
    wait_for(lambda: path.exists() and "workers: " in path.read_text())
    # Also in those who have nothing to write, and hold no disk space.
    wait_for(access.exists)
    wait_for(lambda: not holders(server, [str(old) for old in olds]))
    server.get()
    wait_for(lambda: access.read_text().count("\n") == 1)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert olds[0].stat().st_size == size
    assert olds[1].read_text().count("\n") == 1
    text = olds[0].read_text() + path.read_text()
    assert all(LINE.match(one) for one in text.splitlines())
    assert "Stopped after" in path.read_text()


def holders(server: Server, paths: list[str]) -> list[int]:
    """The processes of a server that have one of these files open."""
    found = []
    for process in server.processes():
        folder = Path(f"/proc/{process.pid}/fd")
        with contextlib.suppress(OSError):
            for fd in folder.iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(fd) in paths:
                        found.append(process.pid)
    return found


@pytest.mark.parametrize(
    ("args", "text", "error"),
    [
        (
            ("--error-logfile", "/nowhere/x.log"),
            None,
            "--error-logfile: can't write to /nowhere/x.log: No such file or"
            " directory.",
        ),
        (
            ("--log-config", "logging.json"),
            None,
            "--log-config: can't read logging.json: No such file or directory.",
        ),
        (
            ("--log-config", "logging.json"),
            "{",
            "--log-config: logging.json is not JSON: ",
        ),
        (
            ("--log-config", "logging.json"),
            '{"version": 1, "root": {"handlers": ["x"]}}',
            "--log-config: logging.json is no configuration for"
            " logging.config.dictConfig: Unable to configure root logger: ",
        ),
        (
            ("--log-config", "logging.json", "--log-level", "debug"),
            '{"version": 1}',
            "--log-level has no effect with --log-config, which says what is logged and"
            " where; give only one of them.",
        ),
        (
            ("--log-level", "loud"),
            None,
            "Invalid value for '--log-level': 'loud' is not one of 'critical', 'error',"
            " 'warning', 'info', 'debug'.",
        ),
    ],
)
def test_errors(
    fail: Fail, tmp_path: Path, args: tuple[str, ...], text: str | None, error: str
) -> None:
    if text is not None:
        (tmp_path / "logging.json").write_text(text)
    finished = fail("held", *args)
    assert finished.status == 2
    (told,) = finished.errors
    assert told.startswith(error)
    assert "Serving" not in finished.output


def configuration(folder: Path, **loggers: t.Any) -> str:
    """A file that lets the server's log go to a file, with more loggers."""
    path = folder / "logging.json"
    config = {
        "version": 1,
        "formatters": {"mine": {"format": "%(name)s|%(processName)s|%(message)s"}},
        "handlers": {
            "server": {
                "class": "logging.FileHandler",
                "filename": str(folder / "server.log"),
                "formatter": "mine",
            },
            "access": {
                "class": "logging.FileHandler",
                "filename": str(folder / "access.log"),
                "formatter": "mine",
            },
        },
        "loggers": {
            "flask_prefork": {
                "handlers": ["server"],
                "level": "DEBUG",
                "propagate": False,
            },
            **loggers,
        },
    }
    path.write_text(json.dumps(config))
    return str(path)


def test_a_configuration_holds_in_all_processes(run: Run, tmp_path: Path) -> None:
    config = configuration(
        tmp_path,
        **{"flask_prefork.access": {"handlers": ["access"], "propagate": False}},
    )
    line = command("held", "--port", "0", "--log-config", config)
    server = start(run, line)
    server.get()
    path, access = tmp_path / "server.log", tmp_path / "access.log"
    wait_for(lambda: access.read_text().count("\n") == 1)
    assert re.fullmatch(
        r'flask_prefork\.access\|worker 0\|127\.0\.0\.1 - - .* "GET / HTTP/1\.1" 200'
        r' \d+ "-" "-"\n',
        access.read_text(),
    )
    # A file that nobody looks after is opened again too.
    access.unlink()
    server.signal(signal.SIGUSR1)
    wait_for(access.exists)
    server.get()
    wait_for(lambda: access.read_text().count("\n") == 1)
    server.reload()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert server.log() == ""
    heads = {tuple(one.split("|")[:2]) for one in path.read_text().splitlines()}
    assert {
        ("flask_prefork.dispatcher", "dispatcher"),
        ("flask_prefork.zygote", "zygote 1"),
        ("flask_prefork.zygote", "zygote 2"),
        ("flask_prefork.worker", "worker 0"),
        ("flask_prefork.observer", "observer"),
    } <= heads
    # The last line is there though a thread has written it.
    assert (
        path.read_text()
        .splitlines()[-1]
        .startswith("flask_prefork.dispatcher|dispatcher|Stopped after ")
    )


def test_a_bad_file_at_a_reload_keeps_the_old_generation(
    run: Run, tmp_path: Path
) -> None:
    config = configuration(tmp_path)
    line = command("held", "--port", "0", "--log-config", config, "--no-access-log")
    server = start(run, line)
    (tmp_path / "logging.json").write_text("{")
    server.signal(signal.SIGHUP)
    path = tmp_path / "server.log"
    kept = "Generation 2 could not be loaded; generation 1 serves on."
    wait_for(lambda: kept in path.read_text())
    server.wait_for_log(r"^--log-config: .*logging\.json is not JSON: ")
    assert server.get().json["generation"] == 1


def test_the_dispatcher_waits_for_no_handler(run: Run, tmp_path: Path) -> None:
    """A handler that hangs in the dispatcher's thread."""
    (tmp_path / "hangs.py").write_text(
        "import logging, threading\n"
        "class Handler(logging.Handler):\n"
        "    def emit(self, record):\n"
        "        if record.processName == 'dispatcher' and 'quit' in record.msg:\n"
        "            threading.Event().wait()\n"
    )
    (tmp_path / "logging.json").write_text(
        json.dumps(
            {
                "version": 1,
                "handlers": {"it": {"class": "hangs.Handler"}},
                "root": {"level": "DEBUG", "handlers": ["it"]},
            }
        )
    )
    line = command("held", "--port", "0", "--log-config", "logging.json")
    env = {"PYTHONPATH": str(tmp_path)}
    server = start(run, [*line, "--no-access-log"], env)
    server.reload()
    assert server.get().json["generation"] == 2
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_syslog(run: Run, tmp_path: Path) -> None:
    (tmp_path / "logging.json").write_text(
        json.dumps(
            {
                "version": 1,
                "formatters": {"mine": {"format": "%(processName)s: %(message)s"}},
                "handlers": {
                    "it": {
                        "class": "logging.handlers.SysLogHandler",
                        "address": str(tmp_path / "syslog"),
                        "formatter": "mine",
                    }
                },
                "root": {"level": "DEBUG", "handlers": ["it"]},
            }
        )
    )
    said: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "syslog"))

        def read() -> None:
            while data := log.recv(65536):
                said.append(data)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            line = command("held", "--port", "0", "--log-config", "logging.json")
            server = start(run, [*line, "--no-access-log"])
            for process in ("zygote 1", "worker 0", "worker 1", "dispatcher"):
                begin = f">{process}: ".encode()
                wait_for(lambda begin=begin: any(begin in one for one in said))
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            assert b"Stopped after" in said[-1]
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", str(tmp_path / "syslog"))
            reader.join()


@pytest.mark.parametrize("handler", [(), ("werkzeug.serving:WSGIRequestHandler",)])
@pytest.mark.parametrize("kind", ["file", "terminal", "no colour"])
def test_colours_are_for_terminals(
    tmp_path: Path, kind: str, handler: tuple[str, ...]
) -> None:
    options = [word for one in handler for word in ("--request-handler", one)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        ours, theirs = pty.openpty()
        output: t.Any = theirs
        if kind == "file":
            output = os.open(tmp_path / "log", os.O_CREAT | os.O_APPEND | os.O_RDWR)
        process = subprocess.Popen(
            command("held", "--host", f"fd://{fd}", *options),
            env=environment({"NO_COLOR": "1"} if kind == "no colour" else {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[fd],
            start_new_session=True,
        )
    os.close(theirs)
    shown = bytearray()

    def look() -> bool:
        if kind == "file":
            shown[:] = (tmp_path / "log").read_bytes()
        else:
            shown.extend(os.read(ours, 65536))
        return b'" 404 -' in shown

    try:
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            client.sendall(b"GET /no HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while client.recv(65536):
                pass
        wait_for(look)
    finally:
        process.kill()
        process.wait()
        assert_group_ends(process.pid)
        os.close(ours)
        if kind == "file":
            os.close(output)
    assert (b"\x1b" in shown) == (kind == "terminal")
