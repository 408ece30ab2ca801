"""A worker's process: what runs from its fork to its exit, and in which order."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import typing as t
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from flask_prefork.ipc import dumps
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.channel import receive_one
from flask_prefork.ipc.channel import send_one
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import Idle
from flask_prefork.ipc.frames import Promote
from flask_prefork.ipc.frames import Retire
from flask_prefork.ipc.ready_queue import ReadyQueueOwner
from flask_prefork.ipc.scoreboard import Bank
from flask_prefork.settings.table import resolve
from flask_prefork.system import forks
from flask_prefork.worker import main

#: How long to wait for what must come, in seconds.
DEADLINE = 20
SLOT = 4

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="no pidfd_open(2) here"
)


class Life:
    """Hooks that note that they were called, to a pipe."""

    def __init__(self, events: int) -> None:
        self._events = events
        self.may_serve = True
        self.may_be_promoted = True
        self.at_end: Callable[[], None] = lambda: None

    def note(self, *event: object) -> None:
        os.write(self._events, " ".join(map(str, event)).encode() + b"\n")

    def begin(self, slot: int, served: Callable[[], int]) -> bool:
        self.note("begin", slot, served())
        return self.may_serve

    def end(self, slot: int, pid: int) -> None:
        self.note("end", slot, pid == os.getpid())
        self.at_end()

    def prepare_promotion(self, slot: int, deadline: float) -> bool:
        self.note("promotion", slot)
        return self.may_be_promoted


class Process:
    """A worker's process, and what the dispatcher has of it: this process."""

    def __init__(self) -> None:
        self.events, self._write = os.pipe()
        self.life = Life(self._write)
        self.channel, self._theirs = socket.socketpair()
        self.control, self.control_theirs = socket.socketpair()
        for ours in (self.channel, self.control):
            ours.settimeout(DEADLINE)
        self.dump = dumps.create()
        self.ready_queue = ReadyQueueOwner()
        self.pid = 0

    def begin(self) -> None:
        """Start it."""
        board = scoreboard.create()
        self.pid = forks.fork()
        if not self.pid:
            try:
                for ours in (self.channel, self.control, self.control_theirs):
                    ours.close()
                begin = main.serve(
                    SLOT,
                    1,
                    self._theirs,
                    self.dump,
                    Bank(board, 1),
                    self.ready_queue,
                    [],
                    resolve({}, {}, {}),
                    self.life,
                )
                self.life.note("zygote", begin.generation)
                begin.control.send(b"z")
            finally:
                os._exit(1)
        os.close(board)
        os.close(self._write)
        self._theirs.close()

    def receive(self) -> Frame:
        """Wait for the next frame."""
        received = receive_one(self.channel)
        assert received is not None
        return received[0]

    def promote(self) -> None:
        """Have it promoted."""
        send_one(self.channel, Promote(1, SLOT, 2), [self.control_theirs.fileno()])
        self.control_theirs.close()

    def wait(self) -> int:
        """Wait for its exit.

        :return: The exit status.
        """
        pidfd = os.pidfd_open(self.pid)
        assert select.select([pidfd], (), (), DEADLINE)[0]
        os.close(pidfd)
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def noted(self) -> list[str]:
        """What was called, when all who could call it have exited."""
        with open(self.events, closefd=False) as file:
            return file.read().splitlines()

    def close(self) -> None:
        for sock in (self.channel, self.control, self.control_theirs):
            sock.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.ready_queue.close()
        os.close(self.events)
        os.close(self.dump)


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process()
    yield process
    process.close()


@pytest.mark.parametrize("by", ["a request", "the end of the channel"])
def test_it_serves_until_it_is_to_retire(process: Process, by: str) -> None:
    process.begin()
    assert process.receive() == Idle(1, SLOT, 0)
    if by == "a request":
        send_one(process.channel, Retire(1, SLOT))
    else:
        process.channel.close()
    assert process.wait() == 0
    assert process.noted() == [f"begin {SLOT} 0", f"end {SLOT} True"]


def test_a_failed_hook_keeps_it_from_serving(process: Process) -> None:
    process.life.may_serve = False
    process.begin()
    assert process.wait() == 1
    assert receive_one(process.channel) is None, "it was never idle"
    assert process.noted() == [f"begin {SLOT} 0"]


@pytest.mark.parametrize(
    ("error", "status"), [(SystemExit(7), 7), (SystemExit("why"), 1), (OSError(), 1)]
)
def test_what_is_raised_decides_the_exit_status(
    process: Process, error: BaseException, status: int
) -> None:
    def fail() -> t.NoReturn:
        raise error

    process.life.at_end = fail
    process.begin()
    process.receive()
    process.channel.close()
    # Of anything else the loop's own end is what counts.
    assert process.wait() == (0 if isinstance(error, OSError) else status)


def test_a_promoted_worker_exits_and_its_child_returns(process: Process) -> None:
    process.begin()
    process.receive()
    process.promote()
    assert process.control.recv(1) == b"z"
    assert process.wait() == 0
    # The child is a zygote when the worker has exited, and has no back channel.
    assert process.channel.recv(1) == b""
    assert process.noted() == [
        *[f"begin {SLOT} 0", f"end {SLOT} True"],
        *[f"promotion {SLOT}", "zygote 2"],
    ]


def test_a_worker_that_may_not_be_promoted_exits(process: Process) -> None:
    process.life.may_be_promoted = False
    process.begin()
    process.receive()
    process.promote()
    assert process.wait() == 0
    assert process.control.recv(1) == b"", "there is no zygote"
    assert process.noted()[-1] == f"promotion {SLOT}"


def test_it_dumps_its_threads_to_its_file(process: Process) -> None:
    process.begin()
    process.receive()
    os.kill(process.pid, signal.SIGUSR2)
    # The handler has returned before the next frame is read.
    send_one(process.channel, Retire(1, SLOT))
    assert process.wait() == 0
    text = os.pread(process.dump, 1 << 20, 0).decode()
    # Whether it waits for the frame already is not known.
    assert re.search(r"worker/main\.py\", line \d+ in serve", text)
