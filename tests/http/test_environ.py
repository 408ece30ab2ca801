"""The environ is werkzeug's, key for key."""

from __future__ import annotations

import io
import socket
import ssl
import sys
import typing as t
from pathlib import Path

import pytest
from flask import Flask
from flask import request
from flask import url_for
from harness import Site
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http.environ import add_certificate

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"HEAD /a/b?c=d&e HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost:\r\n\r\n",
    b"GET http://b.example/ HTTP/1.1\r\nHost: \r\n\r\n",
    b"GET /a?b?c HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /? HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /%C3%A9%2F%09%25?%C3%A9%0A HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /%E9%FF HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a:b/[c]|;d=e HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://b.example:81/c?d HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://b.example HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://b.example?c HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://[::1]:81/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Type: x/y\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length:3\r\ncontent-type:x\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\nx-a: c\r\nX-a: d, e\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX_A: b\r\nX-B: c\r\nHTTP-X: d\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 3\r\nContent-type: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe9\r\nCookie: a=b; c=d\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX:  a \t b \r\nY:\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nProxy: x\r\nConnection: close\r\n\r\n",
]


class Stock(WSGIRequestHandler):
    """werkzeug's handler, reading from memory."""

    def __init__(self, data: bytes, site: Site, address: t.Any) -> None:
        self.rfile = io.BytesIO(data)
        self.connection = self.request = None
        self.client_address = address
        self.server = site.server
        self.raw_requestline = self.rfile.readline()
        self.protocol_version = "HTTP/1.1"
        assert self.parse_request()


#: Ours in addition.
OURS = {
    "flask_prefork.slot",
    "flask_prefork.generation",
    "flask_prefork.queue_time",
    "wsgi.file_wrapper",
}
#: Objects of the connection.
OBJECTS = {"wsgi.input", "wsgi.errors", "werkzeug.socket"}


@pytest.mark.parametrize("request_", REQUESTS)
def test_as_werkzeug(make_site: t.Any, request_: bytes) -> None:
    seen: dict[str, t.Any] = {}

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        seen.update(environ)
        start_response("200 OK", [])
        return []

    site = make_site(app)
    site.exchange(request_)
    address = ("127.0.0.1", int(seen["REMOTE_PORT"]))
    expected = Stock(request_, site, address).make_environ()
    # A field's surrounding blanks are no part of its value; http.server keeps them.
    expected = {
        k: v.strip() if k.startswith("HTTP_") else v for k, v in expected.items()
    }
    # PEP 3333 wants strings of CGI's variables.
    expected["REMOTE_PORT"] = str(expected["REMOTE_PORT"])
    assert seen.keys() - expected.keys() == OURS
    assert expected.keys() <= seen.keys()
    for key in expected.keys() - OBJECTS:
        assert seen[key] == expected[key], key
        assert type(seen[key]) is type(expected[key]), key


def environ_of(site: Site, data: bytes) -> dict[str, t.Any]:
    seen: dict[str, t.Any] = {}

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        seen.update(environ)
        start_response("200 OK", [])
        return []

    site.server.app = app
    site.exchange(data)
    return seen


def test_cookies_are_joined_as_cookies(site: Site) -> None:
    # By a comma, as werkzeug does it, the second would be a part of the first
    # (RFC 6265, 5.4; RFC 9113, 8.2.3).
    fields = b"Cookie: a=b\r\ncookie: c=d; e=f\r\nCOOKIE: g=h\r\nX: 1\r\nx: 2\r\n"
    seen = environ_of(site, b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    assert seen["HTTP_COOKIE"] == "a=b; c=d; e=f; g=h"
    assert seen["HTTP_X"] == "1,2"


def test_flask_serves_an_empty_host(site: Site) -> None:
    app = Flask("a")

    @app.route("/")
    def view() -> dict[str, str]:
        url = url_for("view", _external=True)
        return {"host": request.host, "url": url}

    stock = app.test_client().get("/", headers={"Host": ""})
    site.server.app = app
    (answer,) = site.ask(b"GET / HTTP/1.1\r\nHost:\r\n\r\n")
    assert (answer.status, answer.body) == (200, stock.data)


def test_double_slash_stays(site: Site) -> None:
    # werkzeug makes one slash of it; RFC 9112, 3.2.1 knows no host in this form.
    seen = environ_of(site, b"GET //b/c?d HTTP/1.1\r\nHost: a\r\n\r\n")
    assert seen["PATH_INFO"] == "//b/c"
    assert seen["HTTP_HOST"] == "a"
    assert seen["RAW_URI"] == "//b/c?d"


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        # urlsplit() raises for the first.
        (b"http://[V1.x]:80/c?d", "[V1.x]:80", "/c", "d"),
        (b"https://b?http://c/d", "b", "", "http://c/d"),
        (b"HTTP://b//c://d", "b", "//c://d", ""),
        (b"/c?http://d/e", "a", "/c", "http://d/e"),
        (b"/http://d/e", "a", "/http://d/e", ""),
    ],
)
def test_host_of_the_target(
    site: Site, target: bytes, host: str, path: str, query: str
) -> None:
    seen = environ_of(site, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
    assert (seen["HTTP_HOST"], seen["PATH_INFO"]) == (host, path)
    assert seen["QUERY_STRING"] == query


def test_worker_and_streams(site: Site) -> None:
    seen = environ_of(site, REQUESTS[0])
    assert seen["flask_prefork.slot"] == 3
    assert seen["flask_prefork.generation"] == 7
    assert seen["wsgi.multiprocess"] is True
    assert seen["wsgi.multithread"] is False
    assert seen["wsgi.errors"] is sys.stderr
    assert seen["SERVER_SOFTWARE"] == "flask_prefork"
    assert isinstance(seen["werkzeug.socket"], socket.socket)


def test_ipv6(make_site: t.Any) -> None:
    seen = environ_of(make_site(family=socket.AF_INET6), REQUESTS[0])
    assert seen["SERVER_NAME"] == seen["REMOTE_ADDR"] == "::1"


def test_unix(make_site: t.Any, tmp_path: Path) -> None:
    site = make_site(family=socket.AF_UNIX, path=str(tmp_path / "s"))
    seen = environ_of(site, REQUESTS[0])
    assert seen["REMOTE_ADDR"] == "<local>"
    assert seen["REMOTE_PORT"] == "0"
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("localhost", "80")
    assert site.server.host == f"unix://{tmp_path / 's'}"


def test_client_certificate() -> None:
    environ: dict[str, t.Any] = {}
    add_certificate(environ, b"any bytes")
    assert ssl.PEM_cert_to_DER_cert(environ["SSL_CLIENT_CERT"]) == b"any bytes"


def test_server_keeps_no_second_listener(site: Site) -> None:
    listener = site.server.socket
    site.server.server_close()
    assert listener.fileno() == -1
