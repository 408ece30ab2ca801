"""Connections that begin with a PROXY header."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
import typing as t
from pathlib import Path

import pytest
from harness import arrive
from harness import Line
from harness import parse
from harness import read_all
from harness import Site
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.system import peers
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait

HEADER = b"PROXY TCP4 1.2.3.4 5.6.7.8 567 443\r\n"
HEADER_2 = (
    b"\r\n\r\n\x00\r\nQUIT\n"
    + struct.pack("!BBH", 0x21, 0x11, 12)
    + b"\1\2\3\4\5\6\7\x08\2\x37\1\xbb"
)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
    start_response("200 OK", [])
    return [f"{environ['REMOTE_ADDR']} {environ['REMOTE_PORT']}".encode()]


@pytest.fixture
def make(make_site: t.Any) -> t.Callable[..., Site]:
    def make(proxies: str = "127.0.0.1", **options: t.Any) -> Site:
        site: Site = make_site(app, proxies=peers.parse(proxies), **options)
        return site

    return make


def closed(site: Site, caplog: pytest.LogCaptureFixture, data: bytes) -> list[str]:
    """What is logged of a connection that is closed without an answer."""
    caplog.set_level("INFO", "werkzeug")
    caplog.clear()
    client, connection, address = site.connect()
    client.sendall(data)
    arrive(connection, len(data))
    client.shutdown(socket.SHUT_WR)
    site.follow(connection, address)
    with contextlib.suppress(ConnectionResetError):
        assert read_all(client) == b""
    assert not site.monitor.calls
    return [record.getMessage().partition("] ")[2] for record in caplog.records]


@pytest.mark.parametrize("header", [HEADER, HEADER_2])
def test_address(make: t.Any, header: bytes) -> None:
    answers = make().ask(header + GET + GET)
    assert [answer.body for answer in answers] == [b"1.2.3.4 567"] * 2


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP6 2001:db8::1 ::1 5 6\r\n", b"2001:db8::1 5"),
        (b"\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + bytes(216), b"<local> 0"),
    ],
)
def test_other_families(make: t.Any, header: bytes, client: bytes) -> None:
    (answer,) = make().ask(header + GET)
    assert answer.body == client


@pytest.mark.parametrize(
    "header", [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"]
)
def test_the_proxy_itself(make: t.Any, header: bytes) -> None:
    (answer,) = make().ask(header + GET)
    assert answer.body.startswith(b"127.0.0.1 ")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GET, "closed, no PROXY header"),
        (HEADER[:20], "closed, the PROXY header ended early"),
        (HEADER.replace(b"567", b"x") + GET, "closed, malformed PROXY header"),
        (b"\x1b[31m\x9b" + GET, "closed, no PROXY header"),
    ],
)
def test_closed(
    make: t.Any, caplog: pytest.LogCaptureFixture, data: bytes, reason: str
) -> None:
    assert closed(make(), caplog, data) == [reason]


def test_closed_to_others(make: t.Any, caplog: pytest.LogCaptureFixture) -> None:
    site = make("10.0.0.0/8,unix:")
    reason = "closed, not from a proxy of --proxy-allow-from"
    assert closed(site, caplog, HEADER + GET) == [reason]
    assert closed(make("*"), caplog, b"") == []


def test_a_second_header_is_none(make: t.Any) -> None:
    (answer,) = make().ask(HEADER + HEADER + GET)
    assert answer.status == 400


def test_unix(make: t.Any, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    site = make("unix:", family=socket.AF_UNIX, path=path)
    (answer,) = site.ask(HEADER + GET)
    assert answer.body == b"1.2.3.4 567"


# Parked


@pytest.mark.parametrize("header", [HEADER, HEADER_2])
def test_splits(make: t.Any, header: bytes) -> None:
    """Wherever it is split, the connection waits without a worker."""
    data = header + GET
    for count in range(len(data)):
        line = Line(make())
        line.send(data[:count])
        parked = line.serve()
        assert parked is not None
        assert parked.wait is Wait.HEAD
        taken = len(header) if count >= len(header) else 0
        assert parked.have == count - taken
        assert bool(parked.tag) == bool(taken)
        line.send(data[count:], parked.have)
        after = line.serve(parked)
        assert after is not None
        assert after.wait is Wait.KEEP_ALIVE
        assert parse(line.client.recv(65536))[0].body == b"1.2.3.4 567"


def test_kept_alive(make: t.Any) -> None:
    line = Line(make())
    line.send(HEADER + GET)
    parked = None
    for _ in range(3):
        parked = line.serve(parked)
        assert parse(line.client.recv(65536))[0].body == b"1.2.3.4 567"
        assert parked is not None and parked.wait is Wait.KEEP_ALIVE
        line.send(GET)


def test_the_server_goes_on_without_proxies(make: t.Any) -> None:
    """As after a reload with other settings: whom it knows it still knows."""
    line = Line(make())
    line.send(HEADER + GET)
    parked = line.serve()
    line.client.recv(65536)
    line.site.server.proxies = None
    line.send(GET)
    line.serve(parked)
    assert parse(line.client.recv(65536))[0].body == b"1.2.3.4 567"


def test_the_server_goes_on_with_proxies(make: t.Any) -> None:
    site = make()
    proxies, site.server.proxies = site.server.proxies, None
    line = Line(site)
    line.send(GET)
    parked = line.serve()
    line.client.recv(65536)
    site.server.proxies = proxies
    line.send(GET)
    line.serve(parked)
    assert parse(line.client.recv(65536))[0].body.startswith(b"127.0.0.1 ")


def test_one_deadline_for_header_and_head(make: t.Any) -> None:
    line = Line(make())
    line.send(HEADER[:9])
    first = line.serve()
    line.send(HEADER[9:] + GET[:9], 9)
    second = line.serve(first)
    assert first.deadline == second.deadline
    assert second.have == 9


def test_too_late(make: t.Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "werkzeug")
    line = Line(make())
    line.send(HEADER[:9])
    parked = line.serve()
    assert line.serve(parked._replace(deadline=time.monotonic())) is None
    (record,) = caplog.records
    assert record.getMessage().endswith("closed, the PROXY header took too long")
    # Who says nothing is closed without a word.
    line = Line(make())
    late = Parked(Wait.HEAD, time.monotonic())
    assert line.serve(late) is None
    assert len(caplog.records) == 1


# Who can't be parked


def test_stock_handler(make: t.Any) -> None:
    (answer,) = make(handler=WSGIRequestHandler).ask(HEADER + GET)
    assert answer.body == b"1.2.3.4 567"


# Beside X-Forwarded-*

TOLD = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n")


@pytest.mark.parametrize(
    ("forwarders", "client"),
    [
        # Whom the header names is who has sent the request.
        ("127.0.0.1", b"1.2.3.4 567"),
        ("1.2.3.4", b"9.9.9.9 0"),
    ],
)
def test_the_named_one_is_the_peer(make: t.Any, forwarders: str, client: bytes) -> None:
    (answer,) = make(forwarders=peers.parse(forwarders)).ask(HEADER + TOLD)
    assert answer.body == client


def test_a_named_unix_socket_is_not_ours(make: t.Any, tmp_path: Path) -> None:
    header = b"\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + bytes(216)
    site = make(
        "unix:",
        family=socket.AF_UNIX,
        path=str(tmp_path / "s"),
        forwarders=peers.parse("unix:"),
    )
    (answer,) = site.ask(header + TOLD)
    assert answer.body == b"<local> 0"
