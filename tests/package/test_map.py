"""The map in the source, ``flask_prefork/README.md``, is as the source is.

Its tree has a line for each file, which is the first sentence of the file's docstring.
Its trails name functions. These exist, run in the process that the trail says, and call
each other; frames and signals are sent and received there.
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
import sys
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_prefork

PACKAGE = Path(flask_prefork.__file__).parent
DOCS = Path(__file__).parents[2] / "docs"
MAP = PACKAGE / "README.md"
TEXT = MAP.read_text("utf-8")

SHARED = {"ipc", "settings", "system", "command", "cli.py"}
#: The rooms, or files, whose functions each process of the trails runs.
RUNS = {
    "client": set(),
    "user": set(),
    "dispatcher": {"dispatcher", *SHARED},
    "zygote": {"zygote", "worker/at_exit.py", "worker/leaving.py", *SHARED},
    # The app's hooks are called by the zygote's code in the worker.
    "worker": {"worker", "http", "zygote/lifecycle.py", *SHARED},
    "observer": {"observe", *SHARED},
    "sender": {"relay", *SHARED},
    "tlsproxy": {"tlsproxy", *SHARED},
}
ARROWS = {"frame", "signal", "fork", "exec", "exit", "connect", "file"}
#: By which names a process starts another one.
STARTS = {"fork": {"fork"}, "exec": {"exec", "posix_spawn", "execve"}}


@pytest.fixture(scope="module")
def render_map() -> t.Any:
    """The program that renews the map."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        patch.syspath_prepend(str(DOCS / "_ext"))
        import render_map

        yield render_map
        for name in ("render_map", "house_table"):
            del sys.modules[name]


# The tree


def lines_of_the_tree(text: str) -> Iterator[str]:
    """The paths in the tree, by their indentation; a folder's ends with a slash."""
    (block,) = re.findall(r"```text\nflask_prefork/\n(.*?)```", text, re.DOTALL)
    folders: list[str] = []
    for line in filter(None, block.splitlines()):
        name, words = re.fullmatch(r" *(\S+)(?: {2,}(\S.*))?", line).groups()
        assert words, f"{name} has no words"
        del folders[(len(line) - len(line.lstrip())) // 2 - 1 :]
        yield "".join([*folders, name])
        if name.endswith("/"):
            folders.append(name)


def test_the_tree_has_each_file_once_and_no_other() -> None:
    found = list(lines_of_the_tree(TEXT))
    assert len(found) == len(set(found))
    files = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyo")
    }
    # A room's line is that of its __init__.py.
    in_rooms = {re.sub(r"/__init__\.py$", "/", name) for name in files}
    assert set(found) == in_rooms


def test_the_map_is_as_new_as_the_files(render_map: t.Any) -> None:
    assert render_map.render(TEXT) == TEXT, "run python docs/render_map.py"


def test_a_line_of_the_tree_is_its_docstring(render_map: t.Any) -> None:
    changed = re.sub(r"(?m)^(    pool\.py +).*$", r"\1It does something.", TEXT)
    assert changed != TEXT
    assert render_map.render(changed) == TEXT


# The trails


class Step(t.NamedTuple):
    """A line of a trail that names a function.

    :param line: Its number in the map.
    :param depth: Its indentation.
    :param file: By its path in the package.
    :param function: ``Class.method``, or a function of the module.
    :param alias: What its caller calls it.
    """

    line: int
    depth: int
    file: str
    function: str
    alias: str

    def __str__(self) -> str:
        return f"{self.file}: {self.function}"


class Arrow(t.NamedTuple):
    """A line of a trail that leads to the next process.

    :param kind: One of :data:`ARROWS`.
    :param names: The frames or the signal.
    """

    line: int
    kind: str
    names: list[str]


class Stay(t.NamedTuple):
    """A part of a trail that is in one process."""

    line: int
    process: str
    steps: list[Step]
    arrows: list[Arrow]


_STEP = re.compile(r"( +)([\w/]+\.py): ([\w.]+)(?: \(as (\w+)\))?(?:  +\S.*)?")
_ARROW = re.compile(r"-> (\w+)((?: [A-Z]\w+,?)*)(?:  +\S.*)?")


def trails(text: str) -> dict[str, list[Stay]]:
    """The trails of a map, by their titles."""
    found: dict[str, list[Stay]] = {}
    stays: list[Stay] = []
    is_inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if title := re.fullmatch("### (.+)", line):
            stays = found[title[1]] = []
        elif line.startswith("```"):
            is_inside = line == "```text" and bool(found)
        elif not is_inside:
            continue
        elif process := re.fullmatch(r"(\w+):", line):
            stays.append(Stay(number, process[1], [], []))
        elif step := _STEP.fullmatch(line):
            depth, file, function, alias = step.groups()
            stays[-1].steps.append(
                Step(number, len(depth), file, function, alias or "")
            )
        elif arrow := _ARROW.fullmatch(line):
            names = arrow[2].replace(",", "").split()
            stays[-1].arrows.append(Arrow(number, arrow[1], names))
        else:
            raise ValueError(f"README.md:{number}: can't be read: {line}")
    return found


@functools.cache
def functions(file: str) -> dict[str, ast.AST]:
    """The functions of a file, by their qualified names; "" is the module."""
    tree = ast.parse((PACKAGE / file).read_text("utf-8"))
    found: dict[str, ast.AST] = {"": tree}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    found[f"{node.name}.{part.name}"] = part
    return found


@functools.cache
def names(file: str, function: str) -> set[str]:
    """The names and attributes that a function uses, or a whole module with ""."""
    nodes = list(ast.walk(functions(file)[function]))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)} | {
        node.id for node in nodes if isinstance(node, ast.Name)
    }


def runs(process: str, file: str) -> bool:
    """Whether a process runs the functions of a file."""
    return bool(RUNS[process] & {file, file.partition("/")[0]})


def nearest(step: Step) -> str:
    """What a step that doesn't exist may mean."""
    known = [
        f"{path.relative_to(PACKAGE).as_posix()}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in functions(path.relative_to(PACKAGE).as_posix())
    ]
    # In the same file it was renamed; elsewhere it has the same name.
    here = [one for one in known if one.startswith(f"{step.file}: ")] or known
    last = step.function.rpartition(".")[2]
    same = [one for one in known if re.search(rf"[ .]{last}$", one)]
    near = difflib.get_close_matches(str(step), here, 3, 0.85) + same[:2]
    return f"; nearest: {', '.join(dict.fromkeys(near))}" if near else ""


def exists(step: Step) -> bool:
    """Whether a step names a function that there is."""
    return (PACKAGE / step.file).is_file() and step.function in functions(step.file)


def callees_name(step: Step) -> str:
    """How a step is called: a class by its own name."""
    owner, _, name = step.function.rpartition(".")
    return step.alias or (owner if name == "__init__" else name)


def calls(caller: Step, step: Step) -> bool:
    """Whether the caller's source names the step.

    A method may also be in a table of callbacks that its class has made.
    """
    name = callees_name(step)
    owner = caller.function.rpartition(".")[0]
    table = f"{owner}.__init__"
    is_own = caller.file == step.file and step.function.startswith(f"{owner}.")
    return name in names(caller.file, caller.function) or (
        bool(owner)
        and is_own
        and table in functions(caller.file)
        and name in names(caller.file, table)
    )


def problems_of_steps(stay: Stay) -> Iterator[str]:
    """What is wrong with the steps in one process."""
    callers: list[Step] = []
    for step in stay.steps:
        where = f"README.md:{step.line}: {step}"
        while callers and callers[-1].depth >= step.depth:
            callers.pop()
        if not exists(step):
            yield f"{where} doesn't exist{nearest(step)}"
        elif not runs(stay.process, step.file):
            yield f"{where} doesn't run in the {stay.process}"
        elif callers and exists(callers[-1]) and not calls(callers[-1], step):
            name = callees_name(step)
            yield f"{where} isn't called by {callers[-1]}: no {name} there"
        callers.append(step)


def mentions(stay: Stay, word: str, module: bool = False) -> bool:
    """Whether a step names something, in any case.

    :param module: Also if the constants of its file do.
    """
    return any(
        word.lower()
        in map(str.lower, names(step.file, "" if module else step.function))
        for step in stay.steps
        if exists(step)
    )


def is_handled(stay: Stay, signal: str) -> bool:
    """Whether a process handles a signal by one of the steps."""
    wanted = {callees_name(step) for step in stay.steps}
    return mentions(stay, signal) or any(
        signal in names(file, function) and wanted & names(file, function)
        for path in sorted(PACKAGE.rglob("*.py"))
        if runs(stay.process, file := path.relative_to(PACKAGE).as_posix())
        for function in functions(file)
        if function
    )


def problems_of_arrow(
    sender: Stay, arrow: Arrow, receiver: Stay | None
) -> Iterator[str]:
    """What is wrong with the way from one process to the next."""
    where = f"README.md:{arrow.line}: {arrow.kind} {', '.join(arrow.names)}".rstrip()
    if arrow.kind not in ARROWS:
        yield f"{where} is no way between processes"
    starts = STARTS.get(arrow.kind, set())
    if starts and not any(mentions(sender, word) for word in starts):
        yield f"{where}: none of the {sender.process}'s steps does that"
    if (arrow.kind in ("frame", "signal")) != bool(arrow.names):
        yield f"{where}: which one?"
    for name in arrow.names:
        if receiver is None:
            yield f"{where} arrives nowhere"
        elif arrow.kind == "frame":
            for stay, verb in ((sender, "sends"), (receiver, "receives")):
                if not mentions(stay, name):
                    yield f"{where}: none of the {stay.process}'s steps {verb} {name}"
        elif name != "SIGKILL" and not is_handled(receiver, name):
            yield f"{where}: none of the {receiver.process}'s steps handles {name}"
        is_ours = arrow.kind == "signal" and RUNS[sender.process]
        if is_ours and not mentions(sender, name, module=True):
            yield f"{where}: none of the {sender.process}'s steps sends {name}"


def problems(stays: list[Stay]) -> list[str]:
    """What is wrong with a trail."""
    found = []
    for stay, follower in zip(stays, [*stays[1:], None], strict=True):
        if stay.process not in RUNS:
            found.append(f"README.md:{stay.line}: {stay.process} is no process")
            continue
        found += problems_of_steps(stay)
        for arrow in stay.arrows:
            found += problems_of_arrow(stay, arrow, follower)
    return found


TRAILS = trails(TEXT)


def test_what_crosses_processes_has_a_trail() -> None:
    words = ("choosing", "park", "timeout", "recycl", "drain", "reload", "death")
    titles = " ".join(TRAILS).lower()
    assert not {word for word in words if word not in titles}


@pytest.mark.parametrize("title", TRAILS)
def test_a_trail_leads_through_the_source(title: str) -> None:
    assert TRAILS[title]
    found = problems(TRAILS[title])
    assert not found, "\n" + "\n".join(found)


GOOD = """\
### One
```text
dispatcher:
  dispatcher/generation.py: Generation.order
    dispatcher/pool.py: Pool.order
-> frame ORDER
worker:
  worker/worker.py: Worker._handle_frame
```
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", ""),
        ("Pool.order", "Pool.orders", "doesn't exist; nearest: .*: Pool.order"),
        ("pool.py: Pool", "lot.py: Pool", "doesn't exist; nearest: .*pool.py: Pool"),
        ("Pool.order", "Pool.recycle", "isn't called by .*: no recycle there"),
        (
            "dispatcher:\n  dispatcher/gen",
            "zygote:\n  dispatcher/gen",
            "doesn't run in",
        ),
        ("dispatcher:", "lobby:", "is no process"),
        ("ORDER", "RETIRE", "dispatcher's steps sends RETIRE"),
        ("Worker._handle_frame", "Worker._resume", "worker's steps receives ORDER"),
        ("frame ORDER", "fork", "dispatcher's steps does that"),
        ("frame ORDER", "signal SIGTERM", "worker's steps handles SIGTERM"),
        ("frame ORDER", "signal SIGHUP", "dispatcher's steps sends SIGHUP"),
        ("frame ORDER", "letter", "is no way between processes"),
        ("frame ORDER", "frame", "which one"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, message: str) -> None:
    found = problems(trails(GOOD.replace(old, new, 1))["One"])
    if not message:
        assert not found
    else:
        assert any(re.search(message, problem) for problem in found), found
    # With its line in the map.
    assert all(re.match(r"README\.md:\d+: ", problem) for problem in found)


def test_a_line_that_is_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="README.md:4: can't be read"):
        trails(GOOD.replace("  dispatcher/generation.py: Generation.order", "later"))
