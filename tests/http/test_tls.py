"""TLS: the handshake is bounded, and what follows is as on a plain connection."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
import time
import typing as t
from pathlib import Path

import pytest
from harness import parse
from harness import read_all
from harness import Site
from werkzeug.serving import make_ssl_devcert
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http import connection as connection_module
from flask_prefork.http.server import Limits
from flask_prefork.http.server import PreforkRequestHandler
from flask_prefork.http.tls import TLSWire
from flask_prefork.system import slow_client

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    path = tmp_path_factory.mktemp("tls")
    return make_ssl_devcert(str(path / "key"), host="localhost")


@contextlib.contextmanager
def tls(site: Site) -> t.Iterator[ssl.SSLSocket]:
    """A connection after its handshake, that a thread serves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with site.serving() as plain, context.wrap_socket(plain) as client:
        yield client


@pytest.fixture
def site(make_site: t.Any, certificate: tuple[str, str]) -> Site:
    site: Site = make_site(ssl_context=certificate)
    return site


def test_requests(site: Site) -> None:
    with tls(site) as client:
        client.sendall(GET + GET)
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
        for _ in range(3):
            client.sendall(b"x" * 100_000)
        client.sendall(CLOSE)
        first, second, third, fourth = parse(read_all(client))
    assert first == second
    assert third.body == b"/|" + b"x" * 300_000
    assert fourth.headers["connection"] == "close"
    assert site.results == [None]


def test_environ(make_site: t.Any, certificate: tuple[str, str]) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        assert "SSL_CLIENT_CERT" not in environ
        start_response("200 OK", [])
        return [environ["wsgi.url_scheme"].encode()]

    with tls(make_site(app, ssl_context=certificate)) as client:
        client.sendall(CLOSE)
        assert parse(read_all(client))[0].body == b"https"


def test_large_response(make_site: t.Any, certificate: tuple[str, str]) -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))

    with tls(make_site(app, ssl_context=certificate)) as client:
        client.sendall(CLOSE)
        assert parse(read_all(client))[0].body == Path(__file__).read_bytes()


def test_more_than_the_kernel_takes_at_once(
    make_site: t.Any, certificate: tuple[str, str]
) -> None:
    pieces = [bytes([i]) * 3_000_000 for i in range(4)]

    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        start_response("200 OK", [])
        return iter(pieces)

    with tls(make_site(app, ssl_context=certificate)) as client:
        client.sendall(CLOSE)
        assert parse(read_all(client))[0].body == b"".join(pieces)


def test_slow_reader_of_one_piece(
    make_site: t.Any, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_client, "GRACE", 0.2)
    piece = bytes(20_000_000)

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response("200 OK", [])
        return [piece]

    with tls(make_site(app, ssl_context=certificate)) as client:
        client.sendall(CLOSE)
        data = bytearray()
        while received := client.recv(1 << 20):
            data += received
            # In all more than the grace, but never so much at once.
            time.sleep(0.001)
        assert parse(bytes(data))[0].body == piece


def test_never_parked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_HELD_KEEP_ALIVE", 0.05)
    with tls(site) as client:
        client.sendall(GET[:5])
        client.sendall(GET[5:])
        assert len(parse(read_all(client))) == 1
    assert site.results == [None]


def test_ends_when_others_wait(site: Site) -> None:
    site.monitor.is_contended = True
    with tls(site) as client:
        client.sendall(GET)
        (answer,) = parse(read_all(client))
        assert answer.headers["connection"] == "close"


def test_refusal(site: Site) -> None:
    with tls(site) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100_000)
        assert [a.status for a in parse(read_all(client))] == [400]


def test_head_too_late(make_site: t.Any, certificate: tuple[str, str]) -> None:
    class Handler(PreforkRequestHandler):
        def setup(self) -> None:
            # The handshake, which may take its time, is over.
            self.server.context.limits = Limits(header_timeout=0.05)

    site = make_site(handler=Handler, ssl_context=certificate)
    with tls(site) as client:
        client.sendall(GET[:5])
        assert [a.status for a in parse(read_all(client))] == [408]


def test_plain_text_on_a_tls_port(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "werkzeug")
    with site.serving() as client:
        client.sendall(GET)
        # Without a reset.
        read_all(client)
    (record,) = caplog.records
    assert "no TLS handshake" in record.getMessage()
    assert site.results == [None] and site.monitor.calls == []


def test_silent_client(make_site: t.Any, certificate: tuple[str, str]) -> None:
    site = make_site(ssl_context=certificate, limits={"header_timeout": 0.05})
    with site.serving() as client:
        assert read_all(client) == b""
    assert site.results == [None]


def test_client_that_leaves(site: Site) -> None:
    with site.serving() as client:
        client.shutdown(socket.SHUT_WR)
        read_all(client)
    with tls(site) as client:
        client.sendall(GET[:5])
    with tls(site) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    assert site.results == [None] * 3


def test_stock_handler(make_site: t.Any, certificate: tuple[str, str]) -> None:
    class Handler(WSGIRequestHandler):
        pass

    site = make_site(handler=Handler, ssl_context=certificate)

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        return [environ["wsgi.url_scheme"].encode()]

    site.server.app = app
    with tls(site) as client:
        client.sendall(CLOSE)
        assert parse(read_all(client))[0].body == b"https"


def test_adhoc(make_site: t.Any) -> None:
    with tls(make_site(ssl_context="adhoc")) as client:
        client.sendall(CLOSE)
        assert parse(read_all(client))[0].status == 200


def test_listener_is_not_wrapped(site: Site) -> None:
    assert type(site.server.socket) is socket.socket
    assert isinstance(site.server.ssl_context, ssl.SSLContext)


def test_only_the_end_of_a_connection_makes_its_worker_free(site: Site) -> None:
    """It can't be parked."""
    calls: list[None] = []
    site.monitor.about_to_accept = lambda: calls.append(None)  # type: ignore[method-assign]
    with tls(site) as client:
        client.sendall(GET)
        assert client.recv(65536)
        assert not calls
        client.sendall(CLOSE)
        read_all(client)
    assert len(calls) == 1


def test_queue_time(
    make_site: t.Any, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handshake has waited for a worker, though the request comes after it."""
    times: list[float] = []
    clients: list[ssl.SSLSocket] = []

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        times.append(environ["flask_prefork.queue_time"])
        start_response("200 OK", [])
        return []

    def wait_more(self: TLSWire, *args: t.Any) -> None:
        asked.wait(10)
        while clients:
            clients.pop().sendall(CLOSE)
        wait_for_more(self, *args)

    asked = threading.Event()
    wait_for_more = TLSWire.wait_more
    monkeypatch.setattr(TLSWire, "wait_more", wait_more)
    monkeypatch.setattr("flask_prefork.http.server.bytes_unread", lambda fd: 1)
    site = make_site(app, ssl_context=certificate)
    serve = functools.partial(site.server.serve, queue_time=0.5)
    monkeypatch.setattr(site.server, "serve", serve)
    with tls(site) as client:
        clients.append(client)
        asked.set()
        assert parse(read_all(client))[0].status == 200
    assert times == [0.5]
