"""Connections that the app takes over: WebSockets of libraries as they are."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import struct
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from xprocess import XProcess

from .admin import Admin
from .conftest import Serve
from .server import command
from .server import running
from .server import Server
from .server import wait_for
from .websockets import SOCKET_IO
from .websockets import SocketIO
from .websockets import WebSocket
from .websockets import websocket

ONE = ("--min-idle", "1", "--max-workers", "1")
TWO = ("--min-idle", "1", "--max-workers", "2")


@pytest.fixture(params=["prefork-run", "run"])
def subcommand(request: pytest.FixtureRequest) -> str:
    """Ours, and werkzeug's server, which these libraries know."""
    return str(request.param)


@pytest.fixture
def start(
    subcommand: str, xprocess: XProcess, tmp_path: Path
) -> Iterator[t.Callable[[str], Server]]:
    with contextlib.ExitStack() as stack:

        def start(app: str) -> Server:
            line = command(app, "--port", "0", subcommand=subcommand)
            server = running(xprocess, f"websockets-{subcommand}", line, tmp_path)
            return stack.enter_context(server)

        yield start


def test_flask_sock(start: t.Any, subcommand: str) -> None:
    server = start("sockets")
    with websocket(server, "/echo") as client:
        for message in ("first", "é" * 1_000_000, bytes(3_000_000), ""):
            client.send(message)
            assert client.receive() == message
        # Under the other server a response may be in the middle of the last words.
        if subcommand == "prefork-run":
            client.close()
    with websocket(server, "/bye") as client:
        client.send("friend")
        assert client.receive_end() == (1000, "bye friend")
        if subcommand == "prefork-run":
            assert client.rest() == b""
    with websocket(server, "/ping") as client:
        assert client.receive() == "asked"
        client.send("answered")
        assert client.receive() == "True"
        client.ping()
        if subcommand == "prefork-run":
            client.close()
    with websocket(server, "/fail") as client:
        client.send("now")
        if subcommand == "prefork-run":
            assert client.receive_end()[0] == 1006
    server.wait_for_log("ZeroDivisionError: in the handler")
    assert server.log().count("Traceback") == 1
    # Who doesn't ask for a WebSocket gets no response of one.
    assert server.get("/echo").status == 400
    assert server.get("/").status == 200


def test_flask_socketio(start: t.Any) -> None:
    server = start("rooms")
    with websocket(server, SOCKET_IO) as connection:
        client = SocketIO(connection)
        client.say("say", "hello", number="7")
        got = {client.receive() for _ in range(3)}
        assert got == {
            '42["said","hello"]',
            '42["later","hello"]',
            '437["5 characters"]',
        }
        connection.send("41")
        connection.send("1")
    with websocket(server, SOCKET_IO) as connection:
        client = SocketIO(connection)
        client.say("leave")
        assert client.receive() == "41"
    assert server.get("/").status == 200
    assert "Traceback" not in server.log()


def test_error_of_a_handler_of_socketio(start: t.Any) -> None:
    server = start("rooms")
    with websocket(server, SOCKET_IO) as connection:
        client = SocketIO(connection)
        client.say("fail")
        server.wait_for_log("ZeroDivisionError: in the handler")
        # The connection is none the worse for it.
        client.say("say", "hello")
        assert "hello" in client.receive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_socketio_ends_when_its_worker_does(
    serve: Serve, number: signal.Signals
) -> None:
    server = serve("rooms", *ONE, "--graceful-timeout", "600")
    with websocket(server, SOCKET_IO) as connection:
        SocketIO(connection)
        server.signal(number)
        assert connection.receive_end()[0] in (1000, 1006)
    if number is signal.SIGTERM:
        assert server.wait() == 0
    else:
        wait_for(lambda: server.state().rest == "" and server.state().letters == "I")
        with websocket(server, SOCKET_IO) as connection:
            SocketIO(connection).say("say", "hello")
    assert "killed" not in server.log()
    assert "Traceback" not in server.log()


def test_by_hand(serve: Serve) -> None:
    server = serve("sockets", *ONE, "--access-log")
    with server._connect() as client:
        client.sendall(b"GET /raw HTTP/1.1\r\nHost: a\r\n\r\nearly ")
        client.sendall(b"late")
        client.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: client.recv(100), b""))
    assert said == b"by hand early late"
    server.wait_for_log('"GET /raw HTTP/1.1" 101 -')
    assert "Error" not in server.log()


# How they end


@pytest.fixture(params=["tcp", "tls", "unix"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Served:
    """A server that listens in some way.

    :param kind: In which way.
    """

    def __init__(self, serve: Serve, kind: str, path: Path, *args: str) -> None:
        self.context: ssl.SSLContext | None = None
        host = None
        if kind == "tls":
            args += ("--cert", "adhoc")
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.context.check_hostname = False
            self.context.verify_mode = ssl.CERT_NONE
        elif kind == "unix":
            host = f"unix://{path}"
        self.server = serve("sockets", *args, host=host)

    def open(self, path: str = "/echo") -> t.ContextManager[WebSocket]:
        return websocket(self.server, path, self.context)


def echo(client: WebSocket) -> None:
    client.send("still there")
    assert client.receive() == "still there"


def test_drain(serve: Serve, kind: str, tmp_path: Path) -> None:
    """Libraries see the connection's end, long before the graceful timeout."""
    served = Served(serve, kind, tmp_path / "s", *ONE, "--graceful-timeout", "600")
    with served.open() as client:
        echo(client)
        served.server.signal(signal.SIGTERM)
        assert client.receive_end()[0] == 1006
    assert served.server.wait() == 0
    assert "killed" not in served.server.log()
    assert "Traceback" not in served.server.log()


def test_reload(serve: Serve, kind: str, tmp_path: Path) -> None:
    served = Served(serve, kind, tmp_path / "s", *ONE, "--graceful-timeout", "600")
    with served.open() as old:
        echo(old)
        served.server.signal(signal.SIGHUP)
        served.server.wait_for_log("Generation 2 serves.")
        assert old.receive_end()[0] == 1006
    with served.open() as new:
        echo(new)
        wait_for(lambda: served.server.state().rest == "")
        echo(new)
    assert "killed" not in served.server.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_takes_no_notice_is_killed(serve: Serve, number: signal.Signals) -> None:
    server = serve("sockets", *ONE, "--graceful-timeout", "0.3")
    with websocket(server, "/stubborn") as client:
        assert client.receive() == "stubborn"
        server.signal(number)
        server.wait_for_log(r"while serving GET /stubborn was killed: ")
        assert client.receive_end()[0] == 1006
    if number is signal.SIGTERM:
        assert server.wait() == 0


def test_interrupt(serve: Serve) -> None:
    server = serve("sockets", *ONE, "--graceful-timeout", "600")
    with websocket(server, "/stubborn") as client:
        assert client.receive() == "stubborn"
        server.signal(signal.SIGINT)
        assert client.receive_end()[0] == 1006
    assert server.wait() == 0


def test_those_who_wait_are_served_by_who_drains(serve: Serve) -> None:
    """All workers have WebSockets: that they end is what makes room."""
    server = serve("sockets", *ONE, "--graceful-timeout", "600")
    with websocket(server, "/echo") as client:
        echo(client)
        waiting = server.send("/")
        wait_for(lambda: server.state().waiting)
        server.signal(signal.SIGTERM)
        assert waiting.answer().status == 200
        assert client.receive_end()[0] == 1006
    assert server.wait() == 0


def test_worker_is_killed(serve: Serve, kind: str, tmp_path: Path) -> None:
    served = Served(serve, kind, tmp_path / "s", *ONE)
    with served.open() as client:
        echo(client)
        (pid,) = served.server.workers()
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            assert client.receive_end()[0] == 1006
    with served.open() as client:
        echo(client)


def test_client_vanishes(serve: Serve, kind: str, tmp_path: Path) -> None:
    served = Served(serve, kind, tmp_path / "s", *ONE)
    for reset in (True, False):
        with served.open() as client:
            echo(client)
            if reset and kind != "unix":
                # Closing resets it then (socket(7)).
                client.sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
        served.server.wait_for_state("I")
    assert "Traceback" not in served.server.log()


def test_recycling(serve: Serve) -> None:
    """Who has served as many requests as it may keeps the last one's connection."""
    server = serve("sockets", *TWO, "--max-requests", "1")
    with websocket(server, "/echo") as client:
        echo(client)
        assert server.get("/").status == 200
        assert server.get("/").status == 200
        echo(client)
        client.close()
    assert server.get("/").status == 200


# Time, and what is told of them


def test_the_timeout_is_for_requests(serve: Serve) -> None:
    """Neither who is busy nor who is silent hears from it."""
    options = ("--timeout", "0.5", "--slow-log", "0.5", "--max-workers", "3")
    server = serve("sockets", *options)
    with websocket(server, "/echo") as busy, websocket(server, "/echo") as silent:
        with server.send("/hang").sock:
            # It began later than both.
            for _ in iter(lambda: "/hang for" in server.log(), True):
                echo(busy)
        server.wait_for_log("without progress for 0.5 s")
        echo(silent)
        echo(busy)
        silent.close()
        busy.close()
    assert "/echo for" not in server.log()


def test_silence_has_a_bound_of_its_own(
    serve: Serve, kind: str, tmp_path: Path
) -> None:
    served = Served(serve, kind, tmp_path / "s", *ONE, "--upgrade-timeout", "0.5")
    with served.open() as client:
        echo(client)
        assert client.receive_end()[0] == 1006
    served.server.wait_for_state("I")
    assert "killed" not in served.server.log()


def test_who_does_not_end_after_that_is_killed(serve: Serve) -> None:
    server = serve("sockets", *ONE, "--upgrade-timeout", "0.5")
    with websocket(server, "/stubborn") as client:
        assert client.receive() == "stubborn"
        assert client.receive_end()[0] == 1006
        server.wait_for_log(
            "while serving GET /stubborn was killed: silent for 0.5 s, and its view"
        )


def test_status(serve: Serve) -> None:
    server = serve("sockets", *TWO, "--admin", "0")
    admin = Admin(server)
    with websocket(server, "/echo") as client:
        echo(client)
        status = admin.wait_until(lambda s: any(w["upgraded"] for w in workers(s)))
        (worker,) = [w for w in workers(status) if w["upgraded"]]
        assert (worker["state"], worker["target"]) == ("B", "/echo")
        metrics = admin.get("/metrics").text
        assert "flask_prefork_upgraded_connections 1" in metrics
        client.close()
    status = admin.wait_until(lambda s: s["totals"]["classes"][1] == 1)
    assert not any(w["upgraded"] for w in workers(status))
    assert "flask_prefork_upgraded_connections 0" in admin.get("/metrics").text


def workers(status: t.Any) -> list[t.Any]:
    return [w for g in status["generations"] for w in g["workers"]]


def test_own_request_handler(serve: Serve) -> None:
    """Werkzeug's, which knows nothing of all this."""
    server = serve(
        "sockets", *ONE, "--request-handler", "werkzeug.serving:WSGIRequestHandler"
    )
    for _ in range(2):
        with websocket(server, "/echo") as client:
            echo(client)
            client.close()
            assert client.rest() == b""
    with websocket(server, "/bye") as client:
        client.send("friend")
        assert client.receive_end() == (1000, "bye friend")
        assert client.rest() == b""
    assert "Error" not in server.log()
