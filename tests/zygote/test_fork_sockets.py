"""Connections that a fork would share, and whose they are."""

from __future__ import annotations

import contextlib
import errno
import gc
import http.client
import logging.handlers
import os
import socket
import ssl
import struct
import tempfile
import threading
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_ssl_devcert

from flask_prefork.zygote.fork_sockets import find
from flask_prefork.zygote.fork_sockets import Renewed

#: How long a thread may wait for what must come, in seconds.
DEADLINE = 20
#: What a module's variable holds, for the length of a test.
held: socket.socket | None = None
#: And another one.
held_too: socket.socket | None = None


class Peer:
    """A server that accepts connections.

    :param sock: Listens.
    :param shown: How its address is told.
    """

    def __init__(self, sock: socket.socket, shown: str) -> None:
        self.sock = sock
        self.shown = f"a connection to {shown}"

    def connect(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        sock = socket.socket(self.sock.family, kind)
        sock.connect(self.sock.getsockname())
        return sock

    def told(
        self, renewed: t.Iterable[Renewed] = (), explained: t.Collection[str] = ()
    ) -> list[str]:
        """What is told of connections to it, without what to do."""
        findings = find(set(), renewed, gc.get_objects(), explained)
        return [
            finding.partition(";")[0]
            for finding in findings
            if finding.startswith(self.shown)
        ]


@pytest.fixture
def peer() -> Iterator[Peer]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield Peer(sock, f"127.0.0.1:{sock.getsockname()[1]}")


@pytest.fixture
def folder() -> Iterator[Path]:
    # A unix socket's path has to be short.
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def unix_peer(folder: Path) -> Iterator[Peer]:
    with listening(str(folder / ".s.PGSQL.5432")) as sock:
        yield Peer(sock, f"unix:{folder}/.s.PGSQL.5432")


def listening(address: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(address)
    if kind != socket.SOCK_DGRAM:
        sock.listen()
    return sock


# Sockets without a peer


def told_of(sock: socket.socket) -> list[str]:
    """What is told because of a socket."""
    with_it = find(set(), (), gc.get_objects(), ())
    sock.close()
    without = find(set(), (), gc.get_objects(), ())
    return [finding for finding in with_it if finding not in without]


def test_one_that_listens(peer: Peer) -> None:
    (finding,) = told_of(peer.sock)
    assert "all workers would accept from it" in finding


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_one_that_is_new(kind: int) -> None:
    assert told_of(socket.socket(socket.AF_INET, kind)) == []


def test_one_that_listens_where_the_system_does_not_tell(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = socket.socket.getsockopt

    def getsockopt(sock: socket.socket, level: int, option: int) -> int:
        if option == socket.SO_ACCEPTCONN:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        return original(sock, level, option)

    monkeypatch.setattr(socket.socket, "getsockopt", getsockopt)
    (finding,) = told_of(peer.sock)
    assert "all workers would accept from it" in finding
    assert told_of(socket.socket()) == []


def test_one_that_has_lost_its_peer(peer: Peer) -> None:
    sock = peer.connect()
    accepted, _ = peer.sock.accept()
    # So it isn't closed in order, but reset (socket(7)).
    linger = struct.pack("ii", 1, 0)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    accepted.close()
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    assert told_of(sock) == []


def test_one_that_the_peer_has_ended(peer: Peer) -> None:
    """As a server does after a time; not if it has said something before."""
    for last, is_told in ((b"", False), (b"the end", True)):
        sock = peer.connect()
        accepted, _ = peer.sock.accept()
        with accepted:
            accepted.sendall(last)
            assert len(peer.told()) == 1
        assert bool(told_of(sock)) is is_told


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_one_that_the_peer_has_ended_by_tls(
    peer: Peer, folder: Path, version: ssl.TLSVersion
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*make_ssl_devcert(str(folder / "key"), host="localhost"))
    # Tickets are more data, which a client reads with the first answer.
    server.num_tickets = 0
    shaken = threading.Event()

    def serve() -> None:
        accepted, _ = peer.sock.accept()
        with server.wrap_socket(accepted, server_side=True) as wrapped:
            shaken.wait(DEADLINE)
            wrapped.settimeout(0)
            # The client says nothing, so it can't be waited for.
            with contextlib.suppress(ssl.SSLWantReadError):
                wrapped.unwrap()

    thread = threading.Thread(target=serve)
    thread.start()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.minimum_version = client.maximum_version = version
    with client.wrap_socket(peer.connect()):
        assert len(peer.told()) == 1
        shaken.set()
        thread.join()
        assert peer.told() == []


def test_who_sends_datagrams_only() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        handler = logging.handlers.SysLogHandler(receiver.getsockname())
        handler.emit(logging.makeLogRecord({"msg": "loaded"}))
        assert handler.socket.getsockname()[1]
        assert told_of(handler.socket) == []


def test_one_that_is_about_to_connect(peer: Peer) -> None:
    """As a library's thread may be at any time: it has an address already."""
    peer.sock.listen(0)
    with peer.connect():
        sock = socket.socket()
        sock.setblocking(False)
        # Nobody takes it: the queue is full.
        assert sock.connect_ex(peer.sock.getsockname()) == errno.EINPROGRESS
        assert sock.getsockname()[1]
        assert told_of(sock) == []


# Unix sockets


def test_a_connection_to_a_unix_socket(unix_peer: Peer) -> None:
    assert unix_peer.told() == []
    with unix_peer.connect():
        assert len(unix_peer.told()) == 1
    assert unix_peer.told() == []


def test_an_abstract_address() -> None:
    name = f"prefork-{os.getpid()}"
    with listening("\0" + name) as sock:
        peer = Peer(sock, f"unix:@{name}")
        with peer.connect():
            assert len(peer.told()) == 1


def test_a_log_takes_datagrams_from_everybody(folder: Path) -> None:
    with listening(str(folder / "log"), socket.SOCK_DGRAM) as sock:
        peer = Peer(sock, f"unix:{folder}/log")
        with peer.connect(socket.SOCK_DGRAM):
            assert peer.told() == []


def test_the_servers_end_and_pairs_have_no_name(unix_peer: Peer) -> None:
    known = find(set(), [], gc.get_objects(), [])
    ours, theirs = socket.socketpair()
    with ours, theirs, unix_peer.connect(), unix_peer.sock.accept()[0]:
        news = set(find(set(), [], gc.get_objects(), [])) - set(known)
        assert len(news) == 1


# What is of no harm


def test_mended_connections_are_counted(peer: Peer, unix_peer: Peer) -> None:
    port = peer.sock.getsockname()[1]
    renewed = [Renewed({port, ".s.PGSQL.5432"}, 2)]
    with peer.connect(), unix_peer.connect():
        assert len(peer.told()) == len(unix_peer.told()) == 1
        assert peer.told(renewed) == unix_peer.told(renewed) == []
        with peer.connect():
            assert len(peer.told(renewed) + unix_peer.told(renewed)) == 1


def test_what_another_finding_explains(peer: Peer) -> None:
    holder = make("pymongo.synchronous", "Connection")
    holder.sock = peer.connect()
    with holder.sock:
        assert len(peer.told()) == 1
        assert peer.told(explained={"pymongo"}) == []
        assert len(peer.told(explained={"mongo"})) == 1


# Whose they are


def make(module: str, name: str) -> t.Any:
    """An object of a class of some library."""
    return type(name, (), {"__module__": module})()


def test_an_attribute(peer: Peer) -> None:
    holder = make("shop", "Client")
    holder.sock = peer.connect()
    with holder.sock:
        assert peer.told() == [f"{peer.shown} (shop.Client) is open"]
        # It has a dictionary from now on, which holds the socket instead.
        assert vars(holder)
        assert peer.told() == [f"{peer.shown} (shop.Client) is open"]


def test_a_slot(peer: Peer) -> None:
    slots = {"__module__": "shop", "__slots__": ("sock",)}
    holder: t.Any = type("Slotted", (), slots)()
    holder.sock = peer.connect()
    with holder.sock:
        assert peer.told() == [f"{peer.shown} (shop.Slotted) is open"]


def test_a_variable_of_a_module(peer: Peer) -> None:
    global held
    with peer.connect() as held:
        assert peer.told() == [f"{peer.shown} ({__name__}.held) is open"]
    held = None


def test_who_has_no_name(peer: Peer) -> None:
    things = [peer.connect()]
    with things[0]:
        assert peer.told() == [f"{peer.shown} is open"]


def test_the_library_is_named_and_not_its_insides(peer: Peer) -> None:
    sock = peer.connect()
    inside, outside = make("shop._parser", "A"), make("shop.client", "Client")
    inside.sock = outside.sock = sock
    with sock:
        assert peer.told() == [f"{peer.shown} (shop.client.Client) is open"]


def test_the_standard_library_is_named_if_nobody_else(peer: Peer) -> None:
    connection = http.client.HTTPConnection(*peer.sock.getsockname())
    connection.connect()
    try:
        assert peer.told() == [f"{peer.shown} (http.client.HTTPConnection) is open"]
        holder = make("shop", "Client")
        holder.sock = connection.sock
        assert peer.told() == [f"{peer.shown} (shop.Client) is open"]
    finally:
        connection.close()


def test_each_has_its_own(peer: Peer) -> None:
    holders = [make("shop", name) for name in ("One", "Two", "Three")]
    for holder in holders:
        holder.sock = peer.connect()
    told = peer.told()
    for holder in holders:
        holder.sock.close()
    expected = {
        f"{peer.shown} (shop.{name}) is open" for name in ("One", "Two", "Three")
    }
    assert set(told) == expected
    assert len(told) == 3


def test_each_variable_has_its_own(peer: Peer) -> None:
    global held, held_too
    with peer.connect() as held, peer.connect() as held_too:
        assert sorted(peer.told()) == [
            f"{peer.shown} ({__name__}.held) is open",
            f"{peer.shown} ({__name__}.held_too) is open",
        ]
    held = held_too = None


class Foreign:
    """In the place of a connection whose socket is no object of Python's.

    :param fd: Its descriptor; none when it is closed.
    """

    def __init__(self, fd: int | None) -> None:
        self.fd = fd

    def fileno(self) -> int:
        if self.fd is None:
            raise LookupError("it is closed")
        return self.fd


Foreign.__module__ = "psycopg2.extensions"
Foreign.__qualname__ = "connection"


def test_connections_of_libraries_in_c(peer: Peer) -> None:
    fd = peer.connect().detach()
    connection, closed = Foreign(fd), Foreign(None)
    try:
        named = "psycopg2.extensions.connection"
        assert peer.told() == [f"{peer.shown} ({named}) is open"]
        pool = make("psycopg2.pool", "AbstractConnectionPool")
        pool._pool = [closed, connection]
        named = "psycopg2.pool.AbstractConnectionPool"
        assert peer.told() == [f"{peer.shown} ({named}) is open"]
    finally:
        os.close(fd)


def test_idle_connections_of_redis(peer: Peer) -> None:
    """Its pool drops them in a child; who has one that is in use would share it."""
    idle, used, closed = (make("redis.connection", "Connection") for _ in range(3))
    idle._sock, used._sock, closed._sock = peer.connect(), peer.connect(), None
    pool = make("redis.connection", "ConnectionPool")
    pool._available_connections = [closed, idle]
    pool._in_use_connections = {used}
    with idle._sock, used._sock:
        assert peer.told() == [f"{peer.shown} (redis.connection.Connection) is open"]
