"""Sockets whose mode is stated, whatever the app's default timeout is."""

from __future__ import annotations

import ast
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_prefork
from flask_prefork.http.server import PreforkServer
from flask_prefork.system import socket_modes
from flask_prefork.zygote.fork_sockets import find

ROOT = Path(flask_prefork.__file__).parent
#: What makes a socket object.
MAKERS = {
    "SocketType",
    "create_connection",
    "create_server",
    "fromfd",
    "socket",
    "socketpair",
}
#: Who may: the first one for all others, the second one for connections, and the third
#: one for what the app makes of one that it has taken over.
ALLOWED = {"system/socket_modes.py", "http/server.py", "http/app_socket.py"}


@pytest.fixture(params=[None, 0.0, 5.0], autouse=True)
def default(request: pytest.FixtureRequest) -> Iterator[float | None]:
    """What an app may have set."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(request.param)
    yield request.param
    socket.setdefaulttimeout(before)


def is_blocking(sock: socket.socket) -> bool:
    """Check that object and descriptor agree, and say on what."""
    blocks = os.get_blocking(sock.fileno())
    assert sock.gettimeout() == (None if blocks else 0.0)
    return blocks


@pytest.mark.parametrize("blocking", [True, False])
def test_made(blocking: bool) -> None:
    with socket_modes.make(
        socket.AF_UNIX, socket.SOCK_DGRAM, blocking=blocking
    ) as sock:
        assert is_blocking(sock) is blocking
        assert sock.type == socket.SOCK_DGRAM
    for end in socket_modes.pair(blocking=blocking):
        with end:
            assert is_blocking(end) is blocking
            with socket_modes.adopt(os.dup(end.fileno()), blocking=not blocking) as two:
                assert is_blocking(two) is not blocking


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_looked_at(blocking: bool, kind: socket.SocketKind) -> None:
    """Somebody else's stays as it is, and nobody waits for it."""
    with socket.socket(socket.AF_INET, kind) as theirs:
        theirs.setblocking(blocking)
        with socket_modes.look_at(os.dup(theirs.fileno())) as sock:
            assert (sock.family, sock.type) == (theirs.family, theirs.type)
            assert sock.gettimeout() == 0
        assert os.get_blocking(theirs.fileno()) is blocking


def test_a_look_at_the_apps_sockets_leaves_their_mode() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), 20)
        with theirs:
            theirs.setblocking(True)
            assert any("a connection to" in line for line in find(set(), [], [], set()))
            assert os.get_blocking(theirs.fileno())


def test_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        server = PreforkServer(lambda environ, start: [], listener)
        with pytest.raises(BlockingIOError):
            server.accept()
        with socket.create_connection(listener.getsockname(), 20):
            connection, _ = server.accept()
            with connection:
                assert is_blocking(connection)


@pytest.mark.parametrize(
    ("linger", "is_left"), [((0, 0), 0), ((1, 0), 1), ((1, 3600), 0)]
)
def test_no_close_waits(linger: tuple[int, int], is_left: int) -> None:
    """As an app may have asked for. What is reset at the close doesn't wait."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname(), 20) as sock:
        option = struct.pack("ii", *linger)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        fd = os.dup(sock.fileno())
        socket_modes.close(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(option))
        assert struct.unpack("ii", found)[0] == is_left


def test_anything_can_be_closed() -> None:
    ends = os.pipe()
    for fd in (*ends, *(one.detach() for one in socket.socketpair())):
        socket_modes.close(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            socket_modes.close(fd)


def test_nobody_else_makes_any() -> None:
    found = set()
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (
                isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) == "socket"
                and node.func.attr in MAKERS
            ):
                found.add(str(path.relative_to(ROOT)))
    assert found == ALLOWED
