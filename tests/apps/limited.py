"""Routes with limits. Requests wait at a test's gate, and say how many run."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import typing as t

from flask import Flask
from flask import request
from flask import Response
from flask import stream_with_context

from flask_prefork import Prefork

app = Flask(__name__)
app.config["PREFORK_LIMITS"] = {
    "/others/<name>": {"concurrency": 1},
    "/briefly": {"timeout": 0.5},
}
if "LIMITS" in os.environ:
    app.config["PREFORK_LIMITS"] = json.loads(os.environ["LIMITS"])
prefork = Prefork(app)


def wait() -> None:
    """Announce itself at the test's gate, then wait until that is closed."""
    with socket.create_connection(("127.0.0.1", int(request.args["gate"]))) as gate:
        gate.sendall(json.dumps({"pid": os.getpid(), "slot": 0}).encode() + b"\n")
        gate.recv(1)


@app.get("/")
def index() -> dict[str, int]:
    return {"pid": os.getpid()}


@app.route("/hold", methods=["GET", "POST"])
@prefork.limit(concurrency=2)
def hold() -> dict[str, t.Any]:
    digest = hashlib.sha256(request.get_data()).hexdigest()
    wait()
    return {"pid": os.getpid(), "body": digest}


@app.get("/impatient")
@prefork.limit(concurrency=1, queue_timeout=0.3)
def impatient() -> str:
    wait()
    return "done"


@app.get("/others/<name>")
def others(name: str) -> str:
    wait()
    return name


@app.get("/briefly")
def briefly() -> str:
    time.sleep(600)
    return "late"


@app.get("/stream")
@prefork.limit(concurrency=1)
def stream() -> Response:
    def parts() -> t.Iterator[bytes]:
        yield b"first\n"
        wait()
        yield b"last\n"

    return Response(stream_with_context(parts()), mimetype="text/plain")
