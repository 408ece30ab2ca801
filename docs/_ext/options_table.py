"""The reference of a command's options, as reStructuredText.

It is made from the command itself and from the table of settings, so it can't be out
of date. It doesn't import Sphinx, because tests use it too.
"""

from __future__ import annotations

import fnmatch
import re
import typing as t
from collections.abc import Iterable

import click

from flask_prefork.command.options import group_of
from flask_prefork.settings.table import config_key
from flask_prefork.settings.table import ROWS
from flask_prefork.settings.table import SettingSpec


class Entry(t.NamedTuple):
    """An option in the reference.

    :param name: The parameter's, ``min_idle``.
    :param spellings: How it is given, with its argument.
    :param help: What it does.
    :param facts: Its key, its variables, its default and its unit, as far as there
        are such.
    """

    name: str
    spellings: str
    help: str
    facts: str


def escape(text: str) -> str:
    """Plain text, as reStructuredText."""
    return re.sub(r"([\\*`|]|_(?!\w))", r"\\\1", text)


def entries(command: click.Command) -> list[Entry]:
    """All options of a command, in its order."""
    return [
        _entry(command, option)
        for option in command.params
        if isinstance(option, click.Option)
    ]


def _entry(command: click.Command, option: click.Option) -> Entry:
    assert option.name is not None
    # Only the server's options are settings; that of another command may have a
    # setting's name.
    row = ROWS.get(option.name) if command.name == "prefork-run" else None
    spellings = ", ".join(
        [*(f"{name}{_argument(option)}" for name in option.opts)]
        + option.secondary_opts
    )
    help = row.help if row is not None else option.help or ""
    return Entry(option.name, spellings, help, _facts(command, option, row))


def _argument(option: click.Option) -> str:
    if option.is_flag:
        return ""
    metavar = option.metavar or option.type.name
    if metavar.startswith("["):
        return f"[={metavar[1:-1]}]"
    return f" <{metavar.split()[0].lower()}>"


def variables(command: click.Command, option: click.Option) -> list[str]:
    """The environment variables that an option is read from, the first one first."""
    if not option.allow_from_autoenv:
        return []
    if option.envvar is None:
        # As click derives them from the name of the `flask` command.
        words = ("flask", command.name or "", option.name or "")
        return ["_".join(words).upper().replace("-", "_")]
    return [option.envvar] if isinstance(option.envvar, str) else [*option.envvar]


def _facts(
    command: click.Command, option: click.Option, row: SettingSpec | None
) -> str:
    facts = []
    if row is not None and not row.early:
        facts.append(f"Key ``{config_key(option.name or '')}``")
    names = " or ".join(f"``{name}``" for name in variables(command, option))
    facts.append(f"Variable {names}" if names else "No variable")
    if row is not None:
        facts.append(f"Default: {escape(row.shown_default)}")
        if row.unit:
            facts.append(f"Unit: {row.unit}{_bounds(row)}")
    elif option.multiple and isinstance(option.default, tuple):
        facts.append(f"Default: {escape(' '.join(map(str, option.default)))}")
    elif isinstance(option.default, str | int) and not option.is_flag:
        facts.append(f"Default: {escape(str(option.default))}")
    return ". ".join(facts) + "."


def _bounds(row: SettingSpec) -> str:
    """The lowest and the highest value that is allowed, if there are such limits."""
    least = f", at least {row.least:g}" if row.least else ""
    most = f", at most {row.most:,.0f}" if row.most and row.most <= 65536 else ""
    return least + most


def select(command: click.Command, patterns: Iterable[str]) -> list[Entry]:
    """The options whose names match one of the patterns."""
    chosen = [*patterns]
    return [
        entry
        for entry in entries(command)
        if any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in chosen)
    ]


def in_group(command: click.Command, group: str) -> list[Entry]:
    """The options of a group, as ``--help`` has it."""
    names = [option.name for option in command.params if group_of(option) == group]
    return [entry for entry in entries(command) if entry.name in names]


def render(chosen: Iterable[Entry]) -> str:
    """Options as Sphinx's ``option`` directives, which can be linked to."""
    return "\n".join(
        f".. option:: {one.spellings}\n\n    {escape(one.help)}\n\n"
        f"    .. rst-class:: option-facts\n\n    {one.facts}\n"
        for one in chosen
    )
