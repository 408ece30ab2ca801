"""Says which worker serves, and holds requests until a test lets them go."""

from __future__ import annotations

import json
import os
import socket
import typing as t

from flask import Flask
from flask import request

app = Flask(__name__)


def whoami() -> dict[str, t.Any]:
    return {
        "slot": request.environ["flask_prefork.slot"],
        "generation": request.environ["flask_prefork.generation"],
        "pid": os.getpid(),
        "zygote": os.getppid(),
    }


@app.get("/")
def index() -> dict[str, t.Any]:
    return whoami()


@app.route("/hold", methods=["GET", "POST"])
def hold() -> dict[str, t.Any]:
    """Announce itself at the test's gate, then wait until that is closed."""
    with socket.create_connection(("127.0.0.1", int(request.args["gate"]))) as gate:
        gate.sendall(json.dumps(whoami()).encode() + b"\n")
        gate.recv(1)
    return whoami()


@app.get("/exit")
def leave() -> t.NoReturn:
    os._exit(3)


@app.get("/fork")
def fork() -> dict[str, t.Any]:
    """An accident: a child that believes it is the view, too."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return {**whoami(), "child": not pid}
