"""Who may import whom, and how big a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
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
    """The modules that a module imports through others of the package too."""
    found: set[str] = set()
    to_do = {name}
    while to_do:
        module = to_do.pop()
        new = imports(module) - found
        found |= new
        to_do |= new & MODULES.keys()
    return found


def test_the_look_at_imports_sees_them() -> None:
    assert "signal" in imports(f"{PACKAGE}.launch")
    assert f"{PACKAGE}.settings" in imports(f"{PACKAGE}.cli")
    # Inside of a function, by a relative name.
    assert f"{PACKAGE}.dispatcher" in imports(f"{PACKAGE}.cli")
    assert f"{PACKAGE}.channel" in imports_of_all(f"{PACKAGE}.dispatcher")


@pytest.mark.parametrize("name", ["pool", "policy"])
def test_pure_module_imports_nothing_of_the_system(name: str) -> None:
    roots = {module.partition(".")[0] for module in imports_of_all(f"{PACKAGE}.{name}")}
    assert not roots & IMPURE


@pytest.mark.parametrize("name", ["dispatcher", "zygote", "worker"])
def test_processes_dont_know_each_others_code(name: str) -> None:
    kinds = {
        f"{PACKAGE}.{module}"
        for module in ("dispatcher", "generation", "zygote", "worker")
    }
    own = {f"{PACKAGE}.{name}"}
    if name == "dispatcher":
        own.add(f"{PACKAGE}.generation")
    assert not imports_of_all(f"{PACKAGE}.{name}") & (kinds - own)


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_the_command(name: str) -> None:
    assert f"{PACKAGE}.cli" not in imports(name)


@pytest.mark.parametrize("name", MODULES)
def test_file_is_of_a_readers_size(name: str) -> None:
    lines = MODULES[name].read_text().count("\n")
    assert lines <= 400


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
