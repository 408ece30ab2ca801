"""A soak, from the start of the servers to the report."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

from certificate import make_certificate
from machine import machine
from peers import own_versions
from slow import raise_descriptors

from . import disk
from .cycle import all_kinds_seen
from .cycle import Laboratory
from .faults import DISK
from .faults import ENDS
from .faults import Event
from .faults import EVENTS
from .faults import HANGS
from .report import Report
from .server import Server
from .server import wait_for

FEW = 8
"""Events of a cycle. All there are come in the first two."""

QUICK = 200
"""Quick requests, if there are no faults."""

LOGS = ("access.log", "error.log", "journal", "stderr", "broken")
"""Files that are made for the soak, and are no leftovers."""

Say = Callable[[str], None]


def run(options: argparse.Namespace, say: Say) -> Report:
    """Run a soak.

    :param options: Those of the command line.
    :param say: Called with a line about what is done.
    """
    raise_descriptors()
    rng = random.Random(options.seed)
    meta = machine(), own_versions()
    reason = disk.enter_namespace()
    begun = time.monotonic()

    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        space = folder / "disk"
        space.mkdir()

        if not reason:
            reason = disk.mount(space)

        try:
            servers = _servers(folder, space, ",".join(options.defects))
            laboratory = Laboratory(servers, rng)
            left = []

            try:
                for server in servers.values():
                    server.start()

                _cycles(laboratory, options, begun, bool(reason), say)
            finally:
                left = _stop(servers)
                left += _left_files(folder)
        finally:
            if not reason:
                disk.unmount(space)

    findings = laboratory.findings
    done: Counter[str] = Counter()

    for injector in laboratory.injectors.values():
        done.update(injector.done)

    if options.faults:
        findings.problems += all_kinds_seen(findings.account)

        if not findings.replaced:
            findings.problems.append("no worker had too much memory")

    return Report(
        findings,
        done,
        options.command,
        time.monotonic() - begun,
        *meta,
        left_out=[f"a full disk ({reason})"] if reason else [],
        left=left,
    )


def _servers(folder: Path, space: Path, defects: str) -> dict[str, Server]:
    servers = {}

    for name in ("plain", "tls"):
        own, spools = folder / name, space / name
        own.mkdir()
        spools.mkdir()
        certificate = make_certificate(folder) if name == "tls" else None
        servers[name] = Server(name, own, spools, certificate, defects)

    return servers


def _cycles(
    laboratory: Laboratory,
    options: argparse.Namespace,
    begun: float,
    no_disk: bool,
    say: Say,
) -> None:
    """Run cycles until the time is over, or there were enough; and the last one."""
    if not options.faults:
        say("load without faults")
        laboratory.cycle([], quick=QUICK)
        return

    rng = laboratory.rng
    every = [one for one in (*HANGS, *EVENTS) if not (no_disk and one == DISK)]
    end = begun + options.minutes * 60
    deck: list[Event] = []
    number = 0

    while (
        number < (options.cycles or 2) or not options.cycles and time.monotonic() < end
    ):
        number += 1

        if not deck:
            deck = list(every)
            rng.shuffle(deck)

        # What hangs is waited for while other things are done. In the first two cycles
        # all that hangs is in the second; a single cycle is without.
        if number <= 2:
            deck.sort(key=lambda event: event in HANGS)

        count = FEW

        if number == 1:
            count = (len(every) - len(HANGS)) // (1 if options.cycles == 1 else 2)
        elif number == 2:
            count = len(every)

        events, deck = _hangs_first(deck[:count]), deck[count:]
        say(f"cycle {number}: {'; '.join(event.name for event in events)}")
        laboratory.cycle(events)
        say(f"    {laboratory.findings.account.total:,} requests so far")

    say("the last cycle: dispatchers are killed")
    laboratory.cycle(ENDS, sampled=False)


def _hangs_first(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=lambda event: event not in HANGS)


def _stop(servers: dict[str, Server]) -> list[str]:
    """End the servers.

    :return: What is left of them.
    """
    left = []

    for name, server in servers.items():
        if server.starts:
            status = server.stop()

            if status:
                left.append(f"the server {name} ends with status {status}")

    for name, server in servers.items():
        try:
            wait_for(server.is_gone, "")
        except TimeoutError:
            left.append(f"processes of {name}: {server.left()}")
        finally:
            server.kill()

    return left


def _left_files(folder: Path) -> list[str]:
    return [
        f"the file {path.relative_to(folder)}"
        for path in folder.rglob("*")
        if not path.is_dir()
        and path.parent != folder
        and not path.name.startswith(LOGS)
    ]


def main(options: argparse.Namespace) -> int:
    """Run a soak, print its report, and write it for the manual.

    :return: The exit status: 0 if all is as it should be.
    """

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    report = run(options, say)
    print(report.text())

    if options.out is not None:
        options.out.write_text(report.rst())
        say(f"wrote {options.out}")

    return 1 if report.failures() else 0
