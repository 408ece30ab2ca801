"""Every command of the README and the manual is run, one page after the other.

A page's commands are run in their order in one directory, which holds the files that
the page shows. A server runs until the page starts the next one, or ends. What can't be
run here is named below, with the reason.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
from manual.pages import all_commands
from manual.pages import Block
from manual.pages import blocks
from manual.pages import commands
from manual.pages import PAGES
from manual.pages import ROOT

from flask_prefork.observe.client import ask
from flask_prefork.observe.client import AskError
from flask_prefork.settings.addresses import Address

from .conftest import Run
from .gate import DEADLINE
from .server import environment
from .server import Server
from .server import wait_for

#: Commands, as patterns, that aren't run, and why.
UNRUNNABLE = {
    ".ci/run": "installs packages of the system and runs this suite",
    ".venv-bench/bin/*": "takes long, and a quiet machine",
    ".venv/bin/*": "needs the environment that make has made",
    "docker *": "needs a docker daemon, which a container has not",
    "* --cert shop.pem *": "needs a certificate, and a key of root's",
    "git *": "changes the repository",
    "kubectl *": "needs a cluster",
    "make *": "runs this suite, or a server that nobody stops; see below",
    "pip install *": "changes the environment, and needs a package index",
    "pre-commit install": "changes the repository",
    "python -m twine *": "publishes the packages",
    "python benchmarks/capacity.py * --simulate": "takes half a minute",
    "python benchmarks/simulate_overload.py": "takes a minute",
    "python benchmarks tls *": "takes an hour, and a quiet machine",
    "python benchmarks/paired.py *": "takes minutes, and a quiet machine",
    "python benchmarks/overload_check.py*": "takes a minute, and a quiet machine",
    "python benchmarks/slow_check.py*": "takes ten minutes or more",
    "python docs/render_faults.py": "changes the source; test_docs.py renders too",
    "python docs/render_figures.py": "changes the source; test_figures.py renders too",
    "python docs/render_map.py": "changes the source; test_map.py renders too",
    "python docs/render_status_page.py": "changes the source, after minutes of load",
    "python docs/render_public_names.py": "changes the manual; a test renders too",
    "python tests/compat/real_apps.py*": "installs apps, see tests/compat",
    "systemctl *": "needs systemd",
    "/tmp/release/*": "needs the packages that make has built",
    "cd /tmp/release/*": "needs the packages that make has built",
    "mkdir /tmp/release/*": "is for packages that are not built here",
    "python3 -m venv /tmp/*": "is about packages that are not built here",
    "tar --extract *": "needs the packages that make has built",
    "tox*": "runs this suite",
}
#: Ports that the manual names. They stand for any that are free.
PORTS = ("5000", "8000", "9000", "9001")
#: The folder of the system for sockets that the manual names; it stands for our own.
RUN = "/run/shop/"
#: The app that a page has if it shows none.
(SHOP,) = (one for one in blocks("docs/quickstart.rst") if one.caption == "shop.py")
#: Seconds for a command that ends by itself; some start servers or make environments.
_TIMEOUT = 6 * DEADLINE
_ASSIGNMENTS = re.compile(r"^((?:[A-Z_]+=\S+ )*)")


def unrunnable(command: str) -> str | None:
    """Why a command isn't run, if it isn't."""
    for pattern, reason in UNRUNNABLE.items():
        if fnmatch.fnmatchcase(command, pattern):
            return reason
    return None


def runnable(page: str) -> bool:
    found = [c for block in blocks(page) for c in commands(block)]
    return any(unrunnable(command) is None for command in found)


def serves(command: str) -> bool:
    words = command.split()
    ends = any(re.match("--help|--(check|print)-config", word) for word in words)
    return "prefork-run" in words and not ends


@contextlib.contextmanager
def free_ports(names: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Find a free port in place of each.

    On Linux they stay reserved: who is bound without listening keeps others from
    getting the port by chance, but not who binds to it on purpose (SO_REUSEADDR).
    """
    with contextlib.ExitStack() as stack:
        found = {}
        for name in names:
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", 0))
            found[name] = str(sock.getsockname()[1])
        if sys.platform != "linux":
            stack.close()
        yield found


class Scenario:
    """A page's reader, who does all that it says.

    :param run: Starts servers.
    :param folder: Where; its path is short enough for a unix socket.
    :param ports: Free ports, by those that the page names.
    """

    def __init__(self, run: Run, folder: Path, ports: dict[str, str]) -> None:
        self._run = run
        self._folder = folder
        self._ports = ports
        self._server: Server | None = None
        programs = Path(sys.executable).parent
        self._variables = {
            "CURL_HOME": str(folder),
            "FLASK_PREFORK_RUN_PORT": ports["5000"],
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        # An answer that tells of an error is one here, and none is waited for in vain.
        (folder / ".curlrc").write_text(f"fail\nmax-time = {DEADLINE:g}\n")
        # As a project has it: else pytest looks for one in the folders above.
        (folder / "pytest.ini").write_text("[pytest]\n")
        # What is a script of the source tree is called from there.
        (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
        self.see(SHOP)

    def see(self, block: Block) -> None:
        """Take in what the page shows: a file, or commands."""
        if block.caption:
            (self._folder / block.caption).write_text(block.text)
        for command in commands(block):
            if unrunnable(command) is None:
                command = command.replace(RUN, f"{self._folder}/")
                self._do(re.sub(r"\b\d{4}\b", self._port, command))

    def _port(self, found: re.Match[str]) -> str:
        return self._ports.get(found[0], found[0])

    def _do(self, command: str) -> None:
        if serves(command):
            self._serve(command)
        elif "--watch" in command.split():
            self._watch(command)
        else:
            self._finish(command)

    def _serve(self, command: str) -> None:
        self.end()
        line = _ASSIGNMENTS.sub(r"\1exec ", command, count=1)
        self._server = self._run(
            ["sh", "-c", line], directory=self._folder, env=self._variables
        )
        if found := re.search(r"--admin (\d+)", command):
            address = Address("127.0.0.1", int(found[1]))
            token = re.search(r"--admin-token (\S+)", command)
            wait_for(lambda: _answers(address, token[1] if token else None))

    def _finish(self, command: str) -> None:
        """Run what ends by itself."""
        with self._popen(command) as process:
            try:
                output, _ = process.communicate(timeout=_TIMEOUT)
            finally:
                process.kill()
        assert process.returncode == 0, f"{command}\n{output}"

    def _watch(self, command: str) -> None:
        """Look until there is something to be seen, and leave by Ctrl-C."""
        with self._popen(f"exec {command}") as process:
            try:
                assert process.stdout is not None
                first = process.stdout.readline()
                process.send_signal(signal.SIGINT)
                rest, _ = process.communicate(timeout=DEADLINE)
            finally:
                process.kill()
        assert process.returncode == 0, f"{command}\n{first}{rest}"

    def _popen(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-c", line],
            cwd=self._folder,
            env=environment(self._variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> None:
        """Stop the server by Ctrl-C, if the page hasn't stopped it otherwise."""
        server, self._server = self._server, None
        if server is not None:
            if server.popen.poll() is None:
                server.signal(signal.SIGINT)
            assert server.wait() == 0


def _answers(address: Address, token: str | None) -> bool:
    try:
        return ask(address, token).snapshot.ready
    except AskError:
        return False


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="manual-") as name:
        yield Path(name)


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)])
def test_commands(page: str, run: Run, folder: Path) -> None:
    if "curl " in PAGES[page] and programs.find("curl") is None:
        pytest.skip(programs.lack("curl"))
    with free_ports(PORTS) as ports:
        scenario = Scenario(run, folder, ports)
        for block in blocks(page):
            scenario.see(block)
        scenario.end()


@pytest.mark.parametrize("pattern", UNRUNNABLE)
def test_what_is_not_run_is_in_the_manual(pattern: str) -> None:
    assert fnmatch.filter(all_commands(), pattern)


@pytest.mark.parametrize("command", fnmatch.filter(all_commands(), "make *"))
def test_make_knows_its_targets(command: str) -> None:
    words = shlex.split(re.sub(r" -C \S+", "", command), comments=True)[1:]
    process = subprocess.run(
        ["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
