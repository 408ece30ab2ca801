"""What clients do to the server."""

from __future__ import annotations

import re
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from integration.conftest import Serve
from integration.conftest import Shared
from integration.gate import Gate
from integration.server import Server
from integration.server import wait_for

from .rows import connect
from .rows import exchange
from .rows import HEAD
from .rows import load

FIXED = ("--min-idle", "3", "--max-idle", "3", "--max-workers", "3")
GOOD = HEAD % b"/" + b"Connection: close\r\n\r\n"


def reset(sock: socket.socket) -> None:
    """Close a connection by RST (``socket(7)``, SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def assert_undisturbed(server: Server) -> None:
    """Check that no worker died of it, and none says that it caught something."""
    server.wait_for_state("III")
    assert {"died:", "killed:", "Traceback"}.isdisjoint(server.log().split())


def test_clients_reset_before_they_are_accepted(serve: Serve, gate: Gate) -> None:
    """Clients reset their connections while these wait in the accept queue.

    The clients that stay are served.
    """
    server = serve("fault_views", "--min-idle", "1", "--max-workers", "1")
    first = server.send(gate.path)
    held = gate.wait_for_one()
    stayed = []
    for _ in range(20):
        for _ in range(3):
            sock = connect(server)
            sock.sendall(GOOD)
            reset(sock)
        stayed.append(server.send("/"))
    held.release()
    assert first.answer().status == 200
    assert {request.answer().status for request in stayed} == {200}
    server.wait_for_state("I")
    assert {"died:", "killed:", "Traceback"}.isdisjoint(server.log().split())


def test_client_half_closes_after_its_request(shared: Shared) -> None:
    """A client closes its side of the connection right after its request.

    The request is answered.
    """
    server = shared("fault_views", *FIXED)
    with load(server):
        for _ in range(20):
            with connect(server) as sock:
                sock.sendall(HEAD % b"/" + b"\r\n")
                sock.shutdown(socket.SHUT_WR)
                data = b"".join(iter(lambda: sock.recv(65536), b""))
            assert data.startswith(b"HTTP/1.1 200 ")
            assert data.count(b"HTTP/1.1 ") == 1
    assert_undisturbed(server)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"", b"", id="before a byte"),
        pytest.param(b"\r\n", b"", id="after an empty line"),
        pytest.param(HEAD % b"/", b"HTTP/1.1 400 ", id="within the head"),
        pytest.param(
            b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbody",
            b"HTTP/1.1 400 ",
            id="within the body",
        ),
    ],
)
def test_client_half_closes_too_early(
    shared: Shared, data: bytes, status: bytes
) -> None:
    """A client closes its side of the connection before its request is complete.

    A request that has begun is answered with 400. Then the connection is closed at
    once.
    """
    server = shared("fault_views", *FIXED)
    with load(server), connect(server) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert answer.startswith(status)
        assert bool(answer) == bool(status)
    assert_undisturbed(server)


def test_client_resets_in_mid_response(shared: Shared) -> None:
    """Clients reset their connections while they receive a long response.

    Their workers are free at once.
    """
    server = shared("fault_views", *FIXED)
    with load(server, 1):
        for _ in range(20):
            sock = connect(server)
            sock.sendall(HEAD % b"/big" + b"\r\n")
            assert sock.recv(1000)
            reset(sock)
    assert_undisturbed(server)


def test_client_never_reads(serve: Serve) -> None:
    """A client requests a long response and never reads it.

    When it is slower than --min-data-rate, its connection is closed, and the worker is
    free again. Meanwhile other workers serve the other clients.
    """
    server = serve("fault_views", *FIXED, "--min-data-rate", "100000")
    server.wait_for_state("III")
    with load(server, 1), connect(server) as sock:
        sock.sendall(HEAD % b"/big?chunks=1000000" + b"\r\n")
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
        wait_for(lambda: server.state().letters.count("B") >= 1)
        # Its end of the connection is closed, and the client can see it.
        wait_for(lambda: not _peer_is_there(server, sock))
    assert_undisturbed(server)


def _peer_is_there(server: Server, sock: socket.socket) -> bool:
    port = sock.getsockname()[1]
    return any(
        connection.raddr and connection.raddr.port == port
        for pid in server.workers()
        for connection in psutil.Process(pid).net_connections()
    )


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"]
)
@pytest.mark.parametrize("path", [b"/length", b"/form"])
def test_client_sends_its_body_too_slowly(
    serve: Serve, path: bytes, framing: bytes
) -> None:
    """A client sends a part of a body, and then nothing.

    When it is slower than --min-data-rate, the request ends with 408. Meanwhile other
    workers serve the other clients.
    """
    server = serve("fault_views", *FIXED)
    server.wait_for_state("III")
    with load(server, 1):
        head = b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path, framing)
        head += b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        data = exchange(server, head + b"5\r\na=b")
        assert data.startswith(b"HTTP/1.1 408 ")
    assert_undisturbed(server)


def test_clients_that_are_slow_with_their_heads_cost_no_worker(serve: Serve) -> None:
    """More clients than workers send a part of a header section, and then nothing.

    Other clients don't wait for them. At --header-timeout each is answered with 408.
    """
    server = serve("fault_views", *FIXED, "--header-timeout", "1")
    server.wait_for_state("III")
    socks = [connect(server) for _ in range(50)]
    try:
        for sock in socks:
            sock.sendall(HEAD % b"/")
        with load(server):
            for sock in socks:
                data = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))  # type: ignore[misc]
                assert data.startswith(b"HTTP/1.1 408 ")
    finally:
        for sock in socks:
            sock.close()
    assert_undisturbed(server)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, id="TLS"),
        pytest.param(bytes(range(256)) * 64, id="every byte"),
        pytest.param(b"\0" * 70_000, id="zeros"),
        pytest.param(b"A" * 200_000, id="a line without end"),
        pytest.param(HEAD % b"/" + b"X: y\r\n" * 20_000, id="fields without end"),
        pytest.param(b"\x1b]0;title\x07\x1b[2J / HTTP/1.1\r\n\r\n", id="escapes"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="SSH"),
    ],
)
def test_client_sends_garbage(shared: Shared, data: bytes) -> None:
    """A client sends something else than HTTP, or data without end.

    It gets an HTTP error, and the connection is closed. No byte of the data reaches the
    terminal unescaped.
    """
    server = shared("fault_views", *FIXED, "--access-log", "--header-timeout", "1")
    with load(server), connect(server) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        except ConnectionError:
            # It was closed before it has sent all.
            answer = b"HTTP/1.1 4"
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505 "))
    assert_undisturbed(server)
    # The server's own colors are the only escapes.
    log = re.sub(r"\x1b\[\d+m", "", server.log_path.read_text())
    assert log.replace("\n", "").isprintable()


def _come_and_go(server: Server, number: int) -> None:
    sock = connect(server)
    if number % 4 == 1:
        sock.sendall(GOOD[: number % len(GOOD)])
    elif number % 4 == 2:
        sock.sendall(GOOD)
    if number % 3:
        reset(sock)
    else:
        sock.close()


def test_thousands_of_clients_come_and_go(serve: Serve) -> None:
    """3,000 clients connect and disconnect: at once, within their request, or after it.

    All others are served. Afterwards no process has more descriptors than before.
    """
    server = serve("fault_views", *FIXED)
    server.wait_for_state("III")
    processes = [psutil.Process(pid) for pid in (server.pid, *server.workers())]
    before = [process.num_fds() for process in processes]
    with load(server), ThreadPoolExecutor(8) as threads:
        for _ in threads.map(lambda number: _come_and_go(server, number), range(3000)):
            pass
    assert_undisturbed(server)
    wait_for(lambda: [process.num_fds() for process in processes] == before)
