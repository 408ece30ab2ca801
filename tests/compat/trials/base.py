"""What a trial is, and what all trials do to a server.

A trial serves an app or a library as its users do, in an environment of its own. It
fails by an ``AssertionError``, or by whatever else comes in its way.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import typing as t
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import py.path
import requests
from faults.load import Answered
from faults.load import Load
from faults.load import Report
from integration.environments import Environment
from integration.gate import DEADLINE
from integration.server import running
from integration.server import Server
from integration.server import wait_for
from xprocess import XProcess

#: The apps that trials serve.
APPS = Path(__file__).parent.parent / "apps"
#: Nothing that a client waits for takes so long, in seconds, unless it is broken: also
#: if an app is large, and is compiled at its first import.
TIMEOUT = 90.0
#: How most of them are started.
SERVER = "flask --app shop prefork-run"
#: A clean worker exit every so many requests, so that what is sent at a worker's exit
#: is seen often.
RECYCLED = ("--max-requests", "40")


class NotHere(Exception):
    """A program or a version that a trial needs isn't there. Says which one."""


class Trial(t.NamedTuple):
    """An app or a library, and how it is tried.

    :param name: On the command line, and the name of its environment.
    :param title: On the page.
    :param requirements: What pip installs.
    :param run: Tries it.
    :param started: The command lines by which its users start it.
    :param outcome: What the page says if the trial succeeds.
    :param advice: What its users have to do, in plain reST.
    :param shown: The distributions whose versions are shown, if not all of these.
    :param environment: The name of the environment, if it isn't the trial's.
    :param python: The oldest Python that it can be installed for.
    """

    name: str
    title: str
    requirements: tuple[str, ...]
    run: Callable[[World], None]
    started: list[str]
    outcome: str = "Works."
    advice: str = "Nothing."
    shown: tuple[str, ...] = ()
    environment: str = ""
    python: tuple[int, int] = (3, 10)


class World:
    """What a trial has: an environment, an empty directory, servers.

    Whatever it starts ends when the context of the trial does.

    :param environment: It is prepared already.
    :param folder: The directory.

    :ivar servers: Those that were started, also if they have ended.
    :ivar logs: What each of them has logged, in their order, once the trial has ended.
    :ivar remarks: What else a trial has found out, such as what it had to leave out.
    """

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.servers: list[Server] = []
        self.logs: list[str] = []
        self.remarks: list[str] = []
        self.stack = contextlib.ExitStack()
        control = folder / "xprocess"
        control.mkdir()
        config = SimpleNamespace(rootpath=folder)
        quiet = SimpleNamespace(debug=lambda *args: None)
        self._xprocess = XProcess(config, py.path.local(control), quiet)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *args: t.Any) -> None:
        self.logs = [server.log() for server in self.servers]
        self.stack.close()

    def program(self, name: str) -> str:
        """The path of a program of the environment."""
        return self.environment.program(name)

    def serve(
        self,
        app: str,
        *options: str,
        env: Mapping[str, str] | None = None,
        before: list[str] | None = None,
    ) -> Server:
        """Start a server that is ready, on a free port.

        :param app: A module of :data:`APPS`, or what else ``--app`` takes.
        :param options: Of ``prefork-run``.
        :param env: More environment variables.
        :param before: The command line before ``prefork-run``, if it isn't ``flask``'s.
        """
        line = before or [self.program("flask"), "--app", app_path(app)]
        line += ["prefork-run", "--port", "0", "--no-access-log", *options]
        label = f"server{len(self.servers)}"
        context = running(
            self._xprocess,
            label,
            line,
            self.folder,
            dict(env or {}),
            patience=2 * TIMEOUT,
        )
        return self.stack.enter_context(_logged(context, self))

    def run(self, *line: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command that ends by itself.

        :param line: Its first word is a program of the environment.
        :return: Its output. It must succeed.
        """
        process = subprocess.run(
            [self.program(line[0]), *line[1:]],
            cwd=self.folder,
            env=clean_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * TIMEOUT,
        )
        assert process.returncode == 0, f"{line}: {process.stdout}"
        return process.stdout

    def beside(
        self, *line: str, env: Mapping[str, str] | None = None, log: str = "beside.log"
    ) -> subprocess.Popen[bytes]:
        """Start a command that runs until the trial ends it, at the latest by its end.

        :param line: Its first word is a program of the environment.
        :param log: The file in the trial's directory that its output goes to.
        """
        with (self.folder / log).open("wb") as file:
            process = subprocess.Popen(
                [self.program(line[0]), *line[1:]],
                cwd=self.folder,
                env=clean_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.stack.callback(end_group, process)
        return process

    def session(self) -> requests.Session:
        """A client that keeps cookies, without proxies and without ``.netrc``."""
        session = self.stack.enter_context(requests.Session())
        session.trust_env = False
        return session


@contextlib.contextmanager
def _logged(context: t.ContextManager[Server], world: World) -> t.Iterator[Server]:
    with context as server:
        world.servers.append(server)
        yield server


def app_path(app: str) -> str:
    """What ``--app`` gets for a module of :data:`APPS`, or for another one."""
    module = APPS / f"{app}.py"
    return str(module) if module.exists() else app


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what a command would listen to."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FLASK_")}
    return {**env, **(extra or {})}


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process by TERM, and kill what is left of its group."""
    process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def warnings(server: Server) -> list[str]:
    """What the server says of things that don't survive a fork."""
    lines = server.log().splitlines()
    return [line for line in lines if line.startswith("Before the first fork: ")]


class Ordeal(t.NamedTuple):
    """What became of the requests while the server was reloaded, and so on.

    :param report: All requests.
    :param killed: The pid of the worker that was killed.
    """

    report: Report
    killed: int

    @property
    def survived(self) -> list[Answered]:
        """The answers of workers that weren't killed, by the ``pid`` in them."""
        return [a for a in self.report.answered if a.told.get("pid") != self.killed]

    def seen(self, name: str) -> list[str]:
        """What the app told under a name, in answers of workers that weren't killed."""
        return [str(one.told[name]) for one in self.survived]


def ordeal(
    server: Server,
    path: str = "/",
    *,
    clients: int = 3,
    gap: float = 0.01,
    status: int = 200,
    more: Callable[[], None] = lambda: None,
    tracebacks: int = 0,
) -> Ordeal:
    """Reload a server under requests, kill a worker, then end it by TERM.

    No request may be lost, but one for the worker that is killed. Nothing may be left
    of the server, and its exit status is 0.

    :param path: What clients ask for.
    :param clients: How many.
    :param gap: Seconds that a client waits between two requests.
    :param status: Of each answer.
    :param more: Called after the reload, while clients ask.
    :param tracebacks: How many are in the log.
    """
    with Load(server.url, clients, path=path, gap=lambda: gap) as load:
        load.wait_for_more()
        server.signal(signal.SIGHUP)
        wait_long(server, r"^Generation 2 serves\.$")
        load.wait_for_more()
        more()
        victim = kill_worker(server)
        load.wait_for_more()
        server.signal(signal.SIGTERM)
        exit_status = server.popen.wait(TIMEOUT)
        load.wait_for(lambda report: report.refused)
    report = load.stop()
    assert exit_status == 0, f"exit status {exit_status}"
    assert len(report.lost) <= 1, f"requests were lost: {report.lost}"
    assert set(report.statuses) == {status}, f"statuses: {report.statuses}"
    shown = server.log().count("Traceback (most recent")
    assert shown == tracebacks, f"tracebacks in the log: {shown}"
    return Ordeal(report, victim)


def kill_worker(server: Server) -> int:
    """Kill a worker of the newest generation, and wait until it is gone.

    :return: Its pid.
    """
    pid = wait_for(lambda: _kill_one(server))
    wait_for(lambda: pid not in server.workers())
    return pid


def _kill_one(server: Server) -> int | None:
    zygote = max(server.zygotes(), key=lambda process: process.create_time())
    # The lowest-numbered ones serve most, and are the first that were started.
    for child in zygote.children():
        # It may have exited since.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
            return child.pid
    return None


def wait_long(server: Server, pattern: str) -> None:
    """Wait for a line of the log of an app that takes long to load."""
    found = re.compile(pattern, re.MULTILINE)
    end = time.monotonic() + TIMEOUT
    while not found.search(server.log()):
        assert time.monotonic() < end, f"{pattern!r} has not come"
        time.sleep(0.02)
