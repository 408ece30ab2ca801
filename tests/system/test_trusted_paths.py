"""Paths that lead where root wants, and those that somebody else can change."""

from __future__ import annotations

import os
import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_prefork.system.trusted_paths import is_roots

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make files of somebody else's"
)
#: Any other user.
OTHER = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of root's, in which only root can write."""
    made = tmp_path / "folder"
    made.mkdir(mode=0o755)
    return made


def test_a_file_in_a_directory_of_roots(folder: Path) -> None:
    assert is_roots(f"{folder}/log")
    (folder / "log").write_text("")
    os.chown(folder / "log", OTHER, OTHER)
    assert is_roots(f"{folder}/log")
    (folder / "inner").mkdir()
    assert is_roots(f"{folder}/inner/../log")


def test_what_the_kernel_has_open(folder: Path) -> None:
    reader, writer = os.pipe()
    try:
        assert is_roots(f"/proc/self/fd/{writer}")
        (folder / "stderr").symlink_to(f"/proc/self/fd/{writer}")
        assert is_roots(f"{folder}/stderr")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_directory_that_is_not_there(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_roots(f"{folder}/nowhere/log")


def _give(folder: Path) -> str:
    os.chown(folder, OTHER, OTHER)
    return f"{folder}/log"


def _open_to_all(folder: Path) -> str:
    folder.chmod(0o777)
    return f"{folder}/log"


def _open_to_a_group(folder: Path) -> str:
    folder.chmod(0o775)
    return f"{folder}/log"


def _make_sticky(folder: Path) -> str:
    """The file's own place there may be somebody else's."""
    folder.chmod(0o1777)
    return f"{folder}/log"


def _give_one_above(folder: Path) -> str:
    inner = folder / "inner"
    inner.mkdir(mode=0o755)
    os.chown(folder, OTHER, OTHER)
    return f"{inner}/log"


def _link_of_others(folder: Path) -> str:
    (folder / "other").mkdir()
    (folder / "link").symlink_to(folder / "other")
    os.chown(folder / "link", OTHER, OTHER, follow_symlinks=False)
    return f"{folder}/link/log"


def _link_into_an_open_one(folder: Path) -> str:
    (folder / "other").mkdir()
    (folder / "other").chmod(0o777)
    (folder / "link").symlink_to("other")
    return f"{folder}/link/log"


def _link_to_nothing(folder: Path) -> str:
    (folder / "link").symlink_to("nothing")
    return f"{folder}/link"


def _links_in_a_circle(folder: Path) -> str:
    (folder / "one").symlink_to("other")
    (folder / "other").symlink_to("one")
    return f"{folder}/one"


@pytest.mark.parametrize(
    "make",
    [
        _give,
        _open_to_all,
        _open_to_a_group,
        _make_sticky,
        _give_one_above,
        _link_of_others,
        _link_into_an_open_one,
        _link_to_nothing,
        _links_in_a_circle,
    ],
)
def test_what_somebody_else_can_change(
    folder: Path, make: Callable[[Path], t.Any]
) -> None:
    assert not is_roots(make(folder))
