"""Starting a zygote, by fork and by exec."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import typing as t

import pytest

from flask_prefork.ipc import dumps
from flask_prefork.ipc import spawn
from flask_prefork.ipc.channel import read_document
from flask_prefork.ipc.channel import receive_one
from flask_prefork.ipc.channel import send_one
from flask_prefork.ipc.channel import write_document
from flask_prefork.ipc.frames import Loaded
from flask_prefork.system import origin

# Says over the control socket what it is, then waits for its end.
_CHILD = """
import os, signal
from flask_prefork.ipc import spawn
from flask_prefork.ipc.channel import *
from flask_prefork.ipc.frames import Loaded
begin = spawn.inherited()
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
send_one(begin.control, Loaded(begin.generation), [write_document({
    "pid": os.getpid(),
    "blocked": len(blocked & set(spawn.FOREIGN_SIGNALS)),
    "variable": spawn.VARIABLE in os.environ,
    "inheritable": os.get_inheritable(begin.control.fileno()),
    "dump_inheritable": os.get_inheritable(begin.dump),
    "written": os.write(begin.dump, b"threads"),
})])
receive_one(begin.control)
os._exit(7)
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process was started with is no matter of these tests."""
    monkeypatch.setattr(origin, "_origin", None)


def hear(control: socket.socket) -> tuple[int, dict[str, t.Any]]:
    """The one frame of a child that lives: its generation, and the document."""
    received = receive_one(control)
    assert received is not None
    frame, (fd,) = received
    return frame.generation, read_document(fd)


def end(zygote: spawn.ZygoteHandle) -> int:
    """Let go of a zygote.

    :return: Its exit code.
    """
    zygote.control.close()
    os.close(zygote.dump)
    _, status = os.waitpid(zygote.pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_nothing_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(spawn.VARIABLE, raising=False)
    assert spawn.inherited() is None


def test_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    dump = dumps.create()
    os.set_inheritable(dump, True)
    monkeypatch.setenv(spawn.VARIABLE, f"{theirs.detach()}:41:{dump}")
    begin = spawn.inherited()
    assert begin is not None
    with ours, begin.control:
        assert begin.generation == 41
        assert begin.dump == dump
        assert not os.get_inheritable(dump)
        os.close(dump)
        assert not begin.control.get_inheritable()
        assert begin.control.getblocking()
        # The app's own children are no zygotes.
        assert spawn.VARIABLE not in os.environ


def test_by_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", _CHILD])
    zygote = spawn.by_exec(5)
    assert zygote.generation == 5
    generation, told = hear(zygote.control)
    assert generation == 5
    assert told["pid"] == zygote.pid != os.getpid()
    # A Ctrl-C while it starts does it no harm.
    assert told["blocked"] == len(spawn.FOREIGN_SIGNALS)
    assert not told["variable"]
    assert not told["inheritable"]
    assert not told["dump_inheritable"]
    assert not os.get_inheritable(zygote.dump)
    assert os.pread(zygote.dump, 100, 0) == b"threads"
    assert end(zygote) == 7
    assert spawn.VARIABLE not in os.environ


def test_by_exec_shares_nothing_but_the_control_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", _CHILD])
    zygote = spawn.by_exec(1)
    with ours:
        hear(zygote.control)
        theirs.close()
        # While it lives: nobody else holds the other end.
        assert ours.recv(1) == b""
    end(zygote)


def test_by_exec_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    socketpair = socket.socketpair

    def remember(**kind: t.Any) -> tuple[socket.socket, socket.socket]:
        made.extend(socketpair(**kind))
        return made[0], made[1]

    monkeypatch.setattr(socket, "socketpair", remember)
    monkeypatch.setattr(sys, "executable", "/no/such/interpreter")
    with pytest.raises(FileNotFoundError):
        spawn.by_exec(1)
    assert [end.fileno() for end in made] == [-1, -1]


def test_by_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether a test before this one has left a thread here is not the matter.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        started = spawn.by_fork(3)
        if isinstance(started, spawn.Inherited):
            _be_forked(started)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    generation, told = hear(started.control)
    assert started.generation == generation == 3
    assert told["pid"] == started.pid
    assert told["blocked"] == len(spawn.FOREIGN_SIGNALS)
    assert end(started) == 7
    # Until the dispatcher has its handlers.
    assert blocked >= set(spawn.FOREIGN_SIGNALS)


def _be_forked(begin: spawn.Inherited) -> t.NoReturn:
    """The forked child's part: not a line of pytest may run in it."""
    try:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        count = len(blocked & set(spawn.FOREIGN_SIGNALS))
        document = write_document({"pid": os.getpid(), "blocked": count})
        send_one(begin.control, Loaded(begin.generation), [document])
        receive_one(begin.control)
    finally:
        os._exit(7)


def test_no_fork_beside_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", _CHILD])
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        zygote = spawn.by_fork(2)
        assert isinstance(zygote, spawn.ZygoteHandle)
        assert hear(zygote.control)[0] == 2
        assert end(zygote) == 7
    finally:
        done.set()
        thread.join()


_IGNORES = """
import os, signal, sys
from flask_prefork.ipc import spawn
signal.pthread_sigmask(signal.SIG_BLOCK, spawn.FOREIGN_SIGNALS)
spawn.ignore_foreign_signals()
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(spawn.FOREIGN_SIGNALS)
for number in spawn.FOREIGN_SIGNALS:
    os.kill(os.getpid(), number)
print("alive", flush=True)
os.execv(sys.executable, [sys.executable, "-c", '''
import signal
print(signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)
'''])
"""


def test_foreign_signals_pass_and_stay_as_they_are_for_programs() -> None:
    read, write = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", _IGNORES],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
    )
    os.close(write)
    with open(read) as reader:
        assert reader.read().split() == ["alive", "True"]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
