"""The real command in real processes: start it, talk to it, watch it, end it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from http.client import HTTPMessage
from http.client import HTTPResponse
from pathlib import Path

import psutil
from xprocess import XProcess

from flask_prefork import testing
from flask_prefork.testing import PreforkStarter
from flask_prefork.testing import serving
from flask_prefork.testing.starter import STEP

from .gate import DEADLINE

APPS = Path(__file__).parent.parent / "apps"
T = t.TypeVar("T")
#: From here on it can be talked to.
BANNER = r"Running on (\S+)\n"
#: What each record of the server's log begins with, as the manual has it.
PREFIX = (
    r"^(?:<(?P<priority>\d)>|\[(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [-+]\d{4})\] )"
    r"\[(?P<pid>\d+)\] \[(?P<level>[A-Z]+)\] \[(?P<process>[a-z]+(?: \d+)?)\] "
)
_PREFIX = re.compile(PREFIX, re.MULTILINE)


def without_prefixes(text: str) -> str:
    """A log's messages, without time, level and process."""
    return _PREFIX.sub("", text)


def command(app: str, *args: str, subcommand: str = "prefork-run") -> list[str]:
    """The command line.

    :param app: A module of :data:`APPS`, or whatever else ``--app`` takes.
    """
    module = APPS / f"{app}.py"
    path = str(module) if module.exists() else app
    return [sys.executable, "-m", "flask", "--app", path, subcommand, *args]


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what the command would listen to."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FLASK_")}
    env.pop("WEB_CONCURRENCY", None)
    return {**env, **(extra or {})}


def wait_for(condition: Callable[[], T | None]) -> T:
    """Look until a condition holds.

    :return: The condition's first true result.
    """
    end = time.monotonic() + DEADLINE
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return result


def group(pgid: int) -> list[psutil.Process]:
    """The processes of a process group that somebody here answers for.

    A zombie whose parent has died is for init to reap.
    """
    members = []
    # Not process_iter(), which reads several files of every process.
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if os.getpgid(pid) == pgid:
                members.append(psutil.Process(pid))
    parents = {os.getpid(), *(process.pid for process in members)}
    alive = []
    for process in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            zombie = process.status() == psutil.STATUS_ZOMBIE
            if not zombie or process.ppid() in parents:
                alive.append(process)
    return alive


def assert_group_ends(pgid: int) -> None:
    """Check that a process group has no members any more, or soon won't."""
    try:
        wait_for(lambda: not group(pgid))
    finally:
        for process in group(pgid):
            print("left behind:", process)
            process.kill()


class Answer(t.NamedTuple):
    """A response, read to the end of the connection."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def json(self) -> t.Any:
        return json.loads(self.body)


class _Read:
    """Stands in for a socket of which all was read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


class Request:
    """A request that was sent and may be answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def read(self) -> bytes:
        """Wait for the server's close.

        :raises ConnectionError: If it ends without an answer.
        """
        data = b"".join(iter(lambda: self.sock.recv(65536), b""))
        self.sock.close()
        if not data:
            raise ConnectionAbortedError("closed without an answer")
        return data

    def answer(self) -> Answer:
        """Wait for the response and for the server's close."""
        with HTTPResponse(_Read(self.read())) as response:  # type: ignore[arg-type]
            response.begin()
            return Answer(response.status, response.headers, response.read())


class State(t.NamedTuple):
    """The line that USR1 asks for.

    :param letters: A letter for each slot.
    :param rest: Other generations.
    :param waiting: Connections in the accept queue.
    """

    letters: str
    rest: str
    waiting: int


class LogStarter(PreforkStarter):
    """Starts a whole command line, and waits for a line of its log.

    Its status would tell as well, but takes another process, which most tests have
    no use for.
    """

    @property
    def args(self) -> list[str]:
        assert self.command is not None
        return [*self.command]

    def wait(self, log_file: t.TextIO) -> bool:
        """Read the log until it matches, or the process ends: no more comes then."""
        popen: subprocess.Popen[bytes] = self.process.resources[-1].popen
        end = time.monotonic() + self.timeout
        said, ended = "", False
        while not re.search(self.pattern, said):
            if ended:
                return False
            if time.monotonic() > end:
                raise TimeoutError(f"{self.pattern!r} is not in the log:\n{said}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(STEP)
                ended = True
            said += log_file.read()
        return True


class Server(testing.Server):
    """A running server, and what tests do with it."""

    def __init__(self, *args: t.Any) -> None:
        super().__init__(*args)
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        """Its address, from the banner; empty before that is there."""
        if not self._url and (found := re.search(BANNER, self.log())):
            self._url = found[1]
        return self._url

    def log(self) -> str:
        """What was written so far: of the server's log the messages only."""
        return without_prefixes(super().log())

    def wait_for_log(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Wait until the log, beyond the first characters, matches."""
        found = re.compile(pattern, re.MULTILINE)
        return wait_for(lambda: found.search(self.log(), after))

    # Its processes

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def signal_group(self, number: signal.Signals) -> None:
        """Signal all its processes at once, as a terminal's Ctrl-C does."""
        os.killpg(self.pid, number)

    def wait(self) -> int:
        """Wait for its end.

        :return: The exit status.
        """
        return self.popen.wait(DEADLINE)

    def zygotes(self) -> list[psutil.Process]:
        """The dispatcher's children but observer, sender, TLS proxy, and workers whose
        zygote has died."""
        children = psutil.Process(self.pid).children()
        return [one for one in children if not (is_auxiliary(one) or is_worker(one))]

    def sender(self) -> psutil.Process | None:
        """The process that sends responses to slow clients, if there is one."""
        children = psutil.Process(self.pid).children()
        return next((child for child in children if runs(child, "relay")), None)

    def processes(self) -> list[psutil.Process]:
        """All that belongs to it but observer, sender and TLS proxy."""
        return [one for one in group(self.pid) if not is_auxiliary(one)]

    def workers(self) -> list[int]:
        """The workers' pids, in the order of their start."""
        found = []
        for zygote in self.zygotes():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [child.pid for child in zygote.children()]
        return found

    def zombies(self) -> list[psutil.Process]:
        children = psutil.Process(self.pid).children(recursive=True)
        return [p for p in children if p.status() == psutil.STATUS_ZOMBIE]

    def state(self) -> State:
        """Ask for the state line."""
        seen = len(self.log())
        self.signal(signal.SIGUSR1)
        # Not only at the start of a line: what the app's processes write may come
        # piece by piece.
        line = self.wait_for_log(r"workers: (\S*?),(.*?) (\d+) waiting$", seen)
        return State(line[1], line[2].strip(" ,"), int(line[3]))

    def wait_for_state(self, letters: str) -> None:
        """Wait until the slots are in these states."""
        wait_for(lambda: self.state().letters == letters)

    def is_accepting(self) -> bool:
        """Whether it takes connections."""
        try:
            self._connect().close()
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True

    # Requests

    def _connect(self) -> socket.socket:
        scheme, _, address = self.url.partition("://")
        if scheme == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(DEADLINE)
            try:
                sock.connect(address)
            except BaseException:
                sock.close()
                raise
            return sock
        host, _, port = address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), DEADLINE)

    def send(self, path: str) -> Request:
        """Send a request and don't wait for its answer."""
        request = Request(self._connect())
        self.requests.append(request)
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        request.sock.sendall(head.encode())
        return request

    def get(self, path: str = "/") -> Answer:
        """Send a request and wait for its answer and for the server's close."""
        return self.send(path).answer()

    def close(self) -> None:
        """Close connections that a test has left."""
        for request in self.requests:
            request.sock.close()


@contextlib.contextmanager
def running(
    xprocess: XProcess,
    label: str,
    line: list[str],
    directory: Path,
    env: dict[str, str] | None = None,
    descriptors: Iterable[int] = (),
    begun: str | None = BANNER,
    patience: float = LogStarter.timeout,
) -> Iterator[Server]:
    """Start a server, and end it with TERM if the test hasn't.

    Leaving checks that none of its processes is left.

    :param label: Names the server in a failed test's report.
    :param line: The command line.
    :param directory: Where it runs.
    :param env: More environment variables.
    :param descriptors: What it inherits.
    :param begun: The line of its log to wait for; ``None`` asks for its status,
        and so can the test.
    :param patience: Seconds until that must have come.
    """

    end = line.index("prefork-run") + 1 if begun is None else len(line)

    class Starter(PreforkStarter if begun is None else LogStarter):  # type: ignore[misc]
        command = line[:end]
        options = line[end:]
        pattern = begun
        variables = env or {}
        more = {"pass_fds": tuple(descriptors)}

    Starter.directory = directory
    Starter.timeout = patience
    pid = 0
    try:
        with serving(xprocess, label, Starter, Server) as server:
            pid = server.pid
            try:
                yield server
            finally:
                server.close()
    finally:
        if pid:
            assert_group_ends(pid)


_TITLES = {"observe": "observer", "relay": "sender", "tlsproxy": "TLS proxy"}


def runs(process: psutil.Process, room: str) -> bool:
    """Whether a process was started with a module of one of the package's folders.

    By its command line, or the title that it has instead (setproctitle).
    """
    title = f"flask_prefork: {_TITLES[room]}"
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any(
        f"flask_prefork.{room}" in word or word.startswith(title) for word in words
    )


def is_auxiliary(process: psutil.Process) -> bool:
    return any(runs(process, room) for room in ("observe", "relay", "tlsproxy"))


def is_worker(process: psutil.Process) -> bool:
    """Whether it is a worker, by the name of its command."""
    try:
        return process.name().startswith("flask-w")
    except psutil.Error:
        return False


class Finished(t.NamedTuple):
    """A command that came to its end.

    :param output: Standard output and error.
    """

    status: int
    output: str

    @property
    def errors(self) -> list[str]:
        """The errors that click showed."""
        return re.findall(r"^Error: (.*)", self.output, re.MULTILINE)


def finish(
    args: list[str],
    cwd: Path,
    env: dict[str, str] | None = None,
    pass_fds: Iterable[int] = (),
) -> Finished:
    """Run a command that ends by itself, and check that it leaves no process."""
    with subprocess.Popen(
        args,
        cwd=cwd,
        env=environment(env),
        pass_fds=tuple(pass_fds),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
            process.wait()
            assert_group_ends(process.pid)
    return Finished(process.returncode, without_prefixes(output))
