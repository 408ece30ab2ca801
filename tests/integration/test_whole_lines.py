"""Long lines and tracebacks of many workers at one moment, whatever they go to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import threading
import typing as t
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from .gate import DEADLINE
from .gate import Gate
from .server import assert_group_ends
from .server import command
from .server import environment
from .server import wait_for
from .server import without_prefixes

WORKERS = 6
REQUESTS = 60
POOL = ("--min-idle", str(WORKERS), "--max-workers", str(WORKERS))
LONG = 6_000
FORMAT = ("--access-log", "--access-log-format", "<%({a}i)s%({b}i)s>")
#: Linux's number for the size of a pipe (fcntl(2)); of one page it is always full.
F_SETPIPE_SZ = 1031


class Log:
    """What a server writes to, and a reader that takes a little at a time."""

    #: Those that a test has made.
    made: t.ClassVar[list[Log]] = []

    def __init__(self, kind: str, path: Path) -> None:
        self.made.append(self)
        self.path = path
        self._found = bytearray()
        self._reader = -1
        if kind == "file":
            self.writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            return
        if kind == "socket":
            ends = [end.detach() for end in socket.socketpair()]
        elif kind == "named pipe":
            os.mkfifo(path)
            # Without waiting for a writer.
            ends = [os.open(path, os.O_RDONLY | os.O_NONBLOCK)]
            ends.append(os.open(path, os.O_WRONLY))
            os.set_blocking(ends[0], True)
        else:
            ends = [*os.pipe()]
        self._reader, self.writer = ends
        if kind != "socket" and hasattr(fcntl, "F_SETFL"):
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.writer, F_SETPIPE_SZ, 4096)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._reader, 1000):
            self._found += data

    def close(self) -> None:
        """Nobody else writes, and the thread ends."""
        os.close(self.writer)
        if self._reader >= 0:
            self._thread.join(DEADLINE)
            os.close(self._reader)

    def text(self) -> str:
        """What was written by now."""
        data = self.path.read_bytes() if self._reader < 0 else bytes(self._found)
        return without_prefixes(data.decode())

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until so many matches are there."""

        def look() -> list[str]:
            found = re.findall(pattern, self.text(), re.MULTILINE)
            return found if len(found) >= count else []

        return wait_for(look)


@pytest.fixture(autouse=True)
def _close_logs() -> Iterator[None]:
    yield
    while Log.made:
        Log.made.pop().close()


@contextlib.contextmanager
def serving(log: Log, *args: str, out: int | None = None) -> Iterator[t.Any]:
    """A server that writes to a log: its process, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        process = subprocess.Popen(
            command("verbose", "--host", f"fd://{fd}", *POOL, *args),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if out is None else out,
            stderr=log.writer,
            pass_fds=[fd],
            start_new_session=True,
        )
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()
        assert_group_ends(process.pid)


def get(port: int, path: str, headers: dict[str, str] | None = None) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={**(headers or {})})
        response = connection.getresponse()
        response.read()
        return response.status


def get_all(port: int, path: str) -> list[int]:
    """Ask for a path with all numbers, as many at once as there are workers."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(
            pool.map(
                lambda n: get(
                    port, path.format(n), {"A": f"{n} " + "x" * LONG, "B": "y" * LONG}
                ),
                range(REQUESTS),
            )
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


ANY = sorted(map(str, range(REQUESTS)))


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
@pytest.mark.parametrize("args", [(), ("--access-logfile", "-")])
def test_access_log(tmp_path: Path, kind: str, args: tuple[str, ...]) -> None:
    log = Log(kind, tmp_path / "log")
    with serving(log, *FORMAT, *args, out=log.writer) as (process, port):
        assert get_all(port, "/") == [200] * REQUESTS
        process.send_signal(signal.SIGUSR1)
        stop(process)
    line = rf"^<(\d+) x{{{LONG}}}y{{{LONG}}}>$"
    assert sorted(log.wait_for(line, REQUESTS)) == ANY
    # And nothing is in between or left over.
    assert "xy" not in re.sub(line, "", log.text(), flags=re.MULTILINE)
    log.wait_for(r"^workers: ")


@pytest.mark.parametrize("kind", ["named pipe", "file"])
def test_access_log_file(tmp_path: Path, kind: str) -> None:
    log, file = Log("pipe", tmp_path / "x"), Log(kind, tmp_path / "log")
    with serving(log, *FORMAT, "--access-logfile", str(file.path)) as (process, port):
        assert get_all(port, "/") == [200] * REQUESTS
        stop(process)
    line = rf"^<(\d+) x{{{LONG}}}y{{{LONG}}}>$"
    assert sorted(file.wait_for(line, REQUESTS)) == ANY
    assert not re.sub(line, "", file.text(), flags=re.MULTILINE).strip()


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
@pytest.mark.parametrize("path", ["/log?n={}", "/print?n={}"])
def test_what_the_app_writes(tmp_path: Path, kind: str, path: str) -> None:
    log = Log(kind, tmp_path / "log")
    with serving(log, "--no-access-log") as (process, port):
        assert get_all(port, path) == [200] * REQUESTS
        stop(process)
    times = 1 if "log" in path else 2
    line = r"(?:^|: )<(\d+) x{12000}>$"
    assert sorted(log.wait_for(line, times * REQUESTS)) == sorted(ANY * times)
    assert "xx" not in re.sub(line, "", log.text(), flags=re.MULTILINE)


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
@pytest.mark.parametrize("path", ["/fail?n={}", "/print-exc?n={}", "/thread?n={}"])
def test_tracebacks(tmp_path: Path, kind: str, path: str) -> None:
    log = Log(kind, tmp_path / "log")
    with serving(log, "--no-access-log") as (process, port):
        assert len(set(get_all(port, path))) == 1
        stop(process)
    frames = r"^Traceback \(most recent call last\):\n(?:  .*\n)+"
    whole = frames + r"LookupError: of (\d+): x{6000}$"
    assert sorted(log.wait_for(whole, REQUESTS)) == ANY
    rest = re.sub(whole, "", log.text(), flags=re.MULTILINE)
    assert "xx" not in rest
    assert " in deep" not in rest


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_all_workers_are_shown_at_once(tmp_path: Path, kind: str) -> None:
    log = Log(kind, tmp_path / "log")
    gate = Gate()
    with (
        contextlib.closing(gate),
        serving(log, "--no-access-log") as (process, port),
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        answers = [pool.submit(get, port, gate.path) for _ in range(WORKERS)]
        held = gate.wait_for(WORKERS)
        process.send_signal(signal.SIGUSR2)
        whole = (
            r"^Worker (\d+) \(pid (\d+)\) of generation 1 serves GET /hold\?gate=\d+"
            r" for \d+\.\d s, client 127.0.0.1; its"
            r" threads:\n(Main thread [^\n]*\n(?:  [^\n]*\n)+)"
        )
        # The last line of each.
        log.wait_for(r"^  \(\d+ frames of the server cut\)$", WORKERS)
        for one in held:
            one.release()
        assert [answer.result() for answer in answers] == [200] * WORKERS
        stop(process)
    found = re.findall(whole, log.text(), re.MULTILINE)
    shown = {(int(slot), int(pid)) for slot, pid, _ in found}
    assert shown == {(one.slot, one.pid) for one in held}
    for _, _, text in found:
        lines = text.splitlines()
        assert len(lines) == 23
        # 31 of them are there.
        assert sum(line.endswith(" in deep") for line in lines) < 20
        assert "in wait_at_the_gate" in text
        assert re.fullmatch(r"  … \d+ more frames", lines[15])
        assert re.fullmatch(r"  \(\d+ frames of the server cut\)", lines[-1])
    assert " in deep" not in re.sub(whole, "", log.text(), flags=re.MULTILINE)
