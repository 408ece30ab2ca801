"""From measurements to a Markdown table, and to JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import typing as t
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

from load import Load
from servers import SERVERS


@dataclass(frozen=True)
class Measurement:
    """One server, in one round, under the load of so many clients."""

    round: int
    server: str
    clients: int
    load: Load
    cpu: float
    """Microseconds of CPU time, user and system, of all the server's processes
    and threads, for each request."""


@dataclass
class Report:
    """All that a run of the comparison found, complete or interrupted."""

    title: str
    command: str
    method: str
    reference: str
    """The server that the others' throughput is divided by."""

    machine: str
    versions: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)
    alone: list[float] = field(default_factory=list)
    """Microseconds of CPU time that a call of the app takes without a server."""

    commands: dict[str, list[str]] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)

    def write_json(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def markdown(self) -> str:
        parts = [
            self._table(clients)
            for clients in sorted({one.clients for one in self.measurements})
        ]
        versions = ", ".join(f"{name} {v}" for name, v in self.versions.items())
        notes = [self.method]

        if self.alone:
            alone = statistics.median(self.alone)
            notes.append(f"A call of the app without a server: {alone:.1f} µs of CPU.")

        if self.left_out:
            reasons = [f"{name} ({why})" for name, why in self.left_out.items()]
            notes.append(f"Left out: {'; '.join(reasons)}.")

        notes += [f"{self.machine}. {versions}.", f"    {self.command}"]

        return "\n\n".join(parts + notes)

    def _table(self, clients: int) -> str:
        rows = [
            (
                name,
                [
                    one
                    for one in self.measurements
                    if (one.clients, one.server) == (clients, name)
                ],
            )
            for name in SERVERS
        ]
        measured = [(name, ones) for name, ones in rows if ones]
        measured.sort(key=lambda row: -statistics.median(o.load.rate for o in row[1]))
        lines = [
            f"**{self.title}, {clients} clients**",
            "",
            f"| server | requests/s | / {self.reference} | CPU µs a request"
            " | without the app | p50, p99 ms | errors |",
            "|---|--:|--:|--:|--:|--:|---|",
            *(self._row(name, ones) for name, ones in measured),
        ]
        return "\n".join(lines)

    def _row(self, name: str, ones: list[Measurement]) -> str:
        own = "–"

        if self.alone and SERVERS[name].calls_app:
            cpu = statistics.median(one.cpu for one in ones)
            own = f"{cpu - statistics.median(self.alone):,.0f}"

        p50 = statistics.median(one.load.p50 for one in ones)
        p99 = statistics.median(one.load.p99 for one in ones)
        cells = [
            f"{name}: {SERVERS[name].about}",
            spread([one.load.rate for one in ones], ",.0f"),
            spread(self._ratios(ones), ".2f"),
            spread([one.cpu for one in ones], ",.0f"),
            own,
            f"{p50:.1f}, {p99:.1f}",
            _errors(ones),
        ]
        return f"| {' | '.join(cells)} |"

    def _ratios(self, ones: list[Measurement]) -> list[float]:
        """The throughput divided by the reference's in the same round, since
        what else the machine does changes from round to round.
        """
        reference = {
            (one.round, one.clients): one.load.rate
            for one in self.measurements
            if one.server == self.reference
        }
        return [
            one.load.rate / reference[one.round, one.clients]
            for one in ones
            if reference.get((one.round, one.clients))
        ]


def spread(values: t.Sequence[float], form: str) -> str:
    """The median, and the least and greatest value if there are several."""
    if not values:
        return "–"

    median = format(statistics.median(values), form)

    if len(values) == 1:
        return median

    return f"{median} ({format(min(values), form)}–{format(max(values), form)})"


def _errors(ones: list[Measurement]) -> str:
    """The sum of all rounds, by kind."""
    totals: dict[str, int] = {}

    for one in ones:
        for kind, count in one.load.errors.items():
            totals[kind] = totals.get(kind, 0) + count

    return ", ".join(f"{count:,} {kind}" for kind, count in totals.items())


def machine() -> str:
    """The processor, how many of its cores are ours, the system, how busy it is."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")

    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break

    cores = os.cpu_count() or 1

    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))

    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{cores} x {name}, {system}, load average {os.getloadavg()[0]:.1f} before"
