"""The manual's app whose WebSockets and events don't take all workers."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from manual.pages import blocks

from .conftest import Run
from .server import command
from .server import Request
from .server import Server
from .websockets import websocket

PAGE = "docs/under-load.rst"
HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
def server(run: Run, tmp_path: Path) -> Server:
    (block,) = (block for block in blocks(PAGE) if block.caption == "live.py")
    (tmp_path / block.caption).write_text(block.text)
    line = command("live", "--port", "0", "--max-workers", "8")
    return run(line, directory=tmp_path)


def test_websockets_leave_workers_for_others(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        chats = [stack.enter_context(websocket(server, "/chat")) for _ in range(3)]
        for number, chat in enumerate(chats):
            chat.send(f"hello {number}")
            assert chat.receive() == f"hello {number}"
        fourth = Request(server._connect())
        server.requests.append(fourth)
        fourth.sock.sendall(HANDSHAKE)
        assert server.get().body == b"Hello\n"
        # It has waited for a permit, which nobody has given back.
        answer = fourth.answer()
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        chats[0].close()
        with websocket(server, "/chat") as chat:
            chat.send("again")
            assert chat.receive() == "again"


def test_events_wait_for_their_turn(server: Server) -> None:
    """More streams than may run at once all come to their end."""
    requests = [server.send("/progress") for _ in range(4)]
    assert server.get().body == b"Hello\n"
    for request in requests:
        answer = request.answer()
        assert answer.status == 200
        assert answer.body.count(b"data: ") == 5
