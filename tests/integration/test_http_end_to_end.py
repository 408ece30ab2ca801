"""The real command as clients see it: TLS, request handlers, limits, the log."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_ssl_devcert
from xprocess import XProcess

from .conftest import Serve
from .gate import DEADLINE
from .server import command
from .server import running
from .server import Server
from .server import wait_for

TWO = ("--min-idle", "2", "--max-workers", "2")
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def address(server: Server) -> tuple[str, int]:
    host, _, port = server.url.partition("://")[2].rpartition(":")
    return host, int(port)


@contextlib.contextmanager
def plain(server: Server) -> Iterator[socket.socket]:
    """A connection that knows nothing of TLS."""
    with socket.create_connection(address(server), DEADLINE) as sock:
        yield sock


@contextlib.contextmanager
def tls(server: Server) -> Iterator[http.client.HTTPSConnection]:
    """A connection that trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, port = address(server)
    connection = http.client.HTTPSConnection(
        host, port, timeout=DEADLINE, context=context
    )
    with contextlib.closing(connection):
        yield connection


def ask(connection: http.client.HTTPConnection, path: str = "/") -> tuple[int, bytes]:
    connection.request("GET", path)
    with connection.getresponse() as response:
        return response.status, response.read()


def read_to_end(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


# TLS


def test_tls_with_a_certificate_made_up(serve: Serve) -> None:
    server = serve("held", *TWO, "--cert", "adhoc")
    assert server.url.startswith("https://")
    with tls(server) as connection:
        assert ask(connection)[0] == 200
        first = connection.sock
        assert ask(connection, "/missing")[0] == 404
        assert connection.sock is first, "it was kept alive"


def test_tls_with_files(serve: Serve, tmp_path: Path) -> None:
    cert, key = make_ssl_devcert(str(tmp_path / "tls"), host="localhost")
    server = serve("held", *TWO, "--cert", cert, "--key", key)
    with tls(server) as connection:
        assert ask(connection)[0] == 200
        shown = connection.sock.getpeercert(binary_form=True)
    assert shown is not None
    assert ssl.DER_cert_to_PEM_cert(shown).split() == Path(cert).read_text().split()


def test_a_silent_tls_client_delays_nobody(serve: Serve) -> None:
    options = (*TWO, "--cert", "adhoc", "--header-timeout", "2")
    server = serve("held", *options)
    with plain(server) as silent:
        silent.send(b"\x16")  # the start of a hello
        for _ in range(5):
            with tls(server) as connection:
                assert ask(connection)[0] == 200
            server.wait_for_state("II")
        assert read_to_end(silent) == b"", "it has its deadline too"
    server.wait_for_log("No TLS handshake with 127.0.0.1: it took too long")
    server.wait_for_state("II")


def test_plain_text_on_a_tls_port(serve: Serve) -> None:
    server = serve("held", *TWO, "--cert", "adhoc")
    before = server.workers()
    with plain(server) as client:
        client.sendall(CLOSE)
        assert read_to_end(client).startswith(b"HTTP/1.1 400 ")
    server.wait_for_log("No TLS handshake with 127.0.0.1: it speaks plain HTTP")
    server.wait_for_state("II")
    assert server.log().count("No TLS handshake") == 1
    assert "Traceback" not in server.log()
    assert server.workers() == before
    with tls(server) as connection:
        assert ask(connection)[0] == 200


def test_an_idle_tls_connection_ends_when_the_server_is_told_to(serve: Serve) -> None:
    server = serve("held", *TWO, "--cert", "adhoc")
    with tls(server) as connection:
        assert ask(connection)[0] == 200
        server.signal(signal.SIGTERM)
        assert connection.sock.recv(1) == b""
        assert server.wait() == 0


def test_idle_tls_connections_are_parked(serve: Serve) -> None:
    server = serve("held", *TWO, "--cert", "adhoc", "--keep-alive", "600")
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            connection = stack.enter_context(tls(server))
            assert ask(connection)[0] == 200
        server.wait_for_state("II")


# Request handlers

HANDLERS = """
from werkzeug.serving import WSGIRequestHandler
from flask_prefork.http.server import PreforkRequestHandler


class Old(WSGIRequestHandler):
    def make_environ(self):
        return {**super().make_environ(), "PATH_INFO": "/missing"}


class New(PreforkRequestHandler):
    def make_environ(self):
        return {**super().make_environ(), "PATH_INFO": "/missing"}

    def version_string(self):
        return "house/1"
"""


@pytest.fixture
def handlers(tmp_path: Path) -> dict[str, str]:
    """Environment variables with which handlers can be imported."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    return {"PYTHONPATH": str(tmp_path)}


def test_werkzeugs_own_handler(serve: Serve) -> None:
    name = "werkzeug.serving:WSGIRequestHandler"
    server = serve("configured", *TWO, "--request-handler", name)
    for _ in range(5):
        answer = server.get()
        assert answer.status == 404
        assert answer.headers["Connection"] == "close"
    server.wait_for_state("II")
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("name", ["Old", "New"])
def test_a_handler_of_the_users(
    serve: Serve, handlers: dict[str, str], name: str
) -> None:
    server = serve("held", *TWO, "--request-handler", f"handlers:{name}", env=handlers)
    answers = [server.get() for _ in range(5)]
    assert {answer.status for answer in answers} == {404}
    if name == "New":
        assert {answer.headers["Server"] for answer in answers} == {"house/1"}
    server.wait_for_state("II")


# Limits


def head(path: str = "/", *fields: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *fields]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def status(server: Server, data: bytes) -> int:
    with plain(server) as client:
        client.sendall(data)
        return int(read_to_end(client).split()[1])


def test_limits(serve: Serve) -> None:
    server = serve(
        "held",
        *TWO,
        *("--limit-request-line", "80"),
        *("--limit-request-fields", "5"),
        *("--limit-request-field-size", "90"),
        *("--limit-request-body", "10"),
    )
    line = len("GET  HTTP/1.1")
    assert status(server, head("/" + "x" * (80 - line - 1))) == 404
    assert status(server, head("/" + "x" * (80 - line))) == 414
    assert status(server, head("/", *["X: y"] * 3)) == 200
    assert status(server, head("/", *["X: y"] * 4)) == 431
    assert status(server, head("/", "X: " + "y" * 87)) == 200
    assert status(server, head("/", "X: " + "y" * 88)) == 431
    posted = head("/", "Content-Length: 10", method="POST") + b"x" * 10
    assert status(server, posted) == 405
    posted = head("/", "Content-Length: 11", method="POST") + b"x" * 11
    assert status(server, posted) == 413
    server.wait_for_state("II")


# The access log

REQUESTS = [
    *(head(f"/status/{code}") for code in (200, 204, 302, 304, 404, 418, 503)),
    head("/anything?q=a%20b&c=d"),
    head("/anything/%C3%A9t%C3%A9/%1B%5B31m%7F"),
    head("/get", method="POST"),
    head("/get", method="HEAD"),
]


def access_lines(log: str) -> list[str]:
    """The lines of requests, without what the time was.

    Werkzeug's have colours in a file too, unless colorama is installed.
    """
    log = re.sub(r"\x1b\[\d+m", "", log)
    moment = r"\[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\]"
    lines = re.findall(rf"^(127\.0\.0\.1 - - ){moment}( .*)$", log, re.MULTILINE)
    return ["".join(parts) for parts in lines]


def test_the_access_log_is_that_of_flask_run(
    serve: Serve, xprocess: XProcess, tmp_path: Path
) -> None:
    ours = serve("httpbin:app", *TWO, "--access-log")
    line = command("httpbin:app", "--port", "0", subcommand="run")
    with running(xprocess, "flask-run", line, tmp_path) as theirs:
        for data in REQUESTS:
            assert status(ours, data) == status(theirs, data)
        logs = []
        for server in (ours, theirs):
            wait_for(lambda s=server: len(access_lines(s.log())) >= len(REQUESTS))
            logs.append(access_lines(server.log()))
    # Two workers have answered in turns, each of which writes its own lines.
    assert sorted(logs[0]) == sorted(logs[1])
    assert len(logs[0]) == len(REQUESTS)


def test_the_access_log_may_be_off(serve: Serve) -> None:
    server = serve("held", *TWO)
    for path in ("/", "/missing"):
        status(server, head(path))
    assert access_lines(server.log()) == []
