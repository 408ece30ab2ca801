"""The rooms: who may import whom, and that no name is there twice.

A room is a folder of the package. Processes are rooms of their own, so that a look at
the imports tells what runs where.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import flask_prefork

ROOT = Path(flask_prefork.__file__).parent
PACKAGE = ROOT.name
FILES = sorted(ROOT.rglob("*.py"))

#: What each room may import besides itself. The package's own modules, in no room, may
#: import all of them.
SHARED = {"ipc", "settings", "system"}
MAY_IMPORT = {
    "dispatcher": SHARED,
    "zygote": {"worker", "http", *SHARED},
    "worker": {"http", *SHARED},
    "relay": SHARED,
    "tlsproxy": SHARED,
    "command": {"zygote", "tlsproxy", "http", *SHARED},
    "observe": {"http", *SHARED},
    "ipc": {"settings", "system"},
    "settings": {"system"},
    "http": {"system"},
    "system": set(),
    # It talks to the running server as any client does.
    "testing": {"observe", "settings", "system"},
}
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
#: What lies in no room: what users import and call.
FLAT = {"__init__", "cli", "extension"}
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


def room(name: str) -> str:
    """The folder that a module lies in; empty for the package's own."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / parts[1]).is_dir() else ""


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker looks at."""
    for child in ast.iter_child_nodes(tree):
        test = getattr(child, "test", None)
        if isinstance(child, ast.If) and ast.unparse(test) == "t.TYPE_CHECKING":
            continue
        yield child
        yield from nodes(child)


def imports(name: str, for_types: bool = False) -> set[str]:
    """The modules that a module imports, at any place in it.

    :param for_types: Also what only a type checker imports.
    """
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    walk = ast.walk if for_types else nodes
    for node in walk(ast.parse(path.read_text("utf-8"))):
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


def of_package(name: str, for_types: bool = False) -> set[str]:
    """The modules of the package that a module imports."""
    return imports(name, for_types) & MODULES.keys()


def of_all(name: str) -> set[str]:
    """The modules that a module imports through others of the package too.

    Not through the package itself, which every module of it has imported.
    """
    found: set[str] = set()
    to_do = {name}
    while to_do:
        new = imports(to_do.pop()) - found - {PACKAGE}
        found |= new
        to_do |= new & MODULES.keys()
    return found


def attributes(name: str, module: str) -> set[str]:
    """What a module of the package uses of another one, ``socket.AF_INET``."""
    return {
        node.attr
        for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == module
    }


def test_the_look_at_imports_sees_them() -> None:
    assert "signal" in imports(f"{PACKAGE}.ipc.spawn")
    assert f"{PACKAGE}.settings.table" in imports(f"{PACKAGE}.cli")
    # Inside of a function, by a relative name.
    assert f"{PACKAGE}.dispatcher.loop" in imports(f"{PACKAGE}.cli")
    assert f"{PACKAGE}.ipc.channel" in of_all(f"{PACKAGE}.dispatcher.loop")


def test_nothing_else_lies_flat() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == FLAT


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way_between_rooms(name: str) -> None:
    here = room(name)
    if not here:
        return  # cli, extension and the package itself may import all
    others = {room(found) for found in of_package(name, for_types=True)} - {here}
    assert others <= MAY_IMPORT[here], (
        f"{here}/ may not import {', '.join(sorted(others - MAY_IMPORT[here]))}; its"
        " __init__.py says why"
    )


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_may_import(name: str) -> None:
    tree = ast.parse((ROOT / name / "__init__.py").read_text("utf-8"))
    docstring = " ".join((ast.get_docstring(tree) or "").split())
    said = re.search(r"The package imports ([^.]+)\.", docstring)
    assert said is not None
    assert set(re.findall("``([a-z]+)``", said[1])) == MAY_IMPORT[name]
    assert "It must " in docstring


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_the_command(name: str) -> None:
    assert f"{PACKAGE}.cli" not in imports(name)


def test_no_module_imports_itself_through_others() -> None:
    # Not for types either: what is handed down knows nobody above it. Who imports a
    # module has imported the package, whatever that imports.
    graph = {name: of_package(name, for_types=True) - {PACKAGE} for name in MODULES}
    TopologicalSorter(graph).prepare()


def test_no_class_name_is_there_twice() -> None:
    places = defaultdict(list)
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert not {name: found for name, found in places.items() if len(found) > 1}


def says_it_is_pure(name: str) -> bool:
    docstring = ast.get_docstring(ast.parse(MODULES[name].read_text("utf-8"))) or ""
    return bool(re.search(r"\bPure[.,:]|This module is pure|No sockets", docstring))


PURE = [name for name in MODULES if says_it_is_pure(name)]


def test_pool_and_policy_are_among_the_pure_modules() -> None:
    names = ("pool", "policy", "watchdog", "memory", "ending")
    assert {f"{PACKAGE}.dispatcher.{name}" for name in names} <= set(PURE)


@pytest.mark.parametrize("name", PURE)
def test_pure_module_imports_nothing_of_the_system(name: str) -> None:
    found = {name} | of_all(name)
    for module in found & MODULES.keys():
        roots = {imported.partition(".")[0] for imported in imports(module)}
        if attributes(module, "socket") <= ADDRESSES_AS_TEXT:
            roots -= {"socket"}
        assert not roots & IMPURE, f"{module} isn't pure, which {name} says it is"


def test_dispatcher_knows_nothing_of_apps_and_requests() -> None:
    found = of_all(f"{PACKAGE}.dispatcher.loop")
    roots = {module.partition(".")[0] for module in found}
    assert not roots & {"flask", "werkzeug", "httptools"}


@pytest.mark.parametrize(
    "name", ["dispatcher.loop", "relay.sender", "tlsproxy.process"]
)
def test_process_without_app_has_no_framework_in_memory(name: str) -> None:
    code = f"import {PACKAGE}.{name}, sys; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"flask", "werkzeug", "jinja2"} & set(loaded)


@pytest.mark.parametrize("name", MODULES)
def test_only_http_knows_the_parser(name: str) -> None:
    if room(name) != "http":
        assert "httptools" not in imports(name)


@pytest.mark.parametrize("name", MODULES)
def test_a_file_has_one_idea(name: str) -> None:
    # It is as long as that idea. So long is where to look for a second one.
    lines = MODULES[name].read_text("utf-8").count("\n")
    assert lines <= 600, f"{lines} lines: which part is an idea of its own?"


@pytest.mark.parametrize("name", MODULES)
def test_files_are_read_as_every_interpreter_can(name: str) -> None:
    # Its start has loaded the codec of UTF-8. Another one's would be loaded when it is
    # needed, and the interpreter's files may be out of reach of --user's.
    found = {
        ast.unparse(word.value)
        for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8")))
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "encoding"
    }
    assert found <= {"'utf-8'"}


def test_every_file_says_what_it_is_for() -> None:
    empty = [
        path
        for path in FILES
        if path.read_text("utf-8")
        and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert not empty


def test_no_module_has_a_name_that_says_nothing() -> None:
    nameless = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert not nameless & {path.name for path in FILES}
