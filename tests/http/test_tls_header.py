"""Connections that the TLS proxy hands over."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import typing as t
from pathlib import Path

import pytest
from harness import Line
from harness import parse
from harness import Site
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http import server as server_module
from flask_prefork.http.tls_header import read_tls_header
from flask_prefork.system.parked_state import Wait
from flask_prefork.system.proxy_protocol import CertificatePlace
from flask_prefork.system.proxy_protocol import from_tag
from flask_prefork.system.proxy_protocol import MalformedHeader
from flask_prefork.system.proxy_protocol import read_secured
from flask_prefork.system.proxy_protocol import Secured
from flask_prefork.system.proxy_protocol import Source

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
SOURCE = Source(True, "192.0.2.7", 1234)

ports = st.integers(0, 65535)
hosts = st.one_of(
    st.binary(min_size=4, max_size=4).map(socket.inet_ntoa),
    st.binary(min_size=16, max_size=16).map(
        lambda packed: socket.inet_ntop(socket.AF_INET6, packed)
    ),
)
sources = st.one_of(
    st.tuples(hosts, ports).map(lambda found: Source(True, *found)),
    st.just(Source(True)),
)
places = st.builds(CertificatePlace, ports, st.integers(0, 2**32 - 1))
certificates = st.tuples(places, st.binary(max_size=9000))


@given(sources, st.floats(0, 1e9), st.none() | certificates)
def test_headers(source: Source, arrived: float, shown: t.Any) -> None:
    certificate = None
    if shown is not None:
        place, certificate = shown
        source = source._replace(certificate=place)
    secured = Secured(source, arrived, certificate)
    assert read_secured(secured.header()) == secured
    assert from_tag(source.tag()) == source


@given(st.binary(max_size=60), sources)
def test_garbage(data: bytes, source: Source) -> None:
    """It is refused, and nothing else happens."""
    header = Secured(source, 1.0).header()
    for text in (data, header[:16] + data, header[:-1]):
        try:
            read_secured(text)
        except MalformedHeader:
            pass


def show(environ: t.Any, start_response: t.Any) -> list[bytes]:
    """An app that says whom a request is from."""
    start_response("200 OK", [])
    names = ("wsgi.url_scheme", "SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR")
    found = [environ[name] for name in (*names, "REMOTE_PORT")]
    found.append(str(environ["flask_prefork.queue_time"] > 5))
    found.append(environ.get("SSL_CLIENT_CERT", "nobody"))
    return [" ".join(map(str, found)).encode()]


@pytest.fixture
def make(make_site: t.Any, tmp_path: Path) -> t.Callable[..., Site]:
    def site(**options: t.Any) -> Site:
        return make_site(  # type: ignore[no-any-return]
            show,
            family=socket.AF_UNIX,
            path=str(tmp_path / "inside"),
            public_name=("203.0.113.1", 443),
            **options,
        )

    return site


@pytest.mark.parametrize("options", [{}, {"handler": WSGIRequestHandler}])
def test_whom_a_request_is_from(make: t.Any, options: t.Any) -> None:
    header = Secured(SOURCE, time.monotonic() - 10).header()
    (answer,) = make(**options).ask(header + CLOSE)
    assert answer.body == b"https 203.0.113.1 443 192.0.2.7 1234 True nobody"


def test_a_certificate(make: t.Any) -> None:
    source = SOURCE._replace(certificate=CertificatePlace(1, 2))
    header = Secured(source, time.monotonic(), b"any bytes").header()
    (answer,) = make().ask(header + CLOSE)
    pem = answer.body.partition(b"-----")
    assert ssl.PEM_cert_to_DER_cert((pem[1] + pem[2]).decode()) == b"any bytes"


def test_it_is_parked_with_what_is_known(make: t.Any) -> None:
    line = Line(make())
    line.send(Secured(SOURCE, time.monotonic()).header() + GET)
    parked = line.serve()
    assert parked.wait is Wait.KEEP_ALIVE
    assert from_tag(parked.tag) == SOURCE
    line.send(CLOSE)
    line.serve(parked)
    assert line.client.recv(65536).count(b"192.0.2.7 1234") == 2


HEADER = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)


@pytest.mark.parametrize("data", [b"", GET, HEADER, HEADER + GET])
def test_who_is_not_the_tls_proxy(make: t.Any, data: bytes) -> None:
    assert is_refused(make(), data)


def is_refused(site: Site, data: bytes) -> bool:
    """Whether a connection that begins so is closed without a word."""
    try:
        return site.exchange(data) == b""
    except ConnectionResetError:
        return True  # something was left unread


def test_another_user_is_not_either(
    make: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody on the machine can connect to a socket without a path."""
    monkeypatch.setattr(server_module.os, "getuid", lambda: 4_000_000)
    assert is_refused(make(), Secured(SOURCE, time.monotonic()).header() + GET)


def test_it_comes_in_a_moment() -> None:
    """The TLS proxy has connected, and not sent yet."""
    ours, theirs = socket.socketpair()
    secured = Secured(SOURCE, 1.0)
    with ours, theirs:
        thread = threading.Timer(0.05, ours.sendall, (secured.header() + GET,))
        thread.start()
        assert read_tls_header(theirs) == secured
        thread.join()
        assert theirs.recv(1000) == GET


def test_it_comes_in_pieces() -> None:
    secured = Secured(SOURCE, 1.0, b"no certificate, in fact" * 10)
    whole = secured.header()
    for cut in (5, 20, len(whole) - 1):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(whole[:cut])
            thread = threading.Timer(0.05, ours.sendall, (whole[cut:] + GET,))
            thread.start()
            assert read_tls_header(theirs) is not None
            thread.join()
            assert theirs.recv(1000) == GET


def test_an_answer_is_one(make: t.Any) -> None:
    data = make().exchange(Secured(SOURCE, time.monotonic()).header() + CLOSE)
    assert parse(data)[0].status == 200
