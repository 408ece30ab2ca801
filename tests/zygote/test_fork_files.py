"""Files whose offset workers would share, and those that are open for other reasons."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import sqlite3
import subprocess
import sys
import tempfile
import typing as t
import zipfile
from pathlib import Path

import pytest

from flask_prefork.zygote import fork_files
from flask_prefork.zygote import fork_holders

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no /proc here")

#: What a module's variable holds, for the length of a test.
held: t.Any = None
#: And another one.
held_too: t.Any = None


def told(path: Path | str, own: t.Collection[int] = ()) -> list[str]:
    """Who is told to have a file open."""
    objects = gc.get_objects()
    raw = fork_holders.raw_files(objects)
    files = [one for one in fork_files.find(own) if one.path == str(path)]
    holders = fork_holders.find(
        {one.fd: raw[one.fd] for one in files if one.fd in raw}, objects
    )
    found = [(one, holders.get(one.fd, fork_holders.NOBODY)) for one in files]
    return [
        holder.name
        for one, holder in found
        if not fork_files.is_harmless(one, one.fd in raw, holder)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 100_000)
    return path


class Reader:
    """In the place of a library's that seeks in a file.

    :param file: The file.
    """

    def __init__(self, file: t.IO[t.Any]) -> None:
        self.file = file


Reader.__module__ = "geo.database"


@pytest.mark.parametrize("mode", ["rb", "r", "r+b", "w+b"])
def test_one_that_is_read(data: Path, mode: str) -> None:
    with open(data, mode) as file:
        reader = Reader(file)
        assert told(data) == ["geo.database.Reader"]
        assert told(data, own=[file.fileno()]) == []
        del reader
    assert told(data) == []


def test_a_variable_of_a_module(data: Path) -> None:
    global held
    with open(data, "rb") as held:
        assert told(data) == [f"{__name__}.held"]
        held.read(1)
        assert told(data) == [f"{__name__}.held"]
        # Forgotten, as it seems.
        held.read()
        assert told(data) == []
        reader = Reader(held)
        assert told(data) == ["geo.database.Reader"]
        del reader
    held = None


def test_each_variable_has_its_own(data: Path, tmp_path: Path) -> None:
    global held, held_too
    other = tmp_path / "other"
    other.write_bytes(b"x")
    with open(data, "rb") as held, open(other, "rb") as held_too:
        files = {one.fileno(): [one.raw, one] for one in (held, held_too)}
        found = fork_holders.find(files, gc.get_objects())
        assert {fd: holder.name for fd, holder in found.items()} == {
            held.fileno(): f"{__name__}.held",
            held_too.fileno(): f"{__name__}.held_too",
        }
        # Through something else that holds it.
        held_too = [held_too]
        found = fork_holders.find(files, gc.get_objects())
        assert found[held.fileno()].name == f"{__name__}.held"
        assert found[held_too[0].fileno()].name == f"{__name__}.held_too"
        del files, found
    held = held_too = None


def test_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("name", "content")
    with zipfile.ZipFile(path) as archive:
        assert told(path) == ["zipfile.ZipFile"]
        # What is imported from, the standard library looks into itself.
        monkeypatch.setattr(sys, "path", [*sys.path, str(path)])
        assert told(path) == []


def test_one_that_is_only_a_descriptor(data: Path) -> None:
    fd = os.open(data, os.O_RDONLY)
    assert told(data) == [], "as far as can be known it's read by pread"
    os.read(fd, 1)
    assert told(data) == [""]
    os.close(fd)


@pytest.mark.parametrize("mode", ["a", "w", "a+"])
def test_a_log(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "log"
    with open(path, mode) as file:
        print("loaded", file=file, flush=True)
        assert told(path) == []


def test_one_that_is_mapped(data: Path) -> None:
    with open(data, "rb") as file:
        assert told(data)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
            assert told(data) == []


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_one_that_is_locked(data: Path, lock: t.Callable[[t.Any, int], None]) -> None:
    with open(data, "r+b") as file:
        assert told(data)
        lock(file, fcntl.LOCK_EX)
        assert told(data) == []


def test_one_that_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with open(path, "rb"):
        assert told(path) == []


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_of_sqlite(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "test.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("CREATE TABLE t (n INTEGER)")
    for suffix in ("", "-wal", "-shm", "-journal"):
        assert told(f"{path}{suffix}") == []
    connection.close()


def test_one_without_a_name() -> None:
    with tempfile.TemporaryFile() as file:
        path = os.readlink(f"/proc/self/fd/{file.fileno()}")
        reader = Reader(t.cast(t.Any, file))
        assert told(path) == ["geo.database.Reader"]
        del reader


def test_what_the_output_goes_to(tmp_path: Path) -> None:
    """As it may be opened for reading as well, and has copies."""
    path = tmp_path / "output"
    script = (
        "import os; from flask_prefork.zygote import fork_files;"
        " os.dup(1); os.lseek(1, 5, 0);"
        " print([one.path for one in fork_files.find(())])"
    )
    with open(path, "w+") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, check=True)
    assert path.read_text().strip("\0\n") == "[]"


@pytest.mark.parametrize("path", ["/proc/self/stat", "/dev/zero"])
def test_what_is_the_kernels(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        file.read(1)
        assert told(os.path.realpath(path)) == []
