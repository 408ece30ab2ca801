"""Flask-SocketIO, with a message queue that all workers share if there is one."""

from __future__ import annotations

import os
import typing as t

from flask import Flask
from flask_socketio import emit
from flask_socketio import SocketIO

app = Flask(__name__)
socketio = SocketIO(
    app, async_mode="threading", message_queue=os.environ.get("MESSAGE_QUEUE")
)


@app.get("/")
def index() -> dict[str, t.Any]:
    return {"pid": os.getpid()}


@socketio.on("say")
def say(text: str) -> str:
    """Tell all clients."""
    emit("said", {"text": text, "pid": os.getpid()}, broadcast=True)
    return "ok"


@socketio.on("who")
def who() -> int:
    return os.getpid()
