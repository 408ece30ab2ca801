"""What a user can't read, of what an app is loaded from."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from system.forked import in_child

from flask_prefork.zygote import permissions

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become somebody else"
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can come to."""
    folder = Path(tempfile.mkdtemp(prefix="flask-prefork-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def asked(*paths: Path) -> t.Any:
    def ask() -> str:
        os.setgroups([])
        os.setgid(54322)
        os.setuid(54321)
        return permissions.complaint("web", map(str, paths))

    return in_child(ask)


@needs_root
def test_what_can_be_read(place: Path) -> None:
    (place / "file").touch(0o644)
    # Nor is it a matter of reading what is yet to be made.
    assert asked(place, place / "file", place / "new", Path("/")) == ""


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o744, 0o711])
def test_a_directory(place: Path, mode: int) -> None:
    (place / "app").mkdir()
    (place / "app").chmod(mode)
    assert asked(place / "app") == f"The user web can't read {place}/app."


@needs_root
def test_a_file(place: Path) -> None:
    (place / "modules.zip").touch(0o600)
    assert asked(place / "modules.zip") == (
        f"The user web can't read {place}/modules.zip."
    )


@needs_root
def test_a_door_is_told_once(place: Path) -> None:
    inner = place / "root" / "lib" / "python"
    inner.mkdir(parents=True)
    (place / "app").mkdir(mode=0o700)
    (place / "root").chmod(0o700)
    assert asked(place, inner, inner / "site-packages", place / "app") == (
        f"The user web can't read {place}/root (on the way to {inner}),"
        f" nor {place}/app."
    )


def test_where_an_app_is_loaded_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "none"), "/", "src"])
    library = os.path.dirname(os.__file__)
    common = [library, "/", str(tmp_path / "src")]
    assert permissions.sources(None) == [*common, str(tmp_path)]
    assert permissions.sources("shop") == [*common, str(tmp_path)]
    assert permissions.sources("src/shop.py:make('a/b')") == common
    assert permissions.sources("/usr/shop:app") == [*common, "/usr"]
