"""Counts by ``prometheus_client``, and dies when asked to.

It can't be loaded while there is a file ``BROKEN``. ``GATE`` is the port of a gate at
which a zygote that was a worker waits before it forks, and its workers before they are
idle.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import typing as t

from flask import Flask
from prometheus_client import Counter
from prometheus_client import Gauge
from prometheus_client import Histogram

from flask_prefork import current_worker
from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)
loads = Counter("loads", "How often the app was loaded.")
visits = Counter("visits", "Requests.", ["path"])
sizes = Histogram("sizes", "Of nothing.")
alive = Gauge("alive", "Live workers.", multiprocess_mode="livesum")
newest = Gauge("newest", "A worker.", multiprocess_mode="mostrecent")
loads.inc()
loader = os.getpid()
if os.path.exists(os.environ.get("BROKEN", "")):
    raise LookupError("the catalogue is missing")


@prefork.before_fork
def before_fork() -> None:
    if os.getpid() != loader:
        wait_at_gate()


@prefork.after_fork
def after_fork() -> None:
    alive.set(1)
    newest.set(os.getpid())
    if current_worker.generation == 2:
        wait_at_gate()


def wait_at_gate() -> None:
    if "GATE" in os.environ:
        with contextlib.suppress(ConnectionError):
            address = ("127.0.0.1", int(os.environ["GATE"]))
            with socket.create_connection(address) as gate:
                gate.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\n")
                gate.recv(1)


@app.get("/")
def index() -> dict[str, t.Any]:
    visits.labels("/").inc()
    sizes.observe(1)
    return {"pid": os.getpid()}


@app.get("/die")
def die() -> t.NoReturn:
    visits.labels("/die").inc()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@app.get("/child")
def child() -> dict[str, t.Any]:
    """A process that is forked here counts for itself."""
    pid = os.fork()
    if not pid:
        visits.labels("/child").inc()
        os._exit(0)
    os.waitpid(pid, 0)
    visits.labels("/child").inc()
    return {"child": pid}
