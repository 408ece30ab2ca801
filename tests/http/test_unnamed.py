"""--no-server-header: no response names the server."""

from __future__ import annotations

import typing as t

import pytest
from harness import parse
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http.handler import PreforkRequestHandler

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
REQUESTS = {
    "served": GET,
    "head": b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "server-wide": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "bad": b"GET / HTTP/1.1\r\n\r\n",
    "too long": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "failing": b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n",
    "too large": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n",
}
STATUSES = {"bad": 400, "too long": 431, "failing": 500, "too large": 413}


class Plain(WSGIRequestHandler):
    pass


class Named(PreforkRequestHandler):
    def version_string(self) -> str:
        return "mine/1"


class Dispatching(PreforkRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("on purpose")
    start_response("200 OK", [("X-Software", environ["SERVER_SOFTWARE"])])
    return [b"ok"]


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("handler", [PreforkRequestHandler, Named])
def test_no_answer_names_it(make_site: t.Any, handler: t.Any, name: str) -> None:
    made = {}
    for named in (True, False):
        limits = {"body": 10}
        site = make_site(app, handler=handler, server_header=named, limits=limits)
        # The time goes on.
        lines = site.exchange(REQUESTS[name]).split(b"\r\n")
        made[named] = [line for line in lines if not line.startswith(b"Date: ")]
        assert len(lines) == len(made[named]) + 1
    (server,) = (line for line in made[True] if line.startswith(b"Server: "))
    assert server == (
        b"Server: mine/1" if handler is Named else b"Server: flask_prefork"
    )
    made[True].remove(server)
    assert made[False] == made[True]
    assert made[False][0].startswith(f"HTTP/1.1 {STATUSES.get(name, 200)} ".encode())


@pytest.mark.parametrize("handler", [WSGIRequestHandler, Plain, Dispatching])
@pytest.mark.parametrize("name", ["served", "too long"])
def test_nor_do_handlers_that_use_http_server(
    make_site: t.Any, handler: t.Any, name: str
) -> None:
    answers = {
        named: make_site(app, handler=handler, server_header=named)
        .exchange(REQUESTS[name])
        .lower()
        for named in (True, False)
    }
    assert b"\r\nserver:" in answers[True]
    assert b"\r\ndate: " in answers[False]
    assert b"\r\nserver:" not in answers[False]


@pytest.mark.parametrize("handler", [PreforkRequestHandler, WSGIRequestHandler])
@pytest.mark.parametrize("value", ["shop", ""])
def test_a_field_of_the_app_is_sent(
    make_site: t.Any, handler: t.Any, value: str
) -> None:
    def names(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response("200 OK", [("SERVER", value), ("Content-Length", "0")])
        return []

    site = make_site(names, handler=handler, server_header=False)
    (answer,) = parse(site.exchange(GET))
    assert answer.headers["server"] == value


def test_the_app_knows_what_it_runs_in(make_site: t.Any) -> None:
    (answer,) = parse(make_site(app, server_header=False).exchange(GET))
    assert answer.headers["x-software"] == "flask_prefork"


def test_an_app_that_dates_its_response(make_site: t.Any) -> None:
    date = "Sun, 06 Nov 1994 08:49:37 GMT"

    def dates(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response("204 No Content", [("Date", date), ("X-A", "Server: ")])
        return []

    answer = make_site(dates, server_header=False).exchange(GET)
    expected = f"HTTP/1.1 204 No Content\r\nDate: {date}\r\nX-A: Server: \r\n".encode()
    assert answer.startswith(expected)


def test_a_response_of_the_app_can_be_replaced(make_site: t.Any) -> None:
    def fails(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response("200 OK", [("Server", "shop")])
        raise RuntimeError("on purpose")

    answer = make_site(fails, server_header=False).exchange(GET)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Server:" not in answer


def test_the_handler_is_as_it_was(make_site: t.Any) -> None:
    made = make_site(handler=Named, server_header=False).server._handler
    assert issubclass(made, Named)
    assert made.__qualname__ == Named.__qualname__
    assert made._is_plain is Named._is_plain is False
    assert make_site(server_header=False).server._handler._is_plain is True
    assert make_site(handler=Named).server._handler is Named
