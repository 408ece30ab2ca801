"""The help, and whose value an error is about."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner
from flask.cli import cli as flask_command

from flask_prefork.cli import prefork_run
from flask_prefork.command import options
from flask_prefork.command.options import group_of
from flask_prefork.command.options import PreforkCommand
from flask_prefork.command.options import UNGROUPED
from flask_prefork.ipc import spawn
from flask_prefork.settings.spec import GROUPS
from flask_prefork.settings.table import ROWS


@pytest.fixture(scope="module")
def shown() -> str:
    with pytest.MonkeyPatch.context() as patch:
        # The group of commands sets it.
        patch.setenv("FLASK_RUN_FROM_CLI", "true")
        patch.setenv("FLASK_SKIP_DOTENV", "1")
        result = CliRunner().invoke(
            flask_command, ["prefork-run", "--help"], terminal_width=200
        )
    assert result.exit_code == 0
    return result.output


def section(shown: str, title: str) -> str:
    """The lines below a title."""
    _, _, rest = shown.partition(f"\n{title}:\n")
    return re.split(r"\n\n(?=\S)", rest)[0]


def test_groups_are_in_their_order(shown: str) -> None:
    assert re.findall(r"(?m)^(\S.*):$", shown) == list(GROUPS)


@pytest.mark.parametrize("option", prefork_run.params, ids=lambda p: p.name)
def test_an_option_is_in_its_group(shown: str, option: click.Option) -> None:
    group = group_of(option)
    assert group != UNGROUPED, f"give {option.name} a group"
    place = section(shown, group)
    assert re.search(rf"(?m)^  (?:-\w, )?{option.opts[0]}(?![\w-])", place)


@pytest.mark.parametrize(
    ("title", "line"),
    [
        ("Addresses", r"-h, --host ADDRESS +"),
        ("Addresses", r"-p, --port N +.*variable FLASK_RUN_PORT too"),
        ("Workers", r"--min-idle N +.*\[default: 2\]"),
        ("Workers", r"--max-workers N +.*variable WEB_CONCURRENCY too"),
        ("Workers", r"--idle-timeout SECONDS +.*\[default: 10 s\]"),
        ("Workers", r"--memory-budget SIZE\|auto +"),
        ("Workers", r"--dispatch ordered\|blocking +"),
        ("Clients and limits", r"--limit-request-body SIZE +"),
        ("Clients and limits", r"--limit-request-line SIZE +.*8190 bytes"),
        ("TLS and proxies", r"--cert FILE +"),
        ("Logging", r"--access-logfile FILE +"),
        ("Logging", r"--access-log / --no-access-log +"),
        ("Process", r"--pid FILE +.*no key"),
        ("Status", r"--admin ADDRESS +"),
        ("Development", r"--reload / --no-reload +"),
        ("Checks", r"--check-config +"),
        ("Checks", r"--print-config \[text\|json\] +"),
        ("Checks", r"--help +"),
    ],
)
def test_metavars_units_and_variables(shown: str, title: str, line: str) -> None:
    text = re.sub(r"\n {10,}", " ", section(shown, title))
    assert re.search(rf"(?m)^  {line}", text), text


@pytest.mark.parametrize(
    "words", ["FLASK_PREFORK_RUN_MIN_IDLE", "PREFORK_MIN_IDLE", "500ms", "200M"]
)
def test_rules_come_first(shown: str, words: str) -> None:
    assert words in shown.partition(f"\n{GROUPS[0]}:")[0]


def test_an_option_without_a_group_is_shown_last() -> None:
    command = PreforkCommand("one", params=[click.Option(["--lost"], help="Found.")])
    text = command.get_help(click.Context(command))
    assert text.rstrip().splitlines()[-2:] == [f"{UNGROUPED}:", "  --lost TEXT  Found."]


def test_no_metavar_is_a_type_of_the_programming_language(shown: str) -> None:
    assert not re.search(r"^  .*--[a-z-]+ (INTEGER|FLOAT|TEXT|PATH) ", shown, re.M)
    for row in ROWS.values():
        assert row.shown_metavar != "TEXT"


def test_a_started_zygote_is_known_by_the_dispatchers_variable() -> None:
    assert options._STARTED == spawn.VARIABLE
