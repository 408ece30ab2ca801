"""Registers for the end, while it is loaded and in workers, what notes it in a journal.

``JOURNAL`` is the file. What is deleted at the end is in the directory ``HOME``.
"""

from __future__ import annotations

import atexit
import logging
import logging.handlers
import multiprocessing.util
import os
import shutil
import signal
import sys
import tempfile
import threading
import typing as t
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flask import Flask
from flask import request

from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)
HOME = Path(os.environ["HOME"])
#: What has to be there as long as anybody serves.
needed: list[Path] = []
kept: list[t.Any] = []


class Holder:
    """What a finalizer waits for."""


def note(event: str) -> None:
    with open(os.environ["JOURNAL"], "a") as file:
        file.write(f"{event} {os.getpid()}\n")


def register(where: str) -> None:
    """All ways there are."""
    atexit.register(note, f"atexit-{where}")
    holder = Holder()
    weakref.finalize(holder, note, f"finalize-{where}")
    multiprocessing.util.Finalize(None, note, (f"Finalize-{where}",), exitpriority=1)
    threading._register_atexit(note, f"threading-{where}")  # type: ignore[attr-defined]
    removed = HOME / f"{where}-{os.getpid()}"
    removed.mkdir()
    atexit.register(shutil.rmtree, removed)
    temporary = tempfile.TemporaryDirectory(prefix=f"{where}-", dir=HOME)
    file = tempfile.NamedTemporaryFile(prefix=f"{where}-", dir=HOME)  # noqa: SIM115
    kept.extend([holder, temporary, file])
    needed.extend([removed, Path(temporary.name), Path(file.name)])


register("load")
#: Keeps records until there is an error, or the end.
records = logging.handlers.MemoryHandler(99, target=logging.StreamHandler(sys.stderr))
records.handle(
    logging.makeLogRecord({"msg": "remembered at load", "levelno": logging.INFO})
)
if "BACKGROUND" in os.environ:
    threading.Thread(target=signal.pause, name="never-ends").start()


# In each worker, before any hook; the app's own children are none.
os.register_at_fork(after_in_child=lambda: atexit.register(note, "at-fork"))


@prefork.before_exit
def before_exit() -> None:
    note("before_exit")


def whoami() -> dict[str, t.Any]:
    return {"pid": os.getpid(), "there": [path.exists() for path in needed]}


@app.get("/")
def index() -> dict[str, t.Any]:
    return whoami()


@app.get("/register")
def in_view() -> dict[str, t.Any]:
    register("worker")
    return whoami()


@app.get("/forget")
def forget() -> dict[str, t.Any]:
    """Let the garbage collector have what was made while the app was loaded."""
    kept.clear()
    return whoami()


@app.get("/fork")
def fork() -> dict[str, t.Any]:
    """A child that ends as a script does."""
    pid = os.fork()
    if not pid:
        sys.exit(0)
    os.waitpid(pid, 0)
    return whoami()


# Work in threads


def wait_at_gate(event: str, port: int) -> None:
    import json
    import socket

    with socket.create_connection(("127.0.0.1", port)) as gate:
        gate.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\n")
        gate.recv(1)
    note(event)


@app.get("/thread")
def thread() -> dict[str, t.Any]:
    port = int(request.args["gate"])
    threading.Thread(target=wait_at_gate, args=("thread", port), name="mailer").start()
    return whoami()


@app.get("/jobs")
def jobs() -> dict[str, t.Any]:
    executor = ThreadPoolExecutor(1, thread_name_prefix="jobs")
    kept.append(executor)
    for number in range(3):
        executor.submit(wait_at_gate, f"job-{number}", int(request.args["gate"]))
    return whoami()


@app.get("/exit")
def leave() -> t.NoReturn:
    sys.exit(4)
