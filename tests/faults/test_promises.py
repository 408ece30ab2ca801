"""Connections are closed only after Connection: close.

The clients send a request as soon as they have the response to the last, on the same
connection, unless that response has said that it ends. Each request that meets a closed
connection counts as a broken promise.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from integration.conftest import Serve
from integration.server import wait_for

from .load import Load
from .load import Report

TWO = ("--min-idle", "2", "--max-workers", "2")
MODES = [
    pytest.param((), id="standing-orders"),
    pytest.param(("--run-length", "1"), id="run-length-1"),
    pytest.param(("--dispatch", "blocking"), id="blocking"),
]
KINDS = ["tcp", "tls", "unix"]


def tls(kind: str) -> tuple[str, ...]:
    return ("--cert", "adhoc") if kind == "tls" else ()


def at(kind: str, directory: Path) -> str | None:
    return f"unix://{directory}/sock" if kind == "unix" else None


def assert_kept(report: Report) -> None:
    """No promise was broken."""
    assert report.answered
    assert report.lost == []
    assert report.renewed == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_more_clients_than_workers(
    serve: Serve, tmp_path: Path, kind: str, mode: tuple[str, ...]
) -> None:
    """16 kept-alive clients on two workers, over TCP, TLS and unix sockets.

    They take turns. No connection is closed without ``Connection: close``.
    """
    server = serve("held", *TWO, *tls(kind), *mode, host=at(kind, tmp_path))
    with Load(server.url, 16, keep_alive=True) as load:
        load.wait_for_more(400)
    report = load.stop()
    assert_kept(report)
    assert report.refused == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_term(serve: Serve, tmp_path: Path, kind: str, mode: tuple[str, ...]) -> None:
    """TERM under the load of kept-alive clients.

    The last response on each connection has ``Connection: close``.
    """
    server = serve("held", *TWO, *tls(kind), *mode, host=at(kind, tmp_path))
    with Load(server.url, 8, keep_alive=True) as load:
        load.wait_for_more(100)
        server.signal(signal.SIGTERM)
        load.wait_for(lambda report: report.refused)
        assert server.wait() == 0
    assert_kept(load.stop())


@pytest.mark.parametrize("kind", KINDS)
def test_replaced_workers(serve: Serve, tmp_path: Path, kind: str) -> None:
    """HUP and ``--max-requests`` under the load of kept-alive clients.

    Connections continue with other workers, or their last response has ``Connection:
    close``.
    """
    args = ("--max-requests", "25", *tls(kind))
    server = serve("held", *TWO, *args, host=at(kind, tmp_path))
    with Load(server.url, 6, keep_alive=True) as load:
        load.wait_for_more(100)
        server.signal(signal.SIGHUP)
        server.wait_for_log("Generation 2 serves")
        load.wait_for_more(100)
    report = load.stop()
    assert_kept(report)
    assert report.refused == 0
    assert report.seen("generation") == {1, 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [3, 60_000, 200_000])
def test_bodies_that_nobody_reads(
    serve: Serve, tmp_path: Path, kind: str, size: int
) -> None:
    """Uploads that the app refuses without reading them. The body comes a moment after
    the header section.

    Every response arrives, and the connection continues unless it has ``Connection:
    close``.
    """
    server = serve("held", *TWO, *tls(kind), host=at(kind, tmp_path))
    with Load(server.url, 4, keep_alive=True, body=b"x" * size) as load:
        load.wait_for_more(100)
    report = load.stop()
    assert_kept(report)
    assert set(report.statuses) == {405}


def test_a_connection_that_idles_as_the_server_stops(serve: Serve) -> None:
    """TERM a fraction of a second before a client sends its next request.

    The request is answered with ``Connection: close``.
    """
    server = serve("held", *TWO)
    with Load(server.url, 4, keep_alive=True, gap=lambda: 0.05) as load:
        load.wait_for_more(20)
        server.signal(signal.SIGTERM)
        wait_for(lambda: not server.is_accepting())
        assert server.wait() == 0
    assert_kept(load.stop())
