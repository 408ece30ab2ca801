"""Whole texts from many processes, whatever they write to and whoever dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import resource
import select
import signal
import socket
import sys
import threading
import tty
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.system import output
from flask_prefork.system import output_locks
from flask_prefork.system.output import LockedWrite
from flask_prefork.system.output import Output
from flask_prefork.system.output_locks import Shared

from .forked import in_child

WRITERS = 6
LINES = 40
LONG = 12_000


@pytest.fixture
def shared() -> Iterator[Shared]:
    one = Shared(output_locks.create())
    yield one
    one.close()


class Target:
    """What is written to, and how it is read."""

    def __init__(self, write: int, read: int) -> None:
        self.write = write
        self.read = read

    def read_all(self, ask: Callable[[], object] = lambda: None) -> bytes:
        """Read a little at a time, to the end: so it is full nearly always."""
        found = []
        # A terminal whose other side is closed is an error.
        with contextlib.suppress(OSError):
            while data := os.read(self.read, 3000):
                found.append(data)
                ask()
        return b"".join(found)


KINDS = ["pipe", "non-blocking pipe", "socket", "terminal", "file"]


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    if request.param == "socket":
        ends = [end.detach() for end in socket.socketpair()]
    elif request.param == "terminal":
        ends = [*pty.openpty()]
        tty.setraw(ends[1])
    elif request.param == "file":
        path = tmp_path / "log"
        ends = [os.open(path, os.O_RDONLY | os.O_CREAT)]
        ends += [os.open(path, os.O_WRONLY | os.O_APPEND)]
    else:
        ends = [*os.pipe()]
        os.set_blocking(ends[1], not request.param.startswith("non"))
    read, write = ends
    yield Target(write, read)
    os.close(read)


@pytest.fixture(params=["as it is", "old kernel"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "old kernel":
        monkeypatch.setattr(output, "_NOWAIT", 0)


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def line(writer: int, number: int) -> bytes:
    """A long one, a short one, and one that just needs more than one write."""
    size = (LONG, 50, select.PIPE_BUF)[number % 3]
    return b"<%d.%d%b>\n" % (writer, number, b"x" * size)


def numbers(data: bytes) -> list[tuple[int, int]]:
    """Whose lines there are, which must be whole; in order."""
    found = []
    for text in data.splitlines(keepends=True):
        match = re.fullmatch(rb"<(\d+)\.(\d+)x+>\n", text)
        assert match is not None, text[:60]
        writer, number = int(match[1]), int(match[2])
        assert text == line(writer, number)
        found.append((writer, number))
    return sorted(found)


ALL = sorted((writer, number) for writer in range(WRITERS) for number in range(LINES))


@pytest.mark.usefixtures("kernel")
def test_lines_are_whole(target: Target, shared: Shared) -> None:
    def write(writer: int) -> None:
        out = Output(target.write, shared)
        for number in range(LINES):
            out.write(line(writer, number))

    def work(writer: int) -> Callable[[], None]:
        return lambda: write(writer)

    pids = [fork(work(writer)) for writer in range(WRITERS)]
    if os.path.isfile(f"/dev/fd/{target.read}"):
        for pid in pids:
            os.waitpid(pid, 0)
        pids = []
    os.close(target.write)
    assert numbers(target.read_all()) == ALL
    for pid in pids:
        os.waitpid(pid, 0)


def test_who_is_killed_in_the_middle_holds_nobody_up(shared: Shared) -> None:
    read, write = os.pipe()
    long = b"cut" * 100_000

    def work() -> None:
        Output(write, shared).write(long + b"\n")

    pid = fork(work)
    # It has the lock, for it is in the middle.
    first = os.read(read, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(Target(-1, read).read_all()))
    reader.start()
    out = Output(write, shared)
    for number in range(3):
        assert out.write(line(0, number))
    os.close(write)
    reader.join()
    os.close(read)
    head, _, rest = (first + found[0]).partition(b"\n")
    assert long.startswith(head)
    assert numbers(rest) == [(0, 0), (0, 1), (0, 2)]


def test_short_line_waits_for_a_long_one(shared: Shared) -> None:
    read, write = os.pipe()
    out = Output(write, shared)
    assert out.inspect()
    pending = LockedWrite(out, line(0, 0) * 20)
    assert not pending.advance()
    begun, go_on = os.pipe()

    def work() -> None:
        os.write(go_on, b"x")
        Output(write, shared).write(line(1, 1))
        os._exit(0)

    pid = fork(work)
    os.read(begun, 1)
    data = b""
    while not pending.advance():
        data += os.read(read, 4096)
    pending.end()
    os.close(write)
    data += Target(-1, read).read_all()
    os.waitpid(pid, 0)
    for fd in (read, begun, go_on):
        os.close(fd)
    assert numbers(data) == [(0, 0)] * 20 + [(1, 1)]


# What can't be written


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "TIMEOUT", 0.05)


@pytest.mark.usefixtures("kernel", "impatient")
@pytest.mark.parametrize("size", [10, LONG])
def test_nobody_reads(
    shared: Shared, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    out = Output(write, shared)
    written = 0
    while out.write(b"x" * size + b"\n"):
        written += 1
    # Once is enough: what follows is not waited with, and counted.
    waits: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(out, "_is_ready", lambda seconds: bool(waits.append(seconds)))
        assert not out.write(b"two\nlines\n")
    assert not any(waits)
    assert out.lost == 3
    data = b""
    while select.select([read], [], [], 0)[0]:
        data += os.read(read, 1 << 20)
    assert out.write(b"at last\n")
    os.close(write)
    data += Target(-1, read).read_all()
    os.close(read)
    *whole, told, last = data.splitlines()
    assert (told, last) == (b"(3 lines of the log were lost)", b"at last")
    assert whole[:written] == [b"x" * size] * written
    # The part of one that was given up in the middle has a line of its own.
    assert all(re.fullmatch(b"x{1,%d}" % size, cut) for cut in whole[written:])
    assert out.lost == 0


@pytest.mark.usefixtures("impatient")
def test_another_process_has_the_lock_and_hangs(shared: Shared) -> None:
    read, write = os.pipe()
    begun, go_on = os.pipe()

    def work() -> None:
        out = Output(write, shared)
        out.inspect()
        LockedWrite(out, b"x" * 100_000).advance()
        os.write(go_on, b"x")
        signal.pause()

    pid = fork(work)
    os.read(begun, 1)
    assert not Output(write, shared).write(b"lost\n")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.set_blocking(read, False)
    os.read(read, 1 << 20)
    assert Output(write, shared).write(b"kept\n")
    assert os.read(read, 100) == b"\nkept\n"
    for fd in (read, write, begun, go_on):
        os.close(fd)


@pytest.mark.parametrize("gave_up", [False, True])
def test_a_lock_is_stolen_from_a_process_that_does_not_write(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, gave_up: bool
) -> None:
    monkeypatch.setattr(output, "LOCK_TIMEOUT", 0.05)
    read, write = os.pipe()
    begun, go_on = os.pipe()
    resumed, resume = os.pipe()
    long = b"x" * 100_000 + b"\n"

    def work() -> None:
        out = Output(write, shared)
        out.inspect()
        pending = LockedWrite(out, long)
        pending.advance()
        os.write(go_on, b"x")
        os.read(resumed, 1)
        while not pending.advance():
            select.select([], [write], [], 1)
        pending.end()

    pid = fork(work)
    os.read(begun, 1)
    out = Output(write, shared)
    if gave_up:
        # The reader was slow before.
        with monkeypatch.context() as patch:
            patch.setattr(output, "TIMEOUT", 0.05)
            assert not out.write(b"lost\n")
        out.lost = 0
    part = os.read(read, 1 << 20)
    assert long.startswith(part)
    assert out.write(line(0, 0))
    # The lock is this process's now, so the second text waits for nothing.
    monkeypatch.setattr(output, "LOCK_TIMEOUT", 1000)
    assert out.write(line(0, 1))
    assert os.read(read, 1 << 20) == b"\n" + line(0, 0) + line(0, 1)
    # The first process sees that, and writes its whole line again.
    os.write(resume, b"x")
    os.close(write)
    assert Target(-1, read).read_all() == long
    os.waitpid(pid, 0)
    for fd in (read, begun, go_on, resumed, resume):
        os.close(fd)


def test_reader_has_gone(shared: Shared) -> None:
    read, write = os.pipe()
    os.close(read)
    out = Output(write, shared)
    assert not out.write(b"short\n")
    assert not out.write(line(0, 0))
    assert out.lost == 2
    os.close(write)
    assert not out.write(b"closed\n")
    assert out.lost == 3


def test_disk_is_full_for_a_while(shared: Shared, tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        told: list[int] = []
        out = Output(fd, shared, told.append)
        assert out.write(line(0, 0))
        assert not out.write(line(0, 0))
        assert not out.write(b"short\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
        assert out.write(b"there is space\n")
        assert told == [2]

    in_child(work)
    whole, cut, last = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert whole == line(0, 0)
    assert line(0, 0).startswith(cut[:-1])
    assert last == b"there is space\n"


def test_handler_of_a_signal_writes_amid_a_line(shared: Shared) -> None:
    read, write = os.pipe()
    out = Output(write, shared)
    reader_pid = os.getpid()

    def work() -> None:
        first = os.read(read, 1)
        os.kill(reader_pid, signal.SIGUSR1)
        seen.send(first + Target(-1, read).read_all())

    before = signal.signal(signal.SIGUSR1, lambda *_: out.write(b"handler\n"))
    ours, seen = socket.socketpair()
    try:
        pid = fork(lambda: (os.close(write), work()))  # type: ignore[func-returns-value]
        assert out.write(b"x" * 150_000 + b"\n")
    finally:
        signal.signal(signal.SIGUSR1, before)
    os.close(write)
    seen.close()
    data = b"".join(iter(lambda: ours.recv(1 << 20), b""))
    os.waitpid(pid, 0)
    ours.close()
    os.close(read)
    assert data == b"x" * 150_000 + b"\nhandler\n"


def test_started_process_has_the_same_locks() -> None:
    code = (
        "import fcntl, sys\n"
        "from flask_prefork.system import output_locks\n"
        "import os\n"
        "shared = output_locks.share()\n"
        "assert output_locks.VARIABLE not in os.environ\n"
        "assert not os.get_inheritable(shared.fd)\n"
        "sys.exit(shared.lock(7, fcntl.LOCK_SH))"
    )
    shared = output_locks.share()
    assert shared.lock(7, fcntl.LOCK_EX)
    try:
        with output_locks.inherited() as env:
            pid = os.posix_spawn(
                sys.executable, [sys.executable, "-c", code], {**os.environ, **env}
            )
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        shared.unlock(7)
    assert not os.get_inheritable(shared.fd)
