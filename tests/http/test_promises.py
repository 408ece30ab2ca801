"""A connection goes on, or its last response says that it doesn't (RFC 9112, 9.6)."""

from __future__ import annotations

import contextlib
import socket
import typing as t

import pytest
from harness import Answer
from harness import Line
from harness import parse
from harness import read_all
from werkzeug.exceptions import InternalServerError

from flask_prefork.http import connection as connection_module
from flask_prefork.http import handler
from flask_prefork.http.errors import RequestTimeout
from flask_prefork.http.server import PreforkRequestHandler
from flask_prefork.http.wire import Wire

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"


def read_one(client: socket.socket) -> Answer:
    """Read one response that has a Content-Length or is chunked."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(client)
    head, _, body = data.partition(b"\r\n\r\n")
    chunked = b"\r\nTransfer-Encoding: chunked" in head
    while True:
        if chunked and body.endswith(b"0\r\n\r\n"):
            break
        if not chunked:
            length = int(head.split(b"\r\nContent-Length: ")[1].split(b"\r\n")[0])
            if len(body) == length:
                break
        body += receive(client)
    (answer,) = parse(head + b"\r\n\r\n" + body)
    return answer


def receive(client: socket.socket) -> bytes:
    data = client.recv(65536)
    assert data, "the connection ended within a response"
    return data


def keeps_its_word(client: socket.socket) -> bool:
    """Read a response, and ask for more unless it says that this is the end.

    :return: Whether the connection went on.
    """
    answer = read_one(client)
    if answer.headers.get("connection") == "close":
        assert read_all(client) == b""
        return False
    client.sendall(NEXT)
    (following,) = parse(read_all(client))
    assert following.body.endswith(b"/next")
    return True


def forbid(environ: t.Any, start_response: t.Any) -> list[bytes]:
    start_response("403 Forbidden", [])
    return [environ["PATH_INFO"].encode()]


def forbid_in_pieces(environ: t.Any, start_response: t.Any) -> t.Iterator[bytes]:
    start_response("403 Forbidden", [])
    yield b"no"
    yield environ["PATH_INFO"].encode()


def read_some(environ: t.Any, start_response: t.Any) -> list[bytes]:
    environ["wsgi.input"].read(1)
    return forbid(environ, start_response)


def fail(environ: t.Any, start_response: t.Any) -> list[bytes]:
    if environ["PATH_INFO"] == "/next":
        return forbid(environ, start_response)
    raise ValueError


class Late(list[bytes]):
    """Comes to nothing when the response is whole."""

    def __init__(self, pieces: list[bytes], error: type[BaseException]) -> None:
        super().__init__(pieces)
        self.error = error

    def close(self) -> None:
        raise self.error


def fail_late(environ: t.Any, start_response: t.Any) -> list[bytes]:
    return Late(forbid(environ, start_response), ValueError)


def time_out_late(environ: t.Any, start_response: t.Any) -> list[bytes]:
    return Late(forbid(environ, start_response), RequestTimeout)


APPS = [
    forbid,
    forbid_in_pieces,
    read_some,
    fail,
    fail_late,
    time_out_late,
]

# A head, what comes a moment later, and whether the connection goes on.
BODIES = {
    "none": (POST + b"\r\n", b"", True),
    "there": (POST + b"Content-Length: 5\r\n\r\nabcde", b"", True),
    "a moment later": (POST + b"Content-Length: 5\r\n\r\n", b"abcde", None),
    "in part": (POST + b"Content-Length: 5\r\n\r\nab", b"cde", None),
    "large": (POST + b"Content-Length: 200000\r\n\r\n", b"x" * 200_000, False),
    "huge": (POST + b"Content-Length: 900000\r\n\r\n", b"x" * 900_000, False),
    "chunked": (CHUNKED + b"\r\n5\r\nabcde\r\n0\r\n\r\n", b"", True),
    "chunked later": (CHUNKED + b"\r\n", b"5\r\nabcde\r\n0\r\n\r\n", None),
    "chunked in part": (CHUNKED + b"\r\n5\r\nabcd", b"e\r\n0\r\n\r\n", None),
    "chunked without its end": (CHUNKED + b"\r\n5\r\nabcde\r\n", b"0\r\n\r\n", None),
    "chunked and large": (
        CHUNKED + b"\r\n",
        b"20000\r\n%b\r\n0\r\n\r\n" % bytes(0x20000),
        None,
    ),
    "chunked and bad": (CHUNKED + b"\r\n2\r\na", b"b?", None),
    "to be asked for": (
        POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        b"abcde",
        None,
    ),
}


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("contended", [False, True], ids=["quiet", "contended"])
def test_unread_bodies(
    make_site: t.Any,
    app: t.Any,
    kind: str,
    contended: bool,
) -> None:
    head, body, goes_on = BODIES[kind]
    if app is read_some:
        head = head.replace(b"Expect", b"Unexpected")
    site = make_site(app)
    site.monitor.is_contended = contended
    with site.serving() as client:
        client.sendall(head)
        client.sendall(body)
        went_on = keeps_its_word(client)
    if goes_on is not None:
        assert went_on is goes_on


@pytest.mark.parametrize("begun", [False, True])
def test_the_timeout_comes_just_behind_the_apps_error(
    make_site: t.Any, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """While the error is answered, and before or after the answer has begun."""

    class Interrupted(InternalServerError):
        def __call__(self, environ: t.Any, start_response: t.Any) -> t.Any:
            if not begun:
                raise RequestTimeout("too late")
            super().__call__(environ, start_response)
            return Late([b"sorry"], RequestTimeout)

    monkeypatch.setattr(handler, "InternalServerError", Interrupted)
    site = make_site(fail)
    data = site.exchange(POST + b"Connection: close\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 500 " if begun else b"HTTP/1.1 503 ")
    assert site.monitor.calls[-1][:2] == ("end", 500 if begun else 503)


def test_a_body_that_waits_is_still_the_apps(make_site: t.Any) -> None:
    """It is taken off the wire when the head is sent, and read after that."""

    def app(environ: t.Any, start_response: t.Any) -> t.Iterator[bytes]:
        start_response("200 OK", [])
        stream = environ["wsgi.input"]
        yield b"<" + environ["PATH_INFO"].encode() + stream.read(1)
        while data := stream.read(2):
            yield data
        yield b">"

    site = make_site(app)
    for request in (
        POST + b"Content-Length: 5\r\n\r\n",
        CHUNKED + b"\r\n3\r\nabc\r\n2\r\n",
    ):
        line = Line(site)
        body = b"abcde" if b"Length" in request else b"de\r\n0\r\n\r\n"
        # Not all there with the head, so that it is a stream.
        line.send(request + body[:1])
        with serving_when_read(line, body[1:]):
            line.serve()
        answer = read_one(line.client)
        assert answer.body == b"</abcde>"


@contextlib.contextmanager
def serving_when_read(line: Line, rest: bytes) -> t.Iterator[None]:
    """The rest comes when the head was taken."""
    take = Wire.consume

    def take_and_go_on(self: t.Any, count: int) -> None:
        take(self, count)
        if rest and not sent:
            sent.append(rest)
            line.client.sendall(rest)

    sent: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Wire, "consume", take_and_go_on)
        yield


def test_a_late_read_sends_no_100_into_the_response(make_site: t.Any) -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Iterator[bytes]:
        start_response("200 OK", [])
        yield b"<"
        yield environ["wsgi.input"].read()
        yield b">"

    site = make_site(app)
    expecting = POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    with site.serving() as client:
        client.sendall(expecting)
        data = receive(client)
        client.sendall(b"abcde")
        (answer,) = parse(data + read_all(client))
    assert answer.body == b"<abcde>"
    assert answer.headers["connection"] == "close"


def test_who_may_write_past_the_response_says_so(make_site: t.Any) -> None:
    class Handler(PreforkRequestHandler):
        def run_wsgi(self) -> None:
            if self.path == "/before":
                assert self.wfile
            super().run_wsgi()
            if self.path == "/after":
                assert self.wfile

    site = make_site(handler=Handler)
    for path, count in ((b"/", 2), (b"/after", 2), (b"/before", 1)):
        answers = site.ask(GET.replace(b"/", path, 1) * 2)
        assert len(answers) == count
        assert answers[-1].headers.get("connection") == (
            "close" if count == 1 else None
        )


# What begins after the head was sent changes nothing of what it has said.


@pytest.mark.parametrize("event", ["is_draining", "is_contended"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_what_comes_after_the_head(make_site: t.Any, event: str, late: bool) -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"/"
        setattr(site.monitor, event, True)
        yield b"next"

    # No slice either.
    site = make_site(app, limits={"slice": 0})
    with site.serving() as client:
        client.sendall(GET)
        first = read_one(client)
        assert "connection" not in first.headers
        if late:
            # Longer than a worker looks for what follows at once.
            with contextlib.suppress(TimeoutError):
                client.settimeout(0.1)
                assert client.recv(1), "it was closed"
            client.settimeout(10)
        client.sendall(GET)
        second = read_one(client)
        if event == "is_draining":
            assert second.headers["connection"] == "close"
            assert read_all(client) == b""


def test_a_connection_that_nobody_uses_ends_when_the_server_stops(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_HELD_KEEP_ALIVE", 0.05)
    line.send(GET)
    parked = line.serve()
    line.site.monitor.is_draining = True
    assert line.serve(parked) is None
    line.answers()
    assert line.is_closed()


def test_a_server_that_stops_keeps_no_worker_from_others(line: Line) -> None:
    line.send(GET)
    parked = line.serve()
    line.site.monitor.is_draining = line.site.monitor.is_contended = True
    assert line.serve(parked) == parked
