"""A server's admin address, as a client sees it."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import typing as t
from http.client import HTTPConnection

import psutil
import pytest

from .gate import DEADLINE
from .server import runs
from .server import Server
from .server import wait_for

needs_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="the system has no proc(5)"
)
ROUTES = ("/", "/status.json", "/metrics", "/livez", "/readyz")


class Response(t.NamedTuple):
    """What the admin address says."""

    status: int
    text: str

    @property
    def json(self) -> t.Any:
        return json.loads(self.text)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self._path)


class Admin:
    """A server's admin address."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.address: str = server.wait_for_log(r"Status on (\S+)\n")[1]

    def connect(self) -> HTTPConnection:
        if self.address.startswith("unix:"):
            return _UnixConnection(self.address.removeprefix("unix:"))
        return HTTPConnection(self.address.removeprefix("http://"), timeout=DEADLINE)

    def get(self, path: str, **headers: str) -> Response:
        """Ask it."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return Response(response.status, response.read().decode())

    def status(self) -> t.Any:
        response = self.get("/status.json")
        assert response.status == 200, response
        return response.json

    def wait_until(self, condition: t.Callable[[t.Any], object]) -> t.Any:
        """Wait until the status is so.

        :return: The status.
        """

        def look() -> t.Any:
            status = self.status()
            return status if condition(status) else None

        return wait_for(look)

    def wait_for_answer(self, path: str, status: int) -> Response:
        """Wait until a path is answered with a status."""

        def look() -> Response | None:
            response = self.get(path)
            return response if response.status == status else None

        return wait_for(look)

    def process(self) -> psutil.Process | None:
        """The observer, if there is one."""
        for child in psutil.Process(self.server.pid).children():
            if runs(child, "observe"):
                return child
        return None


def letters(status: t.Any) -> str:
    return str(status["generations"][0]["letters"])
