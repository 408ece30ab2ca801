"""The results, as lines of JSON that are written at once.

A run that is interrupted keeps its results, and can be resumed. The first line of the
file has the options of the run. Each other line has the result of one trial, or the
reason why a server is left out.
"""

from __future__ import annotations

import json
import time
import typing as t
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

Figures = Mapping[str, t.Any]
"""What one measurement gave, as JSON has it."""


class ResumeError(Exception):
    """What is there can't be gone on with."""


@dataclass(frozen=True)
class Meta:
    """How a run was made."""

    command: str
    options: dict[str, t.Any]
    """Those that change what is measured."""

    machine: str
    versions: dict[str, str]
    date: str = ""
    """The day on which it was begun."""

    commit: str = ""
    """Of the code that is measured, see :class:`.Code`."""

    tree: str = ""
    commands: dict[str, list[str]] = field(default_factory=dict)
    """How each contender is started, see :meth:`.Lab.commands`."""


def today() -> str:
    """The day, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime())


class Trial(t.NamedTuple):
    """One server, measured once in one case.

    :param round: From 0. What is compared with each other is of one round.
    :param case: What is measured.
    :param contender: Who is measured.
    """

    round: int
    case: str
    contender: str


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    trial: Trial
    figures: tuple[Figures, ...] = ()
    failed: str = ""
    """Why there are no figures."""


@dataclass
class Results:
    """All of a suite's."""

    meta: Meta
    outcomes: dict[Trial, Outcome] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Who can't take part, and why."""

    def figures(self, case: str, contender: str) -> list[Figures]:
        """All of one row's, by round."""
        found = [
            one
            for one in self.outcomes.values()
            if (one.trial.case, one.trial.contender) == (case, contender)
        ]
        found.sort(key=lambda one: one.trial.round)
        return [
            {**each, "round": one.trial.round} for one in found for each in one.figures
        ]

    def cases(self) -> list[str]:
        """What was measured, in the order of the first look at it."""
        return list(dict.fromkeys(trial.case for trial in self.outcomes))

    def contenders(self, case: str) -> list[str]:
        """Who has figures for it, in the order of the first look at it."""
        named = [
            trial.contender
            for trial, one in self.outcomes.items()
            if trial.case == case and one.figures
        ]
        return list(dict.fromkeys(named))

    def failures(self) -> dict[str, str]:
        """Who doesn't take part in what, and why."""
        found = dict(self.absent)

        for trial, one in self.outcomes.items():
            if one.failed:
                found[f"{trial.contender}, {trial.case}"] = one.failed

        return found


class Store:
    """A file of results.

    :param path: Where it is, or is to be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, meta: Meta) -> Results:
        """A new file, over the one that may be there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"meta": asdict(meta)}) + "\n")
        return Results(meta)

    def resume(self, meta: Meta) -> Results:
        """Go on with the file that is there; if there is none, begin.

        :raises ResumeError: It was made with other options, or with other code.
        """
        if not self.path.exists():
            return self.begin(meta)

        results = self.load()

        for name, value in meta.options.items():
            before = results.meta.options.get(name)

            if before != value:
                raise ResumeError(
                    f"{self.path} was begun with {name}={before!r}, not {value!r}:"
                    " say so again, or begin anew without --resume"
                )

        if results.meta.tree != meta.tree:
            raise ResumeError(
                f"{self.path} is of flask_prefork at commit {results.meta.commit}, and"
                f" the code is another at {meta.commit}: begin anew without --resume"
            )

        return results

    def load(self) -> Results:
        """What is there.

        :raises ResumeError: Nothing is, or it isn't what we have written.
        """
        try:
            lines = list(self._lines())
            results = Results(Meta(**lines[0]["meta"]))
        except FileNotFoundError:
            raise ResumeError(f"there are no results in {self.path} yet") from None
        except (IndexError, KeyError, TypeError):
            raise ResumeError(f"{self.path} doesn't begin with its meta line") from None

        for line in lines[1:]:
            _take_in(results, line)

        return results

    def _lines(self) -> Iterator[dict[str, t.Any]]:
        for text in self.path.read_text().splitlines(keepends=True):
            # Whoever was killed while writing has left half a line, the last.
            if text.endswith("\n"):
                yield json.loads(text)

    def add(self, results: Results, outcome: Outcome) -> None:
        """Keep what became of a trial."""
        results.outcomes[outcome.trial] = outcome
        self._append(asdict(outcome))

    def leave_out(self, results: Results, contender: str, why: str) -> None:
        """Keep why somebody doesn't take part."""
        results.absent[contender] = why
        self._append({"absent": contender, "why": why})

    def _append(self, line: dict[str, t.Any]) -> None:
        with self.path.open("r+b") as file:
            # Over the half of a line that may be there.
            whole = file.read().rfind(b"\n") + 1
            file.seek(whole)
            file.truncate()
            file.write(json.dumps(line).encode() + b"\n")


def _take_in(results: Results, line: dict[str, t.Any]) -> None:
    if "absent" in line:
        results.absent[line["absent"]] = line["why"]
        return

    trial = Trial(*line["trial"])
    results.outcomes[trial] = Outcome(trial, tuple(line["figures"]), line["failed"])
