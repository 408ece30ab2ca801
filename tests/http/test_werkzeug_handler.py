"""Werkzeug's own handler, and what derives from it, in this server."""

from __future__ import annotations

import typing as t

import pytest
from harness import parse
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http.handler import PreforkRequestHandler

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#: What http.server itself refuses, with a page of its own.
REFUSED = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 200 + b"\r\n"


class Plain(WSGIRequestHandler):
    pass


class Named(WSGIRequestHandler):
    server_version = "mine/1"  # type: ignore[assignment]


class NamedSystem(WSGIRequestHandler):
    sys_version = "VMS"


class Extended(Plain):
    def version_string(self) -> str:
        return super().version_string() + " (more)"


class Mixin:
    def version_string(self) -> str:
        return "mixed"


class Mixed(Mixin, WSGIRequestHandler):
    pass


class Ours(PreforkRequestHandler):
    pass


@pytest.mark.parametrize("data", [GET, REFUSED], ids=["served", "refused"])
@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (WSGIRequestHandler, "flask_prefork"),
        (Plain, "flask_prefork"),
        (Named, "mine/1"),
        (NamedSystem, "flask_prefork VMS"),
        (Extended, "flask_prefork (more)"),
        (Mixed, "mixed"),
        (PreforkRequestHandler, "flask_prefork"),
        (Ours, "flask_prefork"),
    ],
)
def test_no_version_that_nobody_asked_for(
    make_site: t.Any, handler: t.Any, expected: str, data: bytes
) -> None:
    (answer,) = parse(make_site(handler=handler).exchange(data))
    assert answer.status == (200 if data == GET else 431)
    assert answer.headers["server"] == expected


@pytest.mark.parametrize("handler", [WSGIRequestHandler, Plain])
def test_an_error_of_the_app_tells_no_version(make_site: t.Any, handler: t.Any) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        raise RuntimeError("on purpose")

    (answer,) = parse(make_site(app, handler=handler).exchange(GET))
    assert (answer.status, answer.headers["server"]) == (500, "flask_prefork")


def test_the_class_itself_is_as_it_was(make_site: t.Any) -> None:
    seen = []

    class Curious(WSGIRequestHandler):
        def run_wsgi(self) -> None:
            seen.append(self)
            super().run_wsgi()

    make_site(handler=Curious).exchange(GET)
    assert "version_string" not in vars(Curious)
    assert Curious.__bases__ == (WSGIRequestHandler,)
    assert isinstance(seen[0], Curious)
    assert type(seen[0]).__qualname__ == Curious.__qualname__
