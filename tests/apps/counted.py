"""A factory that counts its calls in the file ``CALLS``, and shares what it made."""

from __future__ import annotations

import json
import os
import secrets
import socket
import typing as t
from pathlib import Path

from flask import Flask
from flask import request


def create_app() -> Flask:
    app = Flask(__name__)
    made = {"token": secrets.token_hex(), "maker": os.getpid()}
    with Path(os.environ["CALLS"]).open("a") as file:
        file.write(f"{os.getpid()}\n")

    @app.get("/hold")
    def hold() -> dict[str, t.Any]:
        answer = {
            "slot": request.environ["flask_prefork.slot"],
            "generation": request.environ["flask_prefork.generation"],
            "pid": os.getpid(),
            **made,
        }
        port = int(request.args["gate"])
        with socket.create_connection(("127.0.0.1", port)) as gate:
            gate.sendall(json.dumps(answer).encode() + b"\n")
            gate.recv(1)
        return answer

    return app
