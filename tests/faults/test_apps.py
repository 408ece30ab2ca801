"""What apps do to their worker."""

from __future__ import annotations

import signal
import socket
import sys
import typing as t

import psutil
import pytest
from integration.conftest import Serve
from integration.conftest import Shared
from integration.gate import Gate
from integration.server import Server
from integration.server import wait_for

from .rows import connect
from .rows import exchange
from .rows import get
from .rows import HEAD
from .rows import load
from .rows import lose

FIXED = ("--min-idle", "3", "--max-idle", "3", "--max-workers", "3")


@pytest.mark.parametrize(
    ("path", "how"),
    [
        pytest.param("/os-exit?status=3", "exit status 3", id="os._exit(3)"),
        pytest.param("/os-exit?status=0", "exit status 0", id="os._exit(0)"),
        pytest.param("/sys-exit?status=4", "exit status 4", id="sys.exit(4)"),
        pytest.param("/sys-exit?status=0", "exit status 0", id="sys.exit(0)"),
        pytest.param("/segfault", "SIGSEGV", id="segfault"),
        pytest.param("/abort", "SIGABRT", id="abort"),
    ],
)
def test_app_ends_its_process(serve: Serve, path: str, how: str) -> None:
    """The app ends its process: os._exit, sys.exit, a segfault, abort.

    Its client's connection is closed, and no other client is affected. The log says how
    the worker exited and what it served. Another worker gets the slot.
    """
    server = serve("fault_views", *FIXED)
    server.wait_for_state("III")
    with load(server) as traffic:
        lose(server, path)
        server.wait_for_log(
            rf"^Worker \d+ \(pid \d+\) while serving GET {path.replace('?', '.')}"
            rf" died: {how}"
        )
        traffic.wait_for_more()
    server.wait_for_state("III")
    assert not server.zombies()
    assert server.log().count(" died: ") == 1


def test_app_forks_and_the_child_returns_first(serve: Serve) -> None:
    """The app forks, and the child returns from the view like its parent.

    The client gets one response, the parent's. The child never reaches the worker's
    loop: it exits.
    """
    server = serve("fault_views", *FIXED)
    server.wait_for_state("III")
    with load(server):
        for _ in range(5):
            answer = get(server, "/fork")
            assert answer.status == 200
            assert not answer.json["child"]
    assert {"died", "killed"}.isdisjoint(server.log().split())
    assert not psutil.Process(answer.json["pid"]).children()


def test_app_forks_and_the_child_returns_later(serve: Serve, gate: Gate) -> None:
    """The app forks, and the child returns while the connection serves the next
    request.

    The child writes nothing to the connection and can't close it. It doesn't change its
    parent's record on the scoreboard.
    """
    server = serve("fault_views", *FIXED)
    server.wait_for_state("III")
    with load(server), connect(server) as sock, sock.makefile("rb") as file:
        sock.sendall(HEAD % f"/fork?gate={gate.port}".encode() + b"\r\n")
        child = gate.wait_for_one()
        head, body = _read_response(file)
        assert b'"child":false' in body.replace(b" ", b"")
        process = psutil.Process(child.pid)
        child.release()
        wait_for(lambda: _is_over(process))
        sock.sendall(HEAD % b"/" + b"\r\n")
        head, body = _read_response(file)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"child" not in body
    assert {"died", "killed"}.isdisjoint(server.log().split())


def _read_response(file: t.BinaryIO) -> tuple[bytes, bytes]:
    head = b"".join(iter(file.readline, b"\r\n"))
    (length,) = (
        int(line.split(b":")[1])
        for line in head.splitlines()
        if line.lower().startswith(b"content-length:")
    )
    return head, file.read(length)


def _is_over(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("lowest", [3, 0])
def test_app_closes_all_descriptors(serve: Serve, lowest: int) -> None:
    """The app closes every descriptor of its process.

    Its client's connection is closed, and no other client is affected. The worker can't
    receive orders any more, exits, and is replaced.
    """
    server = serve("fault_views", *FIXED)
    server.wait_for_state("III")
    with load(server) as traffic:
        lose(server, f"/close-all?from={lowest}")
        server.wait_for_log(r"^Worker \d+ \(pid \d+\).* (died|was killed): ")
        traffic.wait_for_more()
    server.wait_for_state("III")
    assert not server.zombies()


@pytest.mark.skipif(sys.platform != "linux", reason="needs proc(5)")
@pytest.mark.parametrize("mode", ["ordered", "blocking"])
def test_app_shuts_the_listening_socket_down(serve: Serve, mode: str) -> None:
    """The app shuts the listening socket down, which it shares with all workers.

    The server listens on it again, and the log says so. On a unix socket nobody can:
    the log says that the server has to be started again.
    """
    server = serve("fault_views", *FIXED, "--dispatch", mode)
    server.wait_for_state("III")
    assert server.get("/shut-listener").status == 200
    server.wait_for_log(r"^The app has shut down the listening socket .* again\.$")
    assert server.get().status == 200
    server.wait_for_state("III")


@pytest.mark.skipif(sys.platform != "linux", reason="needs proc(5)")
def test_app_lets_closes_wait_for_clients(serve: Serve) -> None:
    """The app sets SO_LINGER, and a client doesn't read.

    Its connection is closed when it has idled for long, and nobody waits for that.
    """
    server = serve("fault_views", *FIXED, "--keep-alive", "0.1")
    server.wait_for_state("III")
    with connect(server) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        port = sock.getsockname()[1]
        sock.sendall(HEAD % b"/lingering" + b"\r\n")
        assert sock.recv(1) == b"H"
        wait_for(lambda: not _has_connection(server, port))
        assert server.get().status == 200
    server.wait_for_state("III")


def _has_connection(server: Server, port: int) -> bool:
    """Whether any process of the server has a connection from this port."""
    found = [
        connection
        for process in server.processes()
        for connection in process.net_connections()
    ]
    return any(one.raddr and one.raddr.port == port for one in found)


@pytest.mark.parametrize("path", ["/reset-signals", "/ignore-signals"])
def test_app_changes_signal_handlers(serve: Serve, path: str) -> None:
    """The app resets every signal's handler, or ignores every signal.

    The request is answered, its worker keeps serving, and TERM stops the server.
    """
    server = serve("fault_views", "--min-idle", "1", "--max-workers", "1")
    with load(server):
        pid = get(server, path).json["pid"]
        assert get(server, "/").json["pid"] == pid
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "killed" not in server.log()


def test_app_leaves_threads_running(serve: Serve) -> None:
    """The app leaves threads running that aren't daemons and never end.

    Its worker keeps serving. When it has to exit, the threads have the graceful
    timeout. Then they are cut off, and the log names them.
    """
    pool = ("--min-idle", "1", "--max-workers", "1")
    server = serve("fault_views", *pool, "--graceful-timeout", "2")
    with load(server):
        answer = get(server, "/leave-threads")
        assert answer.json["threads"] > 3
        assert get(server, "/").json["pid"] == answer.json["pid"]
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    server.wait_for_log(rf"\(pid {answer.json['pid']}\) ends before .*Event\.wait")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/raises-after-head", "LookupError: after the head"),
        ("/starts-nothing", "before start_response"),
        ("/returns-none", "TypeError"),
        ("/yields-text", "the app must yield bytes, not str"),
        ("/bad-status", "no final status of HTTP"),
    ],
)
def test_app_breaks_the_rules_before_a_byte_is_sent(
    shared: Shared, path: str, told: str
) -> None:
    """The app raises after its headers, returns nothing, or yields something else than
    bytes.

    The client gets a 500, and the traceback is logged. The worker keeps serving.
    """
    server = shared("fault_wsgi", *FIXED)
    server.wait_for_state("III")
    seen = len(server.log())
    with load(server):
        answer = get(server, path)
        assert answer.status == 500
        assert b"<title>500 Internal Server Error</title>" in answer.body
        server.wait_for_log(told, seen)
    assert "X-Injected" not in str(answer.headers)
    assert {"died:", "killed:"}.isdisjoint(server.log().split())


def test_app_yields_nothing(shared: Shared) -> None:
    """The app yields nothing at all.

    That is a response without a body.
    """
    server = shared("fault_wsgi", *FIXED)
    with load(server):
        answer = get(server, "/yields-nothing")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Content-Length"] == "0"


def test_app_raises_in_the_body(shared: Shared) -> None:
    """The app raises when a part of its response was sent.

    The client notices that the response is cut: the last chunk is missing. The
    traceback is logged, and the worker keeps serving.
    """
    server = shared("fault_wsgi", *FIXED)
    server.wait_for_state("III")
    with load(server):
        data = exchange(server, HEAD % b"/raises-in-body" + b"\r\n")
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert data.endswith(b"the first half\r\n")
        server.wait_for_log("LookupError: in the body")
    assert {"died:", "killed:"}.isdisjoint(server.log().split())


def test_app_gives_less_than_its_content_length(shared: Shared) -> None:
    """The app gives less than its Content-Length.

    The connection is closed, so the client notices, and the log says so.
    """
    server = shared("fault_wsgi", *FIXED)
    with load(server):
        data = exchange(server, HEAD % b"/too-short" + b"\r\n")
        assert data.endswith(b"\r\n\r\nshort")
        server.wait_for_log("The response is shorter than its Content-Length")


def test_app_gives_more_than_its_content_length(shared: Shared) -> None:
    """The app gives more than its Content-Length.

    The rest is not sent, because it would look like the next response. The log says so.
    """
    server = shared("fault_wsgi", *FIXED)
    with load(server):
        head = HEAD % b"/too-long"
        data = exchange(server, head + b"Connection: close\r\n\r\n")
        assert data.endswith(b"\r\n\r\nlong")
        server.wait_for_log("The response is longer than its Content-Length")


def test_app_raises_in_close(shared: Shared) -> None:
    """The app's iterable raises in its close(), when all was sent.

    The response is complete, the traceback is logged, and the worker keeps serving.
    """
    server = shared("fault_wsgi", *FIXED)
    server.wait_for_state("III")
    with load(server):
        answer = get(server, "/raises-at-close")
        assert (answer.status, answer.body) == (200, b"body")
        server.wait_for_log(r"LookupError: in close\(\)")
    assert {"died:", "killed:"}.isdisjoint(server.log().split())
