"""Every frame with every kind of descriptor, and with invalid arguments."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import select
import socket
import subprocess
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.ipc.channel import send_one
from flask_prefork.ipc.channel import write_document
from flask_prefork.ipc.frames import Exited
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import KINDS
from flask_prefork.ipc.frames import Loaded
from flask_prefork.ipc.frames import Spawned
from flask_prefork.ipc.frames import Status
from flask_prefork.ipc.frames import TAG_SIZE
from flask_prefork.settings.table import resolve
from flask_prefork.system.parked_state import MAX_WAKES
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Size
from flask_prefork.system.parked_state import Wait

from .test_channel_faults import FIRST_PID
from .test_channel_faults import NUMBER
from .test_channel_faults import sleeping
from .test_channel_faults import World

#: Makes descriptors; they are closed by the test.
Make = Callable[[World, Path], list[int]]


def of_file(world: World, path: Path) -> list[int]:
    return [os.open(path / "file", os.O_CREAT | os.O_RDWR)]


def of_directory(world: World, path: Path) -> list[int]:
    return [os.open(path, os.O_RDONLY)]


def of_pipe(world: World, path: Path) -> list[int]:
    return list(os.pipe())


def of_fifo(world: World, path: Path) -> list[int]:
    if not (path / "fifo").exists():
        os.mkfifo(path / "fifo")
    return [os.open(path / "fifo", os.O_RDWR)]


def of_device(world: World, path: Path) -> list[int]:
    return [os.open("/dev/zero", os.O_RDWR)]


def of_terminal(world: World, path: Path) -> list[int]:
    return list(os.openpty())


def of_epoll(world: World, path: Path) -> list[int]:
    with select.epoll() as poll:
        return [os.dup(poll.fileno())]


def of_memory(world: World, path: Path) -> list[int]:
    return [os.memfd_create("garbage")]


def of_listener(world: World, path: Path) -> list[int]:
    return [os.dup(world.listener.fd)]


def of_other_family(world: World, path: Path) -> list[int]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return [os.dup(ours.fileno())]


def of_datagrams(world: World, path: Path) -> list[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return [os.dup(sock.fileno())]


def of_no_connection(world: World, path: Path) -> list[int]:
    with socket.socket() as sock:
        return [os.dup(sock.fileno())]


def of_closed_peer(world: World, path: Path) -> list[int]:
    with socket.create_connection(("127.0.0.1", world.listener.port)) as client:
        client.send(b"x")  # the kernel keeps silent ones back
        world.listener.sock.settimeout(5)
        served, _ = world.listener.sock.accept()
        world.listener.sock.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with served:
        return [os.dup(served.fileno())]


def of_own_pidfd(world: World, path: Path) -> list[int]:
    return [os.pidfd_open(os.getpid())]


def of_proc(world: World, path: Path) -> list[int]:
    return [os.open("/proc/self", os.O_RDONLY)]


def of_none(world: World, path: Path) -> list[int]:
    return []


def of_several(world: World, path: Path) -> list[int]:
    return of_file(world, path) + of_pipe(world, path) + of_epoll(world, path)


MAKES = [make for name, make in sorted(globals().items()) if name.startswith("of_")]

#: Whom the zygote of a :class:`.World` takes for each of its workers.
WORKERS_PID = FIRST_PID + 3
#: Values for the fields of each type: the first of each for one frame, and so on.
EXTREMES: dict[t.Any, list[t.Any]] = {
    int: [0, 1, 2**32 - 1, 2**31, 2**16 - 1, os.getpid(), WORKERS_PID],
    Status: [0, 255, 2**31 - 1, -(2**31), -256, -255, -9],
    Size: [Size(0), Size(1), Size(2**64 - 1), Size(2**63)],
    bool: [False, True],
    Parked: [
        Parked(Wait.HEAD, 0.0),
        Parked(Wait.HEAD, 1010.0, 1),
        Parked(Wait.KEEP_ALIVE, math.nan, 2**31),
        Parked(Wait.KEEP_ALIVE, math.inf),
        Parked(Wait.WORKER, -math.inf),
        Parked(Wait.HEAD, -1.0, tag=b"x" * TAG_SIZE),
        Parked(Wait.HEAD, 1010.0, wakes=MAX_WAKES),
        Parked(Wait.HEAD, 1010.0, wakes=2**32 - 1),
        Parked(Wait.HEAD, 1e300, 2**32 - 1),
        Parked(Wait.BODY, 1010.0, need=2**32 - 1, rate=math.nan),
        Parked(Wait.BODY, 1010.0, rate=-1.0, spooled=Size(2**64 - 1)),
        Parked(Wait.LINGER, 1010.0, spooled=Size(1)),
        Parked(t.cast(Wait, 5), 1010.0),
        Parked(t.cast(Wait, 255), 1010.0),
        Parked(Wait.WORKER, 1010.0, 2**32 - 1),
    ],
    float: [0.0, 1010.0, math.nan, math.inf, -math.inf, -1.0, 1e300],
}
#: Of each kind so many.
MOST = max(map(len, EXTREMES.values()))


def extremes(cls: t.Any, slot: int) -> Iterator[Frame]:
    """Frames of a kind, with all extreme values."""
    types = t.get_type_hints(cls)
    for number in range(MOST):
        values = {
            name: EXTREMES[one][number % len(EXTREMES[one])]
            for name, one in types.items()
        }
        known = {"generation": NUMBER, "slot": slot}
        # Of those with a state, also such that come by a listener that there is.
        known |= {"listener": 0} if number % 2 else {}
        yield cls(**values | {k: v for k, v in known.items() if k in types})


WHO = ["worker", "zygote"]


def assert_others_live(world: World, sender: str) -> None:
    """At most the sender is lost, and the dispatcher goes on."""
    world.queues.dispatch(world.generation)
    world.now += 0.1
    world.turn()
    assert world.generation.pool.workers[0] is not None
    assert world.letters()[0] in "IO"
    assert world.letters()[2] in "IO"
    if sender == "worker":
        assert world.generation.alive


class Street:
    """Houses of which the next is made when one has lost somebody."""

    def __init__(self) -> None:
        self.process = sleeping()
        self.world: World | None = None

    def next(self) -> World:
        if self.world is not None:
            if self.world.letters() == "III" and self.world.generation.alive:
                return self.world
            self.world.close()
        if self.process.poll() is not None:
            self.process = sleeping()
        self.world = World(process=self.process)
        return self.world

    def close(self) -> None:
        if self.world is not None:
            self.world.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def street() -> Iterator[Street]:
    with contextlib.closing(Street()) as street:
        yield street


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__[3:])
@pytest.mark.parametrize("who", WHO)
def test_any_frame(street: Street, tmp_path: Path, who: str, make: Make) -> None:
    """Any frame comes from a worker or a zygote, with any descriptor and any numbers.

    At most the sender is killed, and the dispatcher never waits.
    """
    # Kinds with few fields have few different ones. NaN is no different from itself.
    sent = {
        repr(frame): frame
        for cls, slot in itertools.product(KINDS.values(), (1, 2**32 - 1))
        for frame in extremes(cls, slot)
    }
    for frame in sent.values():
        world = street.next()
        fds = make(world, tmp_path)
        sender = world.workers[1] if who == "worker" else world.zygote
        send_one(sender, frame, fds)
        for fd in fds:
            os.close(fd)
        world.turn()
        assert_others_live(world, who)


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__[3:])
def test_a_zygote_says_what_it_has_forked(
    street: Street, tmp_path: Path, make: Make
) -> None:
    """A zygote reports a worker that it had to fork, with any descriptor.

    If the descriptor isn't the worker's own pidfd, the zygote is killed.
    """
    world = street.next()
    # The third worker has died, and another one is to come.
    world.workers.pop(2).close()
    dead = Exited(NUMBER, 2, WORKERS_PID, Status(-9))
    send_one(world.zygote, dead)
    world.turn()
    world.now += 1
    world.turn()
    assert world.letters() == "IIS"
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            fds = make(world, tmp_path)
            send_one(world.zygote, Spawned(NUMBER, 2, process.pid), fds)
            for fd in fds:
                os.close(fd)
            world.turn()
        finally:
            process.kill()
    # It is no child of the zygote's.
    assert not world.generation.alive
    assert world.letters() == "II"


def documents() -> Iterator[t.Any]:
    good = resolve({}).as_dict()
    yield from ([], {}, 1, None, "x" * 100)
    yield {**good, "more": 1}
    yield {name: value for name, value in good.items() if name != "backlog"}
    for name in good:
        for value in (None, -1, 10**30, 1.5, "garbage", True, [], {}, math.inf):
            yield {**good, name: value}


def test_any_settings(street: Street) -> None:
    """A zygote sends settings that are impossible.

    They are refused, or the server works with them. The dispatcher never exits.
    """
    for document in documents():
        if street.process.poll() is not None:
            street.process = sleeping()
        with contextlib.closing(World(loaded=False, process=street.process)) as world:
            fd = write_document(document)
            send_one(world.zygote, Loaded(NUMBER), [fd])
            os.close(fd)
            world.turn()
            assert world.generation.loaded or not world.generation.alive
            if world.generation.loaded:
                world.generation.open(world.queues.listeners)
                world.turn()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"[" * 500_000,
        b'"' + b"x" * 3_000_000 + b'"',
        b"\xff\xfe",
        b"9" * 10_000,
    ],
    ids=["empty", "garbage", "deep", "long", "not-utf-8", "digits"],
)
def test_a_document_that_is_garbage(data: bytes) -> None:
    """A zygote sends an invalid document.

    It is killed.
    """
    with contextlib.closing(World(loaded=False)) as world:
        fd = os.memfd_create("document")
        os.write(fd, data)
        send_one(world.zygote, Loaded(NUMBER), [fd])
        os.close(fd)
        world.turn()
        assert not world.generation.alive
        assert not world.generation.loaded
        assert world.process.wait(5) < 0
