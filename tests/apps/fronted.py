"""Tells what it sees of a client behind a proxy, and takes and gives bodies."""

from __future__ import annotations

import hashlib
import os
import socket
import typing as t
from collections.abc import Iterator

from flask import Flask
from flask import request
from flask import url_for

app = Flask(__name__)


@app.get("/")
def index() -> dict[str, t.Any]:
    environ = request.environ
    return {
        "address": request.remote_addr,
        "scheme": request.scheme,
        "host": request.host,
        "url": url_for("index", _external=True),
        "root": request.script_root,
        "id": request.headers.get("X-Request-ID"),
        "own_id": environ.get("flask_prefork.request_id"),
        "request_start": request.headers.get("X-Request-Start"),
        "queue_time": environ["flask_prefork.queue_time"],
        "forwarded": {
            key: value
            for key, value in environ.items()
            if key.startswith("HTTP_X_FORWARDED_")
        },
        # The connection, as long as it lasts.
        "connection": socket_inode(environ["werkzeug.socket"]),
        "pid": os.getpid(),
        "slot": environ["flask_prefork.slot"],
        "generation": environ["flask_prefork.generation"],
    }


def socket_inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@app.post("/digest")
def digest() -> dict[str, t.Any]:
    found = hashlib.sha256()
    size = 0
    while data := request.stream.read(65536):
        found.update(data)
        size += len(data)
    return {"size": size, "digest": found.hexdigest()}


@app.get("/whole/<int:size>")
def whole(size: int) -> bytes:
    """In one piece: who pauses between pieces, or the processor does for it, keeps its
    worker."""
    return bytes(size)


@app.get("/zeros/<int:size>")
def zeros(size: int) -> tuple[Iterator[bytes], dict[str, str]]:
    def body() -> Iterator[bytes]:
        for start in range(0, size, 65536):
            yield bytes(min(65536, size - start))

    return body(), {"Content-Length": str(size)}
