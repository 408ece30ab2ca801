"""How a connection ends after the response that its client wanted to be the last."""

from __future__ import annotations

import os
import socket
import typing as t

from harness import arrive
from harness import hello
from harness import read_all
from harness import Site

from flask_prefork.http.server import PreforkRequestHandler

CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class _Called(socket.socket):
    """The server's end, which notes how it is ended."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(fileno=connection.detach())
        self.calls: list[str] = []

    def shutdown(self, how: int) -> None:
        self.calls.append("shutdown")
        super().shutdown(how)

    def close(self) -> None:
        if self.fileno() >= 0:
            self.calls.append("close")
        super().close()


def _end_of(site: Site, data: bytes) -> list[str]:
    client, connection, address = site.connect()
    with _Called(connection) as called:
        client.sendall(data)
        arrive(called, len(data))
        site.server.serve(called, address)
    assert read_all(client).startswith(b"HTTP/1.1 200 ")
    return called.calls


def test_the_end_that_the_client_wants_is_one_call(site: Site) -> None:
    assert _end_of(site, CLOSE) == ["close"]
    body = CLOSE.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc")
    assert _end_of(site, body.replace(b"GET", b"POST")) == ["close"]


def test_what_follows_the_last_request_does_not_reset_the_connection(
    site: Site,
) -> None:
    assert _end_of(site, CLOSE + b"more")[0] == "shutdown"


def test_a_subclass_has_the_connection_until_the_end(make_site: t.Any) -> None:
    peers = []

    class Handler(PreforkRequestHandler):
        def finish(self) -> None:
            peers.append(self.connection.getpeername())

    assert _end_of(make_site(handler=Handler), CLOSE) == ["shutdown", "close"]
    assert len(peers) == 1


def test_a_copy_of_the_descriptor_does_not_keep_the_end_from_the_client(
    make_site: t.Any,
) -> None:
    copies = []

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        copies.append(os.dup(environ["werkzeug.socket"].fileno()))
        return hello(environ, start_response)

    assert _end_of(make_site(app), CLOSE) == ["shutdown", "close"]
    os.close(copies[0])


def test_a_child_does_not_keep_the_end_from_the_client(make_site: t.Any) -> None:
    read, write = os.pipe()
    children = []

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        pid = os.fork()
        if not pid:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        children.append(pid)
        return hello(environ, start_response)

    site = make_site(app)
    try:
        assert _end_of(site, CLOSE) == ["shutdown", "close"]
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(children[0], 0)
