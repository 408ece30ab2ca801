"""Each worker notes its birth and its end in the file ``JOURNAL``.

While there is a file ``BROKEN`` they die at once.
"""

from __future__ import annotations

import atexit
import os
import typing as t

from flask import Flask
from flask import request

app = Flask(__name__)
fd = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(event: str) -> None:
    os.write(fd, f"{event} {os.getpid()}\n".encode())


def born() -> None:
    if os.path.exists(os.environ.get("BROKEN", "")):
        os._exit(3)
    note("born")
    # Registered in the worker, lest the zygote's end is noted too.
    atexit.register(note, "left")


os.register_at_fork(after_in_child=born)


@app.get("/")
def index() -> dict[str, t.Any]:
    return {"slot": request.environ["flask_prefork.slot"], "pid": os.getpid()}
