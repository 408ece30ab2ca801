"""The handler's documented attributes and methods, for those who derive from it."""

from __future__ import annotations

import io
import typing as t
import warnings
from wsgiref.validate import validator

import pytest
from flask import Flask
from flask import request
from harness import parse
from harness import Site
from werkzeug.middleware.lint import LintMiddleware
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http.server import PreforkRequestHandler

GET = b"GET /a?b HTTP/1.1\r\nHost: a\r\nX: y\r\nx: z\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_attributes(make_site: t.Any) -> None:
    seen: list[t.Any] = []

    class Handler(PreforkRequestHandler):
        def run_wsgi(self) -> None:
            seen.append(
                (
                    self.command,
                    self.path,
                    self.request_version,
                    self.requestline,
                    self.raw_requestline,
                    self.headers.get_all("x"),
                    self.headers.get("host"),
                    self.rfile.read(),
                    self.rfile is self.rfile,
                )
            )
            assert self.connection is self.request
            assert self.client_address == ("127.0.0.1", self.port_integer())
            assert self.server is site.server
            super().run_wsgi()
            assert self.environ["REQUEST_METHOD"] == self.command

    site: Site = make_site(handler=Handler)
    assert [a.status for a in site.ask(GET + POST)] == [200, 200]
    line = "GET /a?b HTTP/1.1"
    assert seen == [
        ("GET", "/a?b", "HTTP/1.1", line, line.encode() + b"\r\n")
        + (["y", "z"], "a", b"", True),
        ("POST", "/a", "HTTP/1.1", "POST /a HTTP/1.1", b"POST /a HTTP/1.1\r\n")
        + (None, "a", b"abc", True),
    ]


def test_overrides_are_called(make_site: t.Any) -> None:
    calls: list[t.Any] = []

    class Handler(PreforkRequestHandler):
        def setup(self) -> None:
            calls.append("setup")
            super().setup()

        def handle(self) -> None:
            calls.append("handle")
            super().handle()

        def handle_one_request(self) -> None:
            calls.append("handle_one_request")
            super().handle_one_request()

        def make_environ(self) -> t.Any:
            environ = super().make_environ()
            environ["PATH_INFO"] = "/made"
            return environ

        def address_string(self) -> str:
            return "somewhere"

        def log_request(self, code: t.Any = "-", size: t.Any = "-") -> None:
            calls.append(("log_request", code, size))
            super().log_request(code, size)

        def log(self, type: str, message: str, *args: t.Any) -> None:
            calls.append(("log", type, message % args))

        def finish(self) -> None:
            calls.append("finish")
            super().finish()

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode(), environ["REMOTE_ADDR"].encode()]

    (answer,) = make_site(app, handler=Handler).ask(CLOSE)
    assert answer.body == b"/madesomewhere"
    assert calls == [
        "setup",
        "handle",
        "handle_one_request",
        ("log_request", 200, "-"),
        ("log", "info", '"GET / HTTP/1.1" 200 -'),
        "finish",
    ]


def test_do_methods(make_site: t.Any) -> None:
    class Handler(PreforkRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"ok")

    first, second = make_site(handler=Handler).ask(POST + GET + GET)
    assert first.body == b"/a|abc"
    # What is written past the WSGI response may be anything: the connection ends.
    assert second.body == b"ok"


def test_version(make_site: t.Any) -> None:
    class Handler(PreforkRequestHandler):
        server_version = "mine/1"  # type: ignore[assignment]

    (answer,) = make_site(handler=Handler).ask(CLOSE)
    assert answer.headers["server"] == "mine/1"
    (answer,) = make_site(handler=Handler).ask(b"GET / HTTP/1.1\r\n\r\n")
    assert answer.headers["server"] == "mine/1"


def test_connection_dropped(make_site: t.Any) -> None:
    dropped: list[t.Any] = []

    class Handler(PreforkRequestHandler):
        def connection_dropped(self, error: t.Any, environ: t.Any = None) -> None:
            dropped.append((type(error).__name__, environ is not None))

    site = make_site(handler=Handler)
    site.exchange(POST[:-1])
    assert dropped == [("ClientDisconnected", True)]


def test_broken_handler_is_logged(
    make_site: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(PreforkRequestHandler):
        def make_environ(self) -> t.Any:
            raise ValueError("broken \x1b[31m handler")

    site = make_site(handler=Handler)
    assert site.exchange(GET) == b""
    assert "broken \\x1b[31m handler" in caplog.text
    assert site.results == [None]


@pytest.mark.parametrize("handler", [WSGIRequestHandler, "subclass"])
def test_stock_handler(
    make_site: t.Any, handler: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "werkzeug")
    if handler == "subclass":
        handler = type("Handler", (WSGIRequestHandler,), {})
    site = make_site(handler=handler)
    # werkzeug's handler reads to the end of what comes, so it has to end.
    environ_input = POST.replace(b"POST", b"PUT")
    (answer,) = site.ask(environ_input)
    assert answer.headers["connection"] == "close"
    assert answer.body == b"/a|abc"
    assert site.results == [None]
    assert site.monitor.calls == [("begin", "PUT", "/a"), ("end", 200, 6)]
    assert '"PUT /a HTTP/1.1" 200 -' in caplog.text


def test_stock_handler_with_a_broken_app(
    make_site: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        raise ValueError("broken")

    site = make_site(app, handler=WSGIRequestHandler)
    (answer,) = site.ask(GET)
    assert answer.status == 500
    assert site.monitor.calls == [("begin", "GET", "/a?b"), ("end", 500, 0)]


# Other people's judges of WSGI servers.


def flask_app() -> Flask:
    app = Flask(__name__)

    @app.route("/a", methods=["GET", "POST"])
    def a() -> t.Any:
        return request.method + request.get_data(as_text=True)

    @app.route("/stream")
    def stream() -> t.Any:
        return app.response_class(iter(["a", "b"]))

    @app.route("/empty")
    def empty() -> t.Any:
        return "", 204

    @app.route("/file")
    def file() -> t.Any:
        from flask import send_file

        return send_file(__file__, conditional=True)

    return app


REQUESTS = [
    GET,
    POST,
    b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS /a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"DELETE /a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /empty HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a HTTP/1.0\r\nHost: a\r\n\r\n",
]


@pytest.mark.parametrize("data", REQUESTS)
def test_lint(make_site: t.Any, data: bytes) -> None:
    app = flask_app()
    expected = make_site(app).exchange(data)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raw = make_site(LintMiddleware(app)).exchange(data)
    method = data.split(b" ")[0].decode()
    (answer,) = parse(raw, method)
    (plain,) = parse(expected, method)
    assert answer.status == plain.status != 500
    assert answer.body == plain.body


@pytest.mark.parametrize("data", REQUESTS)
def test_wsgiref_validator(
    make_site: t.Any, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        stream = environ["wsgi.input"]
        body = stream.read(1) + b"".join(stream) + stream.read(10)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    method = data.split(b" ")[0].decode()
    (answer,) = parse(make_site(validator(app)).exchange(data), method)
    assert answer.status == 200, caplog.text
    assert answer.body == (b"abc" if b"POST" in data else b"")


def test_errors_go_to_the_log_escaped(
    make_site: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Any:
        raise ValueError(environ["HTTP_X"])

    site = make_site(app)
    (answer,) = site.ask(GET.replace(b"X: y", b"X: \x9b31m"))
    assert answer.status == 500
    assert "\\x9b31m" in caplog.text
    assert "\x9b" not in caplog.text


def test_wfile_is_a_file(make_site: t.Any) -> None:
    class Handler(PreforkRequestHandler):
        def run_wsgi(self) -> None:
            assert isinstance(self.wfile, io.RawIOBase)
            assert self.wfile.writable()
            self.wfile.write(memoryview(b"HTTP/1.1 204 x\r\n\r\n"))

    site = make_site(handler=Handler)
    assert [a.status for a in site.ask(GET + GET)] == [204]
    assert site.monitor.calls[-1][:2] == ("end", 0)
