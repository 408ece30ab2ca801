"""Connects to the port ``PEER`` in the zygote, when the generation serves."""

from __future__ import annotations

import os
import socket
import typing as t

from flask import Flask

from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)
connections: list[socket.socket] = []


@prefork.when_ready
def connect() -> None:
    address = "127.0.0.1", int(os.environ["PEER"])
    connections.append(socket.create_connection(address))


@app.get("/")
def index() -> dict[str, t.Any]:
    """How the connections look that the worker was forked with."""
    ended = []
    for connection in connections:
        try:
            ended.append(connection.recv(1, socket.MSG_DONTWAIT) == b"")
        except BlockingIOError:
            ended.append(False)
    return {"pid": os.getpid(), "ended": ended}
