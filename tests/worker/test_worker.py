"""A worker's loop, beside a dispatcher that says what a test wants."""

from __future__ import annotations

import dataclasses
import errno
import os
import select
import socket
import struct
import threading
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.http.server import Limits
from flask_prefork.http.server import PreforkServer
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.channel import receive_one
from flask_prefork.ipc.frames import Busy
from flask_prefork.ipc.frames import encode
from flask_prefork.ipc.frames import Frame
from flask_prefork.ipc.frames import Idle
from flask_prefork.ipc.frames import MemoryUse
from flask_prefork.ipc.frames import Order
from flask_prefork.ipc.frames import Park
from flask_prefork.ipc.frames import Resume
from flask_prefork.ipc.frames import Retire
from flask_prefork.ipc.ready_queue import ReadyQueueOwner
from flask_prefork.ipc.scoreboard import Bank
from flask_prefork.ipc.states import State
from flask_prefork.settings.table import resolve
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Size
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.socket_state import Arrival
from flask_prefork.system.socket_state import arrival
from flask_prefork.system.socket_state import tcp_arrival
from flask_prefork.worker import worker
from flask_prefork.worker.memory_sampler import MemorySampler
from flask_prefork.worker.worker import Worker

#: How long to wait for what must come, in seconds.
DEADLINE = 20
KEPT = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
GET = KEPT[:-2] + b"Connection: close\r\n\r\n"


class Boss:
    """The dispatcher of one worker, which runs in a thread.

    :ivar bank: Its bank of the scoreboard.
    :ivar served: The paths that were asked for, in their order.
    """

    def __init__(self, *, path: str | None = None, **options: t.Any) -> None:
        self.served: list[str] = []
        self.queue_times: list[float] = []
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.channel.settimeout(DEADLINE)
        self.theirs = theirs
        self.listener = listen(path)
        self.listener.setblocking(False)
        self.clients: list[socket.socket] = []
        server = PreforkServer(
            self._app, self.listener, limits=Limits(), access_log=False
        )
        self.ready_queue = ReadyQueueOwner()
        board = scoreboard.create()
        self.bank = Bank(board, 1)
        self.worker = Worker(
            0,
            1,
            theirs,
            Bank(board, 1),
            self.ready_queue,
            [server],
            resolve(options, {}, {}),
        )
        os.close(board)
        self._thread = threading.Thread(target=self.worker.run)

    def _app(self, environ: t.Any, start_response: t.Any) -> list[bytes]:
        self.served.append(environ["PATH_INFO"])
        self.queue_times.append(environ["flask_prefork.queue_time"])
        start_response("200 OK", [("Content-Length", "0")])
        return []

    def begin(self) -> None:
        """Let it run."""
        self._thread.start()

    def hear(self) -> type[Frame]:
        """Wait for what it says next."""
        return type(self.hear_frame())

    def hear_frame(self) -> Frame:
        """Wait for the next frame."""
        received = receive_one(self.channel)
        assert received is not None
        for fd in received[1]:
            os.close(fd)
        return received[0]

    def arrive(self, number: int) -> socket.socket:
        """Let a client send a request to the listener."""
        client = connect(self.listener)
        client.sendall(GET % number)
        self.clients.append(client)
        return client

    def park(self, *numbers: int, closes: bool = True) -> socket.socket:
        """Let a client send requests on a connection that the dispatcher has.

        :param closes: Whether the last of them is the connection's last.
        :return: The dispatcher's end.
        """
        if self.listener.family == socket.AF_UNIX:
            # Not a pair: its ends have no addresses.
            client = connect(self.listener)
            self.listener.setblocking(True)
            connection, _ = self.listener.accept()
            self.listener.setblocking(False)
        else:
            with listen() as other:
                client = connect(other)
                connection, _ = other.accept()
        requests = [KEPT % number for number in numbers]
        if closes:
            requests[-1] = GET % numbers[-1]
        client.sendall(b"".join(requests))
        self.clients.append(client)
        return connection

    def make_ready(self, *numbers: int) -> None:
        """Put a connection with requests into the ready queue."""
        connection = self.park(*numbers)
        state = Parked(Wait.KEEP_ALIVE, time.monotonic() + 60)
        assert self.ready_queue.put(connection.fileno(), 0, state)
        connection.close()
        self.bank.set_ready(True)

    def resume(self, connection: socket.socket, arrived: float = 0.0) -> None:
        """Hand it a connection."""
        parked = Parked(Wait.HEAD, time.monotonic() + 60, arrived=arrived)
        frame = Resume(1, 0, 0, parked)
        socket.send_fds(self.channel, [encode(frame)], [connection.fileno()])
        connection.close()

    def end(self) -> None:
        self.channel.close()
        if self._thread.ident is not None:
            self._thread.join()
        self.theirs.close()
        self.ready_queue.close()
        self.listener.close()
        for client in self.clients:
            client.close()


def listen(path: str | None = None) -> socket.socket:
    """A listening socket: a unix one if there is a path for it."""
    if path is None:
        return socket.create_server(("127.0.0.1", 0))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


def connect(listener: socket.socket) -> socket.socket:
    client = socket.socket(listener.family)
    client.settimeout(DEADLINE)
    client.connect(listener.getsockname())
    return client


@pytest.fixture
def boss(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Boss]:
    # However slow the machine is, no turn ends by its time.
    monkeypatch.setattr(worker, "_READY_RUN", DEADLINE)
    boss = Boss(dispatch=getattr(request, "param", "blocking"))
    yield boss
    boss.end()


def test_parked_connections_leave_turns_to_new_ones(boss: Boss) -> None:
    """Though the next one that was parked is always there already."""
    for number in range(4):
        boss.resume(boss.park(number))
    for number in range(10, 13):
        boss.arrive(number)
    boss.begin()
    assert [boss.hear() for _ in range(9)] == [Idle, *[Busy, Idle] * 4]
    assert boss.served == ["/0", "/10", "/1", "/11", "/2", "/12", "/3"]


def test_new_connections_leave_turns_to_parked_ones(
    boss: Boss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the next new one is always there already."""
    # The dispatcher takes its time.
    monkeypatch.setattr(worker, "_MOMENT", DEADLINE * 1000)
    boss.bank.set_others_wait(True)
    for number in range(10, 16):
        boss.arrive(number)
    boss.begin()
    for number in range(3):
        assert boss.hear() is Idle
        boss.bank.set_others_wait(number < 2)
        boss.resume(boss.park(number))
        assert boss.hear() is Busy
    assert [boss.hear() for _ in range(3)] == [Idle, Busy, Idle]
    assert boss.served == [
        *["/0", "/10", "/1", "/11", "/2", "/12"],
        *["/13", "/14", "/15"],
    ]


def test_whether_it_is_busy_with_what_it_was_handed(boss: Boss) -> None:
    boss.resume(boss.park(0))
    boss.begin()
    handed = [boss.hear_frame() for _ in range(3)][1]
    boss.arrive(10)
    accepted = [boss.hear_frame() for _ in range(2)][0]
    assert isinstance(handed, Busy) and handed.resumed
    assert isinstance(accepted, Busy) and not accepted.resumed


def test_who_is_to_be_replaced_takes_no_new_ones(boss: Boss) -> None:
    boss.bank.set_stop(0)
    boss.arrive(10)
    boss.resume(boss.park(0))
    boss.channel.send(encode(Retire(1, 0)))
    boss.begin()
    assert [boss.hear() for _ in range(3)] == [Idle, Busy, Idle]
    assert boss.served == ["/0"]


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_who_is_stopped_in_the_last_moment_of_its_order(
    boss: Boss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes then is for another: a newer generation's, perhaps."""
    monkeypatch.setattr(worker, "_MOMENT", DEADLINE * 1000)
    boss.begin()
    assert boss.hear() is Idle
    client = boss.arrive(0)
    boss.channel.send(encode(Order(1, 0, 0, 2)))
    assert boss.hear() is Busy
    assert client.recv(100)
    boss.bank.set_stop(0)
    boss.arrive(1)
    assert boss.hear() is Idle
    assert boss.served == ["/0"]


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_the_ready_queue_comes_before_the_report(boss: Boss) -> None:
    """Nobody has to be asked for who is next."""
    boss.begin()
    assert boss.hear() is Idle
    for number in (1, 2):
        boss.make_ready(number)
    boss.resume(boss.park(0))
    assert [boss.hear(), boss.hear()] == [Busy, Idle]
    assert boss.served == ["/0", "/1", "/2"]


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_the_ready_queue_after_an_order(boss: Boss) -> None:
    boss.begin()
    assert boss.hear() is Idle
    for number in (10, 11):
        boss.arrive(number)
    boss.make_ready(1)
    boss.channel.send(encode(Order(1, 0, 0, 64)))
    assert [boss.hear(), boss.hear()] == [Busy, Idle]
    assert boss.served == ["/10", "/11", "/1"]


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_accept_queues_have_their_turn_after_so_many_ready_ones(boss: Boss) -> None:
    boss.worker.settings = dataclasses.replace(boss.worker.settings, run_length=2)
    boss.begin()
    assert boss.hear() is Idle
    for number in range(1, 6):
        boss.make_ready(number)
    boss.resume(boss.park(0))
    assert [boss.hear(), boss.hear()] == [Busy, Idle]
    assert boss.served == ["/0", "/1", "/2"]


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
@pytest.mark.parametrize(
    "reason", ["others wait", "stopped", "retiring", "lower idle", "replaced next"]
)
def test_who_takes_nobody_from_the_ready_queue(boss: Boss, reason: str) -> None:
    boss.worker.slot = 1
    boss.worker.entry = boss.worker.bank.entry(1)
    boss.begin()
    assert boss.hear() is Idle
    boss.make_ready(1)
    if reason == "others wait":
        boss.bank.set_others_wait(True)
    elif reason == "stopped":
        boss.bank.set_stop(1)
    elif reason == "retiring":
        boss.bank.set_state(1, "R")
    elif reason == "replaced next":
        # It has served as many requests as it may when the next one would come.
        settings = boss.worker.settings
        boss.worker.settings = dataclasses.replace(settings, max_requests=1)
    else:
        boss.bank.set_state(0, "I")
    boss.resume(boss.park(0))
    assert [boss.hear(), boss.hear()] == [Busy, Idle]
    assert boss.served == ["/0"]
    assert len(boss.ready_queue) == 1


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_turns_are_given_in_the_ready_queue(boss: Boss) -> None:
    """Of two clients that always have a next request none has two turns on end."""
    boss.worker.servers[0].context.limits = dataclasses.replace(Limits(), slice=-1.0)
    boss.begin()
    assert boss.hear() is Idle
    boss.make_ready(*range(10, 14))
    boss.resume(boss.park(*range(4)))
    assert boss.hear() is Busy
    while (heard := boss.hear()) is not Idle:
        assert heard is Park
    assert boss.served == [f"/{number}" for number in (0, 10, 1, 11, 2, 12, 3, 13)]


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_whose_next_request_is_not_there_gives_its_turn_at_once(boss: Boss) -> None:
    boss.begin()
    assert boss.hear() is Idle
    boss.make_ready(1)
    boss.resume(boss.park(0, closes=False))
    assert [boss.hear() for _ in range(3)] == [Busy, Park, Idle]
    assert boss.served == ["/0", "/1"]


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_who_was_to_be_parked_with_the_report_is_parked_before_the_next(
    boss: Boss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If others came to the ready queue just then: nobody else knows of it yet."""
    boss.begin()
    assert boss.hear() is Idle
    looks = iter([False, True, False])
    monkeypatch.setattr(boss.worker, "_may_take_ready", lambda: next(looks))
    boss.make_ready(1)
    boss.resume(boss.park(0, closes=False))
    assert [boss.hear() for _ in range(3)] == [Busy, Park, Idle]
    assert boss.served == ["/0", "/1"]
    assert next(looks, None) is None


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_who_puts_a_connection_where_nobody_looks_reports(
    boss: Boss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatcher has just seen the ready queue empty, and shown that."""
    boss.worker.servers[0].context.limits = dataclasses.replace(Limits(), slice=-1.0)
    put = boss.ready_queue.put

    def put_late(*args: t.Any) -> bool:
        boss.bank.set_ready(False)
        return put(*args)

    boss.begin()
    assert boss.hear() is Idle
    boss.make_ready(9)
    monkeypatch.setattr(boss.ready_queue, "put", put_late)
    boss.resume(boss.park(0, 1))
    assert [boss.hear(), boss.hear()] == [Busy, Idle]
    assert boss.served == ["/0"]
    assert len(boss.ready_queue) == 2


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_garbage_in_the_ready_queue(boss: Boss) -> None:
    """Of another worker's app: a file, and a listener that there isn't."""
    boss.begin()
    assert boss.hear() is Idle
    state = Parked(Wait.KEEP_ALIVE, time.monotonic() + 60)
    with open(os.devnull) as file:
        assert boss.ready_queue.put(file.fileno(), 0, state)
    with boss.park(5) as connection:
        assert boss.ready_queue.put(connection.fileno(), 7, state)
        spooled = state._replace(spooled=Size(1))
        assert boss.ready_queue.put(connection.fileno(), 0, spooled)
    boss.make_ready(1)
    boss.resume(boss.park(0))
    assert [boss.hear(), boss.hear()] == [Busy, Idle]
    assert boss.served == ["/0", "/1"]


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_who_has_too_much_memory_stops_on_its_order(boss: Boss) -> None:
    """Before anybody says so, who may take their time."""
    limit = 10 * 2**20

    def read() -> int:
        return limit * len(boss.served)

    sampler = boss.worker.sampler = MemorySampler(
        limit=limit, read=read, anonymous=read
    )
    for number in range(5):
        boss.arrive(number)
    boss.begin()
    assert [boss.hear(), boss.hear()] == [Idle, MemoryUse]
    boss.channel.send(encode(Order(1, 0, 0, 64)))
    heard = [boss.hear()]
    while heard[-1] is not Idle:
        heard.append(boss.hear())
    assert heard == [Busy, MemoryUse, MemoryUse, Idle]
    assert boss.served == ["/0", "/1"]
    assert sampler.is_over
    sampler.close()


def test_who_has_grown_it_is_on_the_scoreboard(boss: Boss) -> None:
    grown = iter(range(0, 2**40, 2**20))
    sampler = MemorySampler(limit=2**40, step=2**20, anonymous=lambda: next(grown))
    boss.worker.sampler = sampler
    boss.arrive(7)
    boss.begin()
    while boss.hear() is not Busy:
        pass
    assert boss.hear() is MemoryUse
    assert boss.bank.read(0).grown.line == "GET /7"
    sampler.close()


# Who has waited for it


def await_event(sock: socket.socket, event: int) -> None:
    poll = select.poll()
    poll.register(sock, event)
    assert poll.poll(DEADLINE * 1000)


def reset(client: socket.socket) -> None:
    """Close it so that the other side is told at once (``socket(7)``, SO_LINGER)."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def age(seconds: float) -> t.Callable[[socket.socket], Arrival]:
    """A kernel that says that all have waited for so long."""
    return lambda sock: arrival(sock)._replace(age=seconds)


def test_queue_time_of_accepted_ones(
    boss: Boss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "tcp_arrival", age(0.75))
    boss.arrive(0)
    boss.begin()
    assert [boss.hear() for _ in range(3)] == [Idle, Busy, Idle]
    assert boss.queue_times == [0.75]
    record = boss.bank.read(0)
    assert record.queued == 0.75
    assert sum(boss.bank.durations(0).queue_times) == 1


def test_queue_time_is_of_the_kernel() -> None:
    with listen() as listener, connect(listener) as client:
        client.sendall(b"x")
        sent = time.monotonic()
        connection, _ = listener.accept()
        with connection:
            await_event(connection, select.POLLIN)
            # No wait for the age to be right, but for it to be any.
            while not (found := tcp_arrival(connection)).age:
                assert time.monotonic() < sent + DEADLINE
        # To the kernel's tick, of 10 ms at most.
        assert found.age <= time.monotonic() - sent + 0.01
        assert not found.is_gone


@pytest.mark.parametrize("boss", ["ordered"], indirect=True)
def test_no_queue_time_where_the_worker_has_waited(
    boss: Boss, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_readable_soon = boss.worker._is_readable_soon

    def wait(index: int) -> bool:
        boss.arrive(1)
        return is_readable_soon(index)

    monkeypatch.setattr(boss.worker, "_is_readable_soon", wait)
    monkeypatch.setattr(worker, "_MOMENT", DEADLINE * 1000)
    monkeypatch.setattr(worker, "tcp_arrival", age(0.75))
    boss.arrive(0)
    boss.begin()
    boss.channel.send(encode(Order(1, 0, 0, 2)))
    assert [boss.hear() for _ in range(3)] == [Idle, Busy, Idle]
    assert boss.queue_times == [0.75, 0.0]


def test_queue_time_of_parked_ones(boss: Boss) -> None:
    before = time.monotonic()
    boss.resume(boss.park(0), before - 5)
    boss.resume(boss.park(1))
    boss.resume(boss.park(2), before + 3600)
    boss.begin()
    assert [boss.hear() for _ in range(7)] == [Idle, *[Busy, Idle] * 3]
    waited, unknown, future = boss.queue_times
    assert 5 <= waited <= time.monotonic() - before + 5
    assert unknown == future == 0.0


def test_who_is_on_its_last_connection_hands_it_back_to_nobody(boss: Boss) -> None:
    """After the stop it is asked to retire, and its connection has its time here."""
    bank, contended = boss.bank, boss.worker.contended
    bank.set_stop(0)
    assert contended(), "others wait"
    bank.set_state(0, State.RETIRING.value)
    assert contended(), "another worker goes on with it"
    bank.set_draining()
    assert not contended()


def test_who_has_nothing_to_wait_by_is_never_idle(
    boss: Boss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as a start that failed, and there is a pause before the next one."""

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(worker, "Waiter", fail)
    with pytest.raises(OSError, match="No space"):
        boss.worker.run()
    boss.theirs.close()
    assert boss.channel.recv(1) == b""


def test_who_loses_descriptors_says_why_it_ends(
    boss: Boss, caplog: pytest.LogCaptureFixture
) -> None:
    parked = Parked(Wait.HEAD, time.monotonic() + 60)
    boss.channel.send(encode(Resume(1, 0, 0, parked)))
    boss.worker.run()
    assert boss.hear() is Idle
    assert "The worker ends: no descriptors are left" in caplog.text


def test_what_is_no_connection_is_closed_with_its_spool(boss: Boss) -> None:
    reader, writer = os.pipe()
    parked = Parked(Wait.BODY, time.monotonic() + 60, spooled=Size(1))
    with open(reader, "rb") as ours, open(os.devnull) as file:
        fds = [file.fileno(), writer]
        socket.send_fds(boss.channel, [encode(Resume(1, 0, 0, parked))], fds)
        os.close(writer)
        boss.begin()
        assert [boss.hear() for _ in range(3)] == [Idle, Busy, Idle]
        assert ours.read() == b""


def test_who_has_reset_is_not_served(boss: Boss) -> None:
    reset(boss.arrive(0))
    parked = boss.park(1)
    reset(boss.clients[-1])
    await_event(parked, select.POLLHUP)
    boss.resume(parked)
    boss.arrive(2)
    boss.begin()
    assert [boss.hear() for _ in range(5)] == [Idle, *[Busy, Idle] * 2]
    assert boss.served == ["/2"]


def test_who_only_sends_no_more_is_served(boss: Boss) -> None:
    accepted = boss.arrive(0)
    accepted.shutdown(socket.SHUT_WR)
    parked = boss.park(1)
    boss.clients[-1].shutdown(socket.SHUT_WR)
    await_event(parked, select.POLLRDHUP)
    boss.resume(parked)
    boss.begin()
    assert [boss.hear() for _ in range(3)] == [Idle, Busy, Idle]
    assert all(client.recv(100) for client in boss.clients)
    assert sorted(boss.served) == ["/0", "/1"]


def test_unix(tmp_path: Path) -> None:
    """Closed is gone; one direction isn't."""
    boss = Boss(path=str(tmp_path / "a.sock"), dispatch="blocking")
    try:
        gone, half_closed = boss.park(0), boss.park(1)
        boss.clients[0].close()
        boss.clients[1].shutdown(socket.SHUT_WR)
        boss.resume(gone)
        boss.resume(half_closed)
        boss.arrive(2).close()
        boss.arrive(3).shutdown(socket.SHUT_WR)
        boss.begin()
        assert [boss.hear() for _ in range(5)] == [Idle, *[Busy, Idle] * 2]
        assert boss.clients[3].recv(100)
        assert sorted(boss.served) == ["/1", "/3"]
        assert boss.queue_times == [0.0, 0.0]
    finally:
        boss.end()
