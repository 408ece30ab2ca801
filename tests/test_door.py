"""Who may still come in when a server stops."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from flask_prefork import door
from flask_prefork.sockets import bind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
ADDRESSES = ["127.0.0.1", "::1"]


@pytest.fixture(params=ADDRESSES)
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as sock:
        yield sock


def begin(listener: socket.socket) -> socket.socket:
    """Begin to connect, and don't wait."""
    sock = socket.socket(listener.family)
    sock.setblocking(False)
    assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    return sock


def test_nobody_new_comes_in(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()[:2]) as inside:
        assert door.turn_away(listener)
        with begin(listener) as outside:
            # The one that was there before can be accepted, and heard.
            inside.sendall(b"hello")
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(5) == b"hello"
                accepted.sendall(b"bye")
                assert inside.recv(3) == b"bye"
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
            with pytest.raises(OSError) as caught:
                outside.getpeername()
            assert caught.value.errno == errno.ENOTCONN


def test_who_is_on_the_way_in_is_awaited(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    # As servers do: it can be accepted when it has sent something.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    assert not door.is_awaited(port)
    with socket.create_connection(listener.getsockname()[:2]) as sock:
        assert door.is_awaited(port)
        door.turn_away(listener)
        sock.sendall(b"x")
        accepted, _ = listener.accept()
        accepted.close()
        assert not door.is_awaited(port)


def test_an_inherited_socket_is_left_alone(listener: socket.socket) -> None:
    inherited = bind(f"fd://{listener.fileno()}", 0, 5)
    inherited.turn_away()
    with socket.create_connection(listener.getsockname()[:2]):
        assert not inherited.is_awaited()
    inherited.sock.detach()


@pytest.mark.parametrize("call", ["door.is_awaited(1)", "reaper._children()"])
def test_nothing_is_imported_once_the_rights_are_dropped(call: str) -> None:
    # After --user the interpreter's files may be out of reach.
    code = (
        "import encodings, sys; from flask_prefork import door, reaper;"
        f" encodings.__path__ = sys.path[:] = []; {call}"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
