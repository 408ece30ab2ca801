"""WebSockets by flask-sock, and views that take their connection over by hand."""

from __future__ import annotations

import os
import socket
import threading
import time
import typing as t

from flask import Flask
from flask_sock import Sock
from simple_websocket import Server
from wsproto.events import Ping

app = Flask(__name__)
sock = Sock(app)


@app.get("/")
def index() -> dict[str, t.Any]:
    return {"pid": os.getpid()}


@sock.route("/echo")
def echo(ws: Server) -> None:
    while True:
        ws.send(ws.receive())


@sock.route("/bye")
def bye(ws: Server) -> None:
    """Close after the first message."""
    ws.close(1000, f"bye {ws.receive()}")


@sock.route("/ping")
def ping(ws: Server) -> None:
    """Ask the client whether it is there, and say what it said to that."""
    ws.pong_received = False
    ws.sock.send(ws.ws.send(Ping()))
    ws.send("asked")
    ws.receive()
    ws.send(str(ws.pong_received))
    ws.receive()


@sock.route("/fail")
def fail(ws: Server) -> None:
    ws.receive()
    raise ZeroDivisionError("in the handler")


@sock.route("/stubborn")
def stubborn(ws: Server) -> None:
    """Take no notice of the connection's end."""
    ws.send("stubborn")
    threading.Event().wait()


@app.get("/hang")
def hang() -> t.NoReturn:
    while True:
        time.sleep(0.01)


def raw(environ: t.Any) -> t.NoReturn:
    """Answer by hand, then end as libraries do on werkzeug's server."""
    connection: socket.socket = environ["werkzeug.socket"]
    connection.sendall(b"by hand ")
    while data := connection.recv(100):
        connection.sendall(data)
    raise ConnectionError


def with_raw(environ: t.Any, start_response: t.Any) -> t.Iterable[bytes]:
    """The app; Flask would take that for an error."""
    if environ["PATH_INFO"] == "/raw":
        raw(environ)
    return flask(environ, start_response)


flask, app.wsgi_app = app.wsgi_app, with_raw  # type: ignore[method-assign]
