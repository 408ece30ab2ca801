"""Limits of routes, with real servers."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import struct
import threading
import typing as t
from collections.abc import Iterator
from concurrent.futures import Future
from socket import MSG_PEEK

import pytest
from faults.load import Client as AnyClient

from .conftest import Fail
from .conftest import Serve
from .conftest import Shared
from .gate import DEADLINE
from .gate import Gate
from .kept_alive import Client
from .server import Request
from .server import Server

FOUR = ("--min-idle", "4", "--max-workers", "4")
MODES = [
    pytest.param((), id="ordered"),
    pytest.param(("--dispatch", "blocking"), id="blocking"),
]


def assert_nobody_else(server: Server, gate: Gate) -> None:
    """Nobody more runs: another route was served by every worker meanwhile."""
    for _ in range(8):
        assert server.get().status == 200
    assert gate.is_empty()


def answers(requests: t.Iterable[Request]) -> set[int]:
    return {request.answer().status for request in requests}


@pytest.mark.parametrize("mode", MODES)
def test_never_more_than_the_limit(
    shared: Shared, gate: Gate, mode: tuple[str, ...]
) -> None:
    server = shared("limited", *FOUR, *mode)
    requests = [server.send(gate.path) for _ in range(7)]
    for _ in range(3):
        held = gate.wait_for(2)
        assert_nobody_else(server, gate)
        for one in held:
            one.release()
    gate.wait_for_one().release()
    assert answers(requests) == {200}
    server.wait_for_state("IIII")


def test_a_limit_of_the_configuration(shared: Shared, gate: Gate) -> None:
    server = shared("limited", *FOUR)
    path = f"?gate={gate.port}"
    requests = [server.send(f"/others/{name}{path}") for name in ("a", "b%20", "c")]
    for _ in requests:
        held = gate.wait_for_one()
        assert_nobody_else(server, gate)
        held.release()
    assert answers(requests) == {200}


@pytest.mark.parametrize("size", [10, 60_000, 3_000_000])
@pytest.mark.parametrize("kind", ["length", "chunked", "slow"])
def test_bodies(shared: Shared, gate: Gate, size: int, kind: str) -> None:
    """What waits for a permit is the whole request."""
    server = shared("limited", *FOUR)
    body = os.urandom(size)
    requests = []
    for _ in range(3):
        request = Request(server._connect())
        server.requests.append(request)
        send(request.sock, gate.path, body, kind)
        requests.append(request)
    held = gate.wait_for(2)
    assert_nobody_else(server, gate)
    for one in held:
        one.release()
    gate.wait_for_one().release()
    for request in requests:
        assert request.answer().json["body"] == hashlib.sha256(body).hexdigest()


def send(sock: socket.socket, path: str, body: bytes, kind: str) -> None:
    framing = f"Content-Length: {len(body)}"
    if kind == "chunked":
        framing = "Transfer-Encoding: chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framing}\r\n\r\n"
    sock.sendall(head.encode())
    if kind == "slow":
        sock.sendall(body[:1])
        body = body[1:]
    sock.sendall(body)


def test_kept_alive_clients(shared: Shared, gate: Gate) -> None:
    """A permit ends with the request, not with the connection."""
    server = shared("limited", *FOUR)
    clients = [Client(server) for _ in range(4)]
    data = f"GET {gate.path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    for client in clients:
        client.send(data)
    for _ in range(2):
        held = gate.wait_for(2)
        assert_nobody_else(server, gate)
        for one in held:
            one.release()
    assert {client.read().status for client in clients} == {200}
    for client in clients:
        assert client.ask().status == 200
        client.close()


@pytest.mark.parametrize("how", ["killed", "left", "HUP"])
def test_who_has_a_permit_or_waits_ends(serve: Serve, gate: Gate, how: str) -> None:
    server = serve("limited", *FOUR, "--graceful-timeout", "600")
    first = [server.send(gate.path) for _ in range(2)]
    held = gate.wait_for(2)
    waiting = [server.send(gate.path) for _ in range(2)]
    assert_nobody_else(server, gate)
    if how == "killed":
        os.kill(held[0].pid, signal.SIGKILL)
        held[0].wait_until_dead()
    elif how == "left":
        # Over TCP, only a reset shows that nobody is there.
        linger = struct.pack("ii", 1, 0)
        waiting[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        waiting.pop(0).sock.close()
        held[0].release()
    else:
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"^Generation 2 serves")
        # Those of the old generation count.
        assert_nobody_else(server, gate)
        held[0].release()
    next_one = gate.wait_for_one()
    assert_nobody_else(server, gate)
    held[1].release()
    if how != "left":
        gate.wait_for_one().release()
    next_one.release()
    if how == "killed":
        lost = [request for request in first if not request.sock.recv(1, MSG_PEEK)]
        assert len(lost) == 1
        first.remove(lost[0])
    assert answers([*first, *waiting]) == {200}


def test_who_waits_too_long_for_a_permit(shared: Shared, gate: Gate) -> None:
    server = shared("limited", *FOUR)
    path = f"/impatient?gate={gate.port}"
    first = server.send(path)
    held = gate.wait_for_one()
    answer = server.get(path)
    assert answer.status == 503
    assert "Retry-After" in answer.headers
    assert gate.is_empty()
    held.release()
    assert first.answer().status == 200
    server.wait_for_log(r"^Overload: .* permit of their route's limit")


def test_a_timeout_of_its_own(serve: Serve) -> None:
    server = serve("limited", *FOUR)
    assert server.get("/briefly").status == 503
    server.wait_for_log(r"no progress for 0\.5 s|without progress for 0\.5 s")


def test_a_stream(shared: Shared, gate: Gate) -> None:
    """Its permit is for as long as the app's generator runs."""
    server = shared("limited", *FOUR)
    path = f"/stream?gate={gate.port}"
    first, second = server.send(path), server.send(path)
    for _ in range(2):
        held = gate.wait_for_one()
        assert_nobody_else(server, gate)
        held.release()
    assert answers([first, second]) == {200}


class Ask(t.Protocol):
    def __call__(self, server: Server, path: str) -> Future[int]: ...


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Sends a request in a thread, over TLS too; the result is the status."""
    threads = []

    def start(server: Server, path: str) -> Future[int]:
        future: Future[int] = Future()

        def run() -> None:
            client = AnyClient(server.url)
            try:
                future.set_result(client.ask(path).status)
            except Exception as e:
                future.set_exception(e)
            finally:
                client.close()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return future

    yield start
    for thread in threads:
        thread.join()


def test_over_tls(serve: Serve, gate: Gate, ask: Ask) -> None:
    server = serve("limited", *FOUR, "--cert", "adhoc")
    requests = [ask(server, gate.path) for _ in range(3)]
    held = gate.wait_for(2)
    for _ in range(8):
        assert ask(server, "/").result(DEADLINE) == 200
    assert gate.is_empty()
    for one in held:
        one.release()
    gate.wait_for_one().release()
    assert {one.result(DEADLINE) for one in requests} == {200}


def test_who_cannot_be_parked(serve: Serve, gate: Gate, ask: Ask) -> None:
    """There is an answer at once."""
    handler = "werkzeug.serving:WSGIRequestHandler"
    server = serve("limited", *FOUR, "--request-handler", handler)
    first = [ask(server, gate.path) for _ in range(2)]
    held = gate.wait_for(2)
    assert ask(server, gate.path).result(DEADLINE) == 503
    assert ask(server, "/").result(DEADLINE) == 200
    for one in held:
        one.release()
    assert {one.result(DEADLINE) for one in first} == {200}
    server.wait_for_state("IIII")
    again = ask(server, gate.path)
    gate.wait_for_one().release()
    assert again.result(DEADLINE) == 200


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"/holt": {"concurrency": 1}}, "no rule '/holt'; did you mean '/hold'?"),
        ({"/hold": {"concurency": 1}}, "did you mean 'concurrency'?"),
        ({"/hold": {"concurrency": 0}}, "must be a whole number of at least 1"),
        ({"/hold": {}}, "limits nothing"),
        ([1], "PREFORK_LIMITS must be a dictionary"),
    ],
)
def test_slips(limits: t.Any, message: str, fail: Fail) -> None:
    finished = fail("limited", env={"LIMITS": json.dumps(limits)})
    assert finished.status != 0
    assert message in finished.output
