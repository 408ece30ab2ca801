"""Hangs where ``HANG`` says, in one process of all: the first that comes there.

``PLACE:N``: at the N-th passage of a process. ``MARK`` names a file that is made then.
"""

from __future__ import annotations

import atexit
import os
import time

from flask import Flask

from flask_prefork import current_worker
from flask_prefork import pool_resized
from flask_prefork import Prefork

LOADER = os.getpid()
WHERE, _, COUNT = os.environ["HANG"].partition(":")
MARK = os.environ["MARK"]
passages = 0


def stay() -> None:
    """Stay here, and mark it from here: tracebacks show it from then on."""
    try:
        os.close(os.open(MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    while True:
        time.sleep(60)


def maybe_hang(place: str) -> None:
    global passages
    if place != WHERE:
        return
    passages += 1
    if passages >= int(COUNT or 1):
        stay()


prefork = Prefork()
prefork.before_fork(lambda: maybe_hang("before_fork"))
prefork.after_fork(lambda: maybe_hang("after_fork"))
prefork.before_exit(lambda: maybe_hang("before_exit"))
prefork.when_ready(lambda: maybe_hang("when_ready"))
os.register_at_fork(before=lambda: maybe_hang("at_fork"))
os.register_at_fork(after_in_child=lambda: maybe_hang("in_child"))
atexit.register(lambda: os.getpid() == LOADER and maybe_hang("at_exit"))
maybe_hang("load")

app = Flask(__name__)
prefork.init_app(app)


@pool_resized.connect_via(app)
def resized(sender: Flask, workers: int) -> None:
    maybe_hang("resized")


@app.get("/")
def index() -> dict[str, int]:
    return {
        "pid": os.getpid(),
        "zygote": os.getppid(),
        "generation": current_worker.generation,
    }
