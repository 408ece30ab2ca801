"""Wires that can be forgotten: settings that nobody reads, names that nobody documents.

All of it is found in the source, so that what is new is looked at as well.
"""

from __future__ import annotations

import ast
import importlib
import re
import typing as t
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
from blinker import NamedSignal

import flask_prefork
from flask_prefork import Prefork
from flask_prefork import testing
from flask_prefork.ipc.frames import KINDS
from flask_prefork.settings.keys import config_key
from flask_prefork.settings.keys import option_name
from flask_prefork.settings.keys import variable_name
from flask_prefork.settings.table import ROWS
from flask_prefork.zygote import hooks
from flask_prefork.zygote.hooks import Hooks

PACKAGE = Path(flask_prefork.__file__).parent
TESTS = Path(__file__).parent.parent
DOCS = TESTS.parent / "docs"


def trees(root: Path, *without: str) -> Iterator[ast.Module]:
    """The sources below a folder, but for those whose paths begin so."""
    for path in sorted(root.rglob("*.py")):
        if not path.relative_to(root).as_posix().startswith(without):
            yield ast.parse(path.read_text("utf-8"))


def constant(node: ast.AST | None) -> str:
    """A text that stands there; also what an f-string begins with."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return str(node.value) if is_text else ""  # type: ignore[union-attr]


# Settings


#: What the command calls what it was given.
VALUES = ("values", "explicit")


def read_settings(tree: ast.Module) -> Iterator[str]:
    """The settings that a module reads: ``settings.name`` or ``values["name"]``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if ast.unparse(node.value).endswith("settings"):
                yield node.attr
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) in VALUES:
            yield constant(node.slice)


@pytest.fixture(scope="module")
def read() -> set[str]:
    # The banner only shows them.
    sources = trees(PACKAGE, "settings/", "dispatcher/banner.py")
    return {name for tree in sources for name in read_settings(tree)}


@pytest.mark.parametrize("name", ROWS)
def test_every_setting_is_read_by_somebody(name: str, read: set[str]) -> None:
    assert name in read


def given_settings(tree: ast.Module) -> Iterator[str]:
    """What a test gives a server: options with a value, keys and variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.List | ast.Tuple):
            words = node.args if isinstance(node, ast.Call) else node.elts
            for word, following in zip_longest(words, words[1:]):
                option, given, _ = constant(word).partition("=")
                name = option.removeprefix("--").replace("-", "_")
                is_flag = name.removeprefix("no_") in _FLAGS
                if option.startswith("--") and (given or following or is_flag):
                    yield name.removeprefix("no_") if is_flag else name
        if isinstance(node, ast.Call) and "options" in ast.unparse(node.func):
            yield from (word.arg for word in node.keywords if word.arg)
        if isinstance(node, ast.Dict):
            yield from (_NAMES.get(constant(key), "") for key in node.keys)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            yield _NAMES.get(constant(node.slice), "")


_FLAGS = {name for name, row in ROWS.items() if row.kind is bool}
#: Settings by their keys and variables.
_NAMES = {config_key(n): n for n in ROWS} | {variable_name(n): n for n in ROWS}


@pytest.fixture(scope="module")
def given() -> set[str]:
    # Those look at the table, or at what is said of it.
    sources = trees(TESTS, "settings/", "manual/", "package/", "benchmarks/")
    return {name for tree in sources for name in given_settings(tree)}


@pytest.mark.parametrize("name", ROWS)
def test_every_setting_is_given_to_a_server_by_a_test(
    name: str, given: set[str]
) -> None:
    assert name in given, f"nobody has shown what {option_name(name)} does"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("serve('app', '--min-idle', '2')", {"min_idle"}),
        ("serve('app', f'--min-idle={number}')", {"min_idle"}),
        ("serve('app', '--no-gc-freeze')", {"gc_freeze"}),
        ("page.has('--min-idle')", set()),
        ("app.config['PREFORK_MIN_IDLE'] = 2", {"min_idle"}),
        ("env = {'FLASK_PREFORK_RUN_MIN_IDLE': '2'}", {"min_idle"}),
        ("_options(min_idle=2)", {"min_idle"}),
    ],
)
def test_what_a_test_gives_is_seen(source: str, found: set[str]) -> None:
    assert set(given_settings(ast.parse(source))) & ROWS.keys() == found


# Public names


def page(name: str) -> str:
    return (DOCS / f"{name}.rst").read_text("utf-8")


#: The zygote calls it.
INTERNAL = {"configuration"}


def test_the_methods_of_the_extension_are_in_the_reference() -> None:
    methods = {name for name in vars(Prefork) if not name.startswith("_")} - INTERNAL
    (shown,) = re.findall(
        r"^\.\. autoclass:: Prefork\n    :members: (.*)$", page("api"), re.MULTILINE
    )
    assert set(shown.split(", ")) == methods


def test_every_hook_has_a_decorator_and_its_documentation() -> None:
    prefork = Prefork()
    for name, functions in vars(Hooks()).items():
        assert functions == []
        assert getattr(prefork, name)(print) is print
        assert getattr(prefork.hooks, name) == [print]
        assert f"    * - ``{name}``\n      - " in page("hooks")
    public = {name for name in vars(Prefork) if not name.startswith("_")}
    assert (
        public - INTERNAL - {"init_app", "limit", "stream_body"} == vars(Hooks()).keys()
    )


def test_every_hook_is_called_and_every_signal_is_sent() -> None:
    path = PACKAGE / "zygote" / "lifecycle.py"
    used = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert {f"self.hooks.{name}" for name in vars(Hooks())} <= used
    signals = [n for n, one in vars(hooks).items() if type(one) is NamedSignal]
    assert {f"hooks.{name}" for name in signals} <= used
    for name in signals:
        assert f"    * - ``{name}``\n      - " in page("hooks")


def test_what_tests_of_users_import_is_in_the_reference() -> None:
    shown = re.findall(
        r"^\.\. auto(?:class|function):: flask_prefork\.testing\.(\w+)$",
        page("testing"),
        re.MULTILINE,
    )
    assert sorted(shown) == sorted(testing.__all__)


def test_keys_of_the_environ_are_in_the_reference() -> None:
    used = {
        constant(node.slice)
        for tree in trees(PACKAGE)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and "environ" in ast.unparse(node.value)
    }
    ours = {key for key in used if key.startswith("flask_prefork.")}
    assert ours
    shown = re.findall(
        r"^    \* - ``(flask_prefork\.\w+)``$", page("api"), re.MULTILINE
    )
    assert set(shown) == ours


@pytest.mark.parametrize("name", ["api", "testing"])
def test_what_the_reference_names_is_there(name: str) -> None:
    found = re.findall(
        r"^\.\. auto(?:class|function|module):: (flask_prefork\.\S+)\n"
        r"(?:    :members: (\w.*)$)?",
        page(name),
        re.MULTILINE,
    )
    assert found
    for path, members in found:
        module, _, last = path.rpartition(".")
        parent = getattr(importlib.import_module(module), last, None)
        if parent is None:
            parent = importlib.import_module(path)
        for member in filter(None, members.split(", ")):
            assert hasattr(parent, member)


# Frames


class Frames(t.NamedTuple):
    """The rooms that send each kind of frame, and those that handle it."""

    sent: dict[str, set[str]]
    handled: dict[str, set[str]]


@pytest.fixture(scope="module")
def frames() -> Frames:
    sent: dict[str, set[str]] = {kind.__name__: set() for kind in KINDS.values()}
    handled: dict[str, set[str]] = {name: set() for name in sent}
    for room in ("dispatcher", "zygote", "worker", "observe", "relay", "tlsproxy"):
        for tree in trees(PACKAGE / room):
            groups = {
                ast.unparse(node.targets[0]): node.value
                for node in tree.body
                if isinstance(node, ast.Assign)
            }
            for node in ast.walk(tree):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                if name in sent:
                    sent[name].add(room)
                elif name == "isinstance":
                    kinds = groups.get(ast.unparse(node.args[1]), node.args[1])
                    for word in ast.walk(kinds):
                        if isinstance(word, ast.Name) and word.id in handled:
                            handled[word.id].add(room)
    return Frames(sent, handled)


#: Some go both ways, or are sent back as they came.
SENT_BY = {
    "Closed": {"dispatcher", "tlsproxy"},
    "Resized": {"dispatcher"},
    "Ended": {"dispatcher"},
    "Ping": {"observe", "relay", "tlsproxy"},
}


@pytest.mark.parametrize("name", sorted(kind.__name__ for kind in KINDS.values()))
def test_every_frame_is_sent_and_handled(name: str, frames: Frames) -> None:
    sent, handled = frames.sent[name], frames.handled[name]
    assert sent == SENT_BY.get(name, sent)
    assert sent, "nobody sends it"
    for room in sent:
        assert handled - {room}, f"nobody handles what the {room} sends"
    # An answer is for who has asked.
    assert name not in SENT_BY or len(handled) >= 2
