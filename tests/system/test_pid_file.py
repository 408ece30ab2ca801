"""The pid file: whose it is, and who gets it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.system.pid_file import PidFile
from flask_prefork.system.pid_file import PidFileError


class Server:
    """A process that does one thing, says what came of it, and waits.

    :param do: The thing.
    :param wait: Begin only at :meth:`begin`.
    """

    def __init__(self, do: Callable[[], object], wait: bool = False) -> None:
        news, said = os.pipe()
        begin, self._begin = os.pipe()
        end, self._end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(news)
                os.close(self._begin)
                os.close(self._end)
                if wait:
                    os.read(begin, 1)
                try:
                    do()
                    os.write(said, b"done")
                except PidFileError as e:
                    os.write(said, str(e).encode())
                os.read(end, 1)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        for fd in (said, begin, end):
            os.close(fd)
        self._news = news

    def begin(self) -> None:
        os.write(self._begin, b".")

    def says(self) -> str:
        """What came of it; waits for it."""
        return os.read(self._news, 4096).decode()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def leave(self) -> int:
        """Let it end.

        :return: Its exit status, or the signal below 0.
        """
        # Servers that were started later hold this end too: no closing tells.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._end, b".")
        for fd in (self._news, self._begin, self._end):
            os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextlib.contextmanager
def server(do: Callable[[], object]) -> Iterator[Server]:
    one = Server(do)
    try:
        assert one.says() == "done"
        yield one
    finally:
        status = one.leave()
    assert status in (0, -signal.SIGKILL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file goes, alone in its directory."""
    return tmp_path / "server.pid"


def refusal(path: Path) -> str:
    """What the user is told."""
    with pytest.raises(PidFileError) as caught:
        PidFile(str(path)).create()
    return str(caught.value)


def test_create_and_remove(path: Path) -> None:
    file = PidFile(str(path))
    file.create()
    assert path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == [path.name]
    file.remove()
    assert os.listdir(path.parent) == []
    file.remove()


def test_relative_path_keeps_its_meaning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    file = PidFile(path.name)
    monkeypatch.chdir("/")
    file.create()
    assert path.exists()
    file.remove()
    assert not path.exists()


_SHOWS_INODES = """
import os
for fd in os.listdir("/dev/fd"):
    try:
        print(os.fstat(int(fd)).st_ino)
    except OSError:
        pass
"""


def test_programs_do_not_inherit_it(path: Path) -> None:
    file = PidFile(str(path))
    file.create()
    done = subprocess.run(
        [sys.executable, "-c", _SHOWS_INODES],
        close_fds=False,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert str(path.stat().st_ino) not in done.stdout.decode().split()
    file.remove()


def test_living_server_keeps_its_file(path: Path) -> None:
    with server(PidFile(str(path)).create) as other:
        assert refusal(path) == (
            f"The pid file {path} belongs to another server (pid {other.pid}). Either"
            " stop that server, or start this one with a different pid file."
        )
        assert path.read_text() == f"{other.pid}\n"
        assert os.listdir(path.parent) == [path.name]


def test_living_server_whose_file_was_overwritten(path: Path) -> None:
    with server(PidFile(str(path)).create):
        path.write_bytes(b"\x1b[2J")
        assert refusal(path).startswith(
            f"The pid file {path} belongs to another server. "
        )


def test_killed_servers_file_is_stale(path: Path) -> None:
    with server(PidFile(str(path)).create) as other:
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert path.read_text() == f"{other.pid}\n"
        file = PidFile(str(path))
        file.create()
        assert path.read_text() == f"{os.getpid()}\n"
        file.remove()


# The last one's process lives: it has just got the pid.
@pytest.mark.parametrize("content", ["", "garbage", "-1\n", f"{os.getppid()}\n"])
def test_file_of_nobody_is_replaced(path: Path, content: str) -> None:
    path.write_text(content)
    file = PidFile(str(path))
    file.create()
    assert path.read_text() == f"{os.getpid()}\n"
    assert os.listdir(path.parent) == [path.name]
    file.remove()


@pytest.mark.parametrize("stale", [False, True])
def test_one_of_many_gets_it(path: Path, stale: bool) -> None:
    if stale:
        path.write_text("1\n")
    servers = [Server(PidFile(str(path)).create, wait=True) for _ in range(8)]
    try:
        for one in servers:
            one.begin()
        said = {one.pid: one.says() for one in servers}
        (winner,) = [pid for pid, what in said.items() if what == "done"]
        assert path.read_text() == f"{winner}\n"
        others = [what for pid, what in said.items() if pid != winner]
        assert all("belongs to another server" in what for what in others)
        assert os.listdir(path.parent) == [path.name]
    finally:
        ended = [one.leave() for one in servers]
    assert ended == [0] * 8


def test_forked_child_does_not_keep_it(path: Path) -> None:
    alive, theirs = os.pipe()
    gate, ours = os.pipe()

    def create_and_fork() -> None:
        PidFile(str(path)).create()
        if os.fork() == 0:
            os.close(ours)
            os.write(theirs, b".")
            os.read(gate, 1)
            os._exit(0)

    with server(create_and_fork) as other:
        os.close(theirs)
        os.close(gate)
        assert os.read(alive, 1) == b"."
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        # Its child has the descriptor still.
        file = PidFile(str(path))
        file.create()
        file.remove()
        os.close(ours)
        assert os.read(alive, 1) == b""
        os.close(alive)


def test_forked_child_does_not_remove_it(path: Path) -> None:
    file = PidFile(str(path))
    file.create()
    with server(file.remove):
        assert path.exists()
        # And the lock is where it was.
        with server(lambda: refusal(path)):
            pass
    file.remove()
    assert not path.exists()


def test_somebody_elses_file_is_not_removed(path: Path) -> None:
    file = PidFile(str(path))
    file.create()
    path.unlink()
    with server(PidFile(str(path)).create) as other:
        file.remove()
        assert path.read_text() == f"{other.pid}\n"


def test_file_that_is_gone_already(path: Path) -> None:
    file = PidFile(str(path))
    file.create()
    path.unlink()
    file.remove()


def test_folder_that_is_gone_already(path: Path) -> None:
    folder = path.parent / "run"
    folder.mkdir()
    file = PidFile(str(folder / path.name))
    file.create()
    folder.rename(path.parent / "run.old")
    file.remove()


def test_it_appears_with_its_content(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    link = os.link

    def look(source: str, target: str) -> None:
        sizes.append(os.stat(source).st_size)
        link(source, target)

    monkeypatch.setattr(os, "link", look)
    file = PidFile(str(path))
    file.create()
    assert sizes == [len(f"{os.getpid()}\n")]
    file.remove()


@pytest.mark.parametrize("content", [None, "2\n"])
def test_stale_file_that_changes_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """Other servers remove the file, or put theirs there, after we have opened it."""
    path.write_text("1\n")
    opened = []
    open_ = os.open

    def open_and_change(name: str, flags: int, mode: int = 0o777) -> int:
        fd = open_(name, flags, mode)
        if name == str(path):
            opened.append(name)
            if len(opened) == 1:
                path.unlink()
                if content is not None:
                    path.write_text(content)
        return fd

    monkeypatch.setattr(os, "open", open_and_change)
    file = PidFile(str(path))
    file.create()
    assert path.read_text() == f"{os.getpid()}\n"
    assert os.listdir(path.parent) == [path.name]
    # Written by open(), it was opened once more.
    assert len(opened) == (1 if content is None else 2)
    file.remove()


def test_stale_file_that_goes_before_it_is_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text("1\n")
    open_ = os.open

    def remove_and_open(name: str, flags: int, mode: int = 0o777) -> int:
        if name == str(path):
            path.unlink()
        return open_(name, flags, mode)

    monkeypatch.setattr(os, "open", remove_and_open)
    file = PidFile(str(path))
    file.create()
    assert path.read_text() == f"{os.getpid()}\n"
    file.remove()


# What is refused


def test_file_that_is_no_pid_file(path: Path) -> None:
    text = "What somebody would miss.\n" * 10
    path.write_text(text)
    assert refusal(path) == (
        f"Can't write the pid file {path}: something that is no pid file is there."
    )
    assert path.read_text() == text
    assert os.listdir(path.parent) == [path.name]


def test_pipe(path: Path) -> None:
    os.mkfifo(path)
    assert refusal(path).endswith("something that is no pid file is there.")


def test_link(path: Path) -> None:
    target = path.parent / "target"
    target.write_text("1\n")
    path.symlink_to(target)
    assert refusal(path).startswith(f"Can't write the pid file {path}: ")
    assert target.read_text() == "1\n"
    path.unlink()
    # Neither one that leads nowhere.
    path.symlink_to(path.parent / "nowhere")
    assert refusal(path).startswith(f"Can't write the pid file {path}: ")


def test_folder(path: Path) -> None:
    path.mkdir()
    assert refusal(path) == f"Can't write the pid file {path}: Is a directory."
    assert os.listdir(path.parent) == [path.name]


def test_folder_that_is_not_there(path: Path) -> None:
    path = path / "server.pid"
    assert refusal(path) == (
        f"Can't write the pid file {path}: No such file or directory."
    )
