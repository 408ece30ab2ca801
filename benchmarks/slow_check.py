"""Check what slow clients cost others: ``python benchmarks/slow_check.py``.

Our own server only, six workers at most. While many clients are slow, one quick client
after the other asks for a small page, and the longest wait is shown beside the most
that it may be. It also shows how many of the slow ones have their whole response.
The status is 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

import ask
from process import free_port
from process import Running
from servers import SERVERS
from servers import Setup
from slow import raise_descriptors
from slow import REFUSED
from slow_process import SlowClients

PAUSE = 0.02
"""Seconds between two quick clients."""

REST = 5.0
"""Seconds after the last slow client, for what a server still has to do."""

ACCEPTING = 1.0
"""Seconds until what the slow clients cost is looked at."""

PATIENCE = 20.0
"""Seconds that a quick client waits at most."""

REFUSED_SECONDS = 20.0
"""For so long refused clients come again and again."""


@dataclass(frozen=True)
class Check:
    """What is slow, and what that may cost others."""

    name: str
    kind: str
    size: int
    rate: int
    most: float
    """Seconds that a quick client may wait."""

    workers: int = 6


CHECKS = (
    Check("bodies", "body", 60_000, 1200, 0.5),
    Check("chunked", "chunked", 60_000, 1200, 0.5),
    Check("readers", "read", 900_000, 2000, 0.5),
    Check("uploads", "body", 20_000_000, 16_000, 2.0),
    Check("garbage", "garbage", 0, 1, 0.3, workers=2),
    Check("unread", "unwanted", 10_000_000, 100_000, 0.3, workers=2),
)


class Used(t.NamedTuple):
    """What the server uses."""

    descriptors: int
    pss: float
    """Megabytes."""

    @classmethod
    def by(cls, running: Running) -> Used:
        pss = sum(one.pss for one in running.memory().values())
        return cls(running.descriptors(), pss / 1024)

    def __str__(self) -> str:
        return f"{self.descriptors:,} descriptors {self.pss:.0f} MB"


@dataclass(frozen=True)
class Finding:
    """What came of a check."""

    longest: float
    quick: int
    failed: int
    whole: int
    ended: dict[str, int]
    seconds: float
    used: tuple[Used, ...] = ()
    """Before, when all slow ones are connected, and after."""

    def passed(self, check: Check, count: int) -> bool:
        """Whether all is as it should be."""
        served = self.whole == count or check.kind in REFUSED
        return self.longest < check.most and not self.failed and served


class QuickClient:
    """One request after the other, each on a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.waits: list[float] = []
        self.failed = 0

    def ask(self) -> None:
        """Send one, and wait for its response."""
        began = time.monotonic()

        try:
            ask.by_http(self.port, "", PATIENCE)
        except (OSError, ask.BadAnswer):
            self.failed += 1

        self.waits.append(time.monotonic() - began)
        time.sleep(PAUSE)


def run(check: Check, count: int, factor: float) -> Finding:
    """Run one check.

    :param count: How many are slow.
    :param factor: Their bytes are divided by it.
    """
    size = int(check.size / factor)
    seconds = REFUSED_SECONDS if check.kind in REFUSED else size / check.rate
    spare = 0.0 if check.kind in REFUSED else seconds / 2 + 15
    words = ["--count", str(count), "--size", str(size), "--rate", str(check.rate)]
    server = SERVERS["prefork-ordered"]
    setup = Setup(
        python=Path(sys.executable),
        port=free_port(),
        workers=2,
        most=check.workers,
        app="slow",
        keep_alive=False,
    )

    with Running(server.command(setup), setup.port) as running:
        running.settle()
        quick = QuickClient(setup.port)
        before = Used.by(running)
        began = time.monotonic()

        with SlowClients(setup.port, check.kind, words) as slow:
            # Connected is not accepted.
            slow.wait(time.monotonic() + ACCEPTING, quick.ask)
            during = Used.by(running)
            slow.wait(time.monotonic() + seconds + spare, quick.ask)

        took = time.monotonic() - began
        time.sleep(REST)
        after = Used.by(running)

    ended = dict(slow.report.get("ended", {}))
    return Finding(
        longest=max(quick.waits, default=0.0),
        quick=len(quick.waits),
        failed=quick.failed,
        whole=ended.get("200", 0),
        ended=ended,
        seconds=took,
        used=(before, during, after),
    )


def line(check: Check, factor: float, count: int, finding: Finding) -> str:
    """What is shown of a check."""
    how = "ok" if finding.passed(check, count) else "FAILED"
    scaled = f", 1/{factor:g} of the bytes" if factor != 1 else ""
    ended = ", ".join(f"{n} {what}" for what, n in sorted(finding.ended.items()))
    quick = f"{finding.quick} quick, {finding.failed} failed"
    return (
        f"{check.name:8} {how:6} longest wait {finding.longest:.3f} s"
        f" (at most {check.most:g} s) of {quick};"
        f" {count} slow for {finding.seconds:.0f} s{scaled}: {ended or 'none ended'}"
        f"; {', then '.join(map(str, finding.used))}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [check.name for check in CHECKS]
    add = parser.add_argument
    add("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(names)} (all)")
    add("--count", type=int, default=50, help="slow clients (default: %(default)s)")
    add(
        "--factor",
        type=float,
        default=10.0,
        help="divide the 20 MB of uploads, which take 21 minutes, by this"
        " (default: %(default)g)",
    )
    add("--factor-all", type=float, default=1.0, help="divide the other bytes by this")
    options = parser.parse_args()
    unknown = set(options.checks) - set(names)

    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}")

    raise_descriptors()
    passed = True

    with contextlib.suppress(KeyboardInterrupt):
        for check in CHECKS:
            if options.checks and check.name not in options.checks:
                continue

            factor = options.factor if check.name == "uploads" else options.factor_all
            finding = run(check, options.count, factor)
            passed &= finding.passed(check, options.count)
            print(line(check, factor, options.count, finding), flush=True)

    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
