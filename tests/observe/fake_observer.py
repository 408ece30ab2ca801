"""Stands in for a server's observer: says what a test wants."""

from __future__ import annotations

import contextlib
import socket
import threading
import typing as t
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer

from flask_prefork.observe.json import render

from .snapshots import SAMPLE


class Handler(BaseHTTPRequestHandler):
    """Answers as its server says."""

    server: Admin

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.server.raw is not None:
            self.wfile.write(self.server.raw)
            return
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def address_string(self) -> str:
        return "a test"

    def log_message(self, *args: object) -> None:
        pass


class Admin(ThreadingHTTPServer):
    """Stands in for a server's observer.

    :ivar status: The status that it answers with.
    :ivar body: What it answers.
    :ivar raw: What it sends in place of a response.
    :ivar asked: The paths that it was asked for, and by which authority.
    """

    def __init__(self, address: str | tuple[str, int]) -> None:
        if isinstance(address, str):
            self.address_family = socket.AF_UNIX
        self.status = 200
        self.body = render(SAMPLE)
        self.raw: bytes | None = None
        self.asked: list[tuple[str, str | None]] = []
        super().__init__(address, Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        # The base looks for a TCP port.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    @property
    def url(self) -> str:
        if self.address_family == socket.AF_UNIX:
            return f"unix:{t.cast(str, self.server_address)}"
        return "127.0.0.1:{1}".format(*self.server_address)


@contextlib.contextmanager
def serving(address: str | tuple[str, int]) -> Iterator[Admin]:
    with Admin(address) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
