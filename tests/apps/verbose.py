"""Views that have much to say, all at the same moment."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import traceback
import typing as t

from flask import Flask
from flask import request

app = Flask(__name__)


def deep(depth: int, do: t.Callable[[], None]) -> None:
    if depth:
        deep(depth - 1, do)
    else:
        do()


def fail() -> t.NoReturn:
    # The last line of its traceback, by which a test knows the whole.
    raise LookupError(f"of {request.args['n']}: " + "x" * 6000)


def wait_at_the_gate() -> None:
    with socket.create_connection(("127.0.0.1", int(request.args["gate"]))) as gate:
        slot = request.environ["flask_prefork.slot"]
        gate.sendall(json.dumps({"slot": slot, "pid": os.getpid()}).encode() + b"\n")
        gate.recv(1)


@app.get("/")
def index() -> str:
    return "here"


@app.get("/hold")
def hold() -> str:
    deep(30, wait_at_the_gate)
    return "gone"


@app.get("/fail")
def fails() -> str:
    deep(50, fail)
    raise AssertionError


@app.get("/log")
def log() -> str:
    app.logger.warning("<%s %s>", request.args["n"], "x" * 12_000)
    return "logged"


@app.get("/print")
def prints() -> str:
    for file in (sys.stderr, request.environ["wsgi.errors"]):
        print("<" + request.args["n"], "x" * 12_000 + ">", file=file)
    return "printed"


@app.get("/print-exc")
def print_exc() -> str:
    try:
        deep(50, fail)
    except LookupError:
        traceback.print_exc()
    return "printed"


@app.get("/thread")
def thread() -> str:
    number = request.args["n"]

    def fail_too() -> t.NoReturn:
        raise LookupError(f"of {number}: " + "x" * 6000)

    one = threading.Thread(target=deep, args=(50, fail_too), name=f"of {number}")
    one.start()
    one.join()
    return "failed"
