"""Forks without exec, in all places, and says what such a child has.

``AT_IMPORT`` and ``IN_HOOK`` name files for what a child says that is forked while the
app is loaded, or in the zygote's hook ``before_fork``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import threading
import typing as t
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from flask import Flask
from flask import request

from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)
context = multiprocessing.get_context("fork")
#: What a server's processes may do something about.
LOOKED_AT = ("INT", "QUIT", "TERM", "HUP", "USR1", "USR2", "CHLD", "XCPU", "TTIN")
kept: list[t.Any] = []


def dispositions() -> dict[str, t.Any]:
    """How this process would take signals, and its sockets."""
    unusual = {}
    with open("/proc/self/status", encoding="ascii") as file:
        fields = {line.partition(":")[0]: line.partition(":")[2] for line in file}
    for field in ("SigBlk", "SigIgn", "SigCgt"):
        bits = int(fields[field], 16)
        for name in LOOKED_AT:
            if bits >> (getattr(signal, f"SIG{name}") - 1) & 1:
                unusual[name] = field
    return {"signals": unusual, "descriptors": descriptors()}


def descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.append(os.readlink(f"/proc/self/fd/{name}"))
            elif (what := os.readlink(f"/proc/self/fd/{name}")).startswith("anon_"):
                found.append(what)
        except OSError:
            pass  # the listing's own
    return found


def fork() -> t.Any:
    """What a child says."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, json.dumps(dispositions()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        said = json.loads(file.read())
    os.waitpid(pid, 0)
    return said


def note(variable: str) -> None:
    if variable in os.environ:
        Path(os.environ[variable]).write_text(json.dumps(fork()))


note("AT_IMPORT")


@prefork.before_fork
def before_fork() -> None:
    note("IN_HOOK")


@app.get("/fork")
def in_view() -> t.Any:
    return fork()


@app.get("/asked")
def after_asking_the_socket() -> t.Any:
    """The request's socket has a descriptor of its own since."""
    request.environ["werkzeug.socket"].getpeername()
    return fork()


@app.get("/thread")
def in_thread() -> t.Any:
    found: list[t.Any] = []
    thread = threading.Thread(target=lambda: found.append(fork()))
    thread.start()
    thread.join()
    return found[0]


@app.get("/pool")
def pool() -> t.Any:
    with context.Pool(2) as workers:
        return workers.apply(dispositions)


@app.get("/executor")
def executor() -> t.Any:
    """One that is still there when the worker leaves."""
    kept.append(ProcessPoolExecutor(1, context))
    return {**kept[-1].submit(dispositions).result(), "pid": os.getpid()}


@app.get("/terminate")
def terminate() -> dict[str, t.Any]:
    """End a child that does nothing, and wait for it."""
    process = context.Process(target=signal.pause)
    process.start()
    process.terminate()
    process.join()
    return {"exitcode": process.exitcode}


@app.get("/daemon")
def daemon() -> dict[str, t.Any]:
    """Leave a daemonic child, which is to end with its parent."""
    process = context.Process(target=signal.pause, daemon=True)
    process.start()
    kept.append(process)
    return {"pid": os.getpid(), "child": process.pid}


@app.get("/run")
def run() -> t.Any:
    """What a program has, that is executed."""
    import subprocess
    import sys

    code = "import forking, json; print(json.dumps(forking.dispositions()))"
    path = os.path.dirname(__file__)
    line = [sys.executable, "-c", code]
    env = {k: v for k, v in os.environ.items() if k not in ("AT_IMPORT", "IN_HOOK")}
    # Where coverage measures a program, it handles TERM in it.
    env = {k: v for k, v in env.items() if not k.startswith("COVERAGE_")}
    return json.loads(subprocess.check_output(line, env={**env, "PYTHONPATH": path}))


@app.get("/")
def index() -> dict[str, t.Any]:
    return {"pid": os.getpid(), "query": request.query_string.decode()}
