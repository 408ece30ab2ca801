"""What a soak has found, as tables and as a verdict. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

from tables import NOTHING
from tables import Table
from tables import to_rst

from .account import ANSWERED
from .account import LEFT
from .account import LOST
from .account import REFUSED
from .cycle import Findings
from .flat import growth
from .flat import thirds
from .kinds import ABOUT

HEADER = ".. Written by ``python benchmarks soak``; what is changed here is lost.\n"

MOST = 20
"""Requests that are told of each kind of failure."""


@dataclass(frozen=True)
class Report:
    """A soak that is over.

    :param done: How often what was done.
    :param left_out: What was not done, and why.
    :param left: Processes and files that are left.
    """

    findings: Findings
    done: Mapping[str, int]
    command: str
    seconds: float
    machine: str
    versions: Mapping[str, str]
    left_out: Sequence[str] = ()
    left: Sequence[str] = field(default_factory=tuple)

    def failures(self) -> list[str]:
        """What is not as it should be."""
        found = self.findings
        account, logs = found.account, found.logs
        failures = [*found.problems, *self.left, *found.deaths[:MOST]]

        for what, requests in (
            ("lost for no reason", account.lost),
            ("refused for no reason", account.refused),
            ("answered wrongly", account.wrong),
        ):
            failures += [
                f"{what}: {one.id} of {one.server}, {one.detail or one.status}"
                f" ({one.since:.3f} to {one.ended:.3f})"
                + "".join(f"; {more}" for more in (account.around.get(one.id),) if more)
                for one in requests[:MOST]
            ]

        failures += [f"the app was called twice for {one}" for one in account.twice]

        if not logs.holds:
            failures.append(
                f"access log: {logs.missing} missing, {logs.doubled} doubled,"
                f" {logs.torn} torn; server's log: {logs.mixed} mixed"
            )
            failures += [f"in a log: {text}" for text in logs.examples[:MOST]]

        if found.zombies:
            failures.append(f"zombies: {found.zombies}")

        if found.tracebacks:
            failures.append(f"tracebacks in the log: {found.tracebacks}")

        for role, samples in sorted(found.samples.items()):
            failures += [f"{role} has grown: {what}" for what in growth(samples)]

        return failures

    def tables(self) -> list[Table]:
        return [self._requests(), self._faults(), self._held(), self._sums()]

    def _requests(self) -> Table:
        account = self.findings.account
        unexplained = Counter(one.kind for one in account.lost)
        rows = []

        for kind, about in ABOUT.items():
            counts = account.outcomes.get(kind, Counter())
            lost = counts[LOST] - unexplained[kind]
            wrong = sum(one.kind == kind for one in account.wrong)
            figures = (
                counts[ANSWERED],
                counts[REFUSED],
                counts[LEFT],
                lost,
                unexplained[kind] + wrong,
            )
            rows.append([about, *(f"{one:,}" for one in figures)])

        total = [
            account.count(ANSWERED),
            account.count(REFUSED),
            account.count(LEFT),
            account.count(LOST) - len(account.lost),
            len(account.lost) + len(account.wrong),
        ]
        rows.append(["all", *(f"{one:,}" for one in total)])
        explained = ", ".join(
            f"{count:,} {role}" for role, count in sorted(account.explained.items())
        )
        return Table(
            "Requests",
            [
                "kind",
                "answered",
                "503",
                "left by the client",
                "lost with a process",
                "lost for no reason",
            ],
            rows,
            [f"Lost with a process that was killed: {explained or 'none'}."],
        )

    def _faults(self) -> Table:
        rows = [[name, f"{count:,}"] for name, count in sorted(self.done.items())]
        return Table("What was done", ["", "times"], rows)

    def _held(self) -> Table:
        rows = []

        for role, samples in sorted(self.findings.samples.items()):
            first, last = thirds(samples)
            rows.append(
                [
                    role,
                    f"{len(samples):,}",
                    *(
                        f"{before:{form}} → {after:{form}}"
                        for before, after, form in (
                            (first.rss / 1024, last.rss / 1024, ".1f"),
                            (first.pss / 1024, last.pss / 1024, ".1f"),
                            (first.descriptors, last.descriptors, "d"),
                            (first.threads, last.threads, "d"),
                        )
                    ),
                ]
            )

        return Table(
            "What processes hold at rest: median of the first third → of the last",
            ["process", "samples", "RSS, MB", "PSS, MB", "descriptors", "threads"],
            rows,
        )

    def _sums(self) -> Table:
        found = self.findings
        logs = found.logs
        marred = logs.missing + logs.doubled + logs.torn
        rows = [
            ["cycles", f"{found.cycles:,}"],
            ["requests", f"{found.account.total:,}"],
            ["refused while nothing was overloaded", f"{len(found.account.refused):,}"],
            ["app called twice for a request", f"{len(found.account.twice):,}"],
            ["generations", f"{found.generations:,}"],
            ["workers replaced for their memory", f"{found.replaced:,}"],
            ["lines of the access logs", f"{logs.lines:,}"],
            ["of them missing, doubled, torn", f"{marred:,}"],
            ["records of the servers' logs", f"{logs.records:,}"],
            ["of them not whole", f"{logs.mixed:,}"],
            ["log files", f"{logs.files:,}"],
            ["unexpected tracebacks", f"{found.tracebacks:,}"],
            ["processes that ended untouched", f"{len(found.deaths):,}"],
            ["zombies", f"{found.zombies:,}"],
            ["left behind: processes, files", f"{len(self.left):,}"],
        ]
        return Table("Altogether", ["", "count"], rows)

    def notes(self) -> list[str]:
        versions = ", ".join(f"{name} {one}" for name, one in self.versions.items())
        minutes = f"{self.seconds / 60:.1f} minutes."
        left_out = [f"Left out: {'; '.join(self.left_out)}."] if self.left_out else []
        return [minutes, *left_out, f"{self.machine}. {versions}."]

    def text(self) -> str:
        """For a terminal."""
        failures = self.failures()
        verdict = [f"FAILED: {one}" for one in failures] or ["All holds."]
        parts = [table.markdown().replace(NOTHING, "-") for table in self.tables()]
        return "\n\n".join([*parts, *self.notes(), f"    {self.command}", *verdict])

    def rst(self) -> str:
        """What the manual includes."""
        parts = [HEADER, *(table.rst() for table in self.tables())]
        parts += [to_rst(note) + "\n" for note in self.notes()]
        return "\n".join([*parts, f"::\n\n    {self.command}\n"])
