"""``--print-config``: each setting, its value and where it is from."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Iterator
from collections.abc import Mapping

import click
from flask.helpers import get_debug_flag

from ..settings.keys import BORROWED
from ..settings.keys import config_key
from ..settings.keys import LIMITS_KEY
from ..settings.keys import option_name
from ..settings.table import ROWS
from ..zygote.loading import LoadedApp
from .options import source_of
from .startup import Mode

#: What is shown of a secret.
_MASK = "********"


class PrintedSetting(t.NamedTuple):
    """A setting's value, and where it is from.

    :param name: The setting.
    :param value: Its value, fit for JSON.
    :param kind: ``option``, ``variable``, ``key``, ``default``, ``app``, or ``derived``
        from other settings or the system.
    :param source: The name of the option, the variable or the key.
    """

    name: str
    value: t.Any
    kind: str
    source: str | None = None


def origins(
    borrowed: Mapping[str, t.Any], mode: Mode, loaded: LoadedApp
) -> Iterator[PrintedSetting]:
    """All settings: those of ``flask run``, and then the table's in its order.

    :param borrowed: The values of the options that are borrowed from ``flask run``.
    :param mode: How the app runs.
    :param loaded: The app and its settings.
    """
    known = {
        **borrowed,
        "debug": get_debug_flag(),
        "reload": mode.reload,
        "debugger": mode.debugger,
    }
    for name in BORROWED:
        source = source_of(name)
        if name == "debug" and source is None and known[name]:
            source = "FLASK_DEBUG"
        kind = "default" if source is None else _kind(name, source)
        if source is None and known[name] and name in ("reload", "debugger"):
            kind = "derived"
        value = known[name]
        shown = [*value] if isinstance(value, tuple) else value
        yield PrintedSetting(name, shown, kind, source)
    for name, row in ROWS.items():
        value = getattr(loaded.settings, name)
        source = loaded.given.get(name)
        if source is not None:
            kind = _kind(name, source)
        else:
            kind = "default" if value == row.default else "derived"
        is_hidden = row.secret and value is not None
        yield PrintedSetting(name, _MASK if is_hidden else value, kind, source)
    limits = [
        {field: value for field, value in limit._asdict().items() if value is not None}
        for limit in loaded.settings.limits
    ]
    yield PrintedSetting("limits", limits, "app" if limits else "default")


def _kind(name: str, source: str) -> str:
    if source.startswith("--"):
        return "option" if source == option_name(name) else "derived"
    return "key" if source == config_key(name) else "variable"


def show(found: Iterator[PrintedSetting], form: str) -> None:
    """Print settings on standard output.

    :param form: ``text``, a line for each; or ``json``, an object.
    """
    if form == "json":
        document = {}
        for one in found:
            told = {"value": one.value, "from": one.kind}
            document[one.name] = told | ({"name": one.source} if one.source else {})
        click.echo(json.dumps(document, indent=2))
        return
    lines = [(_label(one), _text(one), _origin(one)) for one in found]
    first = max(len(label) for label, _, _ in lines)
    second = min(max(len(text) for _, text, _ in lines), 30)
    for label, text, origin in lines:
        click.echo(f"{label:{first}}  {text:{second}}  {origin}")


def _label(one: PrintedSetting) -> str:
    return LIMITS_KEY if one.name == "limits" else option_name(one.name)


def _text(one: PrintedSetting) -> str:
    value = one.value
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return _listed(value)
    if isinstance(value, bool):
        return "on" if value else "off"
    row = ROWS.get(one.name)
    return str(value) if row is None else row.shown(value)


def _listed(values: list[t.Any]) -> str:
    # Limits are mappings, and only JSON shows all of them. Addresses and files are what
    # the user has given.
    if all(isinstance(value, str) for value in values):
        return " ".join(values)
    return json.dumps(values)


def _origin(one: PrintedSetting) -> str:
    if one.source is None:
        return one.kind
    return one.kind if one.kind == "option" else f"{one.kind} {one.source}"
