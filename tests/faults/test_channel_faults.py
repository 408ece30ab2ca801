"""Invalid frames on the back channels, and processes that don't read from them.

A fake zygote with fake workers, in this process, at the ends of real socketpairs.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import struct
import subprocess
import tempfile
import typing as t
from collections.abc import Iterator

import pytest
from descriptors import descriptors_left

from flask_prefork.dispatcher import vetting
from flask_prefork.dispatcher.generation import Generation
from flask_prefork.dispatcher.queues import Queues
from flask_prefork.ipc import dumps
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.channel import close_all
from flask_prefork.ipc.channel import receive_one
from flask_prefork.ipc.channel import send_one
from flask_prefork.ipc.channel import write_document
from flask_prefork.ipc.frames import Busy
from flask_prefork.ipc.frames import Deliver
from flask_prefork.ipc.frames import encode
from flask_prefork.ipc.frames import Exited
from flask_prefork.ipc.frames import Failed
from flask_prefork.ipc.frames import Finishing
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import FRAME_SIZE
from flask_prefork.ipc.frames import Idle
from flask_prefork.ipc.frames import KINDS
from flask_prefork.ipc.frames import LimitRefused
from flask_prefork.ipc.frames import Loaded
from flask_prefork.ipc.frames import MemoryUse
from flask_prefork.ipc.frames import Park
from flask_prefork.ipc.frames import PermitRelease
from flask_prefork.ipc.frames import PermitRequest
from flask_prefork.ipc.frames import Resized
from flask_prefork.ipc.frames import Retire
from flask_prefork.ipc.frames import Serving
from flask_prefork.ipc.frames import Signal
from flask_prefork.ipc.frames import Spawn
from flask_prefork.ipc.frames import Spawned
from flask_prefork.ipc.frames import Status
from flask_prefork.ipc.listener import bind
from flask_prefork.ipc.spawn import ZygoteHandle
from flask_prefork.ipc.stats import Summary
from flask_prefork.settings.table import resolve
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Size
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.poller import Poller
from flask_prefork.system.reaper import Reaper
from flask_prefork.system.running_clock import RunningClock

NUMBER = 7
#: What workers may send.
WORKERS = (
    *(Idle, Busy, Finishing, MemoryUse, Park, Deliver),
    *(PermitRequest, PermitRelease, LimitRefused),
)
#: The first worker's pid, if there were one: no process can have it.
FIRST_PID = 2**22 + 1


def sleeping() -> subprocess.Popen[bytes]:
    """A process for a zygote's."""
    return subprocess.Popen(["sleep", "1000"])


class DeliveryLog(list[Deliver]):
    """Stands in for the sender: notes what it is to send, and closes it."""

    spooled = descriptors = 0

    def deliver(self, frame: Deliver, fds: list[int], spooled: int) -> None:
        self.append(frame)
        close_all(fds)


class World:
    """A generation of which this test is the zygote and all workers.

    :ivar zygote: The zygote's end of the control socket.
    :ivar workers: The workers' ends of their channels, by slot.
    """

    def __init__(
        self, loaded: bool = True, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.now = 1000.0
        self.process = process or sleeping()
        self.owns_process = process is None
        self.known: set[int] = set()
        self.poller = Poller()
        self.queues = Queues(self.poller, lambda: self.now, 1024)
        self.listener = bind("127.0.0.1", 0, 16)
        self.queues.listeners = [self.listener]
        self.queues.sender = t.cast(t.Any, DeliveryLog())
        ours, self.zygote = socket.socketpair()
        self.zygote.settimeout(5)
        self.board = scoreboard.create()
        self.summary = Summary(self.board)
        self.generation = Generation(
            ZygoteHandle(self.process.pid, ours, NUMBER, dumps.create()),
            self.poller,
            self.board,
            RunningClock(lambda: self.now, math.inf),
            self.queues,
            self.summary,
            Reaper(lambda pid, status: None),
            self.known.__contains__,
            lambda generation, status: None,
        )
        self.workers: dict[int, socket.socket] = {}
        if loaded:
            self.load()

    def load(self) -> None:
        """Be a zygote that loads the app, and three workers that become idle."""
        settings = resolve({"min_idle": 3, "max_workers": 3})
        document = write_document(settings.as_dict())
        send_one(self.zygote, Loaded(NUMBER), [document])
        os.close(document)
        self.turn()
        self.generation.open(self.queues.listeners)
        self.spawn()
        for slot in self.workers:
            self.say(Idle(NUMBER, slot))
        assert self.letters() == "III"

    def spawn(self) -> None:
        """Be the zygote: fork what it was told to."""
        for frame in self.told():
            if isinstance(frame, Spawn):
                pid = FIRST_PID + len(self.workers)
                send_one(self.zygote, Spawned(NUMBER, frame.slot, pid))
        self.turn()

    def told(self) -> list[Frame]:
        """What the zygote has been told since it was asked last."""
        frames = []
        self.zygote.setblocking(False)
        try:
            while (received := receive_one(self.zygote)) is not None:
                frame, fds = received
                if isinstance(frame, Spawn):
                    self.workers[frame.slot] = socket.socket(fileno=fds.pop(0))
                for fd in fds:
                    os.close(fd)
                if isinstance(frame, (Resized, Serving)):
                    send_one(self.zygote, frame)
                frames.append(frame)
        except BlockingIOError:
            pass
        return frames

    def turn(self) -> None:
        """Let the dispatcher take in what there is."""
        while callbacks := self.poller.wait(0):
            for callback in callbacks:
                callback()
        self.generation.step(self.now, 0, 0)

    def say(self, frame: Idle | Busy | Retire) -> None:
        """Be a worker: send a frame."""
        self.workers[frame.slot].send(encode(frame))
        self.turn()

    def letters(self) -> str:
        return self.generation.pool.letters()

    def killed(self) -> list[int]:
        """The slots of the workers that the zygote was told to kill."""
        return [
            frame.slot
            for frame in self.told()
            if isinstance(frame, Signal) and frame.number == signal.SIGKILL
        ]

    def close(self) -> None:
        if self.owns_process:
            self.process.kill()
            self.process.wait()
        self.generation.close()
        if self.generation.zygote.dump >= 0:
            os.close(self.generation.zygote.dump)
        self.queues.close()
        self.zygote.close()
        for worker in self.workers.values():
            worker.close()
        self.summary.close()
        os.close(self.board)
        self.poller.close()


@pytest.fixture
def world() -> Iterator[World]:
    with contextlib.closing(World()) as world:
        yield world


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The dispatcher's log, also if a test before has configured it."""
    logger = logging.getLogger("flask_prefork")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def whole(kind: int, magic: int = 0xF9) -> bytes:
    start = struct.pack("=BBII", magic, kind, NUMBER, 1)
    return start.ljust(FRAME_SIZE, b"\0")


IDLE = encode(Idle(NUMBER, 1))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"x", id="a byte"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="a request"),
        pytest.param(IDLE[:-1], id="a truncated frame"),
        pytest.param(IDLE + b"\0", id="a frame and a byte"),
        pytest.param(IDLE * 3 + whole(0), id="frames and an unknown kind"),
        pytest.param(whole(200), id="an unknown kind"),
        pytest.param(whole(IDLE[1], magic=0), id="no magic"),
        pytest.param(bytes(FRAME_SIZE), id="zeros"),
        pytest.param(b"\xff" * 100_000, id="a lot of garbage"),
        *(
            pytest.param(whole(number), id=f"{cls.__name__}, which is not a worker's")
            for number, cls in KINDS.items()
            if cls not in WORKERS
        ),
    ],
)
def test_worker_sends_garbage(
    world: World, log: pytest.LogCaptureFixture, data: bytes
) -> None:
    """A worker's channel carries garbage, a truncated or a foreign frame.

    Only that worker is killed. It is marked as killed before the signal is sent, and
    frames that come later are ignored.
    """
    world.workers[1].setblocking(False)
    world.workers[1].send(data)
    world.turn()
    assert world.letters() == "IKI"
    assert world.killed() == [1]
    for late in (Idle(NUMBER, 1), Busy(NUMBER, 1), Idle(NUMBER, 1)):
        with contextlib.suppress(OSError):
            world.say(late)
    assert world.letters() == "IKI"
    # The others go on.
    world.say(Busy(NUMBER, 0))
    world.say(Busy(NUMBER, 2))
    world.say(Idle(NUMBER, 0))
    assert world.letters().startswith("IKB")


@pytest.mark.parametrize("generation", [0, NUMBER - 2, NUMBER + 1, 2**32 - 1])
def test_worker_speaks_for_another_generation(world: World, generation: int) -> None:
    """A worker sends frames of a generation that isn't its own.

    They are ignored.
    """
    world.say(Busy(generation, 1))
    world.say(Retire(generation, 1))
    assert world.letters() == "III"
    assert world.killed() == []
    world.say(Busy(NUMBER, 1))
    assert world.letters() == "IBI"


def test_worker_speaks_for_another_slot(world: World) -> None:
    """A worker sends frames with another worker's slot.

    The channel decides whose frames they are. The other worker is not affected.
    """
    world.workers[1].send(encode(Busy(NUMBER, 2)))
    world.turn()
    assert world.letters() == "IBI"


@pytest.mark.parametrize(
    ("listener", "state"),
    [
        pytest.param(0, Parked(Wait.HEAD, math.nan), id="deadline nan"),
        pytest.param(0, Parked(Wait.HEAD, math.inf), id="deadline inf"),
        pytest.param(0, Parked(Wait.HEAD, -math.inf), id="deadline -inf"),
        pytest.param(0, Parked(Wait.HEAD, 1e300), id="deadline never"),
        pytest.param(0, Parked(Wait.HEAD, -1.0), id="deadline before the clock began"),
        pytest.param(1, Parked(Wait.HEAD, 1010.0), id="unknown listener"),
        pytest.param(0, Parked(t.cast(Wait, 3), 1010.0), id="unknown wait"),
        pytest.param(0, Parked(Wait.HEAD, 1010.0, wakes=16), id="too many wakes"),
    ],
)
def test_worker_parks_nonsense(world: World, listener: int, state: Parked) -> None:
    """A worker hands back a connection with nonsense about it.

    The worker is killed. The connection is closed, and no other worker gets it.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frame = Park(NUMBER, 1, listener, state)
        send_one(world.workers[1], frame, [theirs.fileno()])
        theirs.close()
        world.turn()
        assert world.letters() == "IKI"
        assert ours.recv(1) == b""
    assert not len(world.queues.parked)
    world.queues.dispatch(world.generation)
    assert world.letters() == "IKI"


@pytest.mark.parametrize("left", [0, 1])
def test_no_descriptor_is_left_to_park_a_connection(
    world: World, left: int, log: pytest.LogCaptureFixture
) -> None:
    """A worker hands back a connection, and the dispatcher has no descriptor left.

    That connection is closed, which the log says. The worker isn't killed.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    with client:
        frame = Park(NUMBER, 1, 0, Parked(Wait.HEAD, 1010.0))
        send_one(world.workers[1], frame, [accepted.fileno()])
        accepted.close()
        with descriptors_left(left):
            world.turn()
        assert world.letters() == "III"
        assert len(world.queues.parked) == left
        if not left:
            assert client.recv(1) == b""
            assert "no descriptors are left" in log.text
        world.say(Idle(NUMBER, 1))
        assert world.letters() == "III"


@pytest.mark.parametrize("left", range(4))
def test_no_descriptor_is_left_to_send_a_response(
    world: World, left: int, log: pytest.LogCaptureFixture
) -> None:
    """A worker hands over a response, and the dispatcher has no descriptors left.

    It is cut short, which the log says and the counters. The worker isn't killed.
    """
    one = Size(1)
    after = Parked(Wait.LINGER, 0.0)
    frame = Deliver(NUMBER, 1, 0, 0, 240.0, one, Size(0), Size(0), one, 1.0, after)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        tempfile.TemporaryFile() as file,
    ):
        file.truncate(1)
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        fds = [accepted.fileno(), file.fileno(), file.fileno()]
        send_one(world.workers[1], frame, fds)
        accepted.close()
    with client:
        with descriptors_left(left):
            world.turn()
        assert world.letters() == "III"
        deliveries = t.cast(t.Any, world.queues.sender)
        assert len(deliveries) == (left == 3)
        assert world.summary.deliveries["lost"] == (left < 3)
        assert ("no descriptors are left" in log.text) is (left < 3)
        assert client.recv(1) == b""


def test_worker_sends_descriptors_that_nobody_wants(world: World) -> None:
    """Descriptors come with frames that should have none, and with garbage.

    They are closed.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frame = Busy(NUMBER, 0)
        send_one(world.workers[0], frame, [theirs.fileno()] * 5)
        socket.send_fds(world.workers[1], [b"garbage"], [theirs.fileno()] * 5)
        theirs.close()
        world.turn()
        assert world.letters() == "BKI"
        assert ours.recv(1) == b""


def test_worker_never_reads(world: World) -> None:
    """A worker reports idle again and again, and never reads its orders.

    The dispatcher doesn't wait for it: when the channel is full, it is killed.
    """
    sent = 0
    while world.letters()[0] == "I":
        world.generation.order(1, 0)
        if world.letters()[0] == "O":
            sent += 1
            world.say(Idle(NUMBER, 0))
    assert sent > 10
    assert world.letters() == "KII"
    assert world.killed() == [0]
    world.generation.order(1, 0)
    assert world.letters() == "KOI"


def test_worker_floods_the_channel(world: World) -> None:
    """A worker sends frames without end.

    The dispatcher reads a limited number at once, and then continues with the others.
    """
    world.workers[0].setblocking(False)
    frame = encode(Busy(NUMBER, 0))
    with contextlib.suppress(BlockingIOError):
        while True:
            world.workers[0].send(frame)
    world.workers[2].send(encode(Busy(NUMBER, 2)))
    callbacks = world.poller.wait(0)
    assert len(callbacks) == 2
    for callback in callbacks:
        callback()
    assert world.letters() == "BIB"
    with contextlib.suppress(BlockingIOError):
        world.workers[0].send(frame)
    assert world.poller.wait(0), "there is more of it"


def test_worker_hangs_up(world: World) -> None:
    """A worker closes its channel and keeps running.

    It is killed, because it can't be ordered.
    """
    world.workers[1].close()
    world.turn()
    assert world.letters() == "IKI"
    assert world.killed() == [1]


def test_zygote_never_reads(world: World, log: pytest.LogCaptureFixture) -> None:
    """The zygote never reads from its control socket.

    The dispatcher doesn't wait for it. It is killed, and its workers keep serving.
    """
    world.zygote.setblocking(False)
    for slot in range(3):
        world.say(Busy(NUMBER, slot))
    (worker, *_) = world.generation.pool
    while world.generation.alive:
        # There is no pidfd, so it is the zygote's to do.
        world.generation.workers.signal(worker, signal.SIGUSR2)
    world.say(Idle(NUMBER, 1))
    assert world.letters()[:3] == "BIB"
    assert "does not listen" in log.text
    assert world.process.wait(5) < 0


def test_zygote_hangs_up(world: World, log: pytest.LogCaptureFixture) -> None:
    """The zygote closes its control socket and keeps running.

    After a while its tracebacks are logged and it is killed. Its workers keep serving.
    """
    world.zygote.close()
    world.turn()
    assert not world.generation.alive
    assert world.process.poll() is None
    while "was killed" not in log.text:
        deadline = world.generation.zygote.deadline()
        assert deadline is not None
        world.now = deadline
        world.turn()
    assert world.process.wait(5) == -signal.SIGUSR2, "it knows nothing of ours"
    assert "was killed: it closed its control socket" in log.text
    assert world.letters() == "III"


def test_zygote_loads_and_its_settings_are_lost(log: pytest.LogCaptureFixture) -> None:
    """The zygote sends the app's settings, and the dispatcher has no descriptor left.

    The zygote is killed, for the generation would load without an end.
    """
    world = World(loaded=False)
    try:
        send_one(world.zygote, Loaded(NUMBER))
        world.turn()
        assert world.generation.zygote.was_killed
        assert "no descriptors are left" in log.text
    finally:
        world.close()


def test_zygote_is_slow_but_gets_on(world: World) -> None:
    """The zygote forks one worker after the other, each in less than the spawn timeout.

    It misses no deadline, and neither do the workers that wait to be forked.
    """
    for slot in range(3):
        world.workers.pop(slot).close()
        send_one(world.zygote, Exited(NUMBER, slot, FIRST_PID + 3, Status(0)))
    world.turn()
    for _ in range(10):
        world.now += 0.5
        world.turn()
    assert world.letters() == "SSS"
    world.told()
    for slot in range(3):
        world.now += 29.0
        world.turn()
        assert world.generation.alive
        assert world.letters() == "I" * slot + "S" * (3 - slot)
        send_one(world.zygote, Spawned(NUMBER, slot, FIRST_PID + 10 + slot))
        world.turn()
        world.say(Idle(NUMBER, slot))
    assert world.letters() == "III"


def test_zygote_does_not_fork(world: World, log: pytest.LogCaptureFixture) -> None:
    """The zygote doesn't fork the workers that the dispatcher asks for.

    After the spawn timeout the log says so, and the zygote is killed. The log names no
    worker as killed, and no start of a worker is counted as failed.
    """
    # Who has served before it ends has not failed to start.
    world.say(Busy(NUMBER, 1))
    world.say(Idle(NUMBER, 1))
    world.workers.pop(1).close()
    send_one(world.zygote, Exited(NUMBER, 1, FIRST_PID + 3, Status(0)))
    world.turn()
    world.now += 1.0
    world.turn()
    world.now += 1.0
    world.turn()
    assert world.letters() == "ISI"
    world.told()
    world.turn()
    world.now += 30.0
    world.turn()
    world.now += 0.5
    world.turn()
    assert "is late: it did not fork worker 1 within 30 s" in log.text
    assert world.process.wait(5) < 0
    assert world.letters() == "I.I"
    assert world.generation.policy.failures == 0
    assert world.killed() == []
    assert "Worker 1 (pid 0)" not in log.text


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="there are no pidfds")
def test_worker_survives_sigkill(
    world: World, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is in a system call that not even SIGKILL ends.

    Its slot is free after a few seconds.
    """
    monkeypatch.setattr(vetting, "worker", lambda pid, pidfd, zygote: None)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda fd, number: None)
    world.workers.pop(1).close()
    send_one(world.zygote, Exited(NUMBER, 1, FIRST_PID + 3, Status(0)))
    world.turn()
    for _ in range(2):
        world.now += 1.0
        world.turn()
    world.told()
    with sleeping() as process:
        pidfd = os.pidfd_open(process.pid)
        send_one(world.zygote, Spawned(NUMBER, 1, process.pid), [pidfd])
        os.close(pidfd)
        world.turn()
        world.workers[1].send(b"garbage")
        world.turn()
        assert world.letters() == "IKI"
        world.now += 4.9
        world.turn()
        assert world.letters() == "IKI"
        world.now += 0.2
        world.turn()
        assert world.letters() in ("I.I", "ISI")
        assert "Worker 1 (pid" in log.text
        assert "lives on after SIGKILL" in log.text
        process.kill()


def test_worker_is_shown_before_it_is_killed(
    world: World, log: pytest.LogCaptureFixture
) -> None:
    """A worker retires and doesn't exit.

    After the graceful timeout its tracebacks are logged, and it is killed.
    """
    world.generation.workers.retire(next(iter(world.generation.pool)))
    world.told()
    world.now += 30.0
    world.turn()
    first = [(f.slot, f.number) for f in world.told() if isinstance(f, Signal)]
    assert first == [(0, signal.SIGUSR2)]
    world.turn()
    assert not world.told(), "only once"
    world.now += 0.6
    world.turn()
    assert world.killed() == [0]
    assert "late: it did not finish within the graceful timeout" in log.text


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"garbage", id="garbage"),
        pytest.param(
            encode(Exited(NUMBER, 1, FIRST_PID + 1, Status(256))),
            id="an exit status that is none",
        ),
        pytest.param(
            encode(Exited(NUMBER, 1, FIRST_PID + 1, Status(-(2**31)))),
            id="a signal that is none",
        ),
    ],
)
def test_zygote_sends_garbage(
    world: World, log: pytest.LogCaptureFixture, frame: bytes
) -> None:
    """The zygote sends garbage.

    It is killed, and its workers keep serving.
    """
    world.zygote.send(frame)
    world.turn()
    assert not world.generation.alive
    assert "The zygote sent garbage" in log.text
    world.say(Busy(NUMBER, 2))
    assert world.letters()[2] == "B"


def test_zygote_tells_of_workers_that_there_are_not(world: World) -> None:
    """The zygote reports slots that no worker has, and pids that aren't theirs.

    Nothing changes.
    """
    for frame in (
        Spawned(NUMBER, 9999, 1),
        Spawned(NUMBER, 1, 1),
        Failed(NUMBER, 1, 11),
        Exited(NUMBER, 1, 1, Status(0)),
        Exited(NUMBER, 9999, FIRST_PID, Status(0)),
        Idle(NUMBER, 1),
    ):
        send_one(world.zygote, frame)
    world.turn()
    assert world.letters() == "III"
    assert world.generation.alive
