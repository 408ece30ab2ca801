"""What is in the logs after they were moved away. Pure, but for :func:`take`."""

from __future__ import annotations

import re
import typing as t
from collections import Counter
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

from .account import ANSWERED
from .account import Request
from .account import STATUS

_LINE = re.compile(r'(\d{3}) "([^"]*)"')
"""Of the access log."""

_ID = re.compile(r"[?&]id=([\w-]+)")

_PREFIX = re.compile(
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [-+]\d{4}\] \[\d+\]"
    r" \[[A-Z]+\] \[[a-z]+(?: \d+)?\] "
)
"""Of each record of the server's log, as the manual has it."""


@dataclass
class LogCheck:
    """What was found."""

    lines: int = 0
    missing: int = 0
    """Requests that were answered and have no line."""

    doubled: int = 0
    torn: int = 0
    """Lines that are not whole, and that no kill explains."""

    records: int = 0
    """Of the server's log."""

    mixed: int = 0
    """Of them, those with another one inside."""

    files: int = 0
    examples: list[str] = field(default_factory=list)
    """Ids of requests that are missing or doubled, and lines that are torn or mixed."""

    def add(self, other: LogCheck) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def holds(self) -> bool:
        return not (self.missing or self.doubled or self.torn or self.mixed)


def check_access(
    lines: Iterable[str],
    requests: Iterable[Request],
    served: Mapping[str, Sequence[int]],
    killed: Collection[int],
    excused: t.Callable[[Request], bool] = lambda request: False,
) -> LogCheck:
    """Compare the access log with what clients got.

    :param served: The pids of the workers whose app was called, by request.
    :param killed: Workers that were killed: each may have lost the line that it wrote.
    :param excused: Whether a request's line may be missing: the disk was full.
    """
    check = LogCheck()
    found: Counter[str] = Counter()

    for line in lines:
        whole = _LINE.fullmatch(line)
        check.lines += 1

        if whole is None:
            check.torn += 1
            check.examples.append(line)
        elif named := _ID.search(whole[2]):
            found[named[1]] += 1

    check.torn = max(0, check.torn - len(killed))
    doubled = [name for name, count in found.items() if count > 1]
    missing = []

    for one in requests:
        pids = served.get(one.id, ())
        due = one.outcome == ANSWERED and one.kind != STATUS and pids

        if due and not found[one.id] and pids[0] not in killed and not excused(one):
            missing.append(one.id)

    check.missing, check.doubled = len(missing), len(doubled)
    check.examples += [*missing, *doubled]
    return check


def check_errors(lines: Iterable[str]) -> LogCheck:
    """Whether each record of the server's log begins a line."""
    check = LogCheck()

    for line in lines:
        begins = [found.start() for found in _PREFIX.finditer(line)]
        check.records += bool(begins)

        if begins and begins != [0]:
            check.mixed += 1
            check.examples.append(line)

    return check


def read_journal(text: str) -> dict[str, list[int]]:
    """The pids that the app has noted, by request."""
    found: dict[str, list[int]] = {}

    for line in text.splitlines():
        name, _, pid = line.partition(" ")

        if pid:
            found.setdefault(name, []).append(int(pid))

    return found


def take(folder: Path, name: str) -> tuple[list[str], int]:
    """The lines of a log that was moved away, whose files are removed.

    :return: And how many files there were.
    """
    lines, count = [], 0

    for path in sorted(folder.glob(f"{name}.*")):
        lines += path.read_text(errors="replace").splitlines()
        path.unlink()
        count += 1

    return lines, count
