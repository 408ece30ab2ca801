"""What is simulated: the cases and the servers, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import traffic
from .engine import Machine
from .engine import Server
from .engine import World
from .ours import Limits
from .ours import Prefork
from .peers import Apache
from .peers import Fixed
from .peers import NetServer
from .peers import PhpFpm
from .peers import SpamAssassin
from .peers import UwsgiBusyness
from .peers import UwsgiSpare2

Make = Callable[[World, Limits], Server]

OURS = "flask prefork-run"

SERVERS: dict[str, Make] = {
    OURS: Prefork,
    f"{OURS} --idle-timeout 1": lambda world, limits: Prefork(world, limits, 1.0),
    "SpamAssassin": SpamAssassin,
    "Net::Server::PreFork": NetServer,
    "Apache prefork": Apache,
    "php-fpm dynamic": PhpFpm,
    "uWSGI spare2": UwsgiSpare2,
    "uWSGI busyness": UwsgiBusyness,
    "fixed": Fixed,
}
"""By the name in tables. ``fixed`` has max-workers processes, all the time."""

LIGHT = Machine(fork=0.002, boot=0.010, warm_up=0.020)
"""A small app: its first request in a process imports and connects a little."""

HEAVY = Machine(fork=0.010, boot=0.500, warm_up=0.200)
"""A big one that opens connections and fills caches after the fork."""

SETTLE = 10.0
"""Seconds until a steady load has been there for a while."""

TAIL = 30.0
"""Seconds after the last arrival, in which a pool shrinks."""


@dataclass(frozen=True)
class Case:
    """Requests, what processes cost, and the limits that are tried."""

    name: str
    about: str
    arrivals: traffic.Arrivals
    service: traffic.Service
    machine: Machine = LIGHT
    min_idle: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Each is tried. The table shows the one in the middle."""

    max_workers: int = 200

    settle: float = 0.0
    """Seconds in which the pool grows to what it needs; their waits don't count."""

    @property
    def shown(self) -> int:
        return self.min_idle[len(self.min_idle) // 2 - 1]

    def draw(self, seed: int) -> traffic.Traffic:
        return traffic.make(self.arrivals, self.service, seed)

    def limits(self, server: str, min_idle: int) -> Limits:
        if server == "fixed":
            return Limits(min_idle, self.max_workers, min_workers=self.max_workers)
        return Limits(min_idle, self.max_workers)


def cases(scale: float = 1.0) -> list[Case]:
    """All cases.

    :param scale: a part of the time that they last.
    """
    long, short = 240 * scale, 120 * scale
    steady = traffic.poisson(200, long)
    many = traffic.bursts(20, 5, 30, long)
    crowd = traffic.varying(traffic.crowd(20, 800, 30 * scale, 20 * scale), 800, short)
    return [
        Case(
            "steady",
            "200 requests a second, exponential service of 50 ms: 10 busy workers.",
            steady,
            traffic.exponential(0.05),
            settle=SETTLE,
        ),
        Case(
            "constant",
            "The same arrivals, and every request takes 50 ms.",
            steady,
            traffic.constant(0.05),
            settle=SETTLE,
        ),
        Case(
            "lognormal",
            "The same arrivals, lognormal service of 50 ms with sigma 1.5.",
            steady,
            traffic.lognormal(0.05, 1.5),
            settle=SETTLE,
        ),
        Case(
            "pareto",
            "The same arrivals, Pareto service of 50 ms with alpha 1.5: a few requests"
            " take many seconds.",
            steady,
            traffic.pareto(0.05, 1.5),
            settle=SETTLE,
        ),
        Case(
            "bursts",
            "20 requests a second of 100 ms, and 30 more at once every 5 s or so.",
            many,
            traffic.exponential(0.1),
        ),
        Case(
            "bursts, heavy",
            "The same for a big app: a worker takes 0.5 s to start and 0.2 s more for"
            " its first request.",
            many,
            traffic.exponential(0.1),
            HEAVY,
        ),
        Case(
            "day",
            "10 to 400 requests a second and back in 4 min, service of 50 ms.",
            traffic.varying(traffic.day(10, 400, long), 400, long),
            traffic.exponential(0.05),
        ),
        Case(
            "crowd",
            "20 requests a second of 100 ms; after 30 s suddenly 800, then ever fewer.",
            crowd,
            traffic.exponential(0.1),
        ),
        Case(
            "crowd, heavy",
            "The same for the big app.",
            crowd,
            traffic.exponential(0.1),
            HEAVY,
        ),
        Case(
            "ten thousand",
            "2,000 to 20,000 requests a second of 0.4 s in 1 min: 800 to 8,000 busy"
            " workers.",
            traffic.varying(traffic.day(2000, 20000, short), 20000, short / 2),
            traffic.exponential(0.4),
            min_idle=(250, 1000),
            max_workers=10_000,
        ),
    ]
