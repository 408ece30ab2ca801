"""What is in the packages that are made of the source tree."""

from __future__ import annotations

import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email.message import Message
from itertools import chain
from pathlib import Path

import pytest

from .building import build
from .building import copy_tree
from .building import ROOT

TOX = (ROOT / "tox.ini").read_text("utf-8")
#: The directories that are in the source package as a whole.
WHOLE = ("benchmarks", "deploy", "docs", "example_app", "flask_prefork", "tests")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree as a clone has it."""
    return copy_tree(tmp_path_factory.mktemp("tree") / "source")


@pytest.fixture(scope="module")
def unpacked(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source package's content."""
    target = tmp_path_factory.mktemp("sdist")
    # Of a copy of its own: a build leaves things in its tree.
    source = shutil.copytree(tree, target / "source")
    with tarfile.open(build("sdist", source, target / "made")) as archive:
        for member in archive.getmembers():
            assert member.isreg() or member.isdir()
            assert not Path(member.name).is_absolute()
            assert ".." not in Path(member.name).parts
        # As Python 3.14 does by default; old patch releases know no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(target / "unpacked")
    (root,) = (target / "unpacked").iterdir()
    return root


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, which is made of the source package."""
    target = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(unpacked, target / "source")
    return build("wheel", source, target / "made")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        return email.message_from_bytes(archive.read(name))


def files(root: Path, *parts: str) -> set[str]:
    """The files below a directory, by their paths in ``root``."""
    start = root.joinpath(*parts)
    found = (path for path in start.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in found}


def test_source_package_holds_nothing_else(tree: Path, unpacked: Path) -> None:
    made = {"PKG-INFO", *(n for n in files(unpacked) if ".egg-info/" in n)}
    assert files(unpacked) - made <= files(tree)


@pytest.mark.parametrize("directory", WHOLE)
def test_source_package_holds_whole_directories(
    tree: Path, unpacked: Path, directory: str
) -> None:
    assert files(unpacked, directory) == files(tree, directory)


@pytest.mark.parametrize(
    "name",
    [
        "CHANGES.rst",
        "DESCRIPTION.md",
        "LICENSE.txt",
        "Makefile",
        "README.md",
        "pyproject.toml",
        "setup.cfg",
        "tox.ini",
    ],
)
def test_source_package_holds_what_belongs_to_a_project(
    unpacked: Path, name: str
) -> None:
    assert (unpacked / name).is_file()


def test_ci_script_can_be_run(unpacked: Path) -> None:
    assert os.access(unpacked / ".ci" / "run", os.X_OK)


def test_wheel_holds_the_package_alone(tree: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if not n.endswith("/")}
    about = {n for n in names if n.partition("/")[0].endswith(".dist-info")}
    # The map of the source is for who changes it.
    assert names - about == files(tree, "flask_prefork") - {"flask_prefork/README.md"}
    assert "flask_prefork/py.typed" in names
    assert "LICENSE.txt" in {Path(name).name for name in about}


def test_wheel_is_for_every_system(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_metadata(metadata: Message) -> None:
    assert metadata["Name"].replace("_", "-") == "flask-prefork"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["License-File"] == "LICENSE.txt"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "prefork-run" in metadata["Summary"]
    body = metadata.get_payload()
    assert isinstance(body, str) and body.startswith("# flask_prefork")
    # A license classifier beside the expression is an error (PEP 639).
    assert not [c for c in metadata.get_all("Classifier", []) if "License" in c]


def test_the_description_leads_nowhere_in_the_source_tree(metadata: Message) -> None:
    """An index shows it, which has no other file of the project."""
    body = metadata.get_payload()
    assert isinstance(body, str)
    targets = re.findall(r"\]\(([^)\s]+)|(?:src|href)=[\"']?([^\"'\s>]+)", body)
    assert not re.findall(r"^\s*\[[^\]]+\]:", body, re.MULTILINE)
    assert not [t for t in chain(*targets) if t and not t.startswith("https://")]


def test_interpreters_are_those_that_are_tried(metadata: Message) -> None:
    told = re.findall(
        r"^Programming Language :: Python :: 3\.(\d+)$",
        "\n".join(metadata.get_all("Classifier", [])),
        re.MULTILINE,
    )
    (tried,) = re.findall(r"^envlist = py3\{(.+)\}", TOX, re.MULTILINE)
    assert tried.split(",") == told
    assert metadata["Requires-Python"] == f">=3.{told[0]}"


def test_the_version_has_its_changes(metadata: Message) -> None:
    """Those of a release are dated."""
    text = (ROOT / "CHANGES.rst").read_text("utf-8")
    found = re.search(r"^Version (\S+)\n-+\n\n(Unreleased|Released .+)\n", text, re.M)
    assert found is not None
    version, date = found.groups()
    assert metadata["Version"] == version + (".dev0" if date == "Unreleased" else "")
    if date != "Unreleased":
        assert re.fullmatch(r"Released \d{4}-\d\d-\d\d", date)


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_an_index_takes_it(kind: str, unpacked: Path, wheel: Path) -> None:
    """As ``make dist`` checks it."""
    (sdist,) = (unpacked.parents[1] / "made").iterdir()
    path = wheel if kind == "wheel" else sdist
    lines = [["twine", "check", "--strict", str(path)]]
    if kind == "wheel":
        lines.append(["check_wheel_contents", str(path)])
    for line in lines:
        if importlib.util.find_spec(line[0]) is None:
            pytest.skip(f"{line[0]} isn't installed (pip install '.[dev]')")
        process = subprocess.run(
            [sys.executable, "-m", *line], capture_output=True, text=True
        )
        assert process.returncode == 0, process.stdout + process.stderr


def test_requirements(metadata: Message) -> None:
    needed = [
        requirement
        for requirement in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in requirement
    ]
    names = {requirement.partition(">")[0].lower() for requirement in needed}
    assert names == {"flask", "werkzeug", "httptools"}
    # `tox -e lowest` tries exactly these.
    (_, lowest) = TOX.split("[testenv:lowest]")
    pinned = re.findall(r"^ +([a-z]+)==([\d.]+)$", lowest, re.MULTILINE)
    bounds = dict(requirement.split(">=") for requirement in needed)
    assert {n: v.removesuffix(".0") for n, v in pinned if n in names} == bounds


def test_extras(metadata: Message) -> None:
    extras = set(metadata.get_all("Provides-Extra", []))
    assert {"title", "dotenv", "tls", "test", "dev"} <= extras
    of_title = [
        requirement.partition(";")[0].strip()
        for requirement in metadata.get_all("Requires-Dist", [])
        if '"title"' in requirement
    ]
    assert of_title == ["setproctitle"]


def test_entry_points(wheel: Path) -> None:
    parser = ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/entry_points.txt"))
        parser.read_string(archive.read(name).decode())
    commands = dict(parser["flask.commands"])
    assert commands["prefork-run"] == "flask_prefork.cli:prefork_run"
    assert parser.sections() == ["flask.commands"]


def test_wheel_runs_where_it_is_put(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    # Unpacked it is installed, as there is nothing to compile (PEP 427); its
    # directory comes before whatever this interpreter has.
    code = (
        "import flask_prefork, sys; sys.argv = ['flask', 'prefork-run', '--help'];"
        "print(flask_prefork.__file__); from flask.cli import main; main()"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert process.stdout.startswith(str(tmp_path))
    assert "--min-idle" in process.stdout
