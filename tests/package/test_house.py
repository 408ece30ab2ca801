"""Who may import whom, and how big a file may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import flask_prefork

ROOT = Path(flask_prefork.__file__).parent
PACKAGE = ROOT.name
FILES = sorted(ROOT.rglob("*.py"))
#: What a module without a process, a descriptor or a clock doesn't import.
IMPURE = {
    "os",
    "select",
    "selectors",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
}
#: What of the socket module only reads and writes addresses, and opens nothing.
ADDRESSES_AS_TEXT = {"AF_INET", "AF_INET6", "inet_ntop", "inet_pton"}


def module_name(path: Path) -> str:
    """``flask_prefork/http/head.py`` is ``flask_prefork.http.head``."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "t.TYPE_CHECKING"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker looks at."""
    for child in ast.iter_child_nodes(tree):
        if is_for_types_only(child):
            continue
        yield child
        yield from nodes(child)


def imports(name: str) -> set[str]:
    """The modules that a module of the package imports, at any place in it."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found.add(base)
            # `from . import worker` imports a module, `from os import fork` none.
            submodules = {f"{base}.{alias.name}" for alias in node.names}
            found |= submodules & MODULES.keys()
    return found


def imports_of_all(name: str) -> set[str]:
    """The modules that a module imports through others of the package too.

    Not through the package itself, which every module of it has imported.
    """
    found: set[str] = set()
    to_do = {name}
    while to_do:
        module = to_do.pop()
        new = imports(module) - found - {PACKAGE}
        found |= new
        to_do |= new & MODULES.keys()
    return found


def attributes(name: str, module: str) -> set[str]:
    """What a module of the package uses of another one, ``socket.AF_INET``."""
    return {
        node.attr
        for node in nodes(ast.parse(MODULES[name].read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == module
    }


def test_the_look_at_imports_sees_them() -> None:
    assert "signal" in imports(f"{PACKAGE}.launch")
    assert f"{PACKAGE}.settings" in imports(f"{PACKAGE}.cli")
    # Inside of a function, by a relative name.
    assert f"{PACKAGE}.dispatcher" in imports(f"{PACKAGE}.cli")
    assert f"{PACKAGE}.channel" in imports_of_all(f"{PACKAGE}.dispatcher")


def of_package(found: set[str]) -> set[str]:
    """Those of the modules that are the package's, by their short names."""
    return {name.removeprefix(f"{PACKAGE}.") for name in found & MODULES.keys()}


def says_it_is_pure(name: str) -> bool:
    docstring = ast.get_docstring(ast.parse(MODULES[name].read_text())) or ""
    return bool(re.search(r"\bPure[.,:]|This module is pure|No sockets", docstring))


PURE = [name for name in MODULES if says_it_is_pure(name)]


def test_pool_and_policy_are_among_the_pure_modules() -> None:
    assert {f"{PACKAGE}.pool", f"{PACKAGE}.policy"} <= set(PURE)


@pytest.mark.parametrize("name", PURE)
def test_pure_module_imports_nothing_of_the_system(name: str) -> None:
    found = {name} | imports_of_all(name)
    for module in found & MODULES.keys():
        roots = {imported.partition(".")[0] for imported in imports(module)}
        if attributes(module, "socket") <= ADDRESSES_AS_TEXT:
            roots -= {"socket"}
        assert not roots & IMPURE


#: The modules that are the code of one kind of process alone.
KINDS = {
    "dispatcher": {"dispatcher", "succession", "generation", "children", "queues"},
    "zygote": {"zygote"},
    "worker": {"worker"},
    "observe.process": {"observe.process"},
}


@pytest.mark.parametrize("name", KINDS)
def test_processes_dont_know_each_others_code(name: str) -> None:
    others = set().union(*KINDS.values()) - KINDS[name]
    assert not of_package(imports_of_all(f"{PACKAGE}.{name}")) & others


def test_dispatcher_knows_nothing_of_apps_and_requests() -> None:
    found = imports_of_all(f"{PACKAGE}.dispatcher")
    roots = {module.partition(".")[0] for module in found}
    assert not roots & {"flask", "werkzeug", "httptools"}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_the_commands(name: str) -> None:
    assert not of_package(imports(name)) & {"cli", "status"}


def in_folder(name: str, folder: str) -> bool:
    return f"{name}.".startswith(f"{PACKAGE}.{folder}.")


@pytest.mark.parametrize("name", [n for n in MODULES if in_folder(n, "http")])
def test_http_imports_nothing_that_is_above_it(name: str) -> None:
    above = {
        found
        for found in imports(name) & MODULES.keys()
        if not in_folder(found, "http")
    }
    # How a setting is spelled, and the error for one that can't be.
    assert of_package(above) <= {"keys", "row"}


@pytest.mark.parametrize("name", MODULES)
def test_only_http_knows_the_parser(name: str) -> None:
    if not in_folder(name, "http"):
        assert "httptools" not in imports(name)


@pytest.mark.parametrize("name", MODULES)
def test_nothing_that_serves_imports_what_shows_it(name: str) -> None:
    shows = [n for n in imports(name) if in_folder(n, "observe")]
    asks = any(in_folder(name, one) for one in ("observe", "status", "testing"))
    assert asks or not shows


def test_imports_run_one_way() -> None:
    # Who imports a module has imported the package, whatever that imports.
    graph = {name: (imports(name) & MODULES.keys()) - {PACKAGE} for name in MODULES}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_file_is_of_a_readers_size(name: str) -> None:
    lines = MODULES[name].read_text().count("\n")
    assert lines <= 600


@pytest.mark.parametrize("name", MODULES)
def test_files_are_read_as_every_interpreter_can(name: str) -> None:
    # Its start has loaded the codec of UTF-8. Another one's would be loaded when it is
    # needed, and the interpreter's files may be out of reach of --user's.
    found = {
        ast.unparse(word.value)
        for node in nodes(ast.parse(MODULES[name].read_text()))
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "encoding"
    }
    assert found <= {"'utf-8'"}


def test_every_file_says_what_it_is_for() -> None:
    empty = [
        path
        for path in FILES
        if path.read_text() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not empty


def test_there_is_no_room_without_a_name() -> None:
    nameless = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert not nameless & {path.name for path in FILES}
