"""Hands each response of ``/deliver`` over to the sender, however quick its client is.

Everything else is the app ``held``.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import typing as t

from held import app

from flask_prefork.http.handback import Delivery
from flask_prefork.http.server import PreforkServer
from flask_prefork.system.parked import Wait
from flask_prefork.system.spool import Spool
from flask_prefork.worker.worker import Worker

__all__ = ["app"]

REQUEST = re.compile(rb"GET /deliver/(\d+)/(\w+)(/die)? .*?\r\n\r\n", re.DOTALL)
FIELDS = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n"

_serve = PreforkServer.serve
_deliver = Worker._deliver


def serve(
    self: PreforkServer, connection: socket.socket, *args: t.Any, **more: t.Any
) -> t.Any:
    """Serve a connection, or have its response delivered."""
    found = REQUEST.match(connection.recv(65536, socket.MSG_PEEK))
    if found is None:
        return _serve(self, connection, *args, **more)
    connection.recv(found.end())
    size, wait = int(found[1]), Wait[found[2].decode()]
    spool = Spool(size)
    goes_on = "keep-alive" if wait is Wait.KEEP_ALIVE else "close"
    spool.append((FIELDS % (size, goes_on)).encode())
    spool.append(bytes(size))
    return Delivery(240.0, spool, -1, 0, 0, wait, 5.0, b"die" if found[3] else b"")


def deliver(
    self: Worker, index: int, connection: socket.socket, delivery: Delivery
) -> None:
    """Hand it over, and die if that is wanted."""
    _deliver(self, index, connection, delivery._replace(tag=b""))
    if delivery.tag:
        os.kill(os.getpid(), signal.SIGKILL)


PreforkServer.serve = serve  # type: ignore[method-assign]
Worker._deliver = deliver  # type: ignore[method-assign]
