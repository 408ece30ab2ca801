"""Long responses, which the sender takes over from workers if their client is slow.

Everything else is the app ``held``.
"""

from __future__ import annotations

import os
import signal
import socket

from held import app

from flask_prefork.http.handback import Delivery
from flask_prefork.worker.reports import Reports

__all__ = ["app"]

_deliver = Reports.deliver
dies = False


@app.get("/deliver/<int:size>")
def respond(size: int) -> bytes:
    return bytes(size)


@app.get("/deliver/<int:size>/die")
def respond_and_die(size: int) -> bytes:
    """Let the worker die right after it has handed the response over."""
    global dies
    dies = True
    return bytes(size)


def deliver(
    self: Reports, index: int, connection: socket.socket, delivery: Delivery
) -> None:
    """Hand it over."""
    _deliver(self, index, connection, delivery)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)


Reports.deliver = deliver  # type: ignore[method-assign]
