"""Connections that the zygote opens while it has workers."""

from __future__ import annotations

import socket
import typing as t
from collections.abc import Iterator

import pytest
from system.forked import in_child

from flask_prefork.zygote.fork_connections import Connections


@pytest.fixture(params=["tcp", "unix"])
def peer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[socket.socket]:
    """It listens."""
    if request.param == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as sock:
            yield sock
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path_factory.mktemp("s") / "s"))
            sock.listen()
            yield sock


def connect(peer: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    sock = socket.socket(peer.family)
    sock.connect(peer.getsockname())
    return sock, peer.accept()[0]


def state(sock: socket.socket) -> str:
    """How a connection looks to who has it, before it is used again."""
    try:
        return "open" if sock.recv(1, socket.MSG_DONTWAIT) else "ended"
    except BlockingIOError:
        return "open"


def test_one_that_is_opened_later_looks_ended_in_a_worker(peer: socket.socket) -> None:
    connections = Connections()
    early, its_peer = connect(peer)
    connections.note()
    late, other_peer = connect(peer)

    def in_worker() -> dict[str, t.Any]:
        # The process that runs the tests may have others.
        cut = connections.cut()
        return {
            "cut": late.fileno() in cut and early.fileno() not in cut,
            "early": state(early),
            "late": state(late),
            "inheritable": late.get_inheritable(),
        }

    with early, its_peer, late, other_peer:
        assert in_child(in_worker) == {
            "cut": True,
            "early": "open",
            "late": "ended",
            "inheritable": False,
        }
        # Neither the zygote nor the peer sees any of that.
        late.sendall(b"a")
        other_peer.sendall(b"b")
        assert other_peer.recv(2) == b"a"
        assert late.recv(2) == b"b"


def test_a_broken_pipe_is_all_that_a_writer_sees(peer: socket.socket) -> None:
    connections = Connections()
    connections.note()
    late, its_peer = connect(peer)

    def in_worker() -> str:
        connections.cut()
        try:
            late.sendall(b"from the worker")
        except OSError as e:
            return type(e).__name__
        return "sent"

    with late, its_peer:
        assert in_child(in_worker) == "BrokenPipeError"
        its_peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            its_peer.recv(1)


def test_what_is_no_connection_is_left_alone(peer: socket.socket) -> None:
    connections = Connections()
    connections.note()
    ours, theirs = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    with ours, theirs, listener:
        fds = {sock.fileno() for sock in (ours, theirs, listener, peer)}
        assert not fds & set(in_child(connections.cut))
