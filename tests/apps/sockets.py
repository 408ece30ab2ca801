"""WebSockets by flask-sock, and views that take their connection over by hand."""

from __future__ import annotations

import os
import socket
import threading
import typing as t

from flask import Flask
from flask import request
from flask_sock import Sock
from simple_websocket import Server

app = Flask(__name__)
sock = Sock(app)


@app.get("/")
def index() -> dict[str, t.Any]:
    return {"pid": os.getpid(), "slot": request.environ["flask_prefork.slot"]}


@sock.route("/echo")
def echo(ws: Server) -> None:
    while True:
        ws.send(ws.receive())


@sock.route("/bye")
def bye(ws: Server) -> None:
    """Close after the first message."""
    ws.close(1000, f"bye {ws.receive()}")


@sock.route("/fail")
def fail(ws: Server) -> None:
    ws.receive()
    raise ZeroDivisionError("in the handler")


@sock.route("/stubborn")
def stubborn(ws: Server) -> None:
    """Take no notice of the connection's end."""
    ws.send("stubborn")
    threading.Event().wait()


@app.get("/raw")
def raw() -> t.NoReturn:
    """Answer by hand, then end as libraries do on werkzeug's server."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.sendall(b"by hand ")
    while data := connection.recv(100):
        connection.sendall(data)
    raise ConnectionError
