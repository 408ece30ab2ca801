"""WSGI apps that don't keep to PEP 3333, below a Flask app."""

from __future__ import annotations

import os
import typing as t
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

from flask import Flask
from flask import request

Start = Callable[..., t.Any]
Environ = dict[str, t.Any]


def raises(environ: Environ, start: Start) -> Iterable[bytes]:
    raise LookupError("before the head")


def raises_after_head(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", [("Content-Type", "text/plain")])
    raise LookupError("after the head")
    yield b""


def raises_in_body(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", [("Content-Type", "text/plain")])
    yield b"the first half"
    raise LookupError("in the body")


def yields_nothing(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [("Content-Type", "text/plain")])
    return iter(())


def starts_nothing(environ: Environ, start: Start) -> Iterable[bytes]:
    return []


def returns_none(environ: Environ, start: Start) -> t.Any:
    start("200 OK", [("Content-Type", "text/plain")])


def yields_text(environ: Environ, start: Start) -> t.Any:
    start("200 OK", [("Content-Type", "text/plain")])
    return iter(["text"])


def too_short(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "10")])
    return [b"short"]


def too_long(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "4")])
    return [b"long enough"]


def bad_status(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK\r\nX-Injected: yes", [])
    return [b"body"]


class RaisesAtClose:
    """An iterable whose ``close`` raises after all was sent."""

    def __init__(self, environ: Environ, start: Start) -> None:
        start("200 OK", [("Content-Length", "4")])

    def __iter__(self) -> Iterator[bytes]:
        yield b"body"

    def close(self) -> None:
        raise LookupError("in close()")


FAULTS: dict[str, t.Any] = {
    "/raises": raises,
    "/raises-after-head": raises_after_head,
    "/raises-in-body": raises_in_body,
    "/yields-nothing": yields_nothing,
    "/starts-nothing": starts_nothing,
    "/returns-none": returns_none,
    "/yields-text": yields_text,
    "/too-short": too_short,
    "/too-long": too_long,
    "/bad-status": bad_status,
    "/raises-at-close": RaisesAtClose,
}
app = Flask(__name__)
inner = app.wsgi_app


@app.get("/")
def index() -> dict[str, t.Any]:
    return {"slot": request.environ["flask_prefork.slot"], "pid": os.getpid()}


def wsgi_app(environ: Environ, start: Start) -> t.Any:
    return FAULTS.get(environ["PATH_INFO"], inner)(environ, start)


app.wsgi_app = wsgi_app  # type: ignore[method-assign]
