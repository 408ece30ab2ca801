"""Flask-SocketIO in threading mode, whose WebSockets are simple-websocket's."""

from __future__ import annotations

import os
import typing as t

from flask import Flask
from flask import request
from flask_socketio import disconnect
from flask_socketio import emit
from flask_socketio import SocketIO

app = Flask(__name__)
socketio = SocketIO(app, async_mode="threading")


@app.get("/")
def index() -> dict[str, t.Any]:
    return {"pid": os.getpid()}


@socketio.on("say")
def say(text: str) -> str:
    """Echo it, by a thread too, and acknowledge it."""
    emit("said", text)
    socketio.start_background_task(socketio.emit, "later", text, to=request.sid)
    return f"{len(text)} characters"


@socketio.on("fail")
def fail() -> None:
    raise ZeroDivisionError("in the handler")


@socketio.on("leave")
def leave() -> None:
    disconnect()
