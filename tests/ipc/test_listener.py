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
from flask_prefork.settings.addresses import Address
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
    assert text == (
        f"Can't listen on 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}. Port"
        f" {port} is in use by another program. Either identify and stop that program,"
        " or start the server with a different port."
    )


def test_port_5000_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sock: socket.socket, backlog: int) -> None:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    monkeypatch.setattr(sockets, "_listen", fail)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "AirPlay Receiver" not in refusal("127.0.0.1", 0)
    in_use = OSError(errno.EADDRINUSE, "in use")
    assert "AirPlay Receiver" in sockets._explain(in_use, "127.0.0.1", 5000)


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
    with pytest.raises(BindError, match="no.such.host.invalid") as caught:
        sockets.numeric("no.such.host.invalid")
    assert "give a name that the system knows, or an address such as" in str(
        caught.value
    )


def test_an_address_keeps_its_name() -> None:
    found = sockets.find(Address("localhost", 80))
    assert found == Address("127.0.0.1", 80, name="localhost")
    for other in (Address("127.0.0.1", 80), Address("", 0, "/s"), Address("", 0, fd=3)):
        assert sockets.find(other) == other


def test_address_of_another_machine() -> None:
    # TEST-NET-1 (RFC 5737, section 3).
    assert refusal("192.0.2.1", 80) == (
        f"Can't listen on 192.0.2.1:80: {os.strerror(errno.EADDRNOTAVAIL)}; this"
        " machine doesn't have it: give an address of its own, or 0.0.0.0 for all of"
        " them."
    )


@needs_ipv6
def test_a_port_without_brackets() -> None:
    text = refusal("::1:8000", 5000)
    assert text.startswith("Can't listen on [::1:8000]:5000: ")
    assert text.endswith(
        "or [::] for all of them. If its last part is a port, give [::1]:8000."
    )


@pytest.mark.parametrize(
    ("number", "host", "port", "right"),
    [
        (errno.EACCES, "127.0.0.1", 80, "give a port above 1023, or let systemd pass"),
        (errno.EPERM, "127.0.0.1", 1023, "give a port above 1023, or let systemd pass"),
        # Another rule of the system's forbids it.
        (errno.EACCES, "127.0.0.1", 8000, "Can't listen on 127.0.0.1:8000: refused."),
        (errno.EAFNOSUPPORT, "::1", 8000, "no IPv6: give an IPv4 address"),
        (errno.EADDRNOTAVAIL, "2001:db8::1", 8000, "or [::] for all of them"),
        (errno.EINVAL, "fe80::1", 8000, "such as [fe80::1%eth0]:8000"),
    ],
)
def test_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch, number: int, host: str, port: int, right: str
) -> None:
    def fail(family: int, kind: int) -> t.NoReturn:
        raise OSError(number, "refused")

    monkeypatch.setattr(sockets.socket_modes, "make", fail)
    text = refusal(host, port)
    assert text.startswith(f"Can't listen on {Address(host, port)}: refused")
    assert right in text


@needs_ipv6
@pytest.mark.parametrize("alone", [True, False])
def test_whether_ipv4_is_left_to_others(alone: bool) -> None:
    listener = bind("::", 0, 5, ipv6_only=alone)
    try:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port)).close()
            assert not alone
            return
        system = Path("/proc/sys/net/ipv6/bindv6only")
        assert alone or system.read_text() == "1\n"
    finally:
        listener.close()


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
    assert text.startswith(f"Can't listen on {path.absolute()}: another program does.")
    assert path.is_socket()
    listener.close()


def test_unix_path_of_a_file(path: Path) -> None:
    path.write_text("precious")
    assert "a file that is no socket is there. Give another" in refusal(f"unix:{path}")
    assert path.read_text() == "precious"
    path.unlink()
    path.mkdir()
    assert "it is a folder; give a path in it" in refusal(f"unix:{path}")


@pytest.mark.parametrize(
    ("name", "number", "right"),
    [
        ("no/such/s", errno.ENOENT, "there is no folder {}/no/such; make it first."),
        ("file/s", errno.ENOTDIR, "{}/file is no folder; give a path in one."),
    ],
)
def test_unix_path_that_cant_be(path: Path, name: str, number: int, right: str) -> None:
    path.with_name("file").touch()
    assert refusal(f"unix:{name}") == (
        f"Can't listen on {Path(name).absolute()}: {os.strerror(number)}:"
        f" {right.format(Path.cwd())}"
    )


@pytest.mark.parametrize(
    ("refused", "error", "right"),
    [
        ("bind", PermissionError(errno.EACCES, "no"), "no: the server's user must be"),
        ("bind", OSError(errno.ENOSPC, "full"), "/s: full."),
    ],
)
def test_unix_path_that_is_refused(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
    error: OSError,
    right: str,
) -> None:
    def refuse(*args: object) -> t.NoReturn:
        raise error

    monkeypatch.setattr(sockets.unix_access, refused, refuse)
    assert right in refusal(f"unix:{path}")


def test_a_stale_socket_that_cant_be_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> t.NoReturn:
        raise PermissionError(errno.EPERM, "sticky")

    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    monkeypatch.setattr(os, "unlink", refuse)
    assert "can't be removed: sticky. Remove it, or start" in refusal(f"unix:{path}")


def test_unix_path_that_is_too_long(open_: Open, path: Path) -> None:
    longest = sockets._MAX_PATH - len(os.fsencode(Path.cwd())) - 1
    open_(f"unix:{'x' * longest}")
    text = refusal(f"unix:{'x' * longest}x")
    bytes_ = sockets._MAX_PATH + 1
    assert f"too long: it has {bytes_} bytes, and {bytes_ - 1} are possible" in text
    assert "give a shorter one, such as unix:/run/shop.sock." in text
    # It is bytes that count.
    assert "too long" in refusal("unix:" + "\u00fc" * (longest // 2 + 1))


def check_refusal(path: Path | str, is_ours: bool = True) -> str:
    """Why a unix socket could not be made."""
    with pytest.raises(BindError) as caught:
        sockets.check_path(str(path), is_ours)
    return str(caught.value)


def test_a_check_of_a_unix_path_says_what_bind_says(path: Path) -> None:
    path.write_text("precious")
    long = "x" * (sockets._MAX_PATH + 1)
    path.with_name("link").symlink_to("nowhere")
    folder = path.parent.absolute()
    for wrong in (path, path / "s", "no/such/s", long, folder, folder / "link"):
        assert check_refusal(wrong) == refusal(f"unix:{wrong}")
    assert path.read_text() == "precious"


def test_a_check_of_a_unix_path_leaves_all_as_it_is(open_: Open, path: Path) -> None:
    sockets.check_path(str(path))
    assert not path.exists()
    listener = open_(f"unix:{path}")
    sockets.check_path(str(path))  # it is in use, which isn't asked
    listener.sock.close()
    sockets.check_path(str(path))
    assert path.is_socket()


def test_a_check_of_a_unix_path_without_rights(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert "the server's user must be allowed to write to" in check_refusal(path)
    # Somebody else is to make it, who may.
    sockets.check_path(str(path), is_ours=False)


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


def _shut_in_an_app(listener: Listener) -> None:
    with socket.socket(fileno=os.dup(listener.fd)) as shared:
        shared.shutdown(socket.SHUT_RDWR)


@needs_linux
def test_it_listens_again_after_somebody_else_has_ended_it(open_: Open) -> None:
    listener = open_()
    port, limit = listener.port, listener.limit()
    assert not listener.is_shut()
    _shut_in_an_app(listener)
    assert listener.is_shut()
    listener.listen_again()
    assert not listener.is_shut()
    assert (listener.port, listener.limit()) == (port, limit)
    connect(listener).close()


@needs_linux
def test_a_unix_socket_can_not_listen_again(open_: Open, path: Path) -> None:
    listener = open_(f"unix://{path}")
    _shut_in_an_app(listener)
    assert listener.is_shut()
    with pytest.raises(OSError, match="after transport endpoint shutdown"):
        listener.listen_again()


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
