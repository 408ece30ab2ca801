"""Notes every hook and signal in the file ``JOURNAL``, a line each.

``FAIL`` names a hook that raises, and ``HANG`` one that doesn't return. ``GATE`` is
the port of a gate at which who is told that the pool has another size waits.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import typing as t

from flask import current_app
from flask import Flask

from flask_prefork import current_worker
from flask_prefork import pool_resized
from flask_prefork import Prefork
from flask_prefork import reloaded
from flask_prefork import worker_exited
from flask_prefork import worker_exiting
from flask_prefork import worker_started

app = Flask(__name__)
prefork = Prefork(app)
failing = os.environ.get("FAIL")


def note(event: str, **news: t.Any) -> None:
    line = {
        "event": event,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "app": current_app.name,
        "slot": current_worker.slot if current_worker else None,
        **news,
    }
    with open(os.environ["JOURNAL"], "a") as file:
        file.write(json.dumps(line) + "\n")
    if event == failing:
        raise LookupError("the catalogue is missing")
    while event == os.environ.get("HANG"):
        signal.pause()


@prefork.before_fork
def before_fork() -> None:
    note("before_fork")


@prefork.after_fork
def after_fork() -> None:
    note("after_fork", served=current_worker.served)


@prefork.before_exit
def first_registered() -> None:
    note("before_exit")


@prefork.before_exit
def second_registered() -> None:
    note("early_exit")


@prefork.when_ready
def when_ready() -> None:
    note("when_ready")


@prefork.when_ended
def when_ended() -> None:
    note("when_ended")


@worker_exited.connect_via(app)
def on_worker_exit(sender: Flask, *, slot: int, pid: int, **news: t.Any) -> None:
    note("worker_exited", of=slot, told_pid=pid, **news)


@worker_started.connect_via(app)
def on_start(sender: Flask, **news: t.Any) -> None:
    note("worker_started", **news)


@worker_exiting.connect_via(app)
def on_exit(sender: Flask, **news: t.Any) -> None:
    note("worker_exiting", **news)


@reloaded.connect_via(app)
def on_reload(sender: Flask, **news: t.Any) -> None:
    note("reloaded", **news)


@pool_resized.connect_via(app)
def on_resize(sender: Flask, **news: t.Any) -> None:
    note("pool_resized", **news)
    if "GATE" in os.environ:
        with socket.create_connection(("127.0.0.1", int(os.environ["GATE"]))) as gate:
            gate.sendall(json.dumps(news).encode() + b"\n")
            gate.recv(1)


@app.get("/")
def index() -> dict[str, t.Any]:
    return {
        "slot": current_worker.slot,
        "generation": current_worker.generation,
        "pid": current_worker.pid,
        "served": current_worker.served,
    }


@app.get("/hang")
def hang() -> None:
    """No request can end it: its worker has to be killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.pause()


@app.get("/child")
def child() -> dict[str, t.Any]:
    """Whether a process that is forked here takes itself for the worker."""
    pid = os.fork()
    if not pid:
        os._exit(bool(current_worker))
    _, status = os.waitpid(pid, 0)
    return {"worker": bool(os.waitstatus_to_exitcode(status))}
