"""A generation's workers as the dispatcher holds them, without processes."""

from __future__ import annotations

import errno
import os
import signal
import socket
import typing as t
from collections.abc import Iterator
from collections.abc import Sequence

import pytest

from flask_prefork.dispatcher.pool import Pool
from flask_prefork.dispatcher.pool import PoolWorker
from flask_prefork.dispatcher.pool import Timeouts
from flask_prefork.dispatcher.workers import Workers
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.channel import close_all
from flask_prefork.ipc.channel import receive_one
from flask_prefork.ipc.exits import AT_ONCE
from flask_prefork.ipc.exits import UNKNOWN_STATUS
from flask_prefork.ipc.frames import Busy
from flask_prefork.ipc.frames import encode
from flask_prefork.ipc.frames import Exited
from flask_prefork.ipc.frames import Failed
from flask_prefork.ipc.frames import Finishing
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import Idle
from flask_prefork.ipc.frames import MemoryUse
from flask_prefork.ipc.frames import Park
from flask_prefork.ipc.frames import PermitAnswer
from flask_prefork.ipc.frames import PermitRelease
from flask_prefork.ipc.frames import PermitRequest
from flask_prefork.ipc.frames import Retire
from flask_prefork.ipc.frames import Signal
from flask_prefork.ipc.frames import Spawn
from flask_prefork.ipc.frames import Spawned
from flask_prefork.ipc.frames import Status
from flask_prefork.ipc.parked_connections import Connection
from flask_prefork.ipc.ready_queue import ReadyQueueOwner
from flask_prefork.ipc.scoreboard import Bank
from flask_prefork.ipc.states import State
from flask_prefork.ipc.stats import Summary
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.poller import Poller
from flask_prefork.system.running_clock import RunningClock


class World:
    """One worker's channel, in the hands of a test."""

    def __init__(self, clock: RunningClock | None = None) -> None:
        self.poller = Poller()
        self.board = scoreboard.create()
        self.bank = Bank(self.board, 1)
        self.summary = Summary(self.board)
        self.workers = Workers(
            1,
            self.bank,
            self.poller,
            clock or RunningClock(lambda: 1.0),
            self,
            self._tell,
            self.summary,
        )
        self.workers.pool = Pool(1)
        self.ready_queue = t.cast(ReadyQueueOwner, None)
        #: What the zygote was sent.
        self.sent: list[Frame] = []
        #: What was put back, in the order in which it is to be served.
        self.ready: list[Connection] = []
        self.parked: list[tuple[int, str]] = []
        self.asked: list[str] = []
        self.released = 0
        worker = self.workers.pool.spawn(0.0)
        assert worker is not None
        self.worker: PoolWorker = worker
        self.workers.start(worker)

    def _tell(self, frame: Frame, fds: Sequence[int]) -> bool:
        self.sent.append(frame)
        if isinstance(frame, Spawn):
            self.process = socket.socket(fileno=os.dup(fds[0]))
        return True

    def park(
        self, fd: int, listener: int, state: Parked, spool: int = -1, limit: str = ""
    ) -> None:
        self.parked.append((fd, limit))

    def taken(self, connection: Connection, worker: t.Hashable) -> None:
        assert worker is self.worker
        close_all(connection.fds)

    def ask_for_permit(self, worker: t.Hashable, limit: str) -> bool:
        self.asked.append(limit)
        return len(self.asked) < 2

    def release_permit(self, worker: t.Hashable) -> None:
        assert worker is self.worker
        self.released += 1

    def put_back(self, connection: Connection) -> None:
        self.ready.insert(0, connection)

    def say(self, frame: Frame, *fds: int) -> None:
        """The worker reports, and the dispatcher takes it in."""
        socket.send_fds(self.process, [encode(frame)], fds)
        for callback in self.poller.wait(0):
            callback()

    def received(self) -> Frame:
        """The next frame that the worker was sent."""
        received = receive_one(self.process)
        assert received is not None
        return received[0]

    def resume(self) -> Connection:
        """The dispatcher hands the worker a connection."""
        assert self.workers.pool.order(1, 1.0, -1) == [self.worker]
        ours, theirs = socket.socketpair()
        theirs.close()
        connection = Connection(ours.detach(), 0, Parked(Wait.WORKER, 60.0, 1))
        self.workers.resume(self.worker, connection)
        return connection

    def die(self) -> None:
        self.process.close()
        self.workers.orphan()

    def close(self) -> None:
        self.process.close()
        self.workers.close()
        for connection in self.ready:
            os.close(connection.fd)
        self.summary.close()
        self.bank.close()
        os.close(self.board)
        self.poller.close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.say(Idle(1, 0))
    yield world
    world.close()


def is_open(connection: Connection) -> bool:
    try:
        os.fstat(connection.fd)
    except OSError:
        return False
    return True


def test_a_connection_is_the_workers_alone_once_it_says_so(world: World) -> None:
    connection = world.resume()
    assert is_open(connection)
    world.say(Busy(1, 0, True))
    assert not is_open(connection)
    world.die()
    assert world.ready == []


def test_who_is_busy_with_its_own_has_not_taken_what_it_was_handed(
    world: World,
) -> None:
    """With blocking dispatch: it has accepted before it could read of it."""
    connection = world.resume()
    world.say(Busy(1, 0))
    assert is_open(connection)
    world.say(Idle(1, 0, 1))
    assert is_open(connection)
    world.die()
    assert world.ready == [connection]


def test_what_was_handed_on_twice_is_taken_in_its_order(world: World) -> None:
    first = world.resume()
    world.say(Busy(1, 0))
    world.say(Idle(1, 0, 1))
    second = world.resume()
    world.say(Busy(1, 0, True))
    assert (is_open(first), is_open(second)) == (False, True)
    world.say(Idle(1, 0, 1))
    third = world.resume()
    world.die()
    assert world.ready == [second, third]


def without_pidfd(world: World) -> None:
    """The zygote has forked the worker, where there are no pidfds."""
    pid = 2**30  # above any (proc(5), pid_max)
    frame = Spawned(1, world.worker.number, pid)
    world.workers.spawned(frame, [], lambda pid, pidfd: None)
    assert world.workers.pid(world.worker) == pid


def turn(world: World) -> None:
    for callback in world.poller.wait(0):
        callback()


@pytest.mark.parametrize("retires", [False, True])
def test_who_hung_up_before_its_zygote_was_lost_is_dead(
    world: World, retires: bool
) -> None:
    without_pidfd(world)
    if retires:
        world.workers.retire(world.worker)
    world.process.close()
    turn(world)
    assert len(world.workers.pool) == 1, "its zygote is to tell"
    world.workers.orphan()
    assert len(world.workers.pool) == 0


@pytest.mark.parametrize("retires", [False, True])
def test_who_hangs_up_after_its_zygote_was_lost_is_dead(
    world: World, retires: bool
) -> None:
    without_pidfd(world)
    if retires:
        world.workers.retire(world.worker)
    world.workers.orphan()
    assert len(world.workers.pool) == 1
    world.process.close()
    turn(world)
    assert len(world.workers.pool) == 0


@pytest.mark.parametrize("before", [False, True])
def test_nobody_waits_for_ever_for_who_was_killed(world: World, before: bool) -> None:
    """Where neither a pidfd nor a zygote tells of its end, and its channel is open."""
    without_pidfd(world)
    if before:
        world.workers.kill(world.worker, AT_ONCE)
        assert world.workers.killed.next() is None, "its zygote is to tell"
    world.workers.orphan()
    if not before:
        world.workers.kill(world.worker, AT_ONCE)
    assert world.worker.state is State.KILLED
    moment = world.workers.killed.next()
    assert moment is not None
    assert world.workers.killed.pop(moment) == [world.worker]
    world.workers.give_up(world.worker)
    assert len(world.workers.pool) == 0


def test_nothing_is_taken_that_was_not_handed_on(world: World) -> None:
    world.say(Busy(1, 0, True))
    assert world.worker.state is State.BUSY


# Permits


def test_who_waits_for_a_permit_is_parked_with_its_limit(world: World) -> None:
    world.workers.limits = ["/a", "/b"]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        state = Parked(Wait.PERMIT, 60.0, 1, arrived=1.0, limit=2)
        world.say(Park(1, 0, 0, state), ours.fileno())
        state = Parked(Wait.KEEP_ALIVE, 60.0)
        world.say(Park(1, 0, 0, state), ours.fileno())
    assert [limit for _, limit in world.parked] == ["/b", ""]


def test_a_limit_that_does_not_exist(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.workers.limits = ["/a"]
    world.say(PermitRequest(1, 0, 2))
    assert world.worker.state is State.KILLED
    assert world.asked == []


def test_a_worker_asks_for_a_permit(world: World) -> None:
    world.workers.limits = ["/a", "/b"]
    for number in (1, 2):
        world.say(PermitRequest(1, 0, number))
    assert world.asked == ["/a", "/b"]
    assert world.received() == PermitAnswer(1, 0, True)
    assert world.received() == PermitAnswer(1, 0, False)


def test_what_ends_a_permit(world: World) -> None:
    before = world.released
    world.resume()
    world.say(Busy(1, 0, True))
    assert world.released == before
    world.say(PermitRelease(1, 0))
    assert world.released == before + 1
    world.say(Idle(1, 0, 1))
    assert world.released == before + 2
    world.say(Idle(1, 0, 1))
    assert world.released == before + 2, "that was reported before"
    world.die()
    assert world.released == before + 3


# Start


def test_a_worker_that_can_not_be_started(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> t.NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    world.workers.pool = pool = Pool(2)
    monkeypatch.setattr("flask_prefork.ipc.dumps.open_with_channel", refuse)
    worker = pool.spawn(1.0)
    assert worker is not None
    world.workers.start(worker)
    assert len(pool) == 0, "its slot is free"
    assert world.workers.policy.failures == 1
    assert "Can't start worker 0: Too many open files." in caplog.text


def test_a_worker_that_can_not_be_forked(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.workers.failed(Failed(1, 0, errno.EAGAIN))
    assert len(world.workers.pool) == 0
    assert world.workers.policy.failures == 1
    assert "Can't fork worker 0: Resource temporarily unavailable." in caplog.text
    world.close()


def test_how_many_are_asked_for(world: World) -> None:
    assert world.workers.spawning == 1
    without_pidfd(world)
    assert world.workers.spawning == 0


def test_a_pid_that_can_not_be_a_workers(world: World) -> None:
    def refuse(pid: int, pidfd: int) -> None:
        raise ValueError(f"process {pid} is another one")

    with pytest.raises(ValueError, match="process 9 is another one"):
        world.workers.spawned(Spawned(1, 0, 9), [], refuse)
    assert not world.workers.has(9)


def test_a_worker_that_is_killed_before_its_pid_is_known(world: World) -> None:
    world.workers.kill(world.worker, AT_ONCE)
    assert not any(isinstance(frame, Signal) for frame in world.sent)
    without_pidfd(world)
    signals = [frame for frame in world.sent if isinstance(frame, Signal)]
    assert signals == [Signal(1, 0, 2**30, signal.SIGKILL)]


# Reports


def test_the_first_idle_ends_the_failures(world: World) -> None:
    assert world.workers.ever_idle
    assert world.worker.state is State.IDLE
    world.workers.policy.failed(1.0)
    world.say(Idle(1, 0))
    assert world.workers.policy.failures == 1, "it was idle before"


def test_a_worker_that_has_served_enough_takes_no_more(world: World) -> None:
    world.worker.limit = 2
    world.resume()
    world.say(Busy(1, 0))
    world.say(Idle(1, 0, 1))
    assert not world.bank.is_stopped(0)
    world.say(Idle(1, 0, 1))
    assert world.bank.is_stopped(0)


def test_a_worker_that_only_finishes(world: World) -> None:
    world.say(Finishing(1, 0))
    assert world.workers.pool.total == 0
    assert world.bank.is_retiring(0)
    assert world.bank.is_stopped(0)


def test_a_worker_that_has_too_much_memory_is_replaced(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world.workers.accounting.limit = 1024 * 1024
    world.say(MemoryUse(1, 0, 2048, True))
    assert world.workers.accounting.over == {world.worker}
    for _ in range(2):
        world.workers.replace(world.worker, "")
    assert caplog.text.count("it is to be replaced") == 1
    assert world.worker.limit == 1, "it serves no more requests"
    assert world.bank.is_stopped(0)


# Exit


def test_the_time_to_retire_is_on_the_machines_clock() -> None:
    now = 100.0
    world = World(clock := RunningClock(lambda: now))
    now += 50.0
    clock()
    world.say(Idle(1, 0))
    world.workers.pool.timeouts = Timeouts(retire=20.0)
    world.workers.retire(world.worker)
    frame = world.received()
    assert isinstance(frame, Retire)
    assert frame.deadline == pytest.approx(170.0)
    world.close()


def test_what_a_worker_sent_last_is_taken_in(world: World) -> None:
    without_pidfd(world)
    world.workers.pool.order(1, 1.0, 0)
    world.process.send(encode(Busy(1, 0)))
    world.process.send(encode(Idle(1, 0, 7)))
    # Its zygote is faster than its own channel.
    world.workers.exited(Exited(1, 0, 2**30, Status(0)))
    assert world.worker.served == 7
    assert len(world.workers.pool) == 0


def test_an_exit_whose_status_the_zygote_does_not_know(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    without_pidfd(world)
    world.workers.exited(Exited(1, 0, 2**30, Status(UNKNOWN_STATUS)))
    assert "died: the exit status is not known." in caplog.text


def test_an_exit_is_that_of_the_process_in_the_slot(world: World) -> None:
    without_pidfd(world)
    world.workers.exited(Exited(1, 0, 2**30 + 1, Status(0)))
    world.workers.orphan_ended(2**30 + 1, 0)
    assert world.worker.state is State.IDLE
    world.workers.orphan_ended(2**30, 0)
    assert len(world.workers.pool) == 0


@pytest.mark.parametrize(
    ("how", "failures"), [("dies", 1), ("served", 0), ("retires", 0), ("is killed", 0)]
)
def test_who_dies_before_its_first_request_has_failed(
    world: World, how: str, failures: int
) -> None:
    without_pidfd(world)
    if how == "served":
        world.workers.policy.failed(1.0)
        world.say(Busy(1, 0))
        assert world.workers.policy.failures == 0, "one has shown that it can serve"
        world.say(Idle(1, 0, 1))
    elif how == "retires":
        world.workers.retire(world.worker)
    elif how == "is killed":
        world.workers.kill(world.worker, AT_ONCE)
    world.process.close()
    turn(world)
    world.workers.orphan()
    assert len(world.workers.pool) == 0
    assert world.workers.policy.failures == failures
