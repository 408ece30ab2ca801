"""The apps that are measured, from the least WSGI app to one that touches much memory.

Each exists twice: as a WSGI app for any server, and as a :class:`Flask` for
``flask --app``. All respond to ``GET /``, which shows that a server is ready.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
import typing as t

from flask import Flask
from flask import render_template_string
from flask import request
from flask import Response
from flask import send_file

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse
    from _typeshed.wsgi import WSGIEnvironment

BODY = b"Hello, World!\n"

MEGABYTE = bytes(1_000_000)

ROWS = 50
"""What a page shows."""

TOUCHED = 30 * 2**20
"""Bytes of its own that a process touches for each request of :func:`touch`."""

PAGE_SIZE = 4096

SLOW_LIMITS = {"slow": 2, "slower": 1}
"""How many requests of the slow routes may run at once, where a server has limits."""

if os.environ.get("BENCHMARK_QUIET"):
    # ``flask run`` has no option against its line for each request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)


def bare(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Answer without any framework: what is left is the server's own cost."""
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]
    )
    return [BODY]


bare_in_flask = Flask("bare")
"""The bare app as ``flask --app`` takes it, which wants a :class:`Flask`. Its
``__call__`` does nothing but call ``wsgi_app``, one Python call more than other
servers make."""
bare_in_flask.wsgi_app = bare  # type: ignore[method-assign]

hello = Flask("hello")


@hello.get("/")
def index() -> str:
    return BODY.decode()


page = Flask("page")

_TEMPLATE = """<!doctype html><title>Items</title>
<table>{% for item in items %}
<tr><td>{{ item.id }}<td>{{ item.name }}<td>{{ "%.2f" % item.price }}{% endfor %}
</table>
"""
_ITEMS = [(f"<item {number}>", number / 7) for number in range(10 * ROWS)]
_database: sqlite3.Connection | None = None


def _items() -> sqlite3.Connection:
    """This process's database, made when it is first asked for: SQLite's
    connections don't survive a fork.
    """
    global _database

    if _database is None:
        made = sqlite3.connect(":memory:", check_same_thread=False)
        made.row_factory = sqlite3.Row
        made.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name, price)")
        made.executemany("INSERT INTO item (name, price) VALUES (?, ?)", _ITEMS)
        _database = made

    return _database


@page.get("/")
def items() -> str:
    query = "SELECT id, name, price FROM item ORDER BY price DESC LIMIT ?"
    return render_template_string(_TEMPLATE, items=_items().execute(query, (ROWS,)))


wait = Flask("wait")


@wait.get("/")
def wait_50_ms() -> str:
    time.sleep(0.05)
    return BODY.decode()


download = Flask("download")


@download.get("/")
def send_megabyte() -> bytes:
    return MEGABYTE


upload = Flask("upload")


@upload.route("/", methods=["GET", "POST"])
def take_megabyte() -> str:
    return f"{len(request.get_data())}\n"


slow = Flask("slow")
"""What slow clients ask for, and quick ones beside them."""


@slow.get("/")
def hello_beside() -> str:
    return BODY.decode()


@slow.post("/")
def take_body() -> str:
    return f"{len(request.get_data())}\n"


@slow.get("/large")
def send_large() -> bytes:
    return bytes(int(request.args["size"]))


@slow.get("/pieces")
def send_pieces() -> Response:
    """So many megabytes, one after the other."""
    count = int(request.args["count"])
    response = Response(MEGABYTE for _ in range(count))
    response.content_length = count * len(MEGABYTE)
    return response


@slow.get("/file")
def send_a_file() -> Response:
    return send_file(os.environ["BENCHMARK_FILE"])


@slow.post("/unread")
def refuse() -> tuple[str, int]:
    """Look at nothing of the body."""
    return "no\n", 403


hold = Flask("hold")


@hold.get("/")
def hold_on() -> str:
    """Say when it began, by the clock that all processes share.

    It takes so many seconds, ``/?hold=2.5``, or until who has locked a file lets go
    of it, ``/?lock=PATH``.
    """
    began = time.monotonic()
    time.sleep(float(request.args.get("hold", "0")))

    _wait_for_lock()
    return f"{began:.6f}\n"


def _wait_for_lock() -> None:
    if "lock" in request.args:
        with open(request.args["lock"]) as file:
            fcntl.flock(file, fcntl.LOCK_SH)


overload = Flask("overload")
"""What is asked more than it can."""
overload.config["PREFORK_LIMITS"] = {
    f"/{name}": {"concurrency": count, "queue_timeout": 30}
    for name, count in SLOW_LIMITS.items()
}


@overload.get("/")
def take_50_ms() -> str:
    """Take 50 ms, or until who has locked a file, ``/?lock=PATH``, lets go of it."""
    time.sleep(0.05)
    _wait_for_lock()
    return BODY.decode()


@overload.get("/fast")
def hello_beside_slow() -> str:
    return BODY.decode()


@overload.get("/slow", endpoint="slow")
@overload.get("/slower", endpoint="slower")
def take_long() -> str:
    """Say when it began and ended, by the clock that all processes share."""
    began = time.monotonic()
    time.sleep(float(request.args.get("seconds", "1.25")))
    return f"{began:.6f} {time.monotonic():.6f}\n"


touch = Flask("touch")
_memory = bytearray()


@touch.get("/")
def touch_memory() -> str:
    """Write to each page of what is this process's own, and say whose it is."""
    if not _memory:
        _memory.extend(bytes(TOUCHED))

    _memory[::PAGE_SIZE] = os.urandom(1) * (TOUCHED // PAGE_SIZE)
    time.sleep(float(request.args.get("hold", "0")))
    return f"{os.getpid()}\n"


whose = Flask("whose")


@whose.get("/")
def say_whose() -> str:
    """Say which process has served the request."""
    return f"{os.getpid()}\n"
