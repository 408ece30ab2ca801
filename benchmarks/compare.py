"""Compare this project's throughput with other WSGI servers', side by side.

.. code-block:: text

    $ python benchmarks/compare.py --app flask --rounds 5 --seconds 5

Every round starts each server in turn, in an order that is rotated from round
to round, and loads it with wrk. The table goes to the standard output, in
Markdown; progress goes to the standard error. Ctrl-C ends all servers and prints
what was measured so far.

Needs wrk from the system's packages, and psutil. The other servers are installed
from the package index into an environment of their own; those that can't be
are named and left out.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from load import find_wrk
from load import Load
from load import LoadError
from load import run as run_wrk
from load import version as wrk_version
from options import parse
from options import TITLES
from peers import own_versions
from peers import Peers
from process import free_port
from process import Running
from process import StartError
from report import machine
from report import Measurement
from report import Report
from servers import HERE
from servers import Server
from servers import SERVERS
from servers import Setup
from servers import WSGI_NAMES


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Comparison:
    """One run of this script.

    :param options: what :func:`parse` gave.
    :param wrk: the path of wrk.
    """

    def __init__(self, options: argparse.Namespace, wrk: str) -> None:
        self.options = options
        self.wrk = wrk
        self.peers = Peers(options.peers_env)
        self.servers = [SERVERS[name] for name in dict.fromkeys(options.servers)]
        how = "keep-alive" if options.keep_alive else "`Connection: close`"
        self.report = Report(
            title=f"{TITLES[options.app]}, {how}",
            command=f"python benchmarks/compare.py {shlex.join(sys.argv[1:])}".strip(),
            method=(
                f"Rounds: {options.rounds} of {options.seconds} s each, the order"
                f" rotated; medians, (lowest–highest). {options.workers} processes of"
                " each server where it has several; logs off. Ratios are taken within"
                f" a round. wrk, with {options.wrk_threads} thread(s), ran on the"
                " same machine."
            ),
            reference=options.reference,
            machine=machine(),
            versions={**own_versions(), "wrk": wrk_version(wrk)},
        )

    def leave_out(self, server: Server, why: str) -> None:
        say(f"{server.name} is left out: {why}")
        self.report.left_out[server.name] = why
        self.servers.remove(server)

    def prepare(self) -> None:
        """Install what is needed, and drop the servers that can't take part."""
        if self.options.keep_alive:
            for server in [one for one in self.servers if not one.keeps_alive]:
                self.leave_out(server, "it serves one request per connection")

        packages = {one.package: one for one in self.servers if one.package}

        if not packages:
            return

        failed = self.peers.prepare(filter(None, packages), say)

        for server in [one for one in self.servers if one.package in failed]:
            self.leave_out(server, failed[str(server.package)])

        for package in packages:
            found = self.peers.versions.get(str(package).lower())

            if found:
                self.report.versions[str(package)] = found

    def run(self) -> None:
        """All rounds."""
        for number in range(self.options.rounds):
            say(f"round {number + 1} of {self.options.rounds}")
            self.report.alone.append(self.app_alone())
            shift = number % max(1, len(self.servers))

            for server in self.servers[shift:] + self.servers[:shift]:
                try:
                    self.measure(server, number)
                except (StartError, LoadError) as error:
                    self.leave_out(server, str(error))

    def app_alone(self) -> float:
        """Microseconds of CPU time for a call of the app without a server."""
        result = subprocess.run(
            [sys.executable, HERE / "alone.py", WSGI_NAMES[self.options.app]],
            capture_output=True,
            text=True,
            check=True,
        )
        return float(result.stdout)

    def measure(self, server: Server, number: int) -> None:
        """Start one server, load it with each number of clients, and end it."""
        python = self.peers.python if server.package else Path(sys.executable)
        setup = Setup(
            python=python,
            port=free_port(),
            workers=self.options.workers,
            app=self.options.app,
            keep_alive=self.options.keep_alive,
        )
        command = server.command(setup)
        self.report.commands[server.name] = command
        quiet = server.name == "flask-run"

        with Running(command, setup.port, quiet) as running:
            self.load(setup.port, clients=min(self.options.clients), seconds=1)

            for clients in self.options.clients:
                before = running.cpu()
                load = self.load(setup.port, clients, self.options.seconds)
                spent = running.cpu() - before

                if not load.requests:
                    raise LoadError(f"it answered nothing to {clients} clients")

                cpu = spent / load.requests * 1e6
                one = Measurement(number, server.name, clients, load, cpu)
                self.report.measurements.append(one)
                say(
                    f"  {server.name}, {clients} clients: {load.rate:,.0f}/s,"
                    f" {cpu:,.0f} µs of CPU a request"
                )

    def load(self, port: int, clients: int, seconds: int) -> Load:
        return run_wrk(
            self.wrk,
            f"http://127.0.0.1:{port}/",
            clients=clients,
            seconds=seconds,
            threads=self.options.wrk_threads,
            keep_alive=self.options.keep_alive,
        )


def main() -> int:
    options = parse()

    try:
        comparison = Comparison(options, find_wrk())
    except LoadError as error:
        say(f"compare.py: {error}")
        return 1

    # Whoever ends us with TERM wants the servers ended as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = 0

    try:
        comparison.prepare()
        comparison.run()
    except KeyboardInterrupt:
        say("interrupted: this is what was measured until then")
        comparison.report.method += " It was interrupted before its end."
        status = 130

    report = comparison.report

    if not report.measurements:
        say("compare.py: nothing was measured")
        return status or 1

    print(report.markdown())

    if options.json:
        report.write_json(options.json)

    return status


if __name__ == "__main__":
    sys.exit(main())
