"""Who may still come in when a server stops."""

from __future__ import annotations

import errno
import io
import itertools
import socket
import subprocess
import sys
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterator

import pytest

from flask_prefork.ipc.listener import bind
from flask_prefork.system import syn_filter
from flask_prefork.system.syn_filter import Handshakes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
ADDRESSES = ["127.0.0.1", "::1"]


@pytest.fixture(params=ADDRESSES)
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as sock:
        yield sock


def begin(listener: socket.socket) -> socket.socket:
    """Begin to connect, and don't wait."""
    sock = socket.socket(listener.family)
    sock.setblocking(False)
    assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    return sock


def test_nobody_new_comes_in(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()[:2]) as inside:
        assert syn_filter.stop_accepting(listener)
        with begin(listener) as outside:
            # The one that was there before can be accepted, and heard.
            inside.sendall(b"hello")
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(5) == b"hello"
                accepted.sendall(b"bye")
                assert inside.recv(3) == b"bye"
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
            with pytest.raises(OSError) as caught:
                outside.getpeername()
            assert caught.value.errno == errno.ENOTCONN


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


Look = Callable[[], bool]


@pytest.fixture(params=["netlink", "proc"])
def look(
    request: pytest.FixtureRequest,
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Look]:
    """Looks again who is on the way in to the listener."""
    # As servers do: it can be accepted when it has sent something.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    clock = Clock()
    handshakes = Handshakes(listener, clock)
    if request.param == "proc":
        monkeypatch.setattr(handshakes._diag, "answers", False)

    def look() -> bool:
        clock.now += 1
        return handshakes.are_left()

    yield look
    assert handshakes._diag.answers is (request.param == "netlink")
    handshakes.close()


def ends(look: Look) -> bool:
    """Whether looks come to an end without finding anybody.

    The tables of ``/proc`` are read a part at a time, and other programs' connections
    are in them too.
    """
    return not all(look() for _ in range(10_000))


def finds(look: Look, request: pytest.FixtureRequest) -> bool:
    """Whether looks find somebody. One at ``/proc`` may miss who is there, see
    :func:`ends`."""
    if "netlink" in request.node.name:
        return look() and look()
    return any(look() for _ in range(100))


def test_who_is_on_the_way_in_is_awaited(
    listener: socket.socket, look: Look, request: pytest.FixtureRequest
) -> None:
    with (
        socket.create_connection(listener.getsockname()[:2]) as sock,
        socket.create_connection(listener.getsockname()[:2]) as other,
    ):
        syn_filter.stop_accepting(listener)
        for client in (sock, other):
            assert finds(look, request)
            client.sendall(b"x")
            accepted, _ = listener.accept()
            accepted.close()
        assert ends(look)


def test_who_comes_by_ipv4_to_a_listener_for_ipv6(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(
        ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
    ) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        handshakes = Handshakes(sock, time.monotonic)
        with socket.create_connection(("127.0.0.1", sock.getsockname()[1])):
            assert handshakes.are_left()
        handshakes.close()


def test_other_ports_are_no_matter(listener: socket.socket, look: Look) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        with (
            socket.create_connection(stranger.getsockname()),
            socket.create_connection(listener.getsockname()[:2]) as sock,
        ):
            sock.sendall(b"x")
            assert ends(look)


@pytest.fixture
def handshakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handshakes]:
    """Of an IPv4 listener at which nobody is, without netlink."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        handshakes = Handshakes(sock, Clock())
    monkeypatch.setattr(handshakes._diag, "answers", False)
    yield handshakes
    handshakes.close()


def test_once_nobody_is_left_nobody_looks(
    handshakes: Handshakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatcher asks in each of its turns."""
    looks = []
    monkeypatch.setattr(
        syn_filter, "_rows", lambda port: looks.append(port) or iter([])
    )
    for _ in range(3):
        assert not handshakes.are_left()
    assert len(looks) == 1


def test_looks_take_a_part_of_the_time(
    handshakes: Handshakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock: t.Any = handshakes._clock
    looks = []

    def greets(family: int, port: int) -> bool:
        looks.append(clock.now)
        clock.now += 0.05
        return True

    monkeypatch.setattr(handshakes._diag, "greets", greets)
    for _ in range(1000):
        assert handshakes.are_left()
        clock.now += 0.001
    pauses = [second - first for first, second in itertools.pairwise(looks)]
    assert 1 < len(looks) < 10
    assert all(0.25 <= pause < 0.3 for pause in pauses)


def test_a_long_table_is_read_in_parts(
    handshakes: Handshakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = b"%4d: 0100007F:%04X 0100007F:A0B0 01 " + b"0" * 113 + b"\n"
    table = io.BytesIO(b"".join(row % (n, handshakes._port) for n in range(40_000)))
    tables = {"/proc/net/tcp": table, "/proc/net/tcp6": io.BytesIO()}
    monkeypatch.setattr("builtins.open", lambda path, *_, **__: tables[path])
    clock: t.Any = handshakes._clock
    looks = before = 0
    while handshakes.are_left():
        looks += 1
        assert table.tell() - before <= syn_filter._BYTES
        before = table.tell()
        clock.now += 1
    assert looks == 40_000 * len(row % (0, 0)) // syn_filter._BYTES


def test_an_inherited_socket_is_left_alone(listener: socket.socket) -> None:
    inherited = bind(f"fd://{listener.fileno()}", 0, 5)
    inherited.stop_accepting()
    with socket.create_connection(listener.getsockname()[:2]):
        assert not inherited.has_pending_handshake()
    inherited.sock.detach()


@pytest.mark.parametrize(
    "call",
    [
        "handshakes.are_left()",
        "any(syn_filter._rows(1))",
        "handshakes._diag.unix_queue(1)",
        "reaper.Reaper(print).reap()",
    ],
)
def test_nothing_is_imported_once_the_rights_are_dropped(call: str) -> None:
    # After --user the interpreter's files may be out of reach.
    code = (
        "import encodings, socket, sys, time;"
        " from flask_prefork.system import reaper, syn_filter;"
        " handshakes = syn_filter.Handshakes(socket.create_server(('127.0.0.1', 0)),"
        f" time.monotonic); encodings.__path__ = sys.path[:] = []; {call}"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
