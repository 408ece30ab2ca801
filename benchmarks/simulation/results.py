"""The results of runs, as figures that can be compared."""

from __future__ import annotations

import bisect
import math
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

from .cases import Case
from .cases import OURS
from .cases import SERVERS
from .cases import TAIL
from .engine import Account
from .engine import World
from .traffic import Traffic

GRAIN = 1e-4
"""Waiting times that differ by less than this many seconds are the same."""


class Result(t.NamedTuple):
    """One server in one case with one min-idle. Times are seconds."""

    case: str
    server: str
    min_idle: int
    requests: int
    mean: float
    """Of the time that requests wait, as the next four."""

    p50: float
    p95: float
    p99: float
    longest: float
    seconds: float
    worker_seconds: float
    idle_seconds: float
    peak: int
    spawned: int
    retired: int
    events: int
    cpu: float
    """CPU seconds that the simulation took."""

    @property
    def workers(self) -> float:
        """How many there were on average."""
        return self.worker_seconds / self.seconds

    def beats(self, other: Result) -> bool:
        """Whether it is better in waiting or in worker-seconds, and in none worse."""
        waits = self.mean - other.mean
        cost = self.worker_seconds - other.worker_seconds
        if waits > GRAIN or cost > 0:
            return False
        return waits < -GRAIN or cost < 0


def quantile(ordered: Sequence[float], part: float) -> float:
    """The value that this part of all is at or below.

    :param ordered: at least one value, ascending.
    """
    return ordered[max(math.ceil(part * len(ordered)) - 1, 0)]


def summed(
    case: str,
    server: str,
    min_idle: int,
    account: Account,
    cpu: float = 0.0,
    skipped: int = 0,
) -> Result:
    """The figures of one run.

    :param cpu: seconds that it took.
    :param skipped: so many of the first requests' waits don't count.
    """
    waits = sorted(account.waits[skipped:])
    count = len(waits)
    return Result(
        case=case,
        server=server,
        min_idle=min_idle,
        requests=count,
        mean=math.fsum(waits) / count,
        p50=quantile(waits, 0.5),
        p95=quantile(waits, 0.95),
        p99=quantile(waits, 0.99),
        longest=waits[-1],
        seconds=account.seconds,
        worker_seconds=account.alive,
        idle_seconds=account.alive - account.busy - account.starting,
        peak=account.peak,
        spawned=account.spawned,
        retired=account.retired,
        events=account.events,
        cpu=cpu,
    )


def replay(case: Case, server: str, min_idle: int, requests: Traffic) -> Account:
    """Run one server once."""
    make, limits = SERVERS[server], case.limits(server, min_idle)
    return World(requests, case.machine, lambda w: make(w, limits), TAIL).run()


def run(
    case: Case, servers: Iterable[str], seed: int, say: Callable[[Result], None]
) -> list[Result]:
    """Run every server with every min-idle of a case, on the same requests.

    :param say: called with each result as it comes.
    """
    requests = case.draw(seed)
    skipped = bisect.bisect(requests.arrivals, case.settle)
    found = []
    for server in servers:
        # More spares change nothing for a fixed number.
        for min_idle in (case.shown,) if server == "fixed" else case.min_idle:
            begin = time.process_time()
            account = replay(case, server, min_idle, requests)
            cpu = time.process_time() - begin
            found.append(summed(case.name, server, min_idle, account, cpu, skipped))
            say(found[-1])
    return found


class Verdict(t.NamedTuple):
    """How one server's settings stand against ours, in one case."""

    server: str
    settings: int
    beaten: int
    """Of its settings those that one of ours beats."""

    unbeaten: list[Result]
    ours: int
    ours_beaten: int
    """Of our settings those that one of its beats."""


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Compare the curves of one case: a single point can be tuned, a curve can't."""
    ours = [one for one in results if one.server.startswith(OURS)]
    found = []
    for server in dict.fromkeys(one.server for one in results):
        if server.startswith(OURS) or server == "fixed":
            continue
        theirs = [one for one in results if one.server == server]
        unbeaten = [r for r in theirs if not any(own.beats(r) for own in ours)]
        lost = sum(any(other.beats(own) for other in theirs) for own in ours)
        beaten = len(theirs) - len(unbeaten)
        found.append(Verdict(server, len(theirs), beaten, unbeaten, len(ours), lost))
    return found
