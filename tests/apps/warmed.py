"""Makes something at its first request, and says who has made it.

``JOURNAL`` is a file for what its hooks note. ``LEAVING`` is what the hook
``before_exit`` does as well: ``hold`` waits at the gate on port ``GATE``, and ``fork``
lets what the worker forks afterwards wait there.
``THREAD`` runs a thread in each worker. With ``EARLY`` it uses its database while it is
loaded.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import typing as t

from flask import Flask
from flask import request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from flask_prefork import current_worker
from flask_prefork import Prefork

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("DATABASE", "sqlite:///a.db")
db = SQLAlchemy(app)
prefork = Prefork(app)
made: list[int] = []
stop = threading.Event()
is_leaving = False
if "EARLY" in os.environ:
    with app.app_context(), db.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def wait_at_gate(port: str, who: dict[str, t.Any] | None = None) -> None:
    with socket.create_connection(("127.0.0.1", int(port))) as gate:
        gate.sendall(json.dumps(who or whoami()).encode() + b"\n")
        gate.recv(1)


def whoami() -> dict[str, t.Any]:
    return {
        "slot": current_worker.slot,
        "generation": current_worker.generation,
        "pid": os.getpid(),
        "zygote": os.getppid(),
        "uid": os.getuid(),
    }


def note(event: str) -> None:
    if "JOURNAL" in os.environ:
        with open(os.environ["JOURNAL"], "a") as file:
            file.write(f"{event} {os.getpid()}\n")


@prefork.when_ready
def when_ready() -> None:
    note("when_ready")


@prefork.after_fork
def after_fork() -> None:
    note("after_fork")
    if "THREAD" in os.environ:
        threading.Thread(target=stop.wait, name="collector", daemon=True).start()


@prefork.before_exit
def before_exit() -> None:
    global is_leaving
    is_leaving = True
    note("before_exit")
    if os.environ.get("LEAVING") == "hold":
        wait_at_gate(os.environ["GATE"])


def hold_fork() -> None:
    if is_leaving:
        wait_at_gate(os.environ["GATE"], {"pid": os.getpid()})


if os.environ.get("LEAVING") == "fork":
    os.register_at_fork(after_in_child=hold_fork)


@app.get("/")
def index() -> dict[str, t.Any]:
    if not made:
        made.append(os.getpid())
    return {**whoami(), "maker": made[0]}


@app.get("/hold")
def hold() -> dict[str, t.Any]:
    wait_at_gate(request.args["gate"])
    return whoami()


@app.get("/query")
def query() -> dict[str, t.Any]:
    """Leave a connection in the pool, and say of which files it consists."""
    db.session.execute(text("SELECT 1"))
    db.session.commit()
    return {**whoami(), "idle": db.engine.pool.checkedin()}  # type: ignore[attr-defined]


@app.get("/files")
def files() -> list[str]:
    """What the zygote has open."""
    directory = f"/proc/{os.getppid()}/fd"
    return [os.readlink(f"{directory}/{name}") for name in os.listdir(directory)]
