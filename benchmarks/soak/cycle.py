"""One cycle: load of all kinds, faults meanwhile, rest, and the account."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime

from .account import Account
from .account import ANSWERED
from .account import Fault
from .account import KILL
from .account import LEFT
from .account import REFUSED
from .account import Request
from .account import settle
from .account import STOP
from .exchange import Target
from .faults import Event
from .faults import GROWN
from .faults import Injector
from .flat import hold
from .flat import Holding
from .kinds import KINDS
from .load import Ledger
from .load import Load
from .load import WAIT
from .logs import check_access
from .logs import check_errors
from .logs import LogCheck
from .logs import read_journal
from .logs import take
from .server import Server
from .server import wait_for

_TOOK_OVER = re.compile(r"\[([^]]+)\] .* Generation \d+ took over ")
_DEATH = re.compile(r"\(pid (\d+)\).* (?:died: |was killed: |it is killed)")
_TRACEBACK = "Traceback (most recent call last)"
_BROKEN = "RuntimeError: this is the app that can't be loaded"

BETWEEN = 15
"""Requests that are answered between two events."""


@dataclass
class Findings:
    """What a soak has found so far."""

    account: Account = field(default_factory=Account)
    logs: LogCheck = field(default_factory=LogCheck)
    samples: dict[str, list[Holding]] = field(default_factory=dict)
    """What each process held at rest, by server and role."""

    cycles: int = 0
    zombies: int = 0
    tracebacks: int = 0
    """But for those of the app that can't be loaded."""

    replaced: int = 0
    """Workers that had too much memory."""

    generations: int = 0
    deaths: list[str] = field(default_factory=list)
    """What the log says of processes that nobody has touched."""

    problems: list[str] = field(default_factory=list)
    """What has not happened that had to."""


class Laboratory:
    """The servers, and what is done to them.

    :param servers: By name: ``plain`` and ``tls``.
    """

    def __init__(self, servers: Mapping[str, Server], rng: random.Random) -> None:
        self.servers = servers
        self.ledger = Ledger()
        self.rng = rng
        self.findings = Findings()
        self.injectors = {
            name: Injector(
                server,
                list(servers.values()),
                self.ledger,
                random.Random(rng.random()),
            )
            for name, server in servers.items()
        }
        self.targets: dict[str, Target] = {
            **{name: server.target for name, server in servers.items()},
            "admin": servers["plain"].status,
        }
        self._journals = dict.fromkeys(servers, 0)

    def cycle(
        self, events: Sequence[Event], sampled: bool = True, quick: int = 1
    ) -> None:
        """Run one.

        :param quick: So many quick requests are answered at least.
        :param sampled: Whether what processes hold is to be compared with before.
        """
        load = Load(KINDS, self.targets, self.ledger, self.rng)
        load.start()

        try:
            for kind in KINDS:
                # That takes the header timeout, for which the end waits, too.
                if kind.name != "half-head":
                    outcome = LEFT if kind.name == "abort" else ANSWERED
                    self.ledger.wait_for(kind.name, outcome)

            threads = [
                threading.Thread(
                    target=self._disturb,
                    args=(name, [one for one in events if one.server == name]),
                )
                for name in self.servers
            ]

            for thread in threads:
                thread.start()

            for thread in threads:
                thread.join()

            self.ledger.wait_for("quick", ANSWERED, quick)
        except TimeoutError as error:
            self.findings.problems.append(str(error))
        finally:
            load.stop()

        self.rest(sampled)
        self._settle()
        self.findings.cycles += 1

    def _disturb(self, name: str, events: Sequence[Event]) -> None:
        """Do all that is to be done to a server."""
        injector = self.injectors[name]
        kind = "quick" if name == "plain" else "tls-kept"

        for event in events:
            try:
                injector.do(event)
                self.ledger.wait_for(kind, ANSWERED, BETWEEN)
            except (TimeoutError, OSError) as error:
                self.findings.problems.append(f"{event.name}: {error}")

        try:
            injector.wait_for_hung()
        except TimeoutError as error:
            self.findings.problems.append(str(error))

    def rest(self, sampled: bool) -> None:
        """Wait until nothing goes on, and note what processes hold."""
        findings = self.findings

        for name, server in self.servers.items():
            try:
                wait_for(server.is_at_rest, f"{name} does not come to rest", WAIT)
                wait_for(server.has_no_zombies, "")
            except TimeoutError as error:
                findings.zombies += server.zombies()
                findings.problems.extend([str(error)] if str(error) else [])

            if sampled:
                for role, processes in server.processes().items():
                    if role != "worker" and len(processes) == 1:
                        held = hold(processes[0])

                        if held is not None:
                            key = f"{role}, TLS" if name == "tls" else role
                            findings.samples.setdefault(key, []).append(held)

    def _settle(self) -> None:
        """Account for all that has happened since the last time."""
        requests = self.ledger.take()
        served: dict[str, list[int]] = {}
        faults: list[Fault] = []
        windows = []

        for name, server in self.servers.items():
            injector = self.injectors[name]
            served.update(self._read_journal(server))
            injector.rotate()
            lines, files = take(server.spools, "access.log")
            errors, more = take(server.spools, "error.log")
            faults += injector.faults + retirements(name, errors)
            windows += injector.windows
            killed = {fault.pid for fault in injector.faults if fault.role == "worker"}
            full = self.injectors["plain"].full

            def excused(
                one: Request, full: Sequence[tuple[float, float]] = tuple(full)
            ) -> bool:
                return any(
                    one.since <= ended and one.ended >= begun for begun, ended in full
                )

            check = check_access(
                lines,
                [one for one in requests if one.server == name],
                served,
                killed,
                excused,
            )
            check.add(check_errors(errors))
            check.files = files + more

            if full:
                # A line that found room for its beginning only.
                check.torn = check.mixed = 0

            self.findings.logs.add(check)
            self.findings.deaths += deaths(
                errors, {fault.pid for fault in injector.faults if fault.how != STOP}
            )
            self._count(server, errors)
            injector.faults, injector.windows = [], []

        self.injectors["plain"].full.clear()
        self.findings.account.add(settle(requests, faults, windows, served))

    def _read_journal(self, server: Server) -> dict[str, list[int]]:
        with server.journal.open() as file:
            file.seek(self._journals[server.name])
            found = read_journal(file.read())
            self._journals[server.name] = file.tell()

        return found

    def _count(self, server: Server, errors: Sequence[str]) -> None:
        findings = self.findings
        findings.replaced += sum(GROWN in line for line in errors)
        findings.generations += sum(" took over " in line for line in errors)
        printed = server.stderr.read_text(errors="replace").splitlines()
        server.forget_printed()
        lines = [*errors, *printed]
        tracebacks = sum(_TRACEBACK in line for line in lines)
        broken = sum(_BROKEN in line for line in lines)
        findings.tracebacks += max(0, tracebacks - broken)


def retirements(server: str, lines: Sequence[str]) -> list[Fault]:
    """When generations have retired, by the server's log, whose times are to a
    second."""
    offset = time.time() - time.monotonic()
    found = []

    for line in lines:
        if match := _TOOK_OVER.match(line):
            when = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S %z")
            begun = when.timestamp() - offset
            found.append(Fault(server, "generation", KILL, 0, begun, begun + 1.0))

    return found


def deaths(lines: Sequence[str], pids: Collection[int]) -> list[str]:
    """What the log says of processes that have died, or were killed by the server.

    :param pids: Those to which we have done something, of which nothing is said.
    """
    return [
        line
        for line in lines
        if (match := _DEATH.search(line)) and int(match[1]) not in pids
    ]


def all_kinds_seen(account: Account) -> list[str]:
    """Kinds and outcomes that a whole soak has, and that aren't there."""
    missing = [
        f"no {kind.name} request is answered"
        for kind in KINDS
        if kind.name != "abort"
        and not account.outcomes.get(kind.name, {}).get(ANSWERED)
    ]

    if not account.outcomes.get("overload", {}).get(REFUSED):
        missing.append("no request is refused in an overload episode")

    return missing
