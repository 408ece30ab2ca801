"""The sender as the dispatcher holds it, with stand-ins for its process and with it."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import socket
import subprocess
import typing as t
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from flask_prefork.dispatcher import auxiliary
from flask_prefork.dispatcher import sender as sender_module
from flask_prefork.dispatcher.queues import Queues
from flask_prefork.dispatcher.sender import SenderHandle
from flask_prefork.ipc.channel import receive_one
from flask_prefork.ipc.channel import send_one
from flask_prefork.ipc.figures import DELIVERY_RESULTS
from flask_prefork.ipc.frames import Busy
from flask_prefork.ipc.frames import Deliver
from flask_prefork.ipc.frames import Delivered
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import FRAME_SIZE
from flask_prefork.ipc.frames import Observe
from flask_prefork.ipc.frames import Ping
from flask_prefork.ipc.listener import bind
from flask_prefork.ipc.phase import GRACE
from flask_prefork.system import origin
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Size
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.poller import Poller
from flask_prefork.system.reaper import Reaper
from flask_prefork.system.running_clock import RunningClock

from .queues_world import is_open
from .test_observer import Outside

#: Where a connection is parked: its listener, and how it waits.
Place = tuple[int, Parked]


class Office:
    """A sender's handle, and clients.

    :ivar parked: Connections that came back, and how they are to wait.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.poller = Poller()
        self.reaper = Reaper(lambda pid, status: None)
        clock = RunningClock(lambda: self.now, math.inf)
        outside = t.cast(t.Any, Outside())
        self.parked: list[tuple[socket.socket, Place]] = []
        self.results = dict.fromkeys(DELIVERY_RESULTS, 0)
        self.handle = SenderHandle(
            outside, self.poller, self.reaper, clock, self._park, self.results
        )
        self.clients: list[socket.socket] = []

    def _park(self, fd: int, listener: int, state: Parked) -> None:
        self.parked.append((socket.socket(fileno=fd), (listener, state)))

    def deliver(
        self, data: bytes = b"data", wait: Wait = Wait.KEEP_ALIVE, listener: int = 0
    ) -> list[int]:
        """Hand over a connection with a spool.

        :return: The dispatcher's descriptors.
        """
        served, client = socket.socketpair()
        self.clients.append(client)
        client.settimeout(10)
        spool = os.memfd_create("spool")
        os.write(spool, data)
        size = Size(len(data))
        state = Parked(wait, 0.0)
        none = Size(0)
        frame = Deliver(1, 0, listener, 0, 240.0, size, none, none, none, 5.0, state)
        fds = [served.detach(), spool]
        self.handle.deliver(frame, fds, len(data))
        return fds

    def turn(self, seconds: float = 0.0) -> None:
        """The dispatcher takes in what there is, and acts.

        :param seconds: How long to wait for that.
        """
        for callback in self.poller.wait(seconds):
            callback()
        self.handle.step(self.now)

    def skip(self) -> None:
        """Nothing happens until the handle wants something."""
        moment = self.handle.deadline()
        assert moment is not None
        self.now = max(self.now, moment)
        self.turn()

    def die(self, pid: int) -> None:
        """A process that was killed is reaped."""
        _, status = os.waitpid(pid, 0)
        self.reaper._report(pid, os.waitstatus_to_exitcode(status))

    def close(self) -> None:
        pid = self.handle.pid
        self.handle.cut()
        if pid:
            with contextlib.suppress(ChildProcessError):
                self.die(pid)
        for sock in (*self.clients, *(sock for sock, _ in self.parked)):
            sock.close()
        self.poller.close()


@pytest.fixture
def office() -> Iterator[Office]:
    with contextlib.closing(Office()) as office:
        yield office


class Process:
    """Stands in for a sender: a process that does nothing, and the test its words.

    :ivar sock: Its end of the channel.
    """

    def __init__(self, popen: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.sock = sock
        self.sock.settimeout(10)

    def say(self, frame: Frame, *fds: int) -> None:
        assert send_one(self.sock, frame, fds)

    def received(self) -> list[Deliver]:
        """What it was handed; the descriptors are closed."""
        frames = []
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while (received := receive_one(self.sock)) is not None:
                for fd in received[1]:
                    os.close(fd)
                if isinstance(received[0], Deliver):
                    frames.append(received[0])
        self.sock.setblocking(True)
        return frames


class Processes:
    """The processes that were started, the newest last."""

    def __init__(self) -> None:
        self.all: list[Process] = []

    def __getitem__(self, index: int) -> Process:
        return self.all[index]

    def __len__(self) -> int:
        return len(self.all)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    started = Processes()
    ends: list[socket.socket] = []
    pair = auxiliary.socket_modes.pair

    def make(**options: t.Any) -> tuple[socket.socket, socket.socket]:
        ours, theirs = pair(**options)
        ends.append(theirs.dup())
        return ours, theirs

    def spawn(*args: object) -> int:
        popen = subprocess.Popen(["sleep", "1000"])
        started.all.append(Process(popen, ends[-1]))
        return popen.pid

    monkeypatch.setattr(auxiliary.socket_modes, "pair", make)
    monkeypatch.setattr(origin, "spawn", spawn)
    yield started
    for one in started.all:
        one.popen.kill()
        one.popen.wait()
    for end in ends:
        end.close()


def up(office: Office, processes: Processes) -> Process:
    """Let a sender come up."""
    office.turn()
    processes[-1].say(Ping())
    office.turn()
    return processes[-1]


# How it is started


def test_it_is_started_for_the_first_response_and_gets_all_in_order(
    office: Office, processes: Processes
) -> None:
    office.turn()
    assert not processes
    assert office.handle.deadline() is None
    fds = [office.deliver(b"x" * size) for size in (1, 2, 3)]
    office.turn()
    assert len(processes) == 1
    assert processes[0].received() == [], "it doesn't read yet"
    assert office.handle.descriptors == 6
    assert (office.handle.count, office.handle.spooled) == (3, 6)
    processes[0].say(Ping())
    office.turn()
    assert not any(is_open(fd) for pair in fds for fd in pair)
    office.deliver(b"x" * 4)
    received = processes[0].received()
    assert [frame.spooled for frame in received] == [1, 2, 3, 4]
    assert len({frame.number for frame in received}) == 4
    assert office.handle.descriptors == 0
    assert (office.handle.count, office.handle.spooled) == (4, 10)


def test_it_is_tried_again_when_descriptors_run_out(
    office: Office,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse() -> t.NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(auxiliary.socket_modes, "pair", refuse)
        office.deliver()
        office.turn()
        office.skip()
    assert caplog.text.count("Can't start the sender: [Errno") == 2
    office.skip()
    assert [one.spooled for one in up(office, processes).received()] == [4]


def test_while_none_can_be_started_nobody_is_held_for_ever(
    office: Office,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse() -> t.NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(auxiliary.socket_modes, "pair", refuse)
    begun = office.now
    office.deliver()
    office.turn()
    while office.handle.count:
        office.skip()
    assert office.now <= begun + sender_module._HOLD + 0.1
    assert office.clients[0].recv(1) == b""
    assert "No sender took 1 responses; they were cut short." in caplog.text
    assert office.results["lost"] == 1


# What becomes of responses


@pytest.mark.parametrize("wait", [Wait.KEEP_ALIVE, Wait.LINGER])
def test_a_connection_that_comes_back_is_parked(
    office: Office, processes: Processes, wait: Wait
) -> None:
    office.deliver(wait=wait, listener=2)
    process = up(office, processes)
    (frame,) = process.received()
    served, client = socket.socketpair()
    state = Parked(wait, 105.0, tag=b"tag")
    process.say(Delivered(0, frame.number, Size(4), state), served.fileno())
    served.close()
    office.turn()
    ((sock, place),) = office.parked
    assert place == (2, state)
    sock.send(b"x")
    assert client.recv(1) == b"x"
    client.close()
    assert office.results == {"complete": 1, "incomplete": 0, "lost": 0}
    assert (office.handle.count, office.handle.spooled) == (0, 0)


def test_a_client_that_left_or_was_too_slow(
    office: Office, processes: Processes
) -> None:
    """The next one's connection may come with the same look at the channel."""
    office.deliver()
    office.deliver()
    process = up(office, processes)
    first, second = process.received()
    served, client = socket.socketpair()
    process.say(Delivered(0, first.number, Size(1), Parked(Wait.KEEP_ALIVE, 0.0)))
    state = Parked(Wait.KEEP_ALIVE, 105.0)
    process.say(Delivered(0, second.number, Size(4), state), served.fileno())
    served.close()
    office.turn()
    client.close()
    assert office.results == {"complete": 1, "incomplete": 1, "lost": 0}
    assert len(office.parked) == 1


def test_what_it_held_is_lost_when_it_dies_and_the_rest_is_the_next_ones(
    office: Office, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        office.deliver()
    process = up(office, processes)
    done = process.received()[0]
    # It reports one, and is gone before that is read.
    process.say(Delivered(0, done.number, Size(4), Parked(Wait.KEEP_ALIVE, 0.0)))
    os.kill(process.pid, signal.SIGKILL)
    office.die(process.pid)
    assert (
        f"The sender (pid {process.pid}) died: SIGKILL; 2 responses were cut short."
        in caplog.text
    )
    assert office.results == {"complete": 0, "incomplete": 1, "lost": 2}
    assert (office.handle.count, office.handle.spooled) == (0, 0)
    office.deliver(b"next")
    office.turn()
    if len(processes) == 1:
        office.skip()
    assert [one.spooled for one in up(office, processes).received()] == [4]


def test_one_that_is_silent_is_killed(
    office: Office, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    office.deliver()
    process = up(office, processes)
    office.deliver()
    begun = office.now
    while "is silent" not in caplog.text:
        office.skip()
    assert office.now == begun + auxiliary._SILENT
    third = office.deliver(b"x" * 3)
    office.die(process.pid)
    assert "SIGKILL; 2 responses were cut short." in caplog.text
    assert is_open(third[0])
    office.skip()
    assert [one.spooled for one in up(office, processes).received()] == [3]


def test_one_that_doesnt_come_up_is_killed(
    office: Office, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    office.deliver()
    office.turn()
    while "is silent" not in caplog.text:
        office.skip()
    office.die(processes[0].pid)
    assert "SIGKILL; 0 responses were cut short." in caplog.text


def test_one_that_not_even_sigkill_ends_is_given_up(
    office: Office,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    office.deliver()
    process = up(office, processes)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda pid, number: None)
        while office.handle.pid == process.pid:
            office.skip()
    assert "1 responses were cut short." in caplog.text
    assert process.pid not in office.reaper
    office.deliver(b"x")
    office.skip()
    assert len(processes) == 2


def test_a_full_channel_is_tried_again(office: Office, processes: Processes) -> None:
    office.deliver(b"x")
    process = up(office, processes)
    count = 1
    while not office.handle.descriptors:
        office.deliver(b"x")
        count += 1
    office.deliver(b"x")
    count += 1
    before = office.now
    office.skip()
    assert office.now > before, "not in the same turn"
    received = process.received()
    assert len(received) == count - 2
    office.skip()
    received += process.received()
    assert len(received) == count
    assert len({frame.number for frame in received}) == count
    assert office.handle.descriptors == 0


# Its end


def finish(process: Process, office: Office) -> None:
    for frame in process.received():
        state = Parked(Wait.KEEP_ALIVE, 0.0)
        process.say(Delivered(0, frame.number, Size(1), state))
    office.turn()


def skip_with_pings(office: Office, process: Process) -> None:
    """Nothing happens for a while but the sender's pings."""
    process.say(Ping())
    office.turn()
    office.now += 5.0
    office.turn()


def test_it_ends_when_it_isnt_needed_for_long(
    office: Office, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    office.deliver()
    process = up(office, processes)
    finish(process, office)
    begun = office.now
    while office.handle._channel is not None:
        assert office.now <= begun + sender_module._IDLE
        skip_with_pings(office, process)
    # One that comes now is for the next sender.
    office.deliver(b"next")
    assert len(processes) == 1
    os.kill(process.pid, signal.SIGKILL)
    office.die(process.pid)
    assert [one.spooled for one in up(office, processes).received()] == [4]
    assert "died" not in caplog.text


def test_one_that_doesnt_end_is_killed(office: Office, processes: Processes) -> None:
    office.deliver()
    process = up(office, processes)
    finish(process, office)
    while office.handle._channel is not None:
        skip_with_pings(office, process)
    ended = office.now
    office.skip()
    assert office.now == ended + GRACE
    office.die(process.pid)
    assert office.handle.pid == 0
    assert office.handle.deadline() is None


def test_the_servers_end_cuts_all_short(
    office: Office, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    office.deliver()
    process = up(office, processes)
    process.received()
    office.deliver()
    office.handle.cut()
    assert "2 responses to slow clients were cut short." in caplog.text
    assert office.handle.count == office.handle.spooled == 0
    office.die(process.pid)
    # A worker that has not exited yet.
    office.deliver()
    office.turn()
    assert office.clients[2].recv(1) == b""
    assert len(processes) == 1
    assert "died" not in caplog.text


# Garbage

GOOD = Parked(Wait.KEEP_ALIVE, 105.0)


@pytest.mark.parametrize(
    "frame",
    [
        Busy(0, 0),
        Observe(),
        Deliver(0, 0, 0, 1, 0.0, Size(1), Size(0), Size(0), Size(0), 1.0, GOOD),
        Delivered(0, 17, Size(0), GOOD),
        Delivered(0, 17, Size(0), GOOD._replace(deadline=0.0)),
        Delivered(0, 1, Size(0), GOOD._replace(wait=Wait.BODY)),
        Delivered(0, 1, Size(0), GOOD._replace(wait=Wait.LINGER)),
    ],
    ids=lambda frame: str(frame)[:60],
)
def test_a_frame_that_isnt_its_to_send(
    office: Office,
    processes: Processes,
    caplog: pytest.LogCaptureFixture,
    frame: Frame,
) -> None:
    office.deliver()
    process = up(office, processes)
    (known,) = process.received()
    if isinstance(frame, Delivered) and frame.number == 1:
        frame = frame._replace(number=known.number)
    served, client = socket.socketpair()
    with served, client:
        process.say(frame, served.fileno())
    office.turn()
    assert "The sender sent garbage: " in caplog.text
    office.die(process.pid)
    assert office.results["lost"] == 1
    assert not office.parked


@pytest.mark.parametrize("data", [b"x", b"\0" * FRAME_SIZE, b"GET / HTTP/1.1\r\n"])
def test_what_is_no_frame(
    office: Office, processes: Processes, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    office.deliver()
    process = up(office, processes)
    process.sock.send(data)
    office.turn()
    assert "The sender sent garbage: " in caplog.text
    office.die(process.pid)


# What workers hand over


class Handed(t.NamedTuple):
    """What the sender's handle was given."""

    frame: Deliver
    fds: list[int]
    spooled: int


class FakeHandle(list[Handed]):
    spooled = descriptors = 0

    def deliver(self, frame: Deliver, fds: list[int], spooled: int) -> None:
        self.append(Handed(frame, fds, spooled))


@pytest.fixture
def queues() -> Iterator[Queues]:
    poller = Poller()
    queues = Queues(poller, lambda: 100.0, 1024)
    queues.listeners = [bind("127.0.0.1", 0, 16)]
    queues.sender = t.cast(t.Any, FakeHandle())
    yield queues
    queues.close()
    poller.close()


@contextlib.contextmanager
def descriptors(queues: Queues, files: int) -> Iterator[list[int]]:
    """A connection and files of ten bytes."""
    with socket.create_connection(("127.0.0.1", queues.listeners[0].port)) as client:
        client.send(b"x")
        queues.listeners[0].sock.settimeout(5)
        served, _ = queues.listeners[0].sock.accept()
        fds = [served.detach()]
        for _ in range(files):
            fds.append(os.memfd_create("file"))
            os.write(fds[-1], b"0123456789")
        everything = list(fds)
        try:
            yield fds
        finally:
            for fd in everything:
                os.close(fd)


BOTH = Deliver(
    generation=1,
    slot=0,
    listener=0,
    number=0,
    rate=240.0,
    spooled=Size(10),
    sent=Size(0),
    offset=Size(5),
    length=Size(100),
    seconds=5.0,
    parked=Parked(Wait.LINGER, 0.0),
)


@pytest.mark.parametrize(
    "frame",
    [
        BOTH,
        BOTH._replace(rate=0.0, seconds=0.0),
        BOTH._replace(parked=Parked(Wait.KEEP_ALIVE, 0.0, tag=b"tag")),
        BOTH._replace(spooled=Size(0)),
        BOTH._replace(length=Size(0)),
        BOTH._replace(spooled=Size(5), sent=Size(4), length=Size(0)),
        BOTH._replace(sent=Size(10)),
    ],
)
def test_what_is_good_is_handed_on(queues: Queues, frame: Deliver) -> None:
    files = bool(frame.spooled) + bool(frame.length)
    with descriptors(queues, files) as fds:
        before = list(fds)
        queues.deliver(frame, fds)
        assert fds == [], "they are taken out"
        size = 10 if frame.spooled else 0
        assert t.cast(t.Any, queues.sender) == [Handed(frame, before, size)]


@pytest.mark.parametrize("files", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "frame",
    [
        BOTH._replace(spooled=Size(11)),
        BOTH._replace(spooled=Size(2**64 - 1)),
        BOTH._replace(sent=Size(11)),
        BOTH._replace(sent=Size(10), length=Size(0)),
        BOTH._replace(spooled=Size(0), length=Size(0)),
        BOTH._replace(length=Size(2**63)),
        BOTH._replace(offset=Size(2**63), length=Size(2**63)),
        BOTH._replace(rate=math.nan),
        BOTH._replace(rate=math.inf),
        BOTH._replace(rate=-1.0),
        BOTH._replace(seconds=math.nan),
        BOTH._replace(seconds=1e9),
        BOTH._replace(seconds=-1.0),
        BOTH._replace(listener=1),
        BOTH._replace(parked=Parked(Wait.HEAD, 0.0)),
        BOTH._replace(parked=Parked(Wait.WORKER, 0.0)),
    ],
)
def test_what_makes_no_sense_stays_the_workers(
    queues: Queues, frame: Deliver, files: int
) -> None:
    with descriptors(queues, files) as fds:
        before = list(fds)
        with pytest.raises(ValueError, match=r"\w"):
            queues.deliver(frame, fds)
        assert fds == before
        assert not t.cast(t.Any, queues.sender)


def pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def foreign_connection() -> int:
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours.detach()


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    "make",
    [
        pipe,
        lambda: os.open("/dev/zero", os.O_RDONLY),
        lambda: os.open("/", os.O_RDONLY),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
        foreign_connection,
    ],
    ids=["pipe", "device", "directory", "datagrams", "foreign connection"],
)
def test_any_descriptor(queues: Queues, make: Callable[[], int], place: int) -> None:
    with descriptors(queues, 2) as fds:
        other = make()
        fds[place] = other
        with pytest.raises(ValueError, match=r"\w"):
            queues.deliver(BOTH, fds)
        os.close(other)


def test_a_worker_that_finishes_when_nothing_is_accepted_any_more(
    queues: Queues,
) -> None:
    with descriptors(queues, 2) as fds:
        queues.close()
        queues.deliver(BOTH, fds)
        assert len(t.cast(t.Any, queues.sender)) == 1


def test_descriptors_run_out_while_nothing_is_taken(
    office: Office, processes: Processes, queues: Queues
) -> None:
    """The last ones are cut short, and those that wait go on."""
    queues._descriptors = 64 + 4
    queues.sender = office.handle
    for _ in range(3):
        with descriptors(queues, 1) as fds:
            mine = [os.dup(fd) for fd in fds]
            queues.deliver(BOTH._replace(length=Size(0)), mine)
    assert office.handle.count == 1
    assert office.results["lost"] == 2
    assert len(up(office, processes).received()) == 1
    assert office.handle.descriptors == 0


# The real process


def test_the_real_one(office: Office) -> None:
    office.deliver(b"response", wait=Wait.KEEP_ALIVE)
    office.turn()
    while not office.parked:
        office.turn(10.0)
    assert office.clients[0].recv(100) == b"response"
    pid = office.handle.pid
    ((sock, (_, state)),) = office.parked
    assert state.wait is Wait.KEEP_ALIVE
    # Another one, by the same process; and the client leaves.
    office.deliver(b"x" * 5_000_000)
    office.clients[1].recv(100)
    office.clients[1].close()
    while office.handle.count:
        office.turn(10.0)
    assert office.results == {"complete": 1, "incomplete": 1, "lost": 0}
    assert office.handle.pid == pid
    # It ends when it is let go, with status 0.
    office.handle.release()
    assert os.waitpid(pid, 0)[1] == 0
    office.reaper._report(pid, 0)


def test_the_real_one_is_killed(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        office.deliver(b"x" * 5_000_000)
    for client in office.clients:
        client.settimeout(0)
        while True:
            office.turn(0.01)
            with contextlib.suppress(BlockingIOError):
                assert client.recv(1)
                break
        client.settimeout(10)
    office.handle.kill()
    office.die(office.handle.pid)
    assert "SIGKILL; 2 responses were cut short." in caplog.text
    for client in office.clients:
        received = sum(map(len, iter(lambda c=client: c.recv(1 << 20), b"")))
        assert received < 4_999_999
