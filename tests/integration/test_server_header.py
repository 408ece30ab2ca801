"""--no-server-header, whoever answers."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import pytest
from werkzeug.serving import make_ssl_devcert

from .admin import Admin
from .conftest import Serve
from .gate import DEADLINE
from .gate import Gate
from .server import Server

ONE = ("--min-idle", "1", "--max-workers", "1")
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\n\r\n"
FIELD = b"\r\nServer: flask_prefork\r\n"


def ask(server: Server, data: bytes, *, tls: bool = False) -> bytes:
    """All that the server sends."""
    host, _, port = server.url.rpartition("/")[2].rpartition(":")
    with contextlib.ExitStack() as stack:
        sock = socket.create_connection((host, int(port)), DEADLINE)
        stack.enter_context(sock)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            sock = stack.enter_context(context.wrap_socket(sock))
        sock.sendall(data)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.fixture(params=["named", "hidden"])
def option(request: pytest.FixtureRequest) -> str:
    """With the field each answer has it, which is what the others are compared with."""
    return "--server-header" if request.param == "named" else "--no-server-header"


def is_right(option: str, answer: bytes) -> bool:
    return (
        (FIELD in answer)
        == (b"server:" in answer.lower())
        == (option == "--server-header")
    )


def test_the_app_and_what_it_never_sees(serve: Serve, option: str) -> None:
    server = serve("held", *ONE, option)
    for data, status in ((GET, b"200"), (BAD, b"400")):
        answer = ask(server, data)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert is_right(option, answer)


def test_who_is_refused_without_a_worker(serve: Serve, gate: Gate, option: str) -> None:
    server = serve("held", *ONE, "--queue-timeout", "0.3", option)
    request = server.send(gate.path)
    held = gate.wait_for_one()
    answer = ask(server, GET)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert is_right(option, answer)
    held.release()
    assert request.answer().status == 200


def test_over_tls(serve: Serve, tmp_path: Path, option: str) -> None:
    cert, key = make_ssl_devcert(str(tmp_path / "cert"), "localhost")
    server = serve("held", *ONE, "--cert", cert, "--key", key, option)
    for data, status in ((GET, b"200"), (BAD, b"400")):
        answer = ask(server, data, tls=True)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert is_right(option, answer)


@pytest.mark.parametrize(
    "env",
    [
        {"FLASK_PREFORK_RUN_SERVER_HEADER": "false"},
        {"CONFIG": '{"PREFORK_SERVER_HEADER": false}'},
    ],
)
def test_other_ways_to_set_it(serve: Serve, env: dict[str, str]) -> None:
    server = serve("configured", *ONE, env=env)
    assert b"server:" not in ask(server, GET).lower()


def test_the_status_names_the_server_all_the_same(serve: Serve) -> None:
    server = serve("held", *ONE, "--no-server-header", "--admin", "0")
    with contextlib.closing(Admin(server).connect()) as connection:
        connection.request("GET", "/livez")
        assert connection.getresponse().headers["Server"] == "flask_prefork"
