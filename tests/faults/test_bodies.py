"""Bodies of requests that wait for a slow client, while no worker has them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
from integration.conftest import Serve
from integration.server import Server
from integration.test_slow_bodies import Upload

from .rows import load
from .test_kills import assert_tidy
from .test_kills import wait_until_idle

#: One that the kernel keeps, and one that is in a file.
SMALL = 50_000
LARGE = 3_000_000
COUNT = 6


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve("uploads", "--min-idle", "2", "--max-workers", "2")


@pytest.fixture(params=["kernel", "spool", "chunked"])
def uploads(request: pytest.FixtureRequest, server: Server) -> Iterator[list[Upload]]:
    """Clients that have sent a half of their bodies, which wait without a worker."""
    size = LARGE if request.param == "spool" else SMALL
    with contextlib.ExitStack() as stack:
        clients = [
            Upload(server, number, size, request.param == "chunked")
            for number in range(COUNT)
        ]
        for client in clients:
            stack.callback(client.sock.close)
            client.send(size // 2)
        # Whoever took the last of them has parked it.
        assert server.get().body == b"index"
        wait_until_idle(server)
        yield clients


def finish(clients: list[Upload]) -> None:
    for client in clients:
        client.finish()
    for client in clients:
        client.check_answer()


def has_ended(client: Upload) -> bool:
    try:
        return client.sock.recv(1) == b""
    except ConnectionError:
        return True


def test_all_workers_are_killed(server: Server, uploads: list[Upload]) -> None:
    """SIGKILL to all workers while bodies wait.

    The clients notice nothing.
    """
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
    finish(uploads)
    assert_tidy(server)


def test_workers_are_killed_before_they_take_a_body(
    server: Server, uploads: list[Upload]
) -> None:
    """SIGKILL to workers that were handed a body, and have not taken it.

    Other workers take it, and the client gets its answer.
    """
    stopped = server.workers()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    for client in uploads:
        client.finish()
    server.wait_for_state("OO")
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)
    for client in uploads:
        client.check_answer()
    assert_tidy(server)


def test_the_zygote_is_killed(server: Server, uploads: list[Upload]) -> None:
    """SIGKILL to the zygote while bodies wait.

    The clients notice nothing.
    """
    (zygote,) = server.zygotes()
    zygote.kill()
    server.wait_for_log("^Generation 2 serves")
    finish(uploads)
    assert_tidy(server)


def test_a_reload(server: Server, uploads: list[Upload]) -> None:
    """HUP while bodies wait.

    The next generation goes on with them.
    """
    with load(server):
        server.signal(signal.SIGHUP)
        server.wait_for_log("^Generation 2 serves")
        finish(uploads)
    assert_tidy(server)


def test_term(server: Server, uploads: list[Upload]) -> None:
    """TERM while bodies wait.

    The server ends when it has served them.
    """
    server.signal(signal.SIGTERM)
    server.state()  # it has read that
    finish(uploads)
    assert server.wait() == 0


def test_term_and_a_body_that_does_not_come(serve: Serve) -> None:
    """TERM while a body doesn't come for the graceful timeout.

    The connection is closed.
    """
    server = serve("uploads", "--graceful-timeout", "1")
    client = Upload(server, 0, SMALL, False)
    with contextlib.closing(client.sock):
        client.send(SMALL // 2)
        assert server.get().body == b"index"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert has_ended(client)


def test_the_dispatcher_is_killed(server: Server, uploads: list[Upload]) -> None:
    """SIGKILL to the dispatcher while bodies wait.

    The clients see that at once.
    """
    server.popen.kill()
    assert all(has_ended(client) for client in uploads)
