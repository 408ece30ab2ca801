"""The server on the admin address, and clients that would keep others out."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
import threading
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from flask_prefork.observe import admin_server as module
from flask_prefork.observe.admin_server import AdminServer

#: Nothing that a test connection for takes so long, in seconds, unless it's broken.
DEADLINE = 20.0
ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Site:
    """A site whose requests wait until they are let go.

    :ivar body: What it answers.
    """

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = threading.Semaphore(0)
        self.body = b"ok"

    def __call__(self, environ: object, start_response: t.Any) -> list[bytes]:
        self.inside.release()
        self.open.wait(DEADLINE)
        start_response("200 OK", [("Content-Length", str(len(self.body)))])
        return [self.body]


class Ended(Exception):
    """Of a thread that has none."""


class Listener(socket.socket):
    """A listening socket that can end the thread that accepts.

    :ivar last: The next connection is the sign for it.
    :ivar errors: What is raised instead of accepting, in order.
    """

    last = False
    errors: t.ClassVar[list[int]] = []

    def accept(self) -> tuple[socket.socket, t.Any]:
        if self.last:
            raise Ended
        if self.errors:
            raise OSError(self.errors.pop(0), "")
        return super().accept()


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client is given up for being slow while a test runs."""
    patient = dataclasses.replace(
        module._LIMITS, header_timeout=600.0, keep_alive=600.0, min_data_rate=0.0
    )
    monkeypatch.setattr(module, "_LIMITS", patient)


@pytest.fixture(params=["tcp", "unix"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    is_unix = request.param == "unix"
    with Listener(socket.AF_UNIX if is_unix else socket.AF_INET) as listener:
        listener.bind(str(tmp_path / "admin") if is_unix else ("127.0.0.1", 0))
        listener.listen(128)
        listener.setblocking(False)
        yield listener


@pytest.fixture
def connect(listener: Listener) -> Iterator[Callable[[bytes], socket.socket]]:
    """Connects, and sends something."""
    with contextlib.ExitStack() as stack:

        def connect(data: bytes) -> socket.socket:
            sock = stack.enter_context(socket.socket(listener.family))
            sock.settimeout(DEADLINE)
            sock.connect(listener.getsockname())
            sock.sendall(data)
            return sock

        yield connect


@pytest.fixture
def server(
    limits: None, site: Site, listener: Listener, connect: object
) -> Iterator[AdminServer]:
    """It lets clients in to the site."""
    before = threading.active_count()
    server = AdminServer(t.cast(t.Any, site), listener)

    def run() -> None:
        with contextlib.suppress(Ended):
            server.run()

    thread = threading.Thread(target=run)
    thread.start()
    yield server
    listener.last = True
    site.open.set()
    with socket.socket(listener.family) as sock:
        sock.connect(listener.getsockname())
        thread.join()
    for client in [*server._active]:
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)
    # Who has served is done with the bell as well.
    wait_for(lambda: threading.active_count() <= before)
    for client in [*server._finished, *server._idle.values()]:
        client.sock.close()
    server._poller.close()
    server._wake_up.close()
    server._wake_up_end.close()


def answer(sock: socket.socket) -> bytes:
    """Read one response's body."""
    connection = HTTPConnection("localhost")
    connection.sock = sock
    response = connection.response_class(sock)
    response.begin()
    assert response.status == 200
    return response.read()


def is_left_waiting(sock: socket.socket) -> bool:
    """Whether it was told nothing yet, nor closed."""
    sock.setblocking(False)
    try:
        return not (sock.recv(1) or True)
    except BlockingIOError:
        return True
    except OSError:
        return False


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


Connect = t.Callable[[bytes], socket.socket]


@pytest.mark.parametrize("kept", [False, True])
def test_so_many_are_served_at_once(
    monkeypatch: pytest.MonkeyPatch,
    site: Site,
    server: AdminServer,
    connect: Connect,
    kept: bool,
) -> None:
    monkeypatch.setattr(module, "THREAD_TIME", 600.0)
    ask = ASK if kept else ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    clients = [connect(ask) for _ in range(module.MAX_THREADS + 1)]
    for _ in range(module.MAX_THREADS):
        assert site.inside.acquire(timeout=DEADLINE)
    wait_for(server.contended)
    assert not site.inside.acquire(blocking=False), "the last one waits"
    site.open.set()
    # The last one comes in although others could keep their places.
    assert [answer(client) for client in clients] == [b"ok"] * len(clients)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("said", [b"", ASK[:-2], ASK])
def test_who_waits_for_its_client_keeps_nobody_out(
    site: Site, connect: Connect, said: bytes
) -> None:
    """Whether it says nothing, not all, or nothing more."""
    site.open.set()
    others = [connect(said) for _ in range(3 * module.MAX_THREADS)]
    if said == ASK:
        assert {answer(other) for other in others} == {b"ok"}
    assert answer(connect(ASK)) == b"ok"
    assert all(is_left_waiting(other) for other in others)


@pytest.mark.usefixtures("server")
def test_a_head_in_pieces(site: Site, connect: Connect) -> None:
    site.open.set()
    client = connect(ASK[:1])
    for byte in ASK[1:]:
        client.sendall(bytes([byte]))
    assert answer(client) == b"ok"
    client.sendall(2 * ASK)
    assert answer(client) == b"ok"


@pytest.mark.usefixtures("server")
def test_the_longest_idle_are_closed(
    monkeypatch: pytest.MonkeyPatch, site: Site, connect: Connect
) -> None:
    """Those go that have waited for the longest time."""
    monkeypatch.setattr(module, "MAX_WAITING", 4)
    site.open.set()
    clients = [connect(b"") for _ in range(8)]
    assert answer(connect(ASK)) == b"ok"
    assert clients[0].recv(1) == b""
    clients[-1].sendall(ASK)
    assert answer(clients[-1]) == b"ok"


def test_who_does_not_read_its_answer_is_shown_out(
    site: Site, server: AdminServer, connect: Connect
) -> None:
    """But only when somebody else connection for the thread."""
    site.body = bytes(32 << 20)
    site.open.set()
    for _ in range(module.MAX_THREADS):
        connect(ASK)
    for _ in range(module.MAX_THREADS):
        assert site.inside.acquire(timeout=DEADLINE)
    site.body = b"ok"
    assert answer(connect(ASK)) == b"ok"


def test_as_many_are_shown_out_as_wait(
    monkeypatch: pytest.MonkeyPatch, site: Site, server: AdminServer, connect: Connect
) -> None:
    """The others stay, however long their threads take."""
    inside = [connect(ASK) for _ in range(module.MAX_THREADS)]
    for _ in inside:
        assert site.inside.acquire(timeout=DEADLINE)
    monkeypatch.setattr(module, "THREAD_TIME", 0.0)
    clients = [connect(ASK), connect(ASK)]
    wait_for(lambda: len(server._active) <= module.MAX_THREADS - 2)
    wait_for(lambda: not server._without_thread())
    site.open.set()
    for client in clients:
        assert answer(client) == b"ok"
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(client.makefile("rb")) for client in inside]
        assert sum(not file.readline() for file in files) == 2


@pytest.mark.parametrize(
    ("number", "makes_room"),
    [
        (errno.EMFILE, True),
        (errno.ENFILE, True),
        (errno.ENOMEM, True),
        (errno.EAGAIN, False),
        (errno.ECONNABORTED, False),
    ],
)
def test_an_accept_that_fails(
    monkeypatch: pytest.MonkeyPatch,
    site: Site,
    server: AdminServer,
    connect: Connect,
    number: int,
    makes_room: bool,
) -> None:
    """Without descriptors the longest idle is closed; otherwise nobody is."""
    site.open.set()
    oldest = connect(b"")
    wait_for(lambda: server._parked)
    monkeypatch.setattr(Listener, "errors", [number])
    assert answer(connect(ASK)) == b"ok"
    if makes_room:
        assert oldest.recv(1) == b""
    else:
        assert is_left_waiting(oldest)


def test_who_takes_too_long_is_told(
    monkeypatch: pytest.MonkeyPatch, site: Site, server: AdminServer, connect: Connect
) -> None:
    """If it has said anything."""
    hasty = dataclasses.replace(module._LIMITS, header_timeout=0.05)
    monkeypatch.setattr(module, "_LIMITS", hasty)
    monkeypatch.setattr(server._server.context, "limits", hasty)
    assert connect(ASK[:-2]).recv(12) == b"HTTP/1.1 408"
    assert connect(b"").recv(12) == b""


def test_a_full_house_sends_nobody_away(
    monkeypatch: pytest.MonkeyPatch, site: Site, server: AdminServer, connect: Connect
) -> None:
    """Those who wait for a thread don't cost the others their place."""
    monkeypatch.setattr(module, "MAX_WAITING", 8)
    monkeypatch.setattr(module, "_BATCH", 1)
    monkeypatch.setattr(module, "THREAD_TIME", 600.0)
    silent = [connect(b"") for _ in range(4)]
    clients = [connect(ASK) for _ in range(module.MAX_THREADS + 8)]
    wait_for(lambda: len(server._parked.ready) == 8)
    clients.append(connect(ASK))
    # It isn't let in before the others were.
    site.open.set()
    assert [answer(client) for client in clients] == [b"ok"] * len(clients)
    assert all(map(is_left_waiting, silent))


@pytest.mark.usefixtures("server")
def test_requests_in_a_row_take_turns(site: Site, connect: Connect) -> None:
    """All are answered, though none keeps its thread while others wait."""
    site.open.set()
    clients = [connect(40 * ASK) for _ in range(2 * module.MAX_THREADS)]
    for client in clients:
        with client.makefile("rb") as file:
            heads = [*iter_answers(file, 40)]
        assert heads == [b"HTTP/1.1 200 OK\r\n"] * 40


def iter_answers(file: t.BinaryIO, count: int) -> Iterator[bytes]:
    """The first lines of so many responses."""
    for _ in range(count):
        yield file.readline()
        while file.readline() != b"\r\n":
            pass
        assert file.read(2) == b"ok"
