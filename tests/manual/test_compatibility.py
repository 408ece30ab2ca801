"""What is called public is there, is listed, and is documented."""

from __future__ import annotations

import importlib
import re
import types

import pytest

import flask_prefork
from flask_prefork import Prefork
from flask_prefork import PreforkRequestHandler
from flask_prefork import testing

from .pages import DOCS
from .pages import PAGES
from .pages import ROOT
from .test_docs import load

public_names = load("_ext/public_names")
LISTED = (DOCS / "public-names.txt").read_text("utf-8")
NAMES: dict[str, list[str]] = public_names.collect()
#: The pages that say what the names of a group mean. What the first ones don't name is
#: made of the code, when the manual is built.
PAGES_OF = {
    "Names in flask_prefork": ("api", "http", "hooks"),
    "Names in flask_prefork.testing": ("testing",),
    "Signals of blinker": ("hooks",),
    "Keys of the environ": ("api",),
    "Paths of the admin address": ("status",),
    "Atoms of the access log": ("access-log",),
    "Fields of the access log in JSON": ("access-log",),
    "Signals of the dispatcher": ("signals",),
    "Exit statuses": ("compatibility",),
    "Extras": ("compatibility",),
    "Keys of the configuration": ("options", "under-load"),
}
#: A directive of the manual makes these.
MADE = {
    "Options of flask prefork-run": ("options", ".. prefork-options::"),
    "Options of flask prefork-status": ("options", "    :command: prefork-status"),
    "Environment variables": ("options", ".. prefork-options::"),
    "Metrics": ("status", ".. prefork-metrics::"),
    "Fields of /status.json": ("api", ".. automodule:: flask_prefork.observe.snapshot"),
}


def test_no_name_is_lost() -> None:
    """The manual says how a public name may go. Nobody's app breaks before."""
    assert public_names.render() == LISTED, "run python docs/render_public_names.py"


@pytest.mark.parametrize("title", NAMES)
def test_each_group_has_names(title: str) -> None:
    assert NAMES[title] == sorted(set(NAMES[title]))
    assert len(NAMES[title]) > 2
    assert (title in PAGES_OF) != (title in MADE)


@pytest.mark.parametrize("title", MADE)
def test_the_manual_makes_what_it_does_not_name(title: str) -> None:
    page, directive = MADE[title]
    assert directive in PAGES[f"docs/{page}.rst"].splitlines()


def words(title: str, name: str) -> list[str]:
    """What of a name the manual has to say, each by itself."""
    if title == "Signals of blinker":
        signal, _, arguments = name.rstrip(")").partition("(")
        return [signal, *arguments.split(", ")]
    if title == "Keys of the configuration":
        # All others are made with the options.
        found = re.fullmatch(r"PREFORK_LIMITS\[\.\.\.\]\.(\w+)", name)
        return [found[1]] if found else []
    last = name.partition("(")[0].rpartition(".")[2]
    return [last if title.startswith("Names") else name.replace("{NAME}", "{name}")]


@pytest.mark.parametrize("title", PAGES_OF)
def test_each_name_is_documented(title: str) -> None:
    text = "".join(PAGES[f"docs/{page}.rst"] for page in PAGES_OF[title])
    if title == "Names in flask_prefork.testing":
        # The classes' members are made of their docstrings.
        text += "".join(getattr(testing, n).__doc__ or "" for n in testing.__all__)
        text += " ".join(vars(testing.Server))
    if title == "Names in flask_prefork":
        text += PreforkRequestHandler.__doc__ or ""
    for name in NAMES[title]:
        for word in words(title, name):
            assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text), word


def test_names_of_the_package_are_there() -> None:
    listed = {name.partition("(")[0] for name in NAMES["Names in flask_prefork"]}
    signals = {name.partition("(")[0] for name in NAMES["Signals of blinker"]}
    tops = {name.partition(".")[0] for name in listed}
    assert tops | signals == set(flask_prefork.__all__)
    for name in listed - {n for n in listed if n.startswith("current_worker.")}:
        owner, _, member = name.partition(".")
        assert hasattr(getattr(flask_prefork, owner), member or "__doc__"), name


def test_names_of_the_plugin_are_there() -> None:
    listed = {
        name.partition("(")[0] for name in NAMES["Names in flask_prefork.testing"]
    }
    fixtures = {name for name in vars(testing) if name.startswith("prefork_")}
    assert {name.partition(".")[0] for name in listed} == {*testing.__all__, *fixtures}
    for name in listed - {"Server.pid"}:
        owner, _, member = name.partition(".")
        assert hasattr(getattr(testing, owner), member or "__doc__"), name


def test_a_public_class_is_the_one_in_its_module() -> None:
    """Whose module may move; the class is imported when it is first asked for."""
    module = importlib.import_module(PreforkRequestHandler.__module__)
    assert module.PreforkRequestHandler is flask_prefork.PreforkRequestHandler
    assert Prefork is flask_prefork.Prefork
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        flask_prefork.Missing  # noqa: B018


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (("testing", "__all__", ["Server"]), "    AskError\n"),
        (
            ("flask_prefork.Prefork", "limit", lambda concurrency: None),
            "timeout, queue",
        ),
    ],
)
def test_a_lost_name_is_seen(
    monkeypatch: pytest.MonkeyPatch, change: tuple[str, str, object], lost: str
) -> None:
    place, name, value = change
    owner = {"testing": testing, "flask_prefork.Prefork": Prefork}[place]
    assert isinstance(owner, type | types.ModuleType)
    monkeypatch.setattr(owner, name, value)
    assert lost in LISTED
    assert lost not in public_names.render()


def test_versions_are_told_everywhere() -> None:
    page = PAGES["docs/compatibility.rst"]
    bounds = re.findall(
        r"^\s+(flask|werkzeug|httptools)>=(\S+)$",
        (ROOT / "setup.cfg").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(bounds) == 3
    for name, version in bounds:
        assert re.search(rf"{name} {re.escape(version)}", page, re.IGNORECASE), name
    (last,) = re.findall(r"envlist = py3\{.*?(\d+)\}", (ROOT / "tox.ini").read_text())
    assert f"CPython 3.10 to 3.{last}" in page
