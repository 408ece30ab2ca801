"""The page about ``flask run``'s options names them all, and is right about them."""

from __future__ import annotations

import inspect
import os
import re
import typing as t
from pathlib import Path

import click
import pytest
from flask.cli import cli as flask_command
from flask.cli import run_command
from werkzeug.serving import run_simple

from flask_prefork.cli import prefork_run
from flask_prefork.settings.certificates import pair

PAGE = (Path(__file__).parents[2] / "docs" / "drop-in.rst").read_text()
_ROW = re.compile(
    r"^    \* - (?P<names>.+)\n"
    r"      - (?P<verdict>.+)\n"
    r"      -(?P<remark>.*\n(?:        .+\n)*)",
    re.MULTILINE,
)
_OPTION = re.compile(r"(?<=``)--?[a-z][a-z-]*")


class Row(t.NamedTuple):
    names: list[str]
    verdict: str
    remark: str


def table(title: str) -> list[Row]:
    """The rows of a table of the page, but for its head."""
    _, found, rest = PAGE.partition(f".. list-table:: ``{title}``\n")
    assert found
    body = re.split(r"\n\n(?=\S)", rest)[0] + "\n"
    _, *rows = (
        Row(re.findall("``(.+?)``", match["names"]), match["verdict"], match["remark"])
        for match in _ROW.finditer(body)
    )
    # What the pattern doesn't understand would be passed over.
    assert len(rows) + 1 == body.count("\n    * - ")
    return rows


OPTIONS = table("flask run")
PARAMETERS = table("werkzeug.serving.run_simple")


def declared(command: click.Command) -> set[str]:
    return {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


OURS = declared(prefork_run)
#: An option's arguments on the command line, where it takes some.
ARGUMENTS = {
    "--host": ["127.0.0.2"],
    "-h": ["::1"],
    "--port": ["5001"],
    "-p": ["0"],
    "--cert": ["adhoc"],
    "--extra-files": ["one:two"],
    "--exclude-patterns": ["*.txt:*.cfg"],
}


def test_every_option_is_named_once() -> None:
    names = [name for row in OPTIONS for name in row.names]
    assert len(names) == len(set(names))
    assert set(names) == declared(run_command)


def test_every_parameter_is_named_once() -> None:
    names = [name for row in PARAMETERS for name in row.names]
    assert len(names) == len(set(names))
    assert set(names) == set(inspect.signature(run_simple).parameters)


@pytest.mark.parametrize("row", OPTIONS + PARAMETERS, ids=lambda row: row.names[0])
def test_verdicts(row: Row) -> None:
    assert row.verdict in ("same", "better", "not there")
    # What is not the same needs a word.
    assert row.verdict == "same" or row.remark.strip()


@pytest.mark.parametrize("row", OPTIONS, ids=lambda row: row.names[0])
def test_options_are_there_or_not(row: Row) -> None:
    there = set(row.names) & OURS
    assert there == (set() if row.verdict == "not there" else set(row.names))


def parsed(command: click.Command, args: list[str]) -> tuple[dict[str, t.Any], str]:
    """The parameters that both commands have, and whether the debug mode is on."""
    both = {p.name for p in run_command.params} & {p.name for p in prefork_run.params}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FLASK_RUN_HOST", "FLASK_RUN_PORT"):
            patch.delenv(name, raising=False)
        # --debug writes it.
        patch.setenv("FLASK_DEBUG", "not said")
        # It empties the list.
        with command.make_context(command.name, list(args)) as context:
            values = {k: v for k, v in context.params.items() if k in both}
        return values, os.environ["FLASK_DEBUG"]


def comparable(found: tuple[dict[str, t.Any], str]) -> tuple[dict[str, t.Any], str]:
    """The same, with host, certificate and key as theirs: a single one."""
    values = dict(found[0])
    if isinstance(values["host"], tuple):
        (values["host"],) = values["host"]
    names, keys = values.pop("cert"), values.pop("key", None)
    if isinstance(keys, tuple):
        first = next(map(tuple, pair(names, keys)), None)
        values["cert"] = first if first is None or first[1] else first[0]
    else:
        values["cert"] = names
    return values, found[1]


@pytest.mark.parametrize(
    "name",
    [name for row in OPTIONS if row.verdict != "not there" for name in row.names],
)
def test_options_are_taken_as_flask_run_takes_them(name: str, tmp_path: Path) -> None:
    args = [name, *ARGUMENTS.get(name, [])]
    if name == "--key":
        path = tmp_path / "file.pem"
        path.touch()
        args = ["--cert", str(path), name, str(path)]
    ours, theirs = parsed(prefork_run, args), parsed(run_command, args)
    assert comparable(ours) == comparable(theirs)
    assert ours != parsed(prefork_run, [])


@pytest.mark.parametrize("row", PARAMETERS, ids=lambda row: row.names[0])
def test_parameters_have_their_options(row: Row) -> None:
    """What is there is there by an option, the first that is named."""
    options = _OPTION.findall(row.remark)
    if row.verdict != "not there":
        assert row.remark.strip().startswith(f"``{options[0]}``")
        assert options[0] in OURS | declared(flask_command)


def test_every_option_on_the_page_is_one() -> None:
    named = set(_OPTION.findall(PAGE))
    assert len(named) > 10
    assert named <= OURS | declared(flask_command) | declared(run_command)
