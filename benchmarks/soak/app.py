"""The app that is soaked. It notes each request with which it is called.

The server's environment says where: ``SOAK_JOURNAL``. ``SOAK_BROKEN`` names a file;
while it is there, the app can't be loaded. ``SOAK_DEFECTS`` is what a broken server
would do, to show that it is found: ``drop`` closes a connection, ``exit`` ends a
worker, ``wrong`` gives another body, ``twice`` notes a request again, ``slow`` answers
503, ``leak`` leaves a file.
"""

from __future__ import annotations

import os
import time
import typing as t
import zlib
from collections.abc import Iterator

from flask import Flask
from flask import request
from simple_websocket import ConnectionClosed
from simple_websocket import Server

from flask_prefork import Prefork

GROWTH = 25 << 20
"""Bytes that a request for ``/grow`` leaves in its worker."""

EVERY = 5
"""One of the defects shows in each so-many-th quick request of a worker."""

if os.path.exists(os.environ["SOAK_BROKEN"]):
    raise RuntimeError("this is the app that can't be loaded")

app = Flask(__name__)
prefork = Prefork(app)
journal = os.open(
    os.environ["SOAK_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644
)
hoard: list[bytearray] = []
defects = [one for one in os.environ["SOAK_DEFECTS"].split(",") if one]
quick = 0


@app.before_request
def note() -> None:
    """In one write, so that it is whole if the worker is killed then."""
    os.write(journal, f"{request.args['id']} {os.getpid()}\n".encode())


@prefork.before_fork
def forget() -> None:
    """A worker that becomes the zygote keeps what it has; the next ones are to begin
    with nothing."""
    hoard.clear()


@app.get("/quick")
def answer() -> t.Any:
    global quick
    quick += 1

    if defects and quick % EVERY == 0:
        return fail(defects[(quick // EVERY - 1) % len(defects)])

    return request.args["id"]


def fail(defect: str) -> t.Any:
    """Do what a broken server would."""
    if defect == "exit":
        os._exit(0)

    if defect == "drop":
        request.environ["werkzeug.socket"].shutdown(2)
    elif defect == "twice":
        note()
    elif defect == "leak":
        os.close(os.open(f"{os.environ['TMPDIR']}/left-{os.getpid()}", os.O_CREAT))
    elif defect == "slow":
        return "too slow", 503
    elif defect == "wrong":
        return "another request's"

    return request.args["id"]


@app.get("/slow")
def wait() -> str:
    time.sleep(float(request.args["seconds"]))
    return request.args["id"]


@app.get("/limited")
@prefork.limit(concurrency=2, queue_timeout=0.5)
def wait_limited() -> str:
    time.sleep(0.3)
    return request.args["id"]


@app.get("/grow")
def grow() -> str:
    hoard.append(bytearray(b"x") * GROWTH)
    return request.args["id"]


@app.get("/events")
def send_events() -> t.Any:
    name = request.args["id"]

    def events() -> Iterator[str]:
        for number in range(10):
            yield f"data: {name} {number}\n\n"
            time.sleep(0.1)

    return events(), {"Content-Type": "text/event-stream"}


@app.post("/upload")
def take() -> str:
    size = checksum = 0

    while data := request.stream.read(1 << 16):
        size += len(data)
        checksum = zlib.crc32(data, checksum)

    return f"{request.args['id']} {size} {checksum}"


@app.get("/download")
def give() -> bytes:
    return content(request.args["id"], int(request.args["size"]))


def content(name: str, size: int) -> bytes:
    """The body of a download."""
    line = f"{name}\n".encode()
    return (line * (size // len(line) + 1))[:size]


@app.route("/socket", websocket=True)
def converse() -> str:
    socket = Server(request.environ)

    try:
        while True:
            socket.send(f"{request.args['id']} {socket.receive()}")
    except ConnectionClosed:
        return ""
