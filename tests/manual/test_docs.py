"""What the manual says is so: its options, tables, messages and pictures."""

from __future__ import annotations

import ast
import importlib.util
import re
import types

import click
import pytest
from blinker import NamedSignal
from flask.cli import cli as flask_command
from flask.cli import run_command

import flask_prefork
from flask_prefork import testing
from flask_prefork.cli import prefork_run
from flask_prefork.ipc.frames import KINDS
from flask_prefork.ipc.states import State
from flask_prefork.ipc.states import TRANSITIONS
from flask_prefork.observe.command import prefork_status
from flask_prefork.observe.openmetrics import families
from flask_prefork.settings.spec import GROUPS
from flask_prefork.settings.table import config_key
from flask_prefork.settings.table import option_name
from flask_prefork.settings.table import ROWS
from flask_prefork.zygote import hooks

from .pages import all_commands
from .pages import Block
from .pages import blocks
from .pages import commands
from .pages import DOCS
from .pages import PAGES
from .pages import ROOT
from .test_gunicorn import settings

SOURCE = sorted((ROOT / "flask_prefork").rglob("*.py"))


def load(name: str) -> types.ModuleType:
    """A module that helps to make the manual."""
    path = DOCS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        spec.loader.exec_module(module)
    return module


options_table = load("_ext/options_table")
state_diagram = load("_ext/state_diagram")
sequence_diagram = load("_ext/sequence_diagram")
house_table = load("_ext/house_table")
metrics_table = load("_ext/metrics_table")


# Commands and options


def test_commands_are_found() -> None:
    assert "flask --app shop prefork-run --request-start" in all_commands()
    block = Block("console", "", "$ one \\\n    more\nprinted\n$ two\n")
    assert commands(block) == ["one more", "two"]
    assert len(all_commands()) > 50


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_in_a_block_for_commands(page: str) -> None:
    prompts = re.findall(r"^\s*\$ \S", PAGES[page], re.MULTILINE)
    assert len(prompts) == sum(len(commands(block)) for block in blocks(page))


@pytest.mark.parametrize("page", PAGES)
def test_no_other_kind_of_block_has_commands(page: str) -> None:
    shells = {"bash", "sh", "shell", "zsh"}
    assert not {block.kind for block in blocks(page)} & shells
    # What a block's kind is called must be known to find it.
    assert ".. code::" not in PAGES[page] and ".. sourcecode::" not in PAGES[page]


#: Other programs' options that the manual names, by the program.
OTHERS = {
    "curl": {"--unix-socket"},
    "docker": {
        "--file",
        "--name",
        "--publish",
        "--signal",
        "--stop-timeout",
        "--tag",
    },
    "git": {"--sign"},
    "gunicorn": {
        option
        for options in settings().values()
        for option in options
        if option.startswith("--")
    },
    "kubectl": {"--filename"},
    "systemctl": {"--now"},
    "tar": {"--directory", "--extract", "--file"},
    "twine": {"--strict"},
}
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def declared(command: click.Command) -> set[str]:
    return {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def options_of_scripts() -> set[str]:
    """Options of the programs in the source tree that aren't the package's."""
    paths = [*(ROOT / "benchmarks").rglob("*.py"), *DOCS.glob("*.py")]
    paths += [ROOT / "tests" / "conftest.py", *(ROOT / "tests/compat").glob("*.py")]
    text = "".join(path.read_text("utf-8") for path in paths)
    return set(re.findall(r'"(--[a-z][\w-]*)"', text))


def known_options() -> set[str]:
    ours = declared(prefork_run) | declared(prefork_status)
    flasks = declared(flask_command) | declared(run_command) | {"--help", "--version"}
    return ours | flasks | options_of_scripts() | set().union(*OTHERS.values())


@pytest.mark.parametrize("page", PAGES)
def test_every_option_exists(page: str) -> None:
    assert set(_OPTION.findall(PAGES[page])) <= known_options()


def test_every_other_programs_option_is_named() -> None:
    named = set(_OPTION.findall("".join(PAGES.values())))
    assert set().union(*OTHERS.values()) <= named


def test_every_variable_exists() -> None:
    """Those of the server; ``FLASK_PREFORK_RUN_`` is the beginning of them all."""
    known = {
        variable
        for command in (prefork_run, prefork_status)
        for option in command.params
        if isinstance(option, click.Option)
        for variable in options_table.variables(command, option)
    }
    text = "".join(PAGES.values())
    assert set(re.findall(r"FLASK_PREFORK_RUN_[A-Z_]*[A-Z]", text)) <= known


def test_every_key_exists() -> None:
    # The limits of routes are the one key that is no option.
    keys = {config_key(name) for name in ROWS} | {"PREFORK_LIMITS"}
    text = "".join(PAGES.values())
    assert set(re.findall(r"(?<![A-Z_])PREFORK_[A-Z_]*[A-Z]", text)) <= keys


# The reference of options


def shown_options(name: str) -> list[str]:
    """The options that the page of options shows, in its order."""
    found = re.findall(
        r"^\.\. prefork-options::\n(?: +:command: (\S+)\n)?(?: +:group: (.+)\n)?",
        PAGES["docs/options.rst"],
        re.MULTILINE,
    )
    command = {"prefork-run": prefork_run, "prefork-status": prefork_status}[name]
    return [
        entry.name
        for said, group in found
        if (said or "prefork-run") == name
        for entry in (
            options_table.in_group(command, group)
            if group
            else options_table.entries(command)
        )
    ]


def test_options_are_in_the_groups_of_the_help() -> None:
    titles = re.findall(r"(?m)^ +:group: (.+)$", PAGES["docs/options.rst"])
    assert titles == list(GROUPS)


@pytest.mark.parametrize("command", [prefork_run, prefork_status], ids=lambda c: c.name)
def test_every_option_is_shown_once(command: click.Command) -> None:
    shown = shown_options(str(command.name))
    assert len(shown) == len(set(shown))
    assert set(shown) == {entry.name for entry in options_table.entries(command)}


def test_an_option_in_the_reference() -> None:
    text = options_table.render(options_table.select(prefork_run, ["idle_timeout"]))
    assert text.startswith(".. option:: --idle-timeout <seconds>\n")
    for fact in (
        "PREFORK_IDLE_TIMEOUT",
        "FLASK_PREFORK_RUN_IDLE_TIMEOUT",
        "10",
        "seconds",
    ):
        assert fact in text


def test_borrowed_and_early_options_have_no_key() -> None:
    for name in ("port", "user"):
        (entry,) = options_table.select(prefork_run, [name])
        assert "Key" not in entry.facts and "Variable" in entry.facts


def defaults() -> list[tuple[str, str]]:
    """Options with the defaults that the prose tells of them."""
    migrating = re.findall(
        r"^    \* - :option:`(--[\w-]+)` \(([^)]+)\)$",
        PAGES["docs/migrating.rst"],
        re.MULTILINE,
    )
    security = re.findall(
        r"^      - (.+)\n      - :option:`(--[\w-]+)`$",
        PAGES["docs/security.rst"],
        re.MULTILINE,
    )
    return migrating + [(option, default) for default, option in security]


@pytest.mark.parametrize(("option", "told"), defaults())
def test_defaults_in_tables(option: str, told: str) -> None:
    (row,) = (row for name, row in ROWS.items() if option_name(name) == option)
    word = told.split()[0].replace(",", "")
    real = row.shown_default
    if word in ("none", "never"):
        assert real == "0"
    else:
        assert re.split(r"[\s,]", real)[0] == ("the" if word == "the" else word)


# Pictures


def test_the_diagram_has_every_transition() -> None:
    group = state_diagram.serving()
    drawn = {
        ((start, edge.event), edge.end)
        for edge in state_diagram.edges()
        for start in (group if edge.start is None else [edge.start])
    }
    assert drawn == set(TRANSITIONS.items())
    picture = state_diagram.draw()
    for state in State:
        assert f">{state.name}<" in picture
    assert picture.count('class="head"') == len(state_diagram.edges())


def test_the_table_of_transitions() -> None:
    for line in (f"    * - {state.name}" for state in State):
        assert line in state_diagram.table().splitlines()


def test_sequences_speak_of_real_frames() -> None:
    bodies = re.findall(
        r"^\.\. prefork-sequence::\n\n((?:    .+\n)+)",
        PAGES["docs/how-it-works.rst"],
        re.MULTILINE,
    )
    assert bodies
    for body in bodies:
        _, messages = sequence_diagram.parse([*map(str.strip, body.splitlines())])
        words = {w for m in messages for w in re.findall(r"[A-Z]{3,}", m.words)}
        assert words and words <= {cls.__name__.upper() for cls in KINDS.values()}


@pytest.mark.parametrize("line", ["no message", "one -> nobody: hello"])
def test_a_line_that_is_no_message(line: str) -> None:
    with pytest.raises(ValueError):
        sequence_diagram.parse(["one, two", line])


# Tables


def test_every_module_is_in_the_house() -> None:
    table = house_table.render()
    folder = ""
    found = set()
    for line in table.splitlines():
        if title := re.match(r"\.\. rubric:: ``flask_prefork/(.*)``", line):
            folder = title[1]
        elif row := re.match(r"    \* - ``(.+)``", line):
            found.add(folder + row[1])
    package = ROOT / "flask_prefork"
    # A folder's own module is its text.
    assert found == {
        path.relative_to(package).as_posix()
        for path in SOURCE
        if path.name != "__init__.py" or path.parent == package
    }
    for path in package.rglob("*/__init__.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        assert docstring.splitlines()[0] in table
    assert all(idea.strip(".") for idea in house_table.modules().values())


def test_every_metric_is_in_the_table() -> None:
    table = metrics_table.render()
    names = [family.name for family in families(metrics_table.EXAMPLE)]
    for name in names:
        assert re.search(rf"``flask_prefork_{name}(_total|_info)?``", table)


def test_every_state_is_told_of() -> None:
    page = PAGES["docs/status.rst"]
    for state in State:
        assert f"    * - ``{state.value}``\n      - {state.name.lower()}\n" in page


def test_every_public_name_is_documented() -> None:
    page = PAGES["docs/api.rst"]
    # By type() and not by isinstance(), which a proxy answers for what it stands for.
    signals = {n for n, value in vars(hooks).items() if type(value) is NamedSignal}
    assert signals < set(flask_prefork.__all__)
    assert ".. prefork-signals::" in page
    for name in set(flask_prefork.__all__) - signals:
        assert re.search(rf"^\.\. (autoclass|data):: {name}$", page, re.MULTILINE)


@pytest.mark.parametrize("hook", vars(hooks.Hooks()))
def test_every_hook_is_documented(hook: str) -> None:
    (members,) = re.findall(
        r"autoclass:: Prefork\n    :members: (.+)", PAGES["docs/api.rst"]
    )
    assert hook in members.split(", ")
    assert f"\n    * - ``{hook}``\n      - " in PAGES["docs/hooks.rst"]


def test_every_fixture_is_documented() -> None:
    fixtures = {name for name in vars(testing) if name.startswith("prefork_")}
    named = re.findall(r"    \* - ``(prefork_\w+)``", PAGES["docs/testing.rst"])
    assert fixtures and set(named) == fixtures


def test_the_fault_matrix_is_rendered() -> None:
    assert PAGES["docs/faults.rst"] == load("render_faults").render(), (
        "run python docs/render_faults.py"
    )


# What stands beside the manual


@pytest.mark.parametrize("name", ["SECURITY.md", "CONTRIBUTING.md"])
def test_what_a_project_has(name: str) -> None:
    assert (ROOT / name).is_file()


def test_hooks_of_commits_run_what_make_runs() -> None:
    path = ROOT / ".pre-commit-config.yaml"
    if not path.exists():
        pytest.skip("a source package has no hooks for commits")
    entries = re.findall(r"entry: \.venv/bin/(.+)", path.read_text("utf-8"))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipes = re.findall(r"\$\(BIN\)/((?:ruff|mypy).*)", makefile)
    assert [e.replace(" --force-exclude", "") for e in entries] == recipes


def test_python_blocks_are_python() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "python":
                compile(block.text, f"{page}, {block.caption}", "exec")
