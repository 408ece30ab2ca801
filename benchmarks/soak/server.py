"""The server that is soaked: its start, its processes by role, its rest and its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import typing as t
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from certificate import Certificate
from certificate import untrusting
from process import environment
from process import free_port

from .exchange import Connection
from .exchange import Target
from .kinds import LIMIT
from .load import WAIT

HERE = Path(__file__).parent

FORMAT = '%(s)s "%(r)s"'
"""Of the access log."""

MIN_IDLE = 2

MOST = 14
"""Workers."""

QUEUE = 100
"""``--max-queue``: the other clients are fewer, with those that have left meanwhile."""

OPTIONS = (
    *(
        "--min-idle",
        str(MIN_IDLE),
        "--max-idle",
        str(MIN_IDLE),
        "--max-workers",
        str(MOST),
    ),
    *("--idle-timeout", "1", "--timeout", "10", "--spawn-timeout", "10"),
    *("--graceful-timeout", "20", "--header-timeout", "6", "--keep-alive", "30"),
    # Without it, a worker that hangs with a WebSocket is never replaced.
    *("--upgrade-timeout", "10"),
    *("--max-requests", "150", "--max-requests-jitter", "50"),
    *("--refork-after", "60", "--max-worker-memory", "110M"),
    *("--queue-timeout", "60", "--max-queue", str(QUEUE)),
    *("--limit-request-body", str(LIMIT), "--access-log-format", FORMAT),
)

DEFECTS = ("drop", "exit", "wrong", "twice", "slow", "leak")
"""What a broken server would do, see :mod:`.app`."""

ROLES = ("dispatcher", "zygote", "worker", "observer", "sender", "tlsproxy")

_ROOMS = {"observe": "observer", "relay": "sender", "tlsproxy": "tlsproxy"}
_TITLES = {"observer": "observer", "sender": "sender", "TLS proxy": "tlsproxy"}
_WORKER = "flask-w"
"""What the names of workers begin with (``comm`` in ``proc_pid_comm(5)``)."""


def wait_for(condition: Callable[[], t.Any], what: str, seconds: float = WAIT) -> t.Any:
    """Look until a condition holds.

    :return: Its first true result.
    :raises TimeoutError: It doesn't hold.
    """
    end = time.monotonic() + seconds

    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(what)

        time.sleep(0.05)

    return result


class Server:
    """One server, which is started again when its dispatcher was killed.

    :param name: Its requests' and faults'.
    :param folder: For what it makes.
    :param spools: The ``TMPDIR`` of its processes, where its logs are as well.
    :param certificate: For TLS.
    :param defects: See :mod:`.app`.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        spools: Path,
        certificate: Certificate | None = None,
        defects: str = "",
    ) -> None:
        self.name = name
        self.folder = folder
        self.spools = spools
        self.broken = folder / "broken"
        self.journal = folder / "journal"
        self.admin = folder / "admin"
        self.stderr = folder / "stderr"
        self.access_log = spools / "access.log"
        self.error_log = spools / "error.log"
        self.port = free_port()
        self.starts = 0
        self.groups: list[int] = []
        """Process groups of all starts."""

        self._certificate = certificate
        self._defects = defects
        self._popen: subprocess.Popen[bytes] | None = None
        context = untrusting() if certificate else None
        self.target = Target(name, ("127.0.0.1", self.port), context)
        self.status = Target(name, str(self.admin))

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None, "it was started"
        return self._popen

    def start(self) -> None:
        """Start it, and wait until it serves.

        :raises TimeoutError: It doesn't.
        """
        line = [sys.executable, "-m", "flask", "--app", f"{HERE / 'app.py'}:app"]
        files = ["--access-logfile", str(self.access_log)]
        files += ["--error-logfile", str(self.error_log)]
        files += ["--admin", f"unix:{self.admin}", "--pid", str(self.folder / "pid")]

        if self._certificate is not None:
            files += ["--cert", str(self._certificate.certificate)]
            files += ["--key", str(self._certificate.key)]

        variables = {
            "SOAK_JOURNAL": str(self.journal),
            "SOAK_BROKEN": str(self.broken),
            "SOAK_DEFECTS": self._defects,
            "TMPDIR": str(self.spools),
        }

        with self.stderr.open("ab") as file:
            self._popen = subprocess.Popen(
                [*line, "prefork-run", "--port", str(self.port), *files, *OPTIONS],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**environment(), **variables},
                start_new_session=True,
            )

        self.starts += 1
        self.groups.append(self.popen.pid)

        try:
            wait_for(self.is_ready, f"the server {self.name} does not come up")
        except TimeoutError as error:
            said = self.errors() + self.stderr.read_text(errors="replace")
            raise TimeoutError(f"{error}:\n{said}") from None

    def is_ready(self) -> bool:
        """Whether its observer says so."""
        if self.popen.poll() is not None:
            raise ChildProcessError(self.stderr.read_text(errors="replace"))

        status = self.ask()
        return bool(status and status["ready"] and status["pid"] == self.popen.pid)

    def ask(self) -> dict[str, t.Any] | None:
        """Its status, if there is one."""
        try:
            connection = Connection(self.status)

            with contextlib.closing(connection):
                found: dict[str, t.Any] = json.loads(
                    connection.ask("GET", "/status.json").body
                )
                return found
        except (OSError, HTTPException, ValueError):
            return None

    def generation(self) -> int:
        """The number of the current generation; 0 if it can't be told now."""
        status = self.ask()
        return status["generations"][0]["number"] if status else 0

    def slots(self) -> dict[int, int]:
        """The pids of the current generation's workers, by slot."""
        status = self.ask()
        workers = status["generations"][0]["workers"] if status else []
        return {one["slot"]: one["pid"] for one in workers}

    def recent(self) -> set[int]:
        """The pids of workers whose app was called just now."""
        with self.journal.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 500))
            lines = file.read().splitlines()[1:]

        return {int(line.rpartition(b" ")[2] or 0) for line in lines}

    def errors(self) -> str:
        """Its log, of this cycle."""
        paths = sorted(self.spools.glob("error.log*"), key=lambda path: path.name)
        # The one without a number is the newest.
        return "".join(
            path.read_text(errors="replace") for path in (*paths[1:], *paths[:1])
        )

    def forget_printed(self) -> None:
        """Empty the file of standard error, to which the server appends."""
        os.truncate(self.stderr, 0)

    def is_closed(self) -> bool:
        """Whether nobody listens."""
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return True

        return False

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Its processes that live, by role."""
        found: dict[str, list[psutil.Process]] = {role: [] for role in ROLES}

        with contextlib.suppress(psutil.NoSuchProcess):
            dispatcher = psutil.Process(self.popen.pid)
            found["dispatcher"].append(dispatcher)

            for child in dispatcher.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        of_zygote = child.ppid() != dispatcher.pid
                        found["worker" if of_zygote else _role(child)].append(child)

        return found

    def zombies(self) -> int:
        """How many processes have ended and weren't waited for."""
        children = psutil.Process(self.popen.pid).children(recursive=True)
        count = 0

        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                count += child.status() == psutil.STATUS_ZOMBIE

        return count

    def has_no_zombies(self) -> bool:
        """Whether each process that has ended was waited for."""
        return not self.zombies()

    def is_at_rest(self) -> bool:
        """Whether one generation is left, with no more than its idle workers."""
        found = self.processes()
        status = self.ask()
        proxies = 1 if self._certificate else 0
        return bool(
            status
            and not status["parked"]
            and not status["delivering"]
            and len(status["generations"]) == 1
            and not any(one["method"] for one in status["generations"][0]["workers"])
            and len(found["zygote"]) == 1
            and len(found["worker"]) == MIN_IDLE
            and len(found["observer"]) == 1
            and len(found["tlsproxy"]) == proxies
        )

    def left(self) -> list[int]:
        """Processes that live, of all starts."""
        found = []

        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                if os.getpgid(process.pid) in self.groups:
                    found.append(process.pid)

        return found

    def is_gone(self) -> bool:
        """Whether none of its processes lives."""
        return not self.left()

    def stop(self) -> int:
        """End it.

        :return: Its exit status.
        """
        self.popen.terminate()
        return self.popen.wait(WAIT)

    def kill(self) -> None:
        """End whatever lives."""
        for group in self.groups:
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)

        if self._popen is not None:
            self._popen.wait()


def _role(process: psutil.Process) -> str:
    """Of a child of the dispatcher, by its command line or by its title instead.

    A worker is one as well when its zygote has died.
    """
    if process.name().startswith(_WORKER):
        return "worker"

    line = " ".join(process.cmdline())

    for room, role in _ROOMS.items():
        if f"flask_prefork.{room}" in line:
            return role

    for title, role in _TITLES.items():
        if f"flask_prefork: {title}" in line:
            return role

    return "zygote"
