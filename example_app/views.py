"""The pages and the small JSON interface behind them."""

from __future__ import annotations

import hashlib
import os
import time
import typing as t
from functools import partial
from urllib.parse import urlsplit

from flask import abort
from flask import Blueprint
from flask import current_app
from flask import g
from flask import jsonify
from flask import render_template
from flask import request
from flask import Response

from .roster import Roster

bp = Blueprint("example", __name__)

MAX_SECONDS = 30.0
"""The longest sleep that ``/slow`` can be asked for, in seconds."""

STREAM_LINES = 10
STREAM_PAUSE = 0.2
"""Seconds between the lines of ``/stream``."""

BLOCK = 1 << 16


def _roster() -> Roster:
    return t.cast(Roster, current_app.extensions["example_app.roster"])


@bp.before_request
def begin() -> None:
    """Count every request, except those by which the page watches the workers."""
    roster = _roster()

    if request.endpoint == "example.workers":
        g.requests = roster.served
    else:
        g.requests = roster.begin(_slot())
        g.begun = True


@bp.after_request
def end_after(response: Response) -> Response:
    """End it when its response was sent: a stream takes a while."""
    if g.pop("begun", False):
        response.call_on_close(partial(_roster().end, _slot()))

    return response


@bp.teardown_request
def end_early(error: BaseException | None) -> None:
    """End a request that has no response."""
    if g.pop("begun", False):
        _roster().end(_slot())


def _slot() -> int | None:
    """The worker's slot, which ``flask prefork-run`` puts into the WSGI environ."""
    return t.cast("int | None", request.environ.get("flask_prefork.slot"))


def worker() -> dict[str, int | None]:
    """What is known about the worker that serves this request.

    Slot and generation are integers that ``flask prefork-run`` puts into the
    WSGI environ, and None under any other server.
    """
    return {
        "slot": _slot(),
        "generation": request.environ.get("flask_prefork.generation"),
        "pid": os.getpid(),
        "requests": g.requests,
    }


@bp.get("/")
def index() -> str:
    """The page that fires requests and paints who served them."""
    return render_template("index.html")


@bp.get("/whoami")
def whoami() -> Response:
    """The worker: slot, generation, pid, and the requests it has served."""
    return jsonify(worker())


@bp.get("/workers")
def workers() -> Response:
    """The answering worker, and the last one of each slot: what it does, how many
    requests it has begun, and how hot it is."""
    return jsonify(me=worker(), seen=[seen._asdict() for seen in _roster().seen()])


@bp.get("/slow")
def slow() -> Response | tuple[Response, int]:
    """Sleep for ``?seconds=`` (default 1), then answer like ``/whoami``."""
    text = request.args.get("seconds", "1")

    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")

    # A comparison with "not a number" is false: it is refused here as well.
    if not 0 <= seconds <= MAX_SECONDS:
        error = f"seconds must be a number from 0 to {MAX_SECONDS:g}, not {text[:40]!r}"
        return jsonify(error=error), 400

    time.sleep(seconds)
    return jsonify({**worker(), "seconds": seconds})


@bp.after_request
def allow_loopback(response: Response) -> Response:
    """Let a page from one loopback name read ``/slow`` from another.

    The page spreads its requests over several names of this machine, because
    browsers open at most six connections to each. Sites from elsewhere are
    told nothing.
    """
    if request.endpoint == "example.slow":
        response.vary.add("Origin")
        origin = request.headers.get("Origin", "")

        if _is_loopback(origin):
            response.headers["Access-Control-Allow-Origin"] = origin

    return response


def _is_loopback(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        return False

    # RFC 6761, section 6.3: all names below "localhost" are the loopback's.
    return host in {"localhost", "127.0.0.1", "::1"} or host.endswith(".localhost")


@bp.get("/stream")
def stream() -> Response:
    """Some lines of text, one after the other, of a length not known before."""
    me = worker()

    def lines() -> t.Iterator[str]:
        for number in range(1, STREAM_LINES + 1):
            if number > 1:
                time.sleep(STREAM_PAUSE)

            yield f"line {number} of {STREAM_LINES} from pid {me['pid']}\n"

    return Response(lines(), mimetype="text/plain")


@bp.get("/upload")
def upload_form() -> str:
    """A form to send a file with."""
    return render_template("upload.html")


@bp.post("/upload")
def upload() -> Response:
    """The size in bytes and the SHA-256 of the file in the field ``file``."""
    file = request.files.get("file")

    if file is None:
        abort(400, "The form has no file in its field 'file'.")

    digest = hashlib.sha256()
    size = 0

    while block := file.stream.read(BLOCK):
        digest.update(block)
        size += len(block)

    return jsonify(
        {**worker(), "name": file.filename, "size": size, "sha256": digest.hexdigest()}
    )


@bp.get("/error")
def error() -> t.NoReturn:
    """Fail, to show what the server and its log make of it."""
    raise RuntimeError("This view always fails.")
