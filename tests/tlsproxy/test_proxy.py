"""The TLS proxy with clients of all kinds; the test is the dispatcher."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import ssl
import struct
import threading
import time
import typing as t
from itertools import count
from pathlib import Path

import pytest

from flask_prefork.ipc.frames import Closed
from flask_prefork.system import polling
from flask_prefork.system.peers import parse
from flask_prefork.system.proxy_protocol import Source
from flask_prefork.system.socket_state import bytes_unread
from flask_prefork.tlsproxy import connection
from flask_prefork.tlsproxy import proxy
from flask_prefork.tlsproxy.session import Session

from .conftest import Harness
from .conftest import MakeHarness
from .conftest import trusting

#: More than all buffers together hold.
LONG = 16 << 20


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while part := sock.recv(65536):
        data += part
    return data


def test_both_ways(harness: Harness) -> None:
    client, plain = harness.open(b"a request")
    plain.sendall(b"a response")
    assert client.recv(100) == b"a response"
    client.sendall(b"another")
    assert plain.recv(100) == b"another"


def test_what_the_worker_is_told(harness: Harness) -> None:
    client = harness.client()
    client.sendall(b"GET")
    (source, arrived, certificate), _ = harness.take()
    assert (source.host, source.port) == client.getsockname()
    assert 0 < arrived <= time.monotonic()
    assert source.certificate is certificate is None


def test_who_is_silent_costs_nobody_anything(harness: Harness) -> None:
    silent = [harness.connect() for _ in range(20)]
    shaken = [harness.client() for _ in range(5)]
    harness.open()
    assert harness.is_empty()
    assert silent
    harness.wait_for(lambda: harness.counts.connections == 26)
    assert (harness.counts.full, harness.counts.failed) == (6, 0)
    assert shaken


@pytest.mark.parametrize("size", [1, 16384, 16385, LONG])
def test_sizes(harness: Harness, size: int) -> None:
    client, plain = harness.open()
    data = os.urandom(size)
    for sender, receiver in ((client, plain), (plain, client)):
        thread = threading.Thread(target=sender.sendall, args=(data,))
        thread.start()
        got = b""
        while len(got) < size:
            got += receiver.recv(1 << 20)
        thread.join()
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("side", ["client", "plain"])
def test_a_slow_side_slows_the_other_down(harness: Harness, side: str) -> None:
    client, plain = harness.open()
    sender, receiver = (plain, client) if side == "client" else (client, plain)
    sender.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += sender.send(bytes(65536))
    # What lies in kernels' buffers: TCP's grow up to some MB each.
    assert sent < 64 << 20
    held = next(iter(harness.proxy._connections))
    assert len(held._to_client) + len(held._to_plain) < 3 * connection.CHUNK
    got = 0
    while got < sent:
        got += len(receiver.recv(1 << 20))


# Ends


def test_the_server_ends(harness: Harness) -> None:
    client, plain = harness.open()
    plain.sendall(b"last")
    plain.close()
    assert read_all(client) == b"last"
    # The client was told the end, and not only cut off.
    client.suppress_ragged_eofs = False
    assert client.recv(1) == b""
    client.unwrap()
    harness.wait_for(
        lambda: harness.counts.full == 1 and not harness.counts.connections
    )
    assert harness.counts.cut == 0


def test_the_server_half_closes(harness: Harness) -> None:
    client, plain = harness.open()
    plain.shutdown(socket.SHUT_WR)
    assert read_all(client) == b""
    client.sendall(b"more")
    assert plain.recv(100) == b"more"


@pytest.mark.parametrize("notifies", [True, False])
def test_the_client_half_closes(harness: Harness, notifies: bool) -> None:
    client, plain = harness.open()
    if notifies:
        client.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()
    else:
        socket.socket.shutdown(client, socket.SHUT_WR)
    assert plain.recv(1) == b""
    plain.sendall(b"late")
    if not notifies:
        assert client.recv(100) == b"late"


@pytest.mark.parametrize("how", ["reset", "cut", "garbage"])
def test_a_client_that_breaks_off(harness: Harness, how: str) -> None:
    """What it has begun is no whole request; who serves it sees that at once."""
    client, plain = harness.open()
    raw = socket.socket(fileno=client.detach())
    if how == "reset":
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "cut":
        raw.sendall(b"\x17\x03\x03\x01\x00half a record")
    else:
        raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    raw.close()
    assert plain.recv(100) == b""
    with pytest.raises(BrokenPipeError):
        while True:
            plain.send(b"x")
    harness.wait_for(lambda: harness.counts.cut == 1)


def test_a_client_with_more_to_come_sees_the_end(harness: Harness) -> None:
    """A reset would cost it the response (RFC 9112, 9.6)."""
    client, plain = harness.open()
    plain.sendall(b"refused")
    plain.close()
    client.sendall(bytes(100_000))
    assert read_all(client) == b"refused"


def test_a_slow_client_gets_all_of_its_last_response(harness: Harness) -> None:
    client, plain = harness.open()
    sent, plain_end = 0, plain
    plain_end.settimeout(0.2)
    with pytest.raises(TimeoutError):
        while True:
            sent += plain_end.send(bytes(65536))
    plain_end.close()
    assert len(read_all(client)) == sent


def test_a_client_that_takes_nothing_more(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL", 0.2)
    client, plain = harness.open()
    plain.settimeout(0.2)
    with pytest.raises(TimeoutError):
        while True:
            plain.send(bytes(65536))
    plain.close()
    harness.wait_for(lambda: harness.counts.cut == 1)
    assert client


def test_the_server_ends_before_it_has_taken_all(harness: Harness) -> None:
    """It refuses an upload, and still takes what comes, as in HTTP/1.1 (RFC 9112,
    9.6): the client isn't cut off before it has the answer."""
    client, plain = harness.open()
    sending = threading.Thread(target=client.sendall, args=(bytes(3_000_000),))
    sending.start()
    # More has come than is passed on.
    pings = harness.pings
    harness.wait_for(lambda: harness.pings > pings + 1 and bytes_unread(plain.fileno()))
    plain.sendall(b"413")
    plain.shutdown(socket.SHUT_WR)
    taken = 0
    while taken < 3_000_000:
        taken += len(plain.recv(9000))
    sending.join()
    assert read_all(client) == b"413"
    client.close()
    harness.wait_for(lambda: not harness.counts.connections and harness.pings > 1)
    assert harness.counts.cut == 0


def test_a_connection_that_fails(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that nobody has foreseen costs one client its connection."""
    other, plain = harness.open()
    client = harness.client()

    def fail(self: object, buffer: memoryview) -> int:
        raise RuntimeError("nobody has foreseen this")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "decrypt_into", fail)
        client.sendall(b"GET")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert "nobody has foreseen this" in caplog.text
    other.sendall(b"more")
    assert plain.recv(10) == b"more"
    harness.wait_for(lambda: harness.counts.cut == 1)


def test_without_epoll(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "make", polling.SystemPoll)
    harness = make_harness()
    clients = [harness.open() for _ in range(3)]
    for client, plain in clients:
        client.sendall(b"more")
        assert plain.recv(10) == b"more"
        plain.sendall(bytes(300_000))
        plain.close()
        assert len(read_all(client)) == 300_000
        client.close()
    harness.wait_for(
        lambda: harness.counts.full == 3 and not harness.counts.connections
    )
    assert harness.counts.cut == 0


def test_silent_clients_make_room(
    make_harness: MakeHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Of those that have asked for nothing, the oldest are closed."""
    harness = make_harness(descriptors=32 + 20)
    silent = [harness.client() for _ in range(10)]
    for _ in range(5):
        client, plain = harness.open()
        plain.close()
        client.close()
    assert read_all(silent[0]) == b""
    assert caplog.text.count("descriptors of the TLS proxy are in use") == 1


# Handshakes


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_a_handshake_that_takes_too_long(
    make_harness: MakeHarness, hello: bytes
) -> None:
    harness = make_harness(timeout=0.2)
    client = harness.connect()
    client.sendall(hello)
    assert client.recv(100) == b""
    harness.wait_for(lambda: harness.counts.failed == 1)


def test_a_first_byte_that_takes_too_long(make_harness: MakeHarness) -> None:
    harness = make_harness(timeout=0.3)
    assert read_all(harness.client()) == b""
    harness.wait_for(
        lambda: harness.counts.full == 1 and not harness.counts.connections
    )


def test_what_is_no_tls(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    client = harness.connect()
    client.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
    read_all(client)
    harness.wait_for(lambda: harness.counts.failed == 1)
    assert "No TLS handshake with 127.0.0.1: WRONG_VERSION_NUMBER." in caplog.text


def test_much_comes_with_the_end_of_the_handshake(harness: Harness) -> None:
    """It isn't a part of it."""
    client = harness.connect()
    there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting().wrap_bio(there, here)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    client.sendall(here.read())
    while True:
        there.write(client.recv(65536))
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
    tls.write(bytes(16384))
    tls.write(bytes(16384))
    tls.write(bytes(16384))
    client.sendall(here.read())
    plain = harness.take().sock
    taken = 0
    while taken < 3 * 16384:
        taken += len(plain.recv(65536))


def test_a_hello_that_is_too_long(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused when it says how long it is, which is before it takes memory."""
    caplog.set_level("INFO")
    client = harness.connect()
    client.sendall(b"\x16\x03\x01\x40\x00\x01\x01\xd4\xc0")
    assert client.recv(100) == b""
    harness.wait_for(lambda: harness.counts.failed == 1)
    assert "No TLS handshake with 127.0.0.1: a handshake of 120000 byt" in caplog.text


@pytest.mark.parametrize("name", ["path", "abstract"])
def test_clients_of_unix_sockets_with_addresses(
    make_harness: MakeHarness, tmp_path: Path, name: str
) -> None:
    harness = make_harness(family=socket.AF_UNIX, address=str(tmp_path / "listener"))
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.bind(str(tmp_path / "own") if name == "path" else f"\0{os.getpid()}")
    client.connect(str(tmp_path / "listener"))
    with trusting().wrap_socket(client) as tls:
        tls.sendall(b"GET")
        header, plain = harness.take()
        assert header.source == Source(True, "", 0)
        assert plain.recv(10) == b"GET"


def test_plain_http(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """A status that the client can read, though it sends more."""
    caplog.set_level("INFO")
    client = harness.connect()
    client.sendall(b"POST / HTTP/1.1\r\n\r\n" + bytes(100_000))
    answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    client.sendall(bytes(100_000))
    client.close()
    harness.wait_for(lambda: harness.counts.failed == 1)
    assert "No TLS handshake with 127.0.0.1: it speaks plain HTTP." in caplog.text


def test_who_only_looks_whether_the_port_is_open(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no failure: neither without a byte, nor after the handshake."""
    caplog.set_level("INFO")
    harness.connect().close()
    raw = socket.socket(fileno=harness.connect().detach())
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    context = trusting()
    # The server's part of the handshake is the last one.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    raw = socket.socket(fileno=harness.client(context).detach())
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    harness.wait_for(
        lambda: harness.counts.full == 1 and not harness.counts.connections
    )
    assert (harness.counts.failed, harness.counts.cut) == (0, 0)
    assert not caplog.text


def fail(harness: Harness) -> None:
    """A client that leaves in its handshake."""
    client = harness.connect()
    client.sendall(b"\x16")
    client.close()


def test_of_many_failures_one_is_logged(
    harness: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    for _ in range(10):
        fail(harness)
    harness.wait_for(lambda: harness.counts.failed == 10)
    assert caplog.text.count("No TLS handshake") == 1
    monkeypatch.setattr(harness.proxy, "_log_at", 0.0)
    fail(harness)
    harness.wait_for(lambda: harness.counts.failed == 11)
    assert "9 more TLS connections have failed." in caplog.text


def test_tickets(harness: Harness) -> None:
    context = trusting()
    first = harness.client(context)
    first.sendall(b"GET")
    plain = harness.take().sock
    plain.sendall(b"x")
    # The tickets come with it.
    assert first.recv(1) == b"x"
    again = harness.client(context, session=first.session)
    assert again.session_reused
    harness.wait_for(lambda: harness.counts.resumed == 1)


def test_renegotiation(harness: Harness) -> None:
    context = trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = harness.client(context)
    # OpenSSL's clients can ask for one only by their command line.
    assert client.version() == "TLSv1.2"
    assert harness.proxy._context.options & ssl.OP_NO_RENEGOTIATION


def test_a_unix_socket(make_harness: MakeHarness, tmp_path: t.Any) -> None:
    harness = make_harness(family=socket.AF_UNIX, address=str(tmp_path / "sock"))
    client = harness.client()
    client.sendall(b"GET")
    source = harness.take().header.source
    assert source.known
    assert not source.host


# Proxies


def test_a_proxy_header(make_harness: MakeHarness) -> None:
    harness = make_harness(proxies=parse("127.0.0.1"))
    raw = harness.connect()
    raw.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 443\r")
    raw.sendall(b"\n")
    client = trusting().wrap_socket(raw)
    client.sendall(b"GET")
    (source, *_), plain = harness.take()
    assert (source.host, source.port) == ("192.0.2.7", 1234)
    assert plain.recv(10) == b"GET"
    client.close()
    plain.close()


@pytest.mark.parametrize("allowed", ["127.0.0.1", "192.0.2.1"])
def test_a_wrong_proxy(make_harness: MakeHarness, allowed: str) -> None:
    harness = make_harness(proxies=parse(allowed))
    client = harness.connect()
    client.sendall(b"\x16\x03\x01")
    try:
        assert client.recv(10) == b""
    except ConnectionResetError:
        pass


# The dispatcher


def test_pings(harness: Harness) -> None:
    harness.wait_for(lambda: harness.pings > 1)


def test_too_many_wait_for_workers(make_harness: MakeHarness) -> None:
    """Whoever finds the queue full waits, and nobody else is disturbed."""
    harness = make_harness(backlog=3)
    client, plain = harness.open()
    clients = [harness.client() for _ in range(10)]
    for number, one in enumerate(clients):
        one.sendall(b"%d" % number)
    socket.socket.shutdown(clients[-1], socket.SHUT_WR)
    client.sendall(b"more")
    assert plain.recv(10) == b"more"
    assert {harness.take().sock.recv(10) for _ in clients} == {
        b"%d" % number for number in range(10)
    }


def test_nobody_accepts_any_more(harness: Harness) -> None:
    client = harness.client()
    harness.inside.close()
    client.sendall(b"GET")
    with contextlib.suppress(ConnectionResetError):
        assert client.recv(10) == b""


def test_the_end(harness: Harness) -> None:
    """Nobody new is let in; who is, is served."""
    client, plain = harness.open()
    late = harness.client()
    harness.send(Closed())
    late.sendall(b"GET")
    handed = harness.take()
    assert not harness.closed
    harness.wait_for(lambda: harness.closed)
    handed.sock.close()
    plain.sendall(b"answer")
    assert client.recv(10) == b"answer"
    assert harness.thread.is_alive()
    plain.close()
    for one in (client, late):
        assert read_all(one) == b""
        one.close()
    harness.thread.join(20)
    assert not harness.thread.is_alive()


def test_the_dispatcher_dies(harness: Harness) -> None:
    client, plain = harness.open()
    opening = harness.client()
    harness.channel.close()
    assert read_all(opening) == b""
    plain.sendall(b"answer")
    plain.close()
    assert read_all(client) == b"answer"
    client.close()
    harness.thread.join(20)
    assert not harness.thread.is_alive()


class FullAtFirst(polling.SystemPoll):
    """A poll set in which there is no room for the listening socket at first."""

    def __init__(self) -> None:
        super().__init__()
        register, calls = self.register, count()

        def refuse(fd: int, events: int) -> None:
            # The first is the dispatcher's channel.
            if 1 <= next(calls) <= 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            register(fd, events)

        self.register = refuse


def test_the_system_has_no_room_for_the_listening_socket(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "make", FullAtFirst)
    harness = make_harness()
    client, plain = harness.open()
    plain.close()
    client.close()


def test_without_descriptors_nobody_is_accepted(make_harness: MakeHarness) -> None:
    harness = make_harness(descriptors=proxy._RESERVE + 5)
    first, second = harness.open(), harness.open()
    waiting = harness.connect()
    later = threading.Thread(target=first[0].close)
    plain = first[1]
    later.start()
    later.join()
    plain.close()
    client = trusting().wrap_socket(waiting)
    client.sendall(b"GET")
    harness.take()
    assert second
    client.close()
