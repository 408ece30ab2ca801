"""Requests that wait too long, or behind too many, are refused without a worker."""

from __future__ import annotations

import re
import socket
import struct
import threading
import typing as t
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from faults.load import Client as TLSClient

from .conftest import Serve
from .gate import Gate
from .gate import Held
from .kept_alive import Client
from .server import DEADLINE
from .server import Server
from .server import wait_for

TWO = ("--min-idle", "2", "--max-workers", "2")
#: Time enough for a test to do something before it is over.
LONG = ("--queue-timeout", "3600")
SOON = ("--queue-timeout", "0.3")


class Stuck(t.NamedTuple):
    """A server whose workers are all busy.

    :param held: What keeps them so.
    """

    server: Server
    held: list[Held]

    def release(self) -> None:
        for one in self.held:
            one.release()


@pytest.fixture
def stuck(serve: Serve, gate: Gate) -> Iterator[t.Callable[..., Stuck]]:
    requests = []

    def start(*args: str, host: str | None = None) -> Stuck:
        server = serve("held", *TWO, *args, host=host)
        requests.extend(server.send(gate.path) for _ in range(2))
        return Stuck(server, gate.wait_for(2))

    yield start
    assert {request.answer().status for request in requests} == {200}


MODES = [
    pytest.param((), id="ordered"),
    pytest.param(("--dispatch", "blocking"), id="blocking"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_while_every_worker_is_stuck(
    stuck: t.Any, tmp_path: Path, kind: str, mode: tuple[str, ...]
) -> None:
    host = f"unix://{tmp_path}/sock" if kind == "unix" else None
    found = stuck(*SOON, *mode, host=host)
    server = found.server
    requests = [server.send("/") for _ in range(5)]
    for request in requests:
        answer = request.answer()
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["Connection"] == "close"
        assert answer.body == b""
    server.wait_for_log(r"^Overload: requests are refused with 503: they have waited")
    assert server.log().count("Overload:") == 1
    found.release()
    server.wait_for_state("II")
    assert server.get().status == 200


def test_the_next_request_of_a_kept_alive_client(serve: Serve, gate: Gate) -> None:
    server = serve("held", *TWO, *SOON)
    client = Client(server)
    assert client.ask().status == 200
    requests = [server.send(gate.path) for _ in range(2)]
    held = gate.wait_for(2)
    assert client.ask().status == 503
    wait_for(client.has_ended)
    client.close()
    for one in held:
        one.release()
    assert {request.answer().status for request in requests} == {200}


def test_the_bound_on_the_queue(stuck: t.Any) -> None:
    found = stuck(*LONG, "--max-queue", "2")
    server = found.server
    first = [server.send("/") for _ in range(2)]
    wait_for(lambda: server.state().waiting == 2)
    more = [server.send("/") for _ in range(2)]
    # Those that have waited longest.
    assert [request.answer().status for request in first] == [503, 503]
    found.release()
    assert [request.answer().status for request in more] == [200, 200]


def test_who_is_fresh_is_served_in_the_order_of_arrival(stuck: t.Any) -> None:
    found = stuck("--queue-timeout", "5", "--access-log")
    server = found.server
    requests = []
    for number in range(4):
        requests.append(server.send(f"/?number={number}"))
        wait_for(lambda number=number: server.state().waiting == number + 1)
    found.held[0].release()
    assert {request.answer().status for request in requests} == {200}

    def asked() -> list[str]:
        return re.findall(r"GET /\?number=(\d)", server.log())

    # A line of the log comes after the response.
    wait_for(lambda: len(asked()) == 4)
    assert asked() == ["0", "1", "2", "3"]
    found.held[1].release()


def ask_tls(server: Server, path: str) -> Future[int]:
    """Send a request over TLS in a thread.

    :return: Its status.
    """
    future: Future[int] = Future()

    def run() -> None:
        client = TLSClient(server.url)
        try:
            future.set_result(client.ask(path).status)
        except Exception as e:
            future.set_exception(e)
        finally:
            client.close()

    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.mark.parametrize("timeout", ["0.3", "3600"])
def test_over_tls(serve: Serve, gate: Gate, timeout: str) -> None:
    server = serve("held", *TWO, "--queue-timeout", timeout, "--cert", "adhoc")
    requests = [ask_tls(server, gate.path) for _ in range(2)]
    held = gate.wait_for(2)
    other = ask_tls(server, "/")
    if timeout == "0.3":
        assert other.result(DEADLINE) == 503
    else:
        wait_for(lambda: server.state().waiting == 1)
    for one in held:
        one.release()
    if timeout != "0.3":
        assert other.result(DEADLINE) == 200
    assert {request.result(DEADLINE) for request in requests} == {200}


@pytest.mark.parametrize("kind", ["reset", "half-closed"])
def test_a_client_that_has_left(stuck: t.Any, kind: str) -> None:
    found = stuck(*LONG, "--access-log")
    server = found.server
    request = server.send("/?who=left")
    wait_for(lambda: server.state().waiting == 1)
    if kind == "reset":
        linger = struct.pack("ii", 1, 0)
        request.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.sock.close()
    else:
        request.sock.shutdown(socket.SHUT_WR)
    found.release()
    server.wait_for_state("II")
    if kind == "half-closed":
        assert request.answer().status == 200
    assert ("who=left" in server.log()) is (kind == "half-closed")
