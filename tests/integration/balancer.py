"""The real HAProxy with the configuration of ``deploy/haproxy``."""

from __future__ import annotations

import contextlib
import csv
import re
import socket
import subprocess
import tempfile
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path

import programs

from .gate import DEADLINE
from .server import Request
from .server import wait_for

_DEPLOY = Path(__file__).parents[2] / "deploy" / "haproxy"
CONFIGURATION = _DEPLOY / "haproxy.cfg"
#: Connections are forwarded as they are.
PASSTHROUGH = _DEPLOY / "haproxy.tcp.cfg"
PROGRAM = programs.find("haproxy")
_SERVER = re.compile(
    r"server (\w+) 192\.0\.2\.\d:5000 check port 9000 agent-port 9001\n"
)


class Ports(t.NamedTuple):
    """Where a server is, on 127.0.0.1."""

    app: int
    admin: int
    agent: int


class Stat(t.NamedTuple):
    """What HAProxy says of a server (its management guide, section 9.1).

    :param status: ``UP``, ``DOWN``, ``DRAIN`` and so on.
    :param agent: The agent's last line, but for the percentage.
    :param weight: What it has at present.
    :param sent: Requests that were sent to it, from the start on.
    """

    status: str
    agent: str
    weight: int
    sent: int


class Haproxy:
    """A HAProxy that runs.

    :param port: Its TCP port on 127.0.0.1.
    :param control: The path of its stats socket.
    """

    def __init__(self, port: int, control: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self._control = control

    def command(self, line: str) -> str:
        """Say something on the stats socket."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(self._control)
            sock.sendall(f"{line}\n".encode())
            return b"".join(iter(lambda: sock.recv(65536), b"")).decode()

    def is_up(self) -> bool:
        """Whether it answers on the stats socket."""
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return "Uptime" in self.command("show info")
        return False

    def stats(self) -> dict[str, Stat]:
        """All servers, by name."""
        text = self.command("show stat").removeprefix("# ")
        return {
            row["svname"]: Stat(
                row["status"], row["last_agt"], int(row["weight"]), int(row["stot"])
            )
            for row in csv.DictReader(text.splitlines())
            if row["svname"] not in ("FRONTEND", "BACKEND")
        }

    def wait_until(self, name: str, condition: Callable[[Stat], object]) -> Stat:
        """Wait until it sees a server so."""

        def look() -> Stat | None:
            stat = self.stats()[name]
            return stat if condition(stat) else None

        return wait_for(look)

    def send(self, path: str, method: str = "GET") -> Request:
        """Send a request and don't wait for its answer."""
        sock = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close"
        length = "" if method == "GET" else "\r\nContent-Length: 0"
        sock.sendall(f"{head}{length}\r\n\r\n".encode())
        return Request(sock)


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


@contextlib.contextmanager
def balancing(servers: Sequence[Ports], log: Path) -> Iterator[Haproxy]:
    """Run HAProxy in front of servers.

    :param servers: As many as the configuration has.
    :param log: Where its output goes.
    """
    text = CONFIGURATION.read_text()
    places = iter(servers)

    def put(found: re.Match[str]) -> str:
        one = next(places)
        where = f"127.0.0.1:{one.app} check port {one.admin} agent-port {one.agent}"
        return f"server {found[1]} {where}\n"

    text = _SERVER.sub(put, text)
    assert not list(places) and "192.0.2" not in text.partition("backend")[2]
    with running_haproxy(text, log) as haproxy:
        yield haproxy


@contextlib.contextmanager
def running_haproxy(text: str, log: Path) -> Iterator[Haproxy]:
    """Run HAProxy.

    :param text: The configuration, with a stats socket. Its only port becomes a free
        one.
    :param log: Where its output goes.
    """
    assert PROGRAM is not None
    # Not in pytest's directory: the path of a socket has to be short.
    with (
        tempfile.TemporaryDirectory(prefix="haproxy-") as directory,
        socket.create_server(("127.0.0.1", 0)) as listener,
        log.open("wb") as output,
    ):
        control = f"{directory}/admin.sock"
        text = _replaced(text, "/run/haproxy/admin.sock", control)
        text, binds = re.subn(r"bind :\d+\n", f"bind fd@{listener.fileno()}\n", text)
        assert binds == 1
        path = Path(directory) / "haproxy.cfg"
        path.write_text(text)
        process = subprocess.Popen(
            [PROGRAM, "-db", "-f", str(path)],
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
        )
        try:
            haproxy = Haproxy(listener.getsockname()[1], control)
            wait_for(lambda: haproxy.is_up() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield haproxy
        finally:
            process.kill()
            process.wait()
