"""The sender, which has connections of slow clients while no worker serves them."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
from pathlib import Path

import psutil
import pytest
from integration.conftest import Serve
from integration.server import Request
from integration.server import Server
from integration.server import wait_for

from .rows import load
from .test_kills import assert_tidy
from .test_kills import wait_until_idle

#: More than the buffers of a connection hold.
SIZE = 20_000_000


class SlowReader:
    """A client that has asked for a response, and takes it when it is told to."""

    def __init__(
        self,
        server: Server,
        keep_alive: bool = False,
        more: str = "",
        size: int = SIZE,
    ) -> None:
        self.sock = server._connect()
        # Closed with the others when the test ends.
        server.requests.append(Request(self.sock))
        self.ask(f"/deliver/{size}{more}", keep_alive)
        # Its head is there, and the rest is the sender's in a moment.
        assert self.sock.recv(17) == b"HTTP/1.1 200 OK\r\n"

    def ask(self, path: str, keep_alive: bool) -> None:
        goes_on = "keep-alive" if keep_alive else "close"
        fields = f"Host: localhost\r\nConnection: {goes_on}\r\n"
        self.sock.sendall(f"GET {path} HTTP/1.1\r\n{fields}\r\n".encode())

    def read(self, size: int | None = None) -> int:
        """Read a response's body, or to the end of the connection.

        :return: How many bytes came of the body.
        """
        with self.sock.makefile("rb") as file:
            while file.readline().strip():
                pass
            count = 0
            while size is None or count < size:
                try:
                    piece = file.read1(min(1 << 20, (size or SIZE * 2) - count))
                except ConnectionError:
                    break
                if not piece:
                    break
                count += len(piece)
            return count


def sender(server: Server, count: int = 1) -> psutil.Process:
    """The sender, when it has so many connections."""
    process = wait_for(server.sender)
    wait_for(lambda: len(process.net_connections("tcp")) == count)
    return process


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve("delivering", "--min-idle", "2", "--max-workers", "2")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_slow_readers_cost_no_worker(serve: Serve, tmp_path: Path, kind: str) -> None:
    """Many more clients than workers are slow to take their response.

    Others are served at once. All get their whole response.
    """
    host = f"unix://{tmp_path}/sock" if kind == "unix" else None
    server = serve("delivering", "--min-idle", "2", "--max-workers", "2", host=host)
    readers = [SlowReader(server) for _ in range(20)]
    with load(server) as running:
        running.wait_for_more(100)
    assert [reader.read() for reader in readers] == [SIZE] * 20
    assert_tidy(server)


def test_the_sender_is_killed(server: Server) -> None:
    """SIGKILL to the sender while it sends responses.

    They are cut short, and the log says how many. Other clients notice nothing. The
    next slow client gets its whole response from another sender.
    """
    readers = [SlowReader(server) for _ in range(3)]
    killed = sender(server, 3)
    with load(server):
        killed.kill()
        server.wait_for_log(
            rf"^The sender \(pid {killed.pid}\) died: SIGKILL;"
            " 3 responses were cut short.$"
        )
        assert all(reader.read() < SIZE for reader in readers)
        reader = SlowReader(server)
        assert sender(server).pid != killed.pid
        assert reader.read() == SIZE
    assert_tidy(server)


def test_the_sender_is_stopped(server: Server) -> None:
    """SIGSTOP to the sender while it sends responses.

    Others are served meanwhile. It is killed when it has been silent for ten seconds,
    and what it had is cut short. The next slow client gets its whole response.
    """
    reader = SlowReader(server)
    stopped = sender(server)
    stopped.suspend()
    with load(server):
        server.wait_for_log(rf"^The sender \(pid {stopped.pid}\) is silent")
    assert reader.read() < SIZE
    reader = SlowReader(server)
    assert sender(server).pid != stopped.pid
    assert reader.read() == SIZE
    assert_tidy(server)


def test_descriptors_are_used_up(serve: Serve, tmp_path: Path) -> None:
    """More slow clients than the sender has descriptors for.

    The dispatcher holds the others back. Nobody else waits, and all get their whole
    response.
    """
    lines = "import resource, sys\nif 'relay' in str(sys.orig_argv):"
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))"
    (tmp_path / "sitecustomize.py").write_text(f"{lines} {limit}\n")
    env = {"PYTHONPATH": str(tmp_path)}
    server = serve("delivering", "--min-idle", "2", "--max-workers", "2", env=env)
    size = SIZE // 3
    readers = [SlowReader(server, size=size) for _ in range(20)]
    process = wait_for(server.sender)
    wait_for(lambda: len(process.net_connections("tcp")) >= 14)
    with load(server):
        wait_until_idle(server)
        assert len(process.net_connections("tcp")) == 14
    assert [reader.read() for reader in readers] == [size] * 20
    assert_tidy(server)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_sender_is_who_the_app_is(serve: Serve, tmp_path: Path) -> None:
    """A server that root has started for another user.

    The sender has no more rights than the app. It is killed as before when the server
    stops at once.
    """
    nobody = pwd.getpwnam("nobody")
    # What the zygote imports after the rights are dropped: the interpreter's files may
    # be out of the user's reach.
    (tmp_path / "sitecustomize.py").write_text("import encodings.idna\n")
    env = {"PYTHONPATH": str(tmp_path)}
    server = serve("delivering", "--user", "nobody", env=env)
    reader = SlowReader(server)
    process = sender(server)
    assert set(process.uids()) == {nobody.pw_uid}
    assert set(process.gids()) == {nobody.pw_gid}
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert reader.read() < SIZE


def test_a_worker_dies_when_it_has_handed_a_connection_over(server: Server) -> None:
    """SIGKILL to a worker right after it has handed over a connection.

    The client gets its whole response.
    """
    with load(server):
        reader = SlowReader(server, more="/die")
        server.wait_for_log(r"^Worker \d+ \(pid \d+\).* (died|was killed)")
        assert reader.read() == SIZE
    assert_tidy(server)


def test_the_dispatcher_is_killed(server: Server) -> None:
    """SIGKILL to the dispatcher while the sender sends responses.

    The sender ends at once, and its clients see that.
    """
    reader = SlowReader(server)
    process = sender(server)
    server.popen.kill()
    process.wait(10)
    assert reader.read() < SIZE


def test_a_reload_while_a_response_is_sent(server: Server) -> None:
    """HUP while the sender sends a response on a connection that is kept.

    The client gets its whole response. The next request on that connection is served by
    the next generation.
    """
    reader = SlowReader(server, keep_alive=True)
    process = sender(server)
    server.signal(signal.SIGHUP)
    server.wait_for_log("^Generation 2 serves")
    assert reader.read(SIZE) == SIZE
    reader.ask("/", keep_alive=True)
    with reader.sock.makefile("rb") as file:
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"
        lines = b"".join(iter(lambda: file.readline().strip(), b""))
        (length,) = re.findall(rb"Length: (\d+)", lines)
        assert json.loads(file.read(int(length)))["generation"] == 2
    assert sender(server, 0).pid == process.pid


@pytest.mark.parametrize("keep_alive", [False, True])
def test_term_while_a_response_is_sent(server: Server, keep_alive: bool) -> None:
    """TERM while the sender sends responses.

    The server ends when they were sent to their end. Other clients are refused.
    """
    readers = [SlowReader(server, keep_alive) for _ in range(3)]
    sender(server, 3)
    server.signal(signal.SIGTERM)
    wait_for(lambda: not server.is_accepting())
    assert [reader.read() for reader in readers] == [SIZE] * 3
    assert server.wait() == 0
    assert "cut short" not in server.log()


def test_term_and_a_client_that_takes_too_long(serve: Serve) -> None:
    """TERM while a client takes nothing of its response for the graceful timeout.

    Its response is cut short, and the log says so.
    """
    server = serve("delivering", "--graceful-timeout", "1")
    reader = SlowReader(server)
    sender(server)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "\n1 responses to slow clients were cut short." in server.log()
    assert reader.read() < SIZE


@pytest.mark.parametrize("stopped", [False, True])
def test_int_while_a_response_is_sent(server: Server, stopped: bool) -> None:
    """INT while the sender sends a response, or while it is stopped.

    The server ends at once.
    """
    reader = SlowReader(server)
    process = sender(server)
    if stopped:
        process.suspend()
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert "\n1 responses to slow clients were cut short." in server.log()
    assert reader.read() < SIZE


def test_term_while_the_sender_is_stopped(serve: Serve) -> None:
    """TERM while the sender is stopped.

    The server ends within the graceful timeout and a few seconds more.
    """
    server = serve("delivering", "--graceful-timeout", "1")
    reader = SlowReader(server)
    sender(server).suspend()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert reader.read() < SIZE
