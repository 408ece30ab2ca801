"""The apps that are measured: the least WSGI app, and the least Flask app."""

from __future__ import annotations

import logging
import os
import typing as t

from flask import Flask

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse
    from _typeshed.wsgi import WSGIEnvironment

BODY = b"Hello, World!\n"

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
