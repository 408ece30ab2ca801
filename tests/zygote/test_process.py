"""The zygote's loop, beside a dispatcher that does what a test wants."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import types
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.ipc import dumps
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.channel import read_document
from flask_prefork.ipc.channel import receive_one
from flask_prefork.ipc.channel import send_one
from flask_prefork.ipc.channel import write_document
from flask_prefork.ipc.exits import UNKNOWN_STATUS
from flask_prefork.ipc.frames import Changed
from flask_prefork.ipc.frames import Ended
from flask_prefork.ipc.frames import Exited
from flask_prefork.ipc.frames import Failed
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import Listen
from flask_prefork.ipc.frames import Loaded
from flask_prefork.ipc.frames import Promoted
from flask_prefork.ipc.frames import Release
from flask_prefork.ipc.frames import Resized
from flask_prefork.ipc.frames import Serving
from flask_prefork.ipc.frames import Signal
from flask_prefork.ipc.frames import Spawn
from flask_prefork.ipc.frames import Spawned
from flask_prefork.ipc.frames import Status
from flask_prefork.ipc.ready_queue import ReadyQueueOwner
from flask_prefork.ipc.spawn import Inherited
from flask_prefork.ipc.states import Reason
from flask_prefork.settings.table import resolve
from flask_prefork.settings.table import Settings
from flask_prefork.system import forks
from flask_prefork.zygote import process
from flask_prefork.zygote.lifecycle import Lifecycle
from flask_prefork.zygote.process import Zygote

#: How long to wait for what must come, in seconds.
DEADLINE = 20
#: A worker in this slot doesn't see the end of its channel.
HANGS = 8
#: One in this slot is promoted.
IS_PROMOTED = 9


class Life(Lifecycle):
    """Hooks that note that they were called.

    :param events: Where to, a pipe.
    """

    def __init__(self, events: int) -> None:
        super().__init__(lambda environ, start_response: [], 1)
        self._events = events
        self.may_fork = True
        self.reaps = False

    def _note(self, *event: object) -> None:
        os.write(self._events, " ".join(map(str, event)).encode() + b"\n")

    def prepare(self, *args: t.Any) -> None:
        self._note("prepare")

    def before_fork(self) -> bool:
        self._note("before_fork")
        return self.may_fork

    def ready(self, follows: bool) -> None:
        self._note("ready", follows)

    def resized(self, workers: int) -> None:
        self._note("resized", workers)
        if self.reaps:
            os.waitpid(-1, 0)

    def reaped(self, slot: int) -> None:
        self._note("reaped", slot)

    def worker_exited(
        self, slot: int, pid: int, reason: Reason, status: int | None
    ) -> None:
        self._note("exited", slot, reason.value, status)

    def ended(self) -> None:
        self._note("ended")


class Dispatcher:
    """What the zygote sees of the dispatcher: this process."""

    def __init__(self) -> None:
        self._events, self._write = os.pipe()
        self.life = Life(self._write)
        self.control, self._theirs = self._pair()
        self.next, self._next_theirs = self._pair()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.pid = 0
        self._open: list[socket.socket] = []

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE)
        return ours, theirs

    def _work(
        self, slot: int, generation: int, channel: socket.socket, *rest: t.Any
    ) -> Inherited:
        """Be a worker, which exits with the number that it is sent."""
        if slot == IS_PROMOTED:
            return Inherited(self._next_theirs, 2)
        number = channel.recv(1)
        while slot == HANGS:
            signal.pause()
        os._exit(number[0] if number else 0)

    def begin(self, watch: t.Any = None, **options: t.Any) -> Settings:
        """Start the zygote.

        :return: Its settings.
        """
        settings = resolve(options, {}, {})
        self.pid = forks.fork()
        if not self.pid:
            try:
                for ours in (self.control, self.next):
                    ours.close()
                Zygote(
                    Inherited(self._theirs, 1),
                    settings,
                    lambda sock, host, name: t.cast(
                        t.Any, types.SimpleNamespace(socket=sock)
                    ),
                    self._work,
                    watch,
                    self.life,
                ).run()
                os._exit(0)
            finally:
                os._exit(1)
        for theirs in (self._theirs, self._next_theirs):
            theirs.close()
        os.close(self._write)
        return settings

    def receive(self, control: socket.socket | None = None) -> tuple[Frame, list[int]]:
        """Wait for the next frame."""
        received = receive_one(control or self.control)
        assert received is not None
        return received

    def load(self) -> None:
        """Take in that the app is loaded, and send what it serves on."""
        frame, fds = self.receive()
        assert isinstance(frame, Loaded)
        board = scoreboard.create()
        document = write_document([("127.0.0.1", False, None)])
        ready_queue = ReadyQueueOwner()
        shared = [document, board, *ready_queue.fds]
        send_one(self.control, Listen(1), [*shared, self.listener.fileno()])
        ready_queue.close()
        fds += [document, board]
        for fd in fds:
            os.close(fd)

    def spawn(self, slot: int) -> tuple[Frame, socket.socket]:
        """Have a worker forked.

        :return: The answer, and the worker's channel.
        """
        ours, theirs = self._pair()
        dump = dumps.create()
        send_one(self.control, Spawn(1, slot), [theirs.fileno(), dump])
        theirs.close()
        os.close(dump)
        self._open.append(ours)
        frame, fds = self.receive()
        for fd in fds:
            os.close(fd)
        return frame, ours

    def events(self) -> list[str]:
        """What the app was called for, to the zygote's and all workers' end."""
        with open(self._events, closefd=False) as file:
            return file.read().splitlines()

    def wait_for_event(self, event: bytes) -> None:
        """Wait until the app was called for something."""
        seen = b""
        while event not in seen:
            seen += os.read(self._events, 1000)

    def wait(self) -> int:
        """Close the control socket, and wait for the zygote's exit.

        :return: The exit status.
        """
        self.control.close()
        pidfd = os.pidfd_open(self.pid)
        assert select.select([pidfd], (), (), DEADLINE)[0]
        os.close(pidfd)
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self) -> None:
        for sock in (self.control, self.next, self.listener, *self._open):
            sock.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._events)


pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="no pidfd_open(2) here"
)


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    dispatcher = Dispatcher()
    yield dispatcher
    dispatcher.close()


def test_it_sends_the_settings_when_it_has_loaded(dispatcher: Dispatcher) -> None:
    settings = dispatcher.begin(min_idle=3)
    frame, (document,) = dispatcher.receive()
    assert frame == Loaded(1, 0)
    assert read_document(document) == settings.as_dict()
    assert dispatcher.wait() == 0


def test_it_forks_and_reaps(dispatcher: Dispatcher) -> None:
    dispatcher.begin()
    dispatcher.load()
    first, channel = dispatcher.spawn(0)
    second, other = dispatcher.spawn(5)
    assert isinstance(first, Spawned)
    assert isinstance(second, Spawned)
    assert (first.slot, second.slot) == (0, 5)
    channel.send(b"\7")
    assert dispatcher.receive()[0] == Exited(1, 0, first.pid, Status(7))
    other.close()
    assert dispatcher.receive()[0] == Exited(1, 5, second.pid, Status(0))
    assert dispatcher.wait() == 0
    assert dispatcher.events() == [
        *["before_fork", "prepare", "before_fork"],
        *["reaped 0", "reaped 5"],
        # Nobody has told why.
        *["exited 0 exit 7", "exited 5 retired 0", "ended"],
    ]


def test_it_tells_the_app_of_an_exit_when_the_reason_is_known(
    dispatcher: Dispatcher,
) -> None:
    dispatcher.begin()
    dispatcher.load()
    first, _ = dispatcher.spawn(HANGS)
    second, channel = dispatcher.spawn(0)
    assert isinstance(first, Spawned) and isinstance(second, Spawned)
    channel.send(b"\7")
    dispatcher.receive()
    # The first is told of before it has ended.
    ended = [(0, second.pid, "", False), (HANGS, first.pid, "timeout", False)]
    document = write_document(ended)
    send_one(dispatcher.control, Ended(1), [document])
    os.close(document)
    assert dispatcher.receive()[0] == Ended(1)
    os.kill(first.pid, signal.SIGKILL)
    dispatcher.receive()
    assert dispatcher.wait() == 0
    events = [event for event in dispatcher.events() if "exited" in event]
    assert events == ["exited 0 exit 7", f"exited {HANGS} timeout None"]


def test_the_document_of_exits_is_lost(dispatcher: Dispatcher) -> None:
    dispatcher.begin()
    dispatcher.load()
    _, channel = dispatcher.spawn(0)
    channel.send(b"\7")
    dispatcher.receive()
    # As when it has no descriptors left (MSG_CTRUNC, recvmsg(2)).
    send_one(dispatcher.control, Ended(1))
    assert dispatcher.receive()[0] == Ended(1)
    assert dispatcher.wait() == 0
    assert "exited 0 exit 7" in dispatcher.events()


def test_there_are_no_pidfds(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(process, "open_pidfd", lambda pid: -1)
        dispatcher.begin()
    dispatcher.load()
    frame, channel = dispatcher.spawn(0)
    assert isinstance(frame, Spawned)
    channel.send(b"\7")
    assert dispatcher.receive()[0] == Exited(1, 0, frame.pid, Status(7))
    assert dispatcher.wait() == 0


def test_a_hook_forbids_the_fork(dispatcher: Dispatcher) -> None:
    dispatcher.life.may_fork = False
    dispatcher.begin()
    dispatcher.load()
    frame, channel = dispatcher.spawn(3)
    assert frame == Failed(1, 3, errno.ECANCELED)
    assert channel.recv(1) == b""
    assert dispatcher.wait() == 0
    assert dispatcher.events() == ["before_fork", "ended"]


def test_descriptors_of_a_fork_are_lost(dispatcher: Dispatcher) -> None:
    dispatcher.begin()
    dispatcher.load()
    # As when it has none left (MSG_CTRUNC, recvmsg(2)).
    send_one(dispatcher.control, Spawn(1, 3), [dispatcher.listener.fileno()])
    assert dispatcher.receive() == (Failed(1, 3, errno.EMFILE), [])
    frame, _ = dispatcher.spawn(3)
    assert isinstance(frame, Spawned), "it serves on"


def test_it_signals_a_worker_in_its_slot_only(dispatcher: Dispatcher) -> None:
    dispatcher.begin()
    dispatcher.load()
    frame, _ = dispatcher.spawn(4)
    assert isinstance(frame, Spawned)
    for slot, pid, number in (
        (3, frame.pid, signal.SIGABRT),
        (4, dispatcher.pid, signal.SIGABRT),
        (4, frame.pid, signal.SIGKILL),
    ):
        send_one(dispatcher.control, Signal(1, slot, pid, number))
    exited = Exited(1, 4, frame.pid, Status(-signal.SIGKILL))
    assert dispatcher.receive()[0] == exited
    assert dispatcher.wait() == 0


def test_it_calls_the_app_and_answers(dispatcher: Dispatcher) -> None:
    dispatcher.begin()
    dispatcher.load()
    send_one(dispatcher.control, Resized(1, 3))
    assert dispatcher.receive()[0] == Resized(1, 3)
    send_one(dispatcher.control, Serving(1, True))
    assert dispatcher.receive()[0] == Serving(1, True)
    assert dispatcher.wait() == 0
    assert dispatcher.events() == ["resized 3", "ready True", "ended"]


def test_the_app_reaps_a_worker(dispatcher: Dispatcher) -> None:
    dispatcher.life.reaps = True
    dispatcher.begin()
    dispatcher.load()
    frame, channel = dispatcher.spawn(0)
    assert isinstance(frame, Spawned)
    send_one(dispatcher.control, Resized(1, 1))
    dispatcher.wait_for_event(b"resized 1")
    channel.send(b"\7")
    assert dispatcher.receive()[0] == Resized(1, 1)
    unknown = Exited(1, 0, frame.pid, Status(UNKNOWN_STATUS))
    assert dispatcher.receive()[0] == unknown


def test_it_reports_a_changed_file(dispatcher: Dispatcher) -> None:
    def watch(ready: t.Callable[[], None]) -> None:
        ready()
        raise SystemExit(3)

    dispatcher.begin(watch)
    dispatcher.load()
    assert dispatcher.receive()[0] == Changed(1)
    assert dispatcher.wait() == 0


def test_listening_sockets_survive_a_generation(dispatcher: Dispatcher) -> None:
    dispatcher.begin()
    dispatcher.load()
    send_one(dispatcher.control, Release(1))
    assert dispatcher.wait() == 0
    socket.create_connection(dispatcher.listener.getsockname(), DEADLINE).close()


def test_listening_sockets_survive_while_the_dispatcher_lives(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it has closed the control socket without a word."""
    monkeypatch.setattr(process, "_LAST_MOMENT", 0.01)
    dispatcher.begin()
    dispatcher.load()
    assert dispatcher.wait() == 0
    socket.create_connection(dispatcher.listener.getsockname(), DEADLINE).close()


def test_it_kills_workers_that_do_not_exit(dispatcher: Dispatcher) -> None:
    dispatcher.begin(graceful_timeout=0.1)
    dispatcher.load()
    dispatcher.spawn(HANGS)
    send_one(dispatcher.control, Release(1))
    assert dispatcher.wait() == 0
    # It has reaped the worker before its own exit.
    assert dispatcher.events()[-3:] == [
        *[f"reaped {HANGS}", f"exited {HANGS} signal -9", "ended"]
    ]


def test_the_child_of_a_promoted_worker_is_a_zygote(dispatcher: Dispatcher) -> None:
    settings = dispatcher.begin()
    dispatcher.load()
    frame, _ = dispatcher.spawn(IS_PROMOTED)
    assert isinstance(frame, Spawned)
    assert dispatcher.receive(dispatcher.next)[0] == Promoted(2, frame.pid)
    loaded, (document,) = dispatcher.receive(dispatcher.next)
    assert loaded == Loaded(2, 0)
    assert read_document(document) == settings.as_dict()
    send_one(dispatcher.next, Serving(2, True))
    assert dispatcher.receive(dispatcher.next)[0] == Serving(2, True)
    send_one(dispatcher.next, Release(2))
    dispatcher.next.close()
    assert dispatcher.receive()[0] == Exited(1, IS_PROMOTED, frame.pid, Status(0))
    assert dispatcher.wait() == 0
