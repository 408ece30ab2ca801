"""What werkzeug's own handler reads and writes is told to the monitor."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import typing as t

import pytest
from harness import parse
from harness import read_all
from harness import RecordingMonitor
from harness import Site
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http.monitored_socket import MonitoredSocket
from flask_prefork.http.wire import Wire
from flask_prefork.system import slow_client

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"


class Counting(RecordingMonitor):
    """Counts what it is told between a request's begin and its end.

    :ivar news: Set at each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.news = threading.Event()

    def progress(self) -> None:
        if len(self.calls) == 1:
            self.count += 1
            self.news.set()

    def wait(self) -> None:
        assert self.news.wait(10)
        self.news.clear()


class Direct(WSGIRequestHandler):
    """Goes around the files."""

    def run_wsgi(self) -> None:
        self.server.context.monitor.begin("GET", "/", "")  # type: ignore[attr-defined]
        self.connection.send(b"?")
        for _ in range(2):
            self.connection.send(self.connection.recv(2))
        with open(__file__, "rb") as file:
            self.connection.sendfile(file, 0, 3)
        self.close_connection = True


def make(make_site: t.Any, app: t.Any, handler: t.Any, **options: t.Any) -> t.Any:
    site = make_site(app, handler=handler, **options)
    site.monitor = Counting()
    site.server.watch(site.monitor)
    return site


def test_bodies_and_pieces(make_site: t.Any) -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(4):
            yield environ["wsgi.input"].read(1)

    site = make(make_site, app, WSGIRequestHandler)
    with site.serving() as client:
        client.sendall(POST)
        for byte in b"abcd":
            # Each is read when the one before it was, and its answer is on its way.
            client.sendall(bytes([byte]))
            site.monitor.wait()
        client.shutdown(socket.SHUT_WR)
        (answer,) = parse(read_all(client))
    assert answer.body == b"abcd"
    assert site.monitor.count >= 8


def test_a_large_response_taken_slowly(make_site: t.Any) -> None:
    """The whole may take longer than a client may pause."""
    body = bytes(8 << 20)

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response("200 OK", [])
        return [body]

    site = make(make_site, app, WSGIRequestHandler, limits={"header_timeout": 0.3})
    with site.serving() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        data = bytearray()
        while received := client.recv(65536):
            data += received
    assert parse(bytes(data))[0].body == body
    assert site.monitor.count > 2


@pytest.mark.parametrize("kind", ["wire", "socket"])
def test_what_the_client_takes_is_progress(kind: str) -> None:
    """Before there is room for more, too."""
    ours, client = socket.socketpair()
    news = threading.Event()
    full = ours.dup()
    with client, full:
        size = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                size += full.send(b"x" * 4096, socket.MSG_DONTWAIT)
        if kind == "wire":
            one = Wire(ours, True, news.set)
            args = one.write, b"last", None, 240.0
        else:
            ours = monitored = MonitoredSocket.of(ours)
            monitored.progress = news.set
            monitored.begin_request(None, 240.0)
            args = monitored.sendall, b"last"
        thread = threading.Thread(target=args[0], args=args[1:])
        thread.start()
        for _ in range(2):
            news.clear()
            # Until it has looked at the queue, what is taken may be no news.
            while not news.wait(0.5):
                size -= len(client.recv(4096))
                assert not select.select([], [full], [], 0)[1]
        while size:
            size -= len(client.recv(size))
        assert client.recv(4) == b"last"
        thread.join(10)
        ours.close()


def test_a_handler_that_uses_its_socket(make_site: t.Any) -> None:
    site: Site = make(make_site, None, Direct)
    client, connection, address = site.connect()
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    thread = threading.Thread(target=site.follow, args=(connection, address))
    thread.start()
    # The file of what it reads has nothing of what follows.
    assert client.recv(1) == b"?"
    for part in (b"ab", b"cd"):
        client.sendall(part)
        assert client.recv(2) == part
    assert read_all(client) == b'"""'
    thread.join(10)
    assert t.cast(Counting, site.monitor).count >= 5


class Restless(RecordingMonitor):
    """Counts all that is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def progress(self) -> None:
        self.count += 1


def drip(client: socket.socket) -> bool:
    """Send a byte at a time, far more often than the client has to.

    :return: Whether the connection came to its end before the last of them.
    """
    client.settimeout(0.02)
    for _ in range(500):
        try:
            client.sendall(b"x")
            if not client.recv(65536):
                return True
        except TimeoutError:
            pass
        except OSError:
            return True
    return False


def test_a_head_has_a_deadline(make_site: t.Any) -> None:
    site = make_site(handler=WSGIRequestHandler, limits={"header_timeout": 1.0})
    monitor = Restless()
    site.server.watch(monitor)
    with site.serving() as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert drip(client)
    assert monitor.calls == []
    assert monitor.count == 0


def test_a_body_has_a_rate(make_site: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_client, "FIRST_CREDIT", 0.3)
    seen = []

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        with pytest.raises(TimeoutError) as caught:
            environ["wsgi.input"].read()
        seen.append(caught.value)
        start_response("408 Request Timeout", [])
        return []

    site = make_site(
        app, handler=WSGIRequestHandler, limits={"min_data_rate": 100_000.0}
    )
    with site.serving() as client:
        client.sendall(POST.replace(b": 4", b": 4000"))
        assert drip(client)
    assert len(seen) == 1


def test_a_body_may_pause_for_longer_than_a_head(make_site: t.Any) -> None:
    site = make_site(
        handler=WSGIRequestHandler,
        limits={"header_timeout": 0.2, "min_data_rate": 0.0},
    )
    with site.serving() as client:
        client.sendall(POST)
        client.settimeout(0.6)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        client.sendall(b"abcd")
        client.shutdown(socket.SHUT_WR)
        (answer,) = parse(read_all(client))
    assert answer.body == b"/|abcd"


def test_what_nobody_reads_has_a_deadline(make_site: t.Any) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response("403 Forbidden", [])
        return [b"no"]

    site = make_site(app, handler=WSGIRequestHandler, limits={"header_timeout": 0.3})
    monitor = Restless()
    site.server.watch(monitor)
    with site.serving() as client:
        client.sendall(POST.replace(b": 4", b": 4000") + b"some")
        assert drip(client)
    assert [call[0] for call in monitor.calls] == ["begin", "end"]


class Named(WSGIRequestHandler):
    """Calls its socket in all ways that it may."""

    def run_wsgi(self) -> None:
        sock = self.connection
        sock.settimeout(5)
        sock.send(b"?")
        buffer = bytearray(2)
        assert sock.recv_into(buffer, nbytes=1, flags=0) == 1
        data = bytes(buffer[:1])
        if isinstance(sock, ssl.SSLSocket):
            data += sock.recv(buflen=1, flags=0)
            sock.send(data=data, flags=0)
        else:
            data += sock.recvfrom(1)[0]
            sock.sendmsg([data])
        assert sock.gettimeout() == 5
        self.close_connection = True


def test_a_handler_that_names_its_arguments(make_site: t.Any) -> None:
    site = make_site(handler=Named)
    with site.serving() as client:
        client.sendall(POST)
        # The file of what it reads has nothing of what follows.
        assert client.recv(1) == b"?"
        client.sendall(b"ab")
        assert client.recv(2) == b"ab"
