"""What a suite of measurements is, as data."""

from __future__ import annotations

import argparse
import typing as t
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

from charts import Chart
from options import choices
from options import positive
from results import Figures
from results import Results
from results import Trial
from servers import SERVERS
from tables import Table

if t.TYPE_CHECKING:
    from lab import Lab

Options = argparse.Namespace


@dataclass(frozen=True)
class Contender:
    """A server, and how it is set up here."""

    name: str
    server: str
    """A name in servers.py."""

    about: str = ""
    workers: int = 0
    """To begin with; 0 is what ``--workers`` says."""

    most: int = 0
    """That there may be; 0 is as many as to begin with."""

    options: tuple[str, ...] = ()
    """Of its command line."""

    tls: bool = False
    """It serves HTTPS."""


@dataclass(frozen=True)
class Option:
    """An option of the command line that only one suite has."""

    flag: str
    kind: Callable[[str], t.Any]
    default: str
    metavar: str
    help: str


def choose_servers(
    known: Collection[str], default: Collection[str] | None = None
) -> Option:
    """Which of these take part; all of them by default, or some."""
    chosen = known if default is None else default
    return Option(
        "--servers", choices(known), ",".join(chosen), "A,B,...", "which take part"
    )


CHOOSE_SERVERS = choose_servers(SERVERS)
CHOOSE_WORKERS = Option(
    "--workers", positive, "2", "N", "processes of each server, to begin with"
)


@dataclass(frozen=True)
class Suite:
    """Measurements that answer one question."""

    name: str
    title: str
    options: Sequence[Option]
    smoke: Mapping[str, t.Any]
    """Options that make it as short as it can be."""

    contenders: Callable[[Options], Sequence[Contender]]

    cases: Callable[[Options], Mapping[str, Sequence[str]]]
    """Who takes part in what, by the contenders' names."""

    cost: Callable[[Trial, Options], float]
    """Seconds that a trial should take."""

    measure: Callable[[Trial, Lab], Sequence[Figures]]
    tables: Callable[[Results], Sequence[Table]]
    charts: Callable[[Results], Sequence[Chart]]

    shared: str | None = None
    """A case that the others of a round depend on."""

    defaults: Mapping[str, str] = field(default_factory=dict)
    """Of the options that all suites have, where they are others here."""

    method: Callable[[Options], str] = lambda options: ""
    """How it was measured, below the tables."""
