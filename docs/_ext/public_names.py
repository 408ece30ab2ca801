"""Every public name of the package, as ``compatibility.rst`` lists them.

They are taken from the code, so a name that is removed or renamed by mistake is seen in
``docs/public-names.txt``, with which a test compares them. It doesn't import Sphinx,
because the test uses it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import typing as t
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import metrics_table
import options_table
from blinker import NamedSignal

import flask_prefork
from flask_prefork import testing
from flask_prefork.cli import prefork_run
from flask_prefork.http import log_format
from flask_prefork.observe.command import prefork_status
from flask_prefork.observe.snapshot import Snapshot
from flask_prefork.settings.keys import config_key
from flask_prefork.settings.limits import RouteLimit
from flask_prefork.settings.table import ROWS
from flask_prefork.zygote import hooks
from flask_prefork.zygote import lifecycle

DOCS = Path(__file__).parents[1]
#: Extras for who works on the project.
OWN_EXTRAS = {"bench", "dev", "docs", "test"}
#: What subclasses of the request handler may override, beside ``do_*``.
HANDLER = (
    "address_string",
    "connection_dropped",
    "finish",
    "handle",
    "handle_one_request",
    "log",
    "log_request",
    "make_environ",
    "run_wsgi",
    "setup",
    "version_string",
)


def page(name: str) -> str:
    """The text of a page of the manual."""
    return (DOCS / f"{name}.rst").read_text("utf-8")


def _options(command: click.Command) -> Iterator[str]:
    for option in command.params:
        yield from (*option.opts, *option.secondary_opts)


def _variables(command: click.Command) -> Iterator[str]:
    for option in command.params:
        if isinstance(option, click.Option):
            yield from options_table.variables(command, option)


def _keys() -> Iterator[str]:
    yield from (config_key(name) for name, row in ROWS.items() if not row.early)
    yield from (f"PREFORK_LIMITS[...].{name}" for name in RouteLimit._fields[1:])


def _call(name: str, function: t.Callable[..., t.Any]) -> str:
    """A function with the names of its parameters."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    return f"{name}({', '.join(names)})"


def _members(cls: type) -> Iterator[str]:
    """What a class has that its bases haven't, with its documented variables."""
    for name, member in vars(cls).items():
        if name.startswith("_") or any(hasattr(base, name) for base in cls.__bases__):
            continue
        if inspect.isfunction(member):
            yield _call(f"{cls.__name__}.{name}", member)
        elif isinstance(member, property):
            yield f"{cls.__name__}.{name}"
    for name in re.findall(r":[ic]?var (\w+):", cls.__doc__ or ""):
        yield f"{cls.__name__}.{name}"


def _documented(page_name: str, cls: str) -> list[str]:
    """The members that a page shows of a class."""
    (names,) = re.findall(
        rf"^\.\. autoclass:: {cls}\n    :members: (.+)$", page(page_name), re.MULTILINE
    )
    return re.split(r", *", names)


def _api() -> Iterator[str]:
    yield _call("Prefork", flask_prefork.Prefork)
    for name in _documented("api", "Prefork"):
        yield _call(f"Prefork.{name}", getattr(flask_prefork.Prefork, name))
    yield "PreforkRequestHandler"
    yield from (f"PreforkRequestHandler.{name}" for name in HANDLER)
    yield from (
        f"current_worker.{name}"
        for name in dir(hooks.CurrentWorker)
        if not name.startswith("_")
    )


def _signals() -> Iterator[str]:
    """The signals with the arguments that the zygote and the workers send."""
    tree = ast.parse(inspect.getsource(lifecycle))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._send":
            name = ast.unparse(node.args[0]).removeprefix("hooks.")
            assert isinstance(getattr(flask_prefork, name), NamedSignal)
            yield f"{name}({', '.join(str(word.arg) for word in node.keywords)})"


def _testing() -> Iterator[str]:
    yield from (name for name in vars(testing) if name.startswith("prefork_"))
    for name in testing.__all__:
        one = getattr(testing, name)
        if name == "Start":
            yield _call("Start", one.__call__)
        elif inspect.isfunction(one):
            yield _call(name, one)
        else:
            yield name
            yield from _members(one)


def _fields(kind: t.Any, before: str) -> Iterator[str]:
    """The paths of all values in JSON, ``generations[].workers[].pid``."""
    if dataclasses.is_dataclass(kind):
        hints = t.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            yield f"{before}{field.name}"
            yield from _fields(hints[field.name], f"{before}{field.name}.")
    elif t.get_origin(kind) is tuple:
        yield from _fields(t.get_args(kind)[0], f"{before.rstrip('.')}[].")


def _metrics() -> Iterator[str]:
    for metric in metrics_table.metrics():
        labels = ", ".join(metric.labels)
        yield metric.name + (f"{{{labels}}}" if labels else "")


def _log_fields() -> Iterator[str]:
    """Of a line of the access log in JSON."""
    (node,) = (
        node
        for node in ast.walk(ast.parse(inspect.getsource(log_format._render_json)))
        if isinstance(node, ast.Dict)
    )
    yield from (ast.literal_eval(key) for key in node.keys if key is not None)


def _rows(page_name: str, title: str) -> Iterator[str]:
    """What the first cells say of the table below a title."""
    (_, below) = re.split(rf"^{re.escape(title)}\n[-=]+\n", page(page_name), flags=re.M)
    table = re.split(r"\n\n\n", below.partition(".. list-table::")[2])[0]
    for cell in re.findall(r"^    \* - (``.+``)$", table, re.MULTILINE):
        yield from re.findall("``(.+?)``", cell)


def collect() -> dict[str, list[str]]:
    """All public names, each group in order of the alphabet."""
    found = metadata.metadata("flask_prefork").get_all("Provides-Extra", [])
    groups: dict[str, t.Iterable[str]] = {
        "Options of flask prefork-run": _options(prefork_run),
        "Options of flask prefork-status": _options(prefork_status),
        "Environment variables": [
            *_variables(prefork_run),
            *_variables(prefork_status),
            "WEB_CONCURRENCY",
        ],
        "Keys of the configuration": _keys(),
        "Names in flask_prefork": _api(),
        "Signals of blinker": _signals(),
        "Keys of the environ": _rows("api", "In the environ"),
        "Names in flask_prefork.testing": _testing(),
        "Paths of the admin address": _rows("status", "Status and metrics"),
        "Fields of /status.json": _fields(Snapshot, ""),
        "Metrics": _metrics(),
        "Atoms of the access log": [
            *(f"%({name})s" for name in log_format._ATOMS),
            *(f"%({{NAME}}{kind})s" for kind in log_format._IN_BRACES),
        ],
        "Fields of the access log in JSON": _log_fields(),
        "Signals of the dispatcher": _rows("signals", "Signals"),
        "Exit statuses": _rows("compatibility", "Exit statuses"),
        "Extras": {*found} - OWN_EXTRAS,
    }
    return {title: sorted(set(names)) for title, names in groups.items()}


def render() -> str:
    """All of it as text."""
    return "\n".join(
        f"{title}\n" + "".join(f"    {name}\n" for name in names)
        for title, names in collect().items()
    )
