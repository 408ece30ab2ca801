"""Processes that all workers would talk to at once, and who holds the pipes to them."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pty
import socket
import subprocess
import sys
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.system import unix_peer
from flask_prefork.zygote import fork_holders
from flask_prefork.zygote import fork_pipes
from flask_prefork.zygote.fork_pipes import Own

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no /proc here")

PIPE = subprocess.PIPE
#: What a module's variable holds, for the length of a test.
held: t.Any = None
NOTHING = Own()


def here() -> set[int]:
    """What is open already. A child without exec shares that with this process too."""
    return {int(fd) for fd in os.listdir("/proc/self/fd")}


def told(own: Own = NOTHING) -> list[str]:
    """What is told, without what to do."""
    objects = gc.get_objects()
    raw = fork_holders.raw_files(objects)
    found = []
    for helper in fork_pipes.find(own, objects):
        fds = {end.fd: raw[end.fd] for end in helper.ends if end.fd in raw}
        holders = fork_holders.find(fds, objects).values()
        holder = min(holders, key=fork_holders.rank, default=fork_holders.NOBODY)
        found.append(fork_pipes.describe(helper, holder).partition(". Start")[0])
    return found


@pytest.fixture(autouse=True)
def nothing_before() -> None:
    """What tests leave in this process is told of by their own failures."""
    gc.collect()
    assert told() == []


@contextlib.contextmanager
def cat(*line: str, **streams: t.Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(line or ["cat", "-u"], **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_helper_with_two_pipes() -> None:
    global held
    with cat(stdin=PIPE, stdout=PIPE) as held:
        assert told() == [
            f"pipes to the process {held.pid} (cat -u) ({__name__}.held) are open; all"
            " workers would write to it, and read each other's answers"
        ]
    held = None
    assert told() == []


@pytest.mark.parametrize(
    ("stream", "harm"),
    [
        ("stdin", "what several workers write to it would mix"),
        ("stderr", "each worker would read a part of what it writes"),
    ],
)
def test_one_pipe(stream: str, harm: str) -> None:
    null = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    # One that has read its end would be over: of it the pipe would be closed.
    with cat("sleep", "1000", **{**null, stream: PIPE}) as process:
        (finding,) = told()
    assert finding.startswith(f"a pipe to the process {process.pid} (sleep 1000)")
    assert finding.endswith(f"is open; {harm}")


def test_who_has_ended() -> None:
    process = subprocess.Popen(["true"], stdin=PIPE, stdout=PIPE)
    # It isn't reaped: a zombie has nothing open.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert told() == []
    process.communicate()


class Library:
    """In the place of one that hides its process."""

    def __init__(self, process: object) -> None:
        self._processes = [process]


Library.__module__ = "git.cmd"


def test_the_library_that_has_started_it() -> None:
    with cat(stdin=PIPE, stdout=PIPE, text=True) as process:
        library = Library(process)
        (finding,) = told()
        assert "(cat -u) (git.cmd.Library) are open" in finding
        del library


def test_a_pair_of_sockets() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, cat(stdin=theirs, stdout=theirs) as process:
        # Whether its end is closed here doesn't matter.
        for _ in range(2):
            (finding,) = told()
            assert finding.startswith(f"a socket pair to the process {process.pid}")
            theirs.close()


def test_a_pair_that_the_system_does_not_tell_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> t.NoReturn:
        raise PermissionError

    ours, theirs = socket.socketpair()
    inode = os.fstat(ours.fileno()).st_ino
    with ours, theirs:
        assert unix_peer.peer(inode) == os.fstat(theirs.fileno()).st_ino
        monkeypatch.setattr(socket.socket, "send", refuse)
        assert unix_peer.peer(inode) == 0


def test_who_has_no_peer() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        assert unix_peer.peer(os.fstat(sock.fileno()).st_ino) == 0
    assert unix_peer.peer(1) == 0


def test_a_pseudo_terminal() -> None:
    ours, theirs = pty.openpty()
    with cat(stdin=theirs, stdout=theirs) as process:
        os.close(theirs)
        start = f"a pseudo terminal to the process {process.pid} (cat -u)"
        (finding,) = told()
        assert finding.startswith(f"{start} is open; all workers would")
        expected = Spawn(ours)
        (finding,) = told()
        assert finding.startswith(f"{start} (ptyprocess.ptyprocess.PtyProcess) is open")
        del expected
    os.close(ours)


class Spawn:
    """In the place of an object that has a number instead of a file."""

    def __init__(self, fd: int) -> None:
        self.fd = fd


Spawn.__module__ = "ptyprocess.ptyprocess"
Spawn.__qualname__ = "PtyProcess"


def test_what_leads_nowhere() -> None:
    """As a pipe does by which a thread is woken; though there are processes."""
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    with ours, theirs, cat(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL):
        assert told() == []
    os.close(reader)
    os.close(writer)


def test_what_is_the_servers() -> None:
    with cat(stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        fds = [process.stdin.fileno(), process.stdout.fileno()]
        assert told(Own(fds)) == told(Own(pids=[process.pid])) == []
        assert len(told(Own(fds[:1]))) == 1


def test_a_zygote_that_has_the_dispatchers_command() -> None:
    """It was forked, and this one has a title by now."""
    code = "import os, sys; os.fork(); os.write(1, b'x'); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=PIPE, stdout=PIPE
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.read(1) == b"x"
        assert told(Own(pids=[process.pid], dispatcher=process.pid)) == []
        assert process.stdin is not None
        process.stdin.close()


def test_a_grandchild() -> None:
    """As a wrapper starts it that has no use for the pipes itself."""
    script = "import os, subprocess; subprocess.Popen('cat'); os.close(0); os.close(1)"
    line = [sys.executable, "-c", f"{script}; os.wait()"]
    with subprocess.Popen(line, stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.stdout.read(1) == b"x"
        (finding,) = told()
        assert finding.startswith("pipes to the process")
        process.stdin.close()


def test_a_child_without_exec() -> None:
    """Nobody has closed its end here, and the library's own pipes don't count."""
    context = multiprocessing.get_context("fork")
    own = Own(here())
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs,), name="renderer")
    process.start()
    try:
        (finding,) = told(own)
        assert finding.startswith(f"a socket pair to the process {process.pid} (")
    finally:
        ours.send(None)
        process.join()
        ours.close()
        theirs.close()


def answer(end: t.Any) -> None:
    end.recv()


def test_queues_are_meant_for_several() -> None:
    context = multiprocessing.get_context("fork")
    own = Own(here())
    queue, simple, ready = context.Queue(), context.SimpleQueue(), context.Queue()

    process = context.Process(target=drain, args=(queue, simple, ready))
    process.start()
    try:
        assert ready.get(timeout=20)
        assert told(own) == []
    finally:
        queue.put(None)
        process.join()
        for one in (queue, ready, simple):
            one.close()
        for one in (queue, ready):
            one.join_thread()


def drain(queue: t.Any, simple: t.Any, ready: t.Any) -> None:
    ready.put(True)
    queue.get()
