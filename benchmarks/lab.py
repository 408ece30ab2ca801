"""What a suite measures with: servers that run, wrk, and the open-loop generator."""

from __future__ import annotations

import contextlib
import ssl
import sys
import tempfile
import typing as t
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path

import ask
from certificate import make_certificate
from commands import commands
from load import find_wrk
from load import Load
from load import LoadError
from load import run as run_wrk
from load import version as wrk_version
from openloop_process import open_loop
from peers import own_versions
from peers import Peers
from peers import program_version
from process import free_port
from process import Running
from results import Results
from servers import lacks
from servers import SERVERS
from servers import Setup
from servers import version_programs
from suites.suite import Contender
from suites.suite import Options
from suites.suite import Suite

Say = t.Callable[[str], None]


class Lab:
    """All that a suite's trials need.

    :param suite: The suite.
    :param options: The command line's.
    :param say: Called with a line about what is done.
    :raises LoadError: wrk isn't installed.
    """

    def __init__(self, suite: Suite, options: Options, say: Say) -> None:
        self.options = options
        self.wrk = find_wrk()
        self.peers = Peers(options.peers_env)
        self.contenders = {one.name: one for one in suite.contenders(options)}
        #: Set by who runs the trials.
        self.results: Results
        self._say = say

    # Before all trials

    def prepare(self, say: Say) -> dict[str, str]:
        """Install what is needed.

        :return: Which contenders can't take part, and why.
        """
        servers = {SERVERS[one.server] for one in self.contenders.values()}
        absent = {server.name: why for server in servers if (why := lacks(server))}
        packages = {
            server.package
            for server in servers
            if server.package and server.name not in absent
        }
        extras = {server.extra for server in servers if server.package in packages}
        wanted = sorted(packages) + sorted(filter(None, extras))
        failed = self.peers.prepare(wanted, say) if wanted else {}

        for extra in extras & failed.keys():
            say(f"{extra} can't be installed: {failed[extra]}")

        for server in servers:
            if server.package in failed:
                hint = f" (it needs {server.system})" if server.system else ""
                absent[server.name] = failed[str(server.package)] + hint

        return {
            name: absent[one.server]
            for name, one in self.contenders.items()
            if one.server in absent
        }

    def versions(self) -> dict[str, str]:
        """Of all that is measured, and of what it is measured with."""
        servers = [SERVERS[one.server] for one in self.contenders.values()]
        packages = {name for one in servers for name in (one.package, one.extra)}
        peers = {
            name: version
            for name in sorted(filter(None, packages))
            if (version := self.peers.version(name)) is not None
        }
        programs = {
            name: version
            for one in self.contenders.values()
            for name, program in version_programs(SERVERS[one.server]).items()
            if (version := program_version(program))
        }
        tls = any(one.tls for one in self.contenders.values())
        return {
            **own_versions(),
            **({"OpenSSL": ssl.OPENSSL_VERSION.split()[1]} if tls else {}),
            **peers,
            **programs,
            "wrk": wrk_version(self.wrk),
        }

    def commands(self) -> dict[str, list[str]]:
        """How each contender is started. Who can't be isn't there."""
        present = [
            one for one in self.contenders.values() if not lacks(SERVERS[one.server])
        ]
        return commands(present, getattr(self.options, "workers", 0))

    # In a trial

    def setup(
        self, contender: Contender, app: str, keep_alive: bool, folder: Path
    ) -> Setup:
        server = SERVERS[contender.server]
        return Setup(
            python=self.peers.python if server.package else Path(sys.executable),
            port=free_port(),
            workers=contender.workers or self.options.workers,
            most=contender.most,
            app=app,
            keep_alive=keep_alive,
            folder=folder,
            options=contender.options,
            certificate=make_certificate(folder) if contender.tls else None,
        )

    @contextlib.contextmanager
    def running(
        self,
        name: str,
        app: str,
        *,
        keep_alive: bool = False,
        prefix: Sequence[str] = (),
    ) -> Iterator[Running]:
        """A contender that serves an app.

        :param prefix: What its command is run by.
        :raises StartError: It doesn't come up, or to rest.
        """
        contender = self.contenders[name]
        server = SERVERS[contender.server]

        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            setup = self.setup(contender, app, keep_alive, Path(folder))
            command = [*prefix, *server.command(setup)]
            quiet = server.name == "flask-run"

            get = ask.getter(server, contender.tls)

            with Running(command, setup.port, quiet, get) as running:
                running.settle()
                yield running

    def load(
        self,
        port: int,
        clients: int,
        seconds: float,
        *,
        keep_alive: bool = False,
        body: int = 0,
        least: int = 1,
        tls: bool = False,
    ) -> Load:
        """Load a server by wrk.

        :param least: Requests that have to be answered.
        :raises LoadError: wrk fails, or fewer are answered.
        """
        load = run_wrk(
            self.wrk,
            f"{'https' if tls else 'http'}://127.0.0.1:{port}/",
            clients=clients,
            seconds=seconds,
            threads=1,
            keep_alive=keep_alive,
            body=body,
        )

        if load.requests < least:
            raise LoadError(f"nothing was answered to {clients} clients")

        return load

    def open_loop(
        self,
        port: int,
        rate: float,
        seconds: float,
        seed: int,
        timeout: float = 10.0,
        **others: t.Any,
    ) -> dict[str, t.Any]:
        """Load a server by requests whose moments are fixed ahead.

        :param timeout: Seconds until a request is given up.
        :param others: See :func:`.openloop_process.open_loop`.
        :return: What openloop.py reports.
        :raises LoadError: It fails.
        """
        return open_loop(port, rate, seconds, seed, timeout, **others)
