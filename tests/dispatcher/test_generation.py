"""One generation, of which a test is the zygote and all workers."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import typing as t
from collections.abc import Iterator

import pytest

from flask_prefork.dispatcher import vetting
from flask_prefork.dispatcher.generation import Generation
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.channel import read_document
from flask_prefork.ipc.channel import receive_one
from flask_prefork.ipc.channel import send_one
from flask_prefork.ipc.channel import write_document
from flask_prefork.ipc.frames import Busy
from flask_prefork.ipc.frames import Changed
from flask_prefork.ipc.frames import Ended
from flask_prefork.ipc.frames import Exited
from flask_prefork.ipc.frames import Failed
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import HandedOn
from flask_prefork.ipc.frames import Idle
from flask_prefork.ipc.frames import Listen
from flask_prefork.ipc.frames import Loaded
from flask_prefork.ipc.frames import Order
from flask_prefork.ipc.frames import Promote
from flask_prefork.ipc.frames import Promoted
from flask_prefork.ipc.frames import Release
from flask_prefork.ipc.frames import Resized
from flask_prefork.ipc.frames import Retire
from flask_prefork.ipc.frames import Serving
from flask_prefork.ipc.frames import Spawn
from flask_prefork.ipc.frames import Spawned
from flask_prefork.ipc.frames import Status
from flask_prefork.ipc.ready_queue import ReadyQueueOwner
from flask_prefork.ipc.spawn import ZygoteHandle
from flask_prefork.ipc.stats import Summary
from flask_prefork.settings.table import resolve
from flask_prefork.system.poller import Poller
from flask_prefork.system.reaper import Reaper
from flask_prefork.system.running_clock import RunningClock

NUMBER = 3
#: Above any (proc(5), pid_max).
PID = 2**30


class FakeReaper(Reaper):
    """Reaps no children of the test runner's."""

    def exit(self, pid: int, status: int = 0) -> None:
        """A child has exited."""
        self._report(pid, status)


class NothingParked:
    """Takes no connections."""

    def __init__(self) -> None:
        self.ready_queue = ReadyQueueOwner()

    def park(
        self,
        fd: int,
        listener: int,
        state: object,
        spool: int = -1,
        limit: str = "",
    ) -> t.NoReturn:
        raise AssertionError

    def taken(self, connection: object, worker: object) -> t.NoReturn:
        raise AssertionError

    def ask_for_permit(self, worker: object, limit: str) -> t.NoReturn:
        raise AssertionError

    def release_permit(self, worker: object) -> None:
        pass

    def put_back(self, connection: object) -> t.NoReturn:
        raise AssertionError


class World:
    """A generation, and the other ends of its channels."""

    def __init__(self, pid: int = PID) -> None:
        self.now = 100.0
        self.poller = Poller()
        self.board = scoreboard.create()
        self.summary = Summary(self.board)
        self.reaper = FakeReaper(lambda pid, status: None)
        self.exited: list[Generation] = []
        ours, self.zygote = socket.socketpair()
        self.parked = NothingParked()
        self.generation = Generation(
            ZygoteHandle(pid, ours, NUMBER),
            self.poller,
            self.board,
            RunningClock(lambda: self.now, math.inf),
            self.parked,
            self.summary,
            self.reaper,
            lambda pid: False,
            lambda generation, status: self.exited.append(generation),
        )
        self.workers: dict[int, socket.socket] = {}
        #: What the zygote was sent with each frame about exits.
        self.documents: list[t.Any] = []

    def turn(self) -> None:
        """The dispatcher reads all reports, then lets the generation act."""
        while callbacks := self.poller.wait(0):
            for callback in callbacks:
                callback()
        self.generation.step(self.now, 0, 0)

    def report(self, frame: Frame, fds: t.Sequence[int] = ()) -> None:
        """The zygote sends a frame."""
        send_one(self.zygote, frame, fds)
        self.turn()

    def work(self, frame: Idle | Busy) -> None:
        """A worker sends a frame."""
        send_one(self.workers[frame.slot], frame)
        self.turn()

    def load(self, **settings: t.Any) -> None:
        """The zygote has loaded the app."""
        values = resolve({"min_idle": 2, "max_workers": 4, **settings}).as_dict()
        document = write_document(values)
        self.report(Loaded(NUMBER, 5), [document])
        os.close(document)

    def open(self, **settings: t.Any) -> None:
        """The first workers are started, and become idle."""
        self.load(**settings)
        self.generation.open([])
        assert self.received() == [
            Listen(NUMBER),
            Spawn(NUMBER, 0),
            Spawn(NUMBER, 1),
        ]
        for slot in (0, 1):
            self.work(Idle(NUMBER, slot))
        self.received()

    def received(self) -> list[Frame]:
        """What the zygote was sent."""
        frames = []
        self.zygote.setblocking(False)
        try:
            while (received := receive_one(self.zygote)) is not None:
                frame, fds = received
                if isinstance(frame, Spawn):
                    if (before := self.workers.get(frame.slot)) is not None:
                        before.close()
                    self.workers[frame.slot] = socket.socket(fileno=fds.pop(0))
                if isinstance(frame, Ended):
                    self.documents.append(read_document(fds.pop(0)))
                for fd in fds:
                    os.close(fd)
                frames.append(frame)
        except BlockingIOError:
            pass
        return frames

    def ordered(self, slot: int) -> Frame:
        """The next frame that a worker was sent."""
        self.workers[slot].setblocking(False)
        received = receive_one(self.workers[slot])
        assert received is not None
        for fd in received[1]:
            os.close(fd)
        return received[0]

    def close(self) -> None:
        self.generation.close()
        self.parked.ready_queue.close()
        for sock in (self.zygote, *self.workers.values()):
            sock.close()
        self.summary.close()
        os.close(self.board)
        self.poller.close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def promoted() -> Iterator[World]:
    """One that a promoted worker is to leave behind."""
    world = World(0)
    yield world
    world.close()


def test_the_first_workers(world: World) -> None:
    generation = world.generation
    assert not generation.loaded
    assert not generation.opened
    world.load()
    assert generation.loaded
    assert generation.memory == 5 * 1024
    assert world.received() == [], "nobody is started before it is opened"
    generation.open([])
    assert generation.opened
    assert world.received() == [Listen(NUMBER), Spawn(NUMBER, 0), Spawn(NUMBER, 1)]
    world.work(Idle(NUMBER, 0))
    assert not generation.ready, "one is still starting"
    world.work(Idle(NUMBER, 1))
    assert generation.ready


def test_settings_come_once(world: World) -> None:
    world.load(min_idle=2)
    world.load(min_idle=3)
    settings = world.generation.settings
    assert settings is not None
    assert settings.min_idle == 2


def test_a_policy_that_was_adjusted_by_hand(world: World) -> None:
    world.load()
    before = world.generation.policy.of(resolve({"min_idle": 2}), 0.0)
    before.adjust(1)
    world.generation.open([], before)
    assert world.generation.policy.min_idle == 3


def test_an_order_is_for_no_more_requests_than_the_worker_may_serve(
    world: World,
) -> None:
    world.open(max_requests=10, run_length=8)
    world.generation.order(1, 0)
    assert world.ordered(0) == Order(NUMBER, 0, 0, 8)
    world.work(Busy(NUMBER, 0))
    world.work(Idle(NUMBER, 0, 8))
    world.generation.order(1, 0)
    assert world.ordered(0) == Order(NUMBER, 0, 0, 2)


def test_the_lowest_numbered_are_ordered(world: World) -> None:
    world.open()
    world.generation.order(5, 0)
    assert world.generation.pool.letters() == "OO"
    assert [world.ordered(slot).slot for slot in (0, 1)] == [0, 1]  # type: ignore[union-attr]


def test_one_size_at_a_time_is_sent_to_the_app(world: World) -> None:
    world.load()
    world.generation.open([])
    world.turn()
    assert world.received()[-1] == Resized(NUMBER, 2)
    world.report(Failed(NUMBER, 1, 11))
    assert Resized(NUMBER, 1) not in world.received(), "it has not answered yet"
    world.report(Resized(NUMBER, 2))
    assert Resized(NUMBER, len(world.generation.pool)) in world.received()


def test_exits_are_sent_to_the_app_one_batch_at_a_time(world: World) -> None:
    world.open()
    world.turn()
    world.documents.clear()

    def exit(slot: int, pid: int) -> None:
        world.report(Spawned(NUMBER, slot, pid))
        world.report(Exited(NUMBER, slot, pid, Status(0)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vetting, "worker", lambda *args: None)
        exit(0, 41)
        assert Ended(NUMBER) in world.received()
        assert world.documents == [[[0, 41, "", False]]]
        exit(1, 42)
        assert Ended(NUMBER) not in world.received(), "it has not answered yet"
        world.report(Ended(NUMBER))
        assert Ended(NUMBER) in world.received()
        assert world.documents[1:] == [[[1, 42, "", False]]]


def test_the_last_exits_come_before_the_release(world: World) -> None:
    world.open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vetting, "worker", lambda *args: None)
        for slot, pid in ((0, 41), (1, 42)):
            world.report(Spawned(NUMBER, slot, pid))
        world.generation.retire()
        for slot, pid in ((0, 41), (1, 42)):
            world.report(Exited(NUMBER, slot, pid, Status(0)))
    world.generation.release()
    frames = world.received()
    # The first was not answered yet.
    ends = [one for one in frames if isinstance(one, (Ended, Release))]
    assert ends == [Ended(NUMBER), Ended(NUMBER), Release(NUMBER)]
    assert world.documents[-2:] == [[[0, 41, "", True]], [[1, 42, "", True]]]


def test_ready_is_sent_once(world: World) -> None:
    world.open()
    world.generation.notify_ready(follows=True)
    world.generation.notify_ready(follows=True)
    assert world.received() == [Serving(NUMBER, True)]


def test_a_changed_file_is_reported_once(world: World) -> None:
    world.load()
    world.report(Changed(NUMBER))
    assert world.generation.outdated
    world.generation.outdated = False
    world.report(Changed(NUMBER))
    assert not world.generation.outdated


def test_a_worker_is_promoted_when_it_has_served_enough(world: World) -> None:
    world.open(refork_after=5)
    generation = world.generation
    assert generation.refork_candidate() is None
    world.generation.order(1, 0)
    world.work(Busy(NUMBER, 0))
    world.work(Idle(NUMBER, 0, 5))
    worker = generation.refork_candidate()
    assert worker is generation.pool.workers[0]
    world.ordered(0)
    with world.zygote.dup() as control, world.zygote.dup() as dump:
        fds = [control.fileno(), dump.fileno()]
        generation.promote(worker, NUMBER + 1, fds)
    assert world.ordered(0) == Promote(NUMBER, 0, NUMBER + 1, 130.0)
    generation.order(1, 0)
    world.work(Busy(NUMBER, 1))
    world.work(Idle(NUMBER, 1, 5))
    assert generation.refork_candidate() is None, "once"
    generation.hand_over_exit_tasks()
    assert HandedOn(NUMBER) in world.received()


def test_the_zygote_of_a_promoted_worker(promoted: World) -> None:
    process = subprocess.Popen(["sleep", "1000"])
    try:
        promoted.report(Promoted(NUMBER, process.pid))
        assert process.pid in promoted.reaper
        assert promoted.generation.is_promoted
        assert promoted.generation.pid == process.pid
    finally:
        process.kill()
        process.wait()
    promoted.reaper.exit(process.pid)
    assert promoted.exited == [promoted.generation]
    assert promoted.generation.zygote.reaped


@pytest.mark.parametrize(
    "pid", [PID, os.getpid(), 1, 0], ids=["nobody", "dispatcher", "init", "none"]
)
def test_a_promoted_zygote_that_is_no_child(promoted: World, pid: int) -> None:
    promoted.report(Promoted(NUMBER, pid))
    assert not promoted.generation.alive
    assert promoted.generation.promotion_failed
    assert pid not in promoted.reaper


def test_retiring(world: World) -> None:
    world.open(graceful_timeout=20)
    world.generation.retire()
    assert world.generation.pool.letters() == "RR"
    assert world.ordered(0) == Retire(NUMBER, 0, 120.0)
    world.turn()
    assert Spawn(NUMBER, 2) not in world.received(), "nobody takes their place"


def test_retiring_before_the_server_ends(world: World) -> None:
    world.open(graceful_timeout=20)
    world.generation.retire(end=105.0)
    assert world.ordered(0) == Retire(NUMBER, 0, 105.0)


def test_draining(world: World) -> None:
    world.open()
    world.generation.drain()
    assert world.generation.bank.is_draining()
    world.generation.order(2, 0)
    for slot in (0, 1):
        world.work(Busy(NUMBER, slot))
    assert world.received() == [], "no more workers"


def test_only_a_request_that_has_not_begun_is_awaited(world: World) -> None:
    world.open()
    assert not world.generation.awaits_request()
    world.generation.order(1, 0)
    world.work(Busy(NUMBER, 0))
    assert world.generation.awaits_request()
    world.generation.bank.entry(0).begin(99.0, "GET", "/")
    assert not world.generation.awaits_request()


def test_a_generation_without_a_zygote_has_no_plans(world: World) -> None:
    """It can't grow: to wake up for that would be to turn for nothing."""
    generation = world.generation
    generation.policy.grow(100.0, idle=0, starting=0, total=0, waiting=3, others=0)
    assert generation.deadline() is not None
    generation.release()
    assert world.received() == [Release(NUMBER)]
    assert generation.deadline() == 102.0, "it has to end"
    generation.zygote.reaped = True
    assert generation.deadline() is None
