"""Listening sockets of every kind."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.ipc import listener as sockets
from flask_prefork.ipc.listener import bind
from flask_prefork.ipc.listener import BindError
from flask_prefork.ipc.listener import Listener
from flask_prefork.ipc.listener import shut
from flask_prefork.system import sock_diag

Open = Callable[..., Listener]

needs_ipv6 = pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux counts what waits"
)


@pytest.fixture
def open_() -> Iterator[Open]:
    """:func:`.bind`, and the end of what it gave."""
    listeners = []

    def open_(host: str = "127.0.0.1", port: int = 0, backlog: int = 64) -> Listener:
        listener = bind(host, port, backlog)
        listeners.append(listener)
        return listener

    yield open_
    for listener in listeners:
        listener.close()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short name for a unix socket, in the current directory."""
    # sun_path takes about 100 bytes (unix(7)), temporary paths may be longer.
    monkeypatch.chdir(tmp_path)
    return Path("s")


def refusal(host: str, port: int = 0) -> str:
    """What the user is told."""
    with pytest.raises(BindError) as caught:
        bind(host, port, 1).close()
    return str(caught.value)


def connect(listener: Listener) -> socket.socket:
    return socket.create_connection(listener.sock.getsockname()[:2])


def accept(listener: Listener) -> socket.socket:
    """Take a connection that is there or about to be."""
    listener.sock.settimeout(10)
    connection, _ = listener.sock.accept()
    listener.sock.setblocking(False)
    return connection


# TCP


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        pytest.param("::1", "::1", marks=needs_ipv6),
    ],
)
def test_tcp(open_: Open, host: str, address: str) -> None:
    listener = open_(host)
    assert listener.sock.getsockname()[0] == address
    assert listener.port == listener.sock.getsockname()[1] > 0
    assert not listener.sock.getblocking()
    assert not os.get_inheritable(listener.fd)
    shown = f"[{address}]" if ":" in address else address
    assert listener.addresses("https") == [f"https://{shown}:{listener.port}"]
    with connect(listener) as client:
        client.sendall(b"x")
        with accept(listener) as connection:
            delay = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sys.platform != "linux" or delay


def test_all_addresses_are_told_with_one_to_click_on(open_: Open) -> None:
    listener = open_("0.0.0.0")
    assert listener.addresses("http") == [
        f"http://127.0.0.1:{listener.port}",
        f"all addresses (0.0.0.0), port {listener.port}",
    ]


def test_port_in_use(open_: Open) -> None:
    port = open_().port
    text = refusal("127.0.0.1", port)
    assert text.splitlines() == [
        os.strerror(errno.EADDRINUSE),
        f"Port {port} is in use by another program. Either identify and stop"
        " that program, or start the server with a different port.",
    ]


def test_port_5000_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sock: socket.socket, backlog: int) -> None:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    monkeypatch.setattr(sockets, "_listen", fail)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "AirPlay Receiver" not in refusal("127.0.0.1", 0)
    monkeypatch.setattr(sockets, "_bind_tcp", _in_use_at_5000)
    assert "AirPlay Receiver" in refusal("127.0.0.1", 5000)


def _in_use_at_5000(host: str, port: int, backlog: int) -> Listener:
    raise BindError(sockets._explain(OSError(errno.EADDRINUSE, "in use"), port))


def test_port_is_free_again_at_once(open_: Open) -> None:
    listener = open_()
    port = listener.port
    # The server's end closes first, and stays in TIME_WAIT.
    with connect(listener) as client:
        client.sendall(b"x")
        with accept(listener) as connection:
            connection.recv(1)
        assert not client.recv(1)
    listener.close()
    assert open_(port=port).port == port


@pytest.mark.parametrize("port", [-1, 65536, 2**40])
def test_port_that_is_none(port: int) -> None:
    text = refusal("127.0.0.1", port)
    assert str(port) in text and "0 to 65535" in text


@pytest.mark.parametrize("host", ["no.such.host.invalid", "300.1.1.1", "a" * 70, ":x"])
def test_host_that_is_none(host: str) -> None:
    text = refusal(host, 80)
    assert repr(host) in text and "\n" not in text


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0.0.0.0", "::1", "fe80::1%lo", "unix://s", "fd://3", ""]
)
def test_what_is_no_name_stays(host: str) -> None:
    assert sockets.numeric(host) == host


def test_a_name_becomes_a_number() -> None:
    assert sockets.numeric("localhost") == "127.0.0.1"
    with pytest.raises(BindError, match="no.such.host.invalid"):
        sockets.numeric("no.such.host.invalid")


def test_address_of_another_machine() -> None:
    # TEST-NET-1 (RFC 5737, section 3).
    assert os.strerror(errno.EADDRNOTAVAIL) in refusal("192.0.2.1")


def test_any_backlog_will_do(open_: Open) -> None:
    open_(backlog=2**31 - 1)


# How many wait


@needs_linux
def test_waiting_counts_tcp(open_: Open) -> None:
    listener = open_()
    assert listener.waiting() == 0
    clients = []
    for number in range(1, 6):
        client = connect(listener)
        # TCP_DEFER_ACCEPT keeps back who says nothing; the byte is there
        # when send() returns, as loopback delivers it.
        client.sendall(b"x")
        clients.append(client)
        assert listener.waiting() == number
    for number in (4, 3, 2, 1, 0):
        accept(listener).close()
        assert listener.waiting() == number
    for client in clients:
        client.close()


def test_waiting_says_some_where_the_system_doesnt_count(
    open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "other")
    listener = open_()
    assert listener.waiting() == 0
    with connect(listener) as one, connect(listener) as other:
        one.sendall(b"x")
        other.sendall(b"x")
        assert listener.waiting() == 1
        accept(listener).close()
        assert listener.waiting() == 1
        accept(listener).close()
        assert listener.waiting() == 0


@needs_linux
def test_waiting_when_the_system_stops_to_count(
    open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = open_()
    # No such option: as if the kernel knew nothing of it.
    monkeypatch.setattr(socket, "TCP_INFO", 9999)
    with connect(listener) as client:
        client.sendall(b"x")
        assert listener.waiting() == 1
    accept(listener).close()
    assert listener.waiting() == 0


# unix


def test_unix(open_: Open, path: Path) -> None:
    listener = open_(f"unix://{path}")
    assert listener.port == 0
    assert listener.addresses("http") == [f"unix://{path.absolute()}"]
    assert listener.waiting() == 0
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert listener.waiting() == 1
        accept(listener).close()
        assert listener.waiting() == 0
    listener.close()
    assert not path.exists()


@needs_linux
def test_waiting_counts_at_unix_sockets(open_: Open, path: Path) -> None:
    listener = open_(f"unix://{path}", backlog=7)
    assert listener.limit() == 7
    with contextlib.ExitStack() as clients:
        for number in range(1, 6):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
            assert listener.waiting() == number
        for number in range(4, -1, -1):
            accept(listener).close()
            assert listener.waiting() == number


@pytest.mark.parametrize("why", ["forbidden", "unknown"])
def test_waiting_at_unix_sockets_without_netlink(
    open_: Open, path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    listener = open_(f"unix://{path}")
    if why == "forbidden":

        def refuse() -> t.NoReturn:
            raise PermissionError

        monkeypatch.setattr(sock_diag, "_open", refuse)
    else:
        # No such file, as if it were another network namespace's.
        listener._inode = 0
    clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for client in clients:
        client.connect(str(path))
        assert listener.waiting() == 1
    for left in (1, 1, 0):
        accept(listener).close()
        assert listener.waiting() == left
    assert listener.limit() == 0
    for client in clients:
        client.close()


def test_unix_socket_that_a_killed_server_left(open_: Open, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    assert path.is_socket()
    open_(f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("full", [False, True], ids=["free", "full"])
def test_unix_socket_in_use(open_: Open, path: Path, full: bool) -> None:
    listener = open_(f"unix://{path}", backlog=0)
    with socket.socket(socket.AF_UNIX) as client:
        if full:
            client.connect(str(path))
        text = refusal(f"unix://{path}")
    assert str(path.absolute()) in text and "another program" in text
    assert path.is_socket()
    listener.close()


def test_unix_path_of_a_file(path: Path) -> None:
    path.write_text("precious")
    assert "no socket" in refusal(f"unix://{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("no/such/directory/s", errno.ENOENT),
        ("file/s", errno.ENOTDIR),
    ],
)
def test_unix_path_that_cant_be(path: Path, name: str, number: int) -> None:
    path.with_name("file").touch()
    assert os.strerror(number) in refusal(f"unix://{name}")


def test_unix_path_that_is_too_long(path: Path) -> None:
    assert "too long" in refusal(f"unix://{'x' * 120}")


def test_close_removes_only_its_own_socket(open_: Open, path: Path) -> None:
    listener = open_(f"unix://{path}")
    # Another server took the name over.
    path.rename("old")
    open_(f"unix://{path}")
    listener.close()
    assert path.is_socket()


def test_close_when_the_socket_was_removed(open_: Open, path: Path) -> None:
    listener = open_(f"unix://{path}")
    path.unlink()
    listener.close()


# Inherited


@pytest.mark.parametrize("listening", [True, False])
def test_inherited(open_: Open, listening: bool) -> None:
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        if listening:
            given.listen()
        os.set_inheritable(given.fileno(), True)
        listener = open_(f"fd://{os.dup(given.fileno())}")
        assert listener.inherited
        assert not listener.sock.getblocking()
        assert not os.get_inheritable(listener.fd)
        with connect(listener) as client:
            client.sendall(b"x")
            accept(listener).close()
        # Whoever gave it goes on listening.
        listener.shut()
        listener.close()
        with socket.create_connection(given.getsockname()):
            pass


def test_inherited_unix_socket_is_not_removed(open_: Open, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        listener = open_(f"fd://{os.dup(given.fileno())}")
        assert listener.addresses("http") == [f"unix://{path}"]
        listener.close()
    assert path.is_socket()


@pytest.mark.parametrize("number", ["", "x", "-1", "3.0", "²", " 3"])
def test_inherited_that_is_no_number(number: str) -> None:
    assert "fd://3" in refusal(f"fd://{number}")


def test_inherited_that_is_not_open() -> None:
    fd = os.dup(2)
    os.close(fd)
    assert os.strerror(errno.EBADF) in refusal(f"fd://{fd}")
    assert "no descriptor" in refusal(f"fd://{2**70}")


def test_inherited_that_is_no_socket() -> None:
    with open(os.devnull) as file:
        assert "no socket" in refusal(f"fd://{file.fileno()}")
        os.fstat(file.fileno())


def test_inherited_that_is_no_stream() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as given:
        assert "no stream socket" in refusal(f"fd://{given.fileno()}")
        os.fstat(given.fileno())


def test_inherited_that_is_a_connection() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert str(ours.fileno()) in refusal(f"fd://{ours.fileno()}")
        os.fstat(ours.fileno())


# The end


def test_shut_ends_listening_for_all_who_share_it(open_: Open) -> None:
    listener = open_()
    with socket.socket(fileno=os.dup(listener.fd)) as shared:
        listener.shut()
        listener.close()
        if sys.platform == "linux":
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(shared.getsockname())


def test_shut_ends_who_waits_for_a_unix_socket(open_: Open, path: Path) -> None:
    listener = open_(f"unix://{path}")
    with socket.fromfd(listener.fd, socket.AF_UNIX, socket.SOCK_STREAM):
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in waiting:
            client.settimeout(20)
            client.connect(str(path))
        listener.shut()
        for client in waiting:
            assert client.recv(1) == b""
            client.close()


def test_shut_does_not_wait_as_long_as_the_app_likes(open_: Open, path: Path) -> None:
    listener = open_(f"unix://{path}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(2)
    try:
        with socket.socket(fileno=os.dup(listener.fd)) as shared:
            assert shared.gettimeout() == 2
            shut(shared)
            # It would have gone round and round.
            assert shared.gettimeout() == 0
    finally:
        socket.setdefaulttimeout(before)
