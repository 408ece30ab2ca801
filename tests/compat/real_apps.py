"""Try known apps and libraries with this server, each in an environment of its own.

Usage: ``python tests/compat/real_apps.py [NAME ...]``, by an interpreter that has what
the tests need. Without names all are tried, and the table of the manual's page,
``docs/real-apps.inc``, is written anew. The environments are kept in ``.cache/apps``.
``--list`` shows the names.

The exit status is 1 if one fails, and 3 if none does but some could not be tried,
because they can't be installed here or need a program that isn't there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
import typing as t
from collections.abc import Iterable
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    # Where pytest finds the suite's modules.
    sys.path[:1] = [str(ROOT / "tests")]

from integration.environments import CannotInstall  # noqa: E402
from integration.environments import Environment  # noqa: E402

from compat.trials import TRIALS  # noqa: E402
from compat.trials.base import NotHere  # noqa: E402
from compat.trials.base import Trial  # noqa: E402
from compat.trials.base import World  # noqa: E402

#: The table that the manual's page includes.
TABLE = ROOT / "docs" / "real-apps.inc"
COMMAND = "python tests/compat/real_apps.py"
#: How many environments are made at once: most of that is waiting.
_INSTALLERS = 3
#: How much of a log is shown with a failure, in lines.
_SHOWN = 60
#: Prints the versions of its arguments as JSON.
_VERSIONS = (
    "import json, sys; from importlib.metadata import version;"
    "print(json.dumps({one: version(one) for one in sys.argv[1:]}))"
)
_HEAD = """\
.. {command} has written this. Don't edit it.

Tried on {date} with flask_prefork {version}, Flask {flask} and Python {python} by
``{command}``.

.. list-table::
    :header-rows: 1
    :widths: 17 25 16 17 25

    * - App or library
      - Started by
      - Version
      - Outcome
      - What to do
"""
_FIRST = re.compile(
    r"^Tried on (\S+) with flask_prefork (\S+), Flask (.+) and Python (\S+) by$",
    re.MULTILINE,
)
_ROW = re.compile(
    r"^    \* - (.*)\n      - (.*)\n      - (.*)\n      - (.*)\n      - (.*)\n", re.M
)


class Result(t.NamedTuple):
    """What came of a trial. The fields are those of the page's table, in reST."""

    title: str
    started: str
    versions: str
    outcome: str
    advice: str


class Table(t.NamedTuple):
    """All that the page's table tells.

    :param date: When the run was begun, as ISO 8601 has it.
    :param version: Of flask_prefork.
    :param flask: Its version; several if some environments have others.
    :param python: Its version.
    :param results: In the order of the page.
    """

    date: str
    version: str
    flask: str
    python: str
    results: list[Result]


def render(table: Table) -> str:
    """The table in reST."""
    head = _HEAD.format(command=COMMAND, **table._asdict())
    rows = ("    * - " + "\n      - ".join(result) + "\n" for result in table.results)
    return head + "".join(rows)


def parse(text: str) -> Table:
    """The opposite of :func:`render`.

    :raises ValueError: If it isn't such a table.
    """
    first = _FIRST.search(text)
    if first is None:
        raise ValueError("it doesn't say when it was tried")
    # After the names of the columns.
    rows = [Result(*cells) for cells in _ROW.findall(text)][1:]
    return Table(*first.groups(), rows)


def base_name(requirement: str) -> str:
    """``celery`` of ``celery[redis]>=5``."""
    return re.split(r"[^\w.-]", requirement)[0]


def versions(environment: Environment, names: Iterable[str]) -> dict[str, str]:
    """Which versions of distributions an environment has."""
    line = [environment.program("python"), "-c", _VERSIONS, *names]
    output = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(output)
    return found


def prepare(trial: Trial) -> Environment:
    """Make a trial's environment, or find the one from before.

    :raises CannotInstall: If pip can't.
    :raises NotHere: If this Python is too old.
    """
    if sys.version_info < trial.python:
        raise NotHere("it needs Python {}.{}".format(*trial.python))
    environment = Environment(trial.environment or trial.name, *trial.requirements)
    environment.prepare()
    return environment


class Tried(t.NamedTuple):
    """A trial's end.

    :param result: For the table.
    :param status: ``works``, ``fails`` or ``not tried``.
    :param flask: Flask's version in its environment; empty if there is none.
    """

    result: Result
    status: str
    flask: str


def attempt(trial: Trial, environment: Future[Environment]) -> Tried:
    """Make a trial, once its environment is there."""

    def ended(status: str, outcome: str, advice: str = "") -> Tried:
        started = ", ".join(f"``{line}``" for line in trial.started)
        result = Result(trial.title, started, shown, outcome, advice)
        return Tried(result, status, flask)

    shown = flask = ""
    try:
        there = environment.result()
    except (CannotInstall, NotHere) as e:
        return ended("not tried", f"Not tried: {one_line(e)}")
    names = [base_name(one) for one in trial.shown or trial.requirements]
    found = versions(there, {*names, "flask"})
    flask = found["flask"]
    shown = ", ".join(
        f"{one} {found[one]}" if names[1:] else found[one] for one in names
    )
    with tempfile.TemporaryDirectory(prefix="real-apps-") as name:
        folder = Path(name)
        # A database server that isn't root's has its data in there.
        folder.chmod(0o755)
        world = World(there, folder)
        try:
            with world:
                trial.run(world)
        except NotHere as e:
            return ended("not tried", f"Not tried: {one_line(e)}")
        except Exception as e:
            _show(world)
            return ended("fails", f"Fails: {one_line(e) or type(e).__name__}")
    remarks = "".join(f" ({remark})" for remark in world.remarks)
    return ended("works", trial.outcome + remarks, trial.advice)


def one_line(error: BaseException) -> str:
    """The first line of an error's text, without what reST takes for markup."""
    first = (str(error).strip().splitlines() or [""])[0]
    return re.sub(r"[`*|\\]", "", first)[:200]


def _show(world: World) -> None:
    """Show an exception, and the ends of all logs."""
    traceback.print_exc()
    logs = {f"server {number}": log for number, log in enumerate(world.logs, 1)}
    for path in sorted(world.folder.glob("*.log")):
        logs[path.name] = path.read_text("utf-8", "replace")
    for name, log in logs.items():
        print(f"--- {name}", *log.splitlines()[-_SHOWN:], sep="\n", file=sys.stderr)


def try_all(trials: Mapping[str, Trial]) -> dict[str, Tried]:
    """Make the trials, one by one, while the next environments are prepared."""
    tried = {}
    with ThreadPoolExecutor(_INSTALLERS) as pool:
        coming = {name: pool.submit(prepare, one) for name, one in trials.items()}
        for name, trial in trials.items():
            print(f"{name} ...", end=" ", flush=True)
            begun = time.monotonic()
            tried[name] = attempt(trial, coming[name])
            print(tried[name].status, f"({time.monotonic() - begun:.0f} s)", flush=True)
    return tried


def as_text(tried: Mapping[str, Tried]) -> str:
    """The table for a terminal."""
    lines = []
    for name, (result, _, flask) in tried.items():
        about = f"{result.versions} (Flask {flask})" if flask else ""
        lines.append(f"{name} {about}\n    {result.outcome} {result.advice}".rstrip())
    return "\n".join(lines).replace("``", "")


def main(arguments: list[str] | None = None) -> int:
    """The command.

    :return: Its exit status.
    """
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="all by default")
    parser.add_argument("--list", action="store_true", help="show the names and exit")
    options = parser.parse_args(arguments)
    if options.list:
        print(*TRIALS, sep="\n")
        return 0
    unknown = set(options.names) - TRIALS.keys()
    if unknown:
        parser.error(f"no such trial: {', '.join(sorted(unknown))}")
    date = datetime.date.today().isoformat()
    names = options.names or list(TRIALS)
    tried = try_all({name: TRIALS[name] for name in names})
    print(f"\n{as_text(tried)}")
    if not options.names:
        results = [one.result for one in tried.values()]
        version = metadata.version("flask_prefork")
        flask = ", ".join(sorted({one.flask for one in tried.values()} - {""}))
        table = Table(date, version, flask, platform.python_version(), results)
        TABLE.write_text(render(table), "utf-8")
        print(f"\nwritten: {TABLE.relative_to(ROOT)}")
    statuses = {one.status for one in tried.values()}
    return 1 if "fails" in statuses else 3 if "not tried" in statuses else 0


if __name__ == "__main__":
    sys.exit(main())
