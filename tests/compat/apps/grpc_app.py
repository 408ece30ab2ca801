"""A gRPC client, whose channel is opened in each worker.

With ``OPEN`` it is opened while the app is loaded, which the server reports.
"""

from __future__ import annotations

import os
import typing as t
import uuid

import grpc
from flask import Flask

from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)
clients = {}


def connect() -> None:
    clients["channel"] = grpc.insecure_channel(os.environ["SERVICE"])
    clients["call"] = clients["channel"].unary_unary("/shop.Shop/Order")


if os.environ.get("OPEN"):
    connect()
else:
    prefork.after_fork(connect)


@app.get("/")
def index() -> dict[str, t.Any]:
    number = uuid.uuid4().hex
    clients["call"](f"call-{number}".encode(), timeout=20)
    return {"id": number, "pid": os.getpid()}
