"""``wsgi.input``: a request's body and not a byte more."""

from __future__ import annotations

import socket
import threading
import typing as t

import pytest
from flask import Flask
from flask import request
from harness import parse
from harness import read_all
from harness import Site
from werkzeug.exceptions import HTTPException

from flask_prefork.http.errors import BodyError
from flask_prefork.http.errors import ClientDisconnected
from flask_prefork.http.errors import RequestTimeout
from flask_prefork.http.wire import Wire
from flask_prefork.system import slow_client
from flask_prefork.system.slow_client import SlowClientBudget

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def length(size: int, more: bytes = b"") -> bytes:
    return POST + b"Content-Length: %d\r\n%b\r\n" % (size, more)


FORM = b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
#: Ways in which a view reads its request.
READERS: dict[str, t.Callable[[], t.Any]] = {
    "data": lambda: request.get_data(),
    "form": lambda: request.form,
    "values": lambda: request.values,
    "json": lambda: request.get_json(force=True, silent=True),
    "stream": lambda: request.stream.read(),
    "lines": lambda: list(request.stream),
    "raw": lambda: request.environ["wsgi.input"].read(),
    "raw lines": lambda: request.environ["wsgi.input"].readlines(),
}


def ok(start_response: t.Any, *parts: object) -> list[bytes]:
    start_response("200 OK", [])
    return [repr(parts).encode()]


@pytest.mark.parametrize("head", [length(12), CHUNKED])
def test_ways_to_read(make_site: t.Any, head: bytes) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        stream = environ["wsgi.input"]
        return ok(
            start_response,
            stream.read(1),
            stream.readline(),
            stream.readline(1),
            next(iter(stream)),
            stream.readlines(),
            stream.read(),
            stream.read(5),
            stream.readline(),
        )

    body = b"ab\ncd\nef\ngh\n"
    if head is CHUNKED:
        body = b"4\r\nab\nc\r\n8\r\nd\nef\ngh\n\r\n0\r\n\r\n"
    expected = (b"a", b"b\n", b"c", b"d\n", [b"ef\n", b"gh\n"], b"", b"", b"")
    site = make_site(app)
    answer, _ = site.ask(head + body + NEXT)
    assert answer.body == repr(expected).encode()
    # The same when it has to be streamed.
    with site.serving() as client:
        client.sendall(head)
        for i in range(len(body)):
            client.sendall(body[i : i + 1])
        client.sendall(NEXT)
        client.shutdown(socket.SHUT_WR)
        assert parse(read_all(client))[0].body == repr(expected).encode()


def test_large_bodies(site: Site) -> None:
    body = bytes(range(256)) * 4096
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(c), c)
        for c in (body[i : i + 70001] for i in range(0, len(body), 70001))
    )
    for data in (length(len(body)) + body, CHUNKED + chunks + b"0\r\n\r\n"):
        with site.serving() as client:
            client.sendall(data + NEXT)
            client.shutdown(socket.SHUT_WR)
            first, second = parse(read_all(client))
        assert first.body == b"/|" + body
        assert second.body == b"/next|"


def test_no_body(site: Site) -> None:
    (answer,) = site.ask(POST + b"\r\n")
    assert answer.body == b"/|"


@pytest.mark.parametrize(
    "data", [length(10) + b"abc", CHUNKED + b"5\r\nabc", CHUNKED + b"3\r\nabc\r\n"]
)
def test_client_leaves(make_site: t.Any, data: bytes) -> None:
    errors: list[BaseException] = []

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        for _ in range(2):
            try:
                environ["wsgi.input"].read()
            except OSError as e:
                errors.append(e)
        return ok(start_response, "seen")

    site = make_site(app)
    (answer,) = site.ask(data)
    assert [type(e) for e in errors] == [ClientDisconnected] * 2
    assert answer.headers["connection"] == "close"


def test_client_leaves_and_the_app_does_not_care(site: Site) -> None:
    assert site.exchange(length(10) + b"abc") == b""
    assert site.monitor.calls[-1] == ("end", 0, 0)


@pytest.mark.parametrize("bad", [b"x\r\n", b"5\nabcde", b"1\r\nabc"])
def test_malformed_is_refused_before_the_app(site: Site, bad: bytes) -> None:
    site.server.app = None
    (answer,) = site.ask(CHUNKED + b"1\r\na\r\n" + bad + NEXT)
    assert answer.status == 400
    assert answer.headers["connection"] == "close"


def test_malformed_that_comes_later(site: Site) -> None:
    with site.serving() as client:
        client.sendall(CHUNKED)
        client.sendall(b"1\r\na\r\nx\r\n" + NEXT)
        client.shutdown(socket.SHUT_WR)
        (answer,) = parse(read_all(client))
    assert answer.status == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"x\r\n", 400), (b"5\r\nabc", 400), (b"9\r\nabcdefghi\r\n", 413), (b"1", 408)],
)
@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("read", READERS)
def test_flask_answers_what_comes_later(
    make_site: t.Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
    status: int,
    caught: bool,
    limited: bool,
    read: str,
) -> None:
    monkeypatch.setattr(slow_client, "FIRST_CREDIT", 0.5)
    app = Flask("a")
    begun = threading.Event()

    @app.post("/")
    def view() -> str:
        begun.set()
        return repr(READERS[read]())

    if limited:
        # Then werkzeug has a stream of its own in between.
        app.config["MAX_CONTENT_LENGTH"] = 1000
    if caught:
        # As apps do that answer in JSON.
        app.register_error_handler(HTTPException, lambda e: ({}, e.code))
    site = make_site(app, limits={"body": 8})
    with site.serving() as client:
        client.sendall(CHUNKED[:-2] + FORM)
        assert begun.wait(10)
        client.sendall(b"3\r\nabc\r\n" + body)
        if status != 408:
            client.shutdown(socket.SHUT_WR)
        (answer,) = parse(read_all(client))
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("data", [b"", b"a=b"])
def test_flask_answers_a_body_of_known_length_that_stalls(
    make_site: t.Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    read: str,
    limited: bool,
    data: bytes,
) -> None:
    monkeypatch.setattr(slow_client, "FIRST_CREDIT", 0.05)
    app = Flask("a")
    app.post("/")(lambda: repr(READERS[read]()))
    if limited:
        app.config["MAX_CONTENT_LENGTH"] = 1000
    with make_site(app).serving() as client:
        client.sendall(length(100, FORM[:-2]) + data)
        (answer,) = parse(read_all(client))
    assert answer.status == 408
    assert answer.headers["connection"] == "close"
    assert "Traceback" not in caplog.text


def test_limit(make_site: t.Any) -> None:
    site = make_site(limits={"body": 5})
    assert [a.status for a in site.ask(length(5) + b"abcde")] == [200]
    assert [a.status for a in site.ask(length(6) + b"abcdef" + NEXT)] == [413]
    chunked = CHUNKED + b"3\r\nabc\r\n3\r\nabc\r\n0\r\n\r\n" + NEXT
    assert [a.status for a in site.ask(chunked)] == [413]
    # Nobody is asked to continue for a 413.
    expecting = length(6, b"Expect: 100-continue\r\n")
    (answer,) = site.ask(expecting)
    assert (answer.status, answer.informational) == (413, [])


def test_continue_is_sent_at_the_first_read(make_site: t.Any) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        stream = environ["wsgi.input"]
        return ok(start_response, stream.read(2), stream.read())

    for head, body in (
        (length(5, b"Expect: 100-continue\r\n"), b"abcde"),
        (
            POST + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
            b"5\r\nabcde\r\n0\r\n\r\n",
        ),
    ):
        site = make_site(app)
        with site.serving() as client:
            client.sendall(head)
            interim = client.recv(1000)
            assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(body)
            client.shutdown(socket.SHUT_WR)
            (answer,) = parse(interim + read_all(client))
        assert answer.informational == [100]
        assert answer.body == b"(b'ab', b'cde')"


def test_no_continue_when_the_body_is_there(site: Site) -> None:
    (answer,) = site.ask(length(5, b"Expect: 100-continue\r\n") + b"abcde")
    assert answer.informational == []
    assert answer.body == b"/|abcde"


def test_no_continue_for_old_clients(site: Site) -> None:
    with site.serving() as client:
        client.sendall(
            b"POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        client.sendall(b"abcde")
        (answer,) = parse(read_all(client))
    assert answer.informational == []


def test_no_continue_when_nobody_reads(make_site: t.Any) -> None:
    site = make_site(lambda environ, start: ok(start))
    with site.serving() as client:
        client.sendall(length(5, b"Expect: 100-continue\r\n"))
        (answer,) = parse(read_all(client))
    assert answer.informational == []
    # Whether the body still comes is unknown, so the connection can't go on.
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("chunked", [False, True])
def test_unread_body_is_drained(make_site: t.Any, chunked: bool) -> None:
    site = make_site(lambda environ, start: ok(start, environ["PATH_INFO"]))
    body = b"x" * 60000
    if chunked:
        data = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        data = length(len(body)) + body
    assert [a.body for a in site.ask(data + NEXT)] == [b"('/',)", b"('/next',)"]


def test_unread_body_that_is_too_much(make_site: t.Any) -> None:
    site = make_site(lambda environ, start: ok(start))
    with site.serving() as client:
        client.sendall(length(1 << 20))
        client.sendall(b"x" * (1 << 20) + NEXT)
        client.shutdown(socket.SHUT_WR)
        assert len(parse(read_all(client))) == 1


def test_slow_body(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_client, "FIRST_CREDIT", 0.05)
    with site.serving() as client:
        client.sendall(length(1000))
        client.sendall(b"x")
        (answer,) = parse(read_all(client))
    assert answer.status == 408
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("head", [length(1000), CHUNKED + b"9\r\n"])
@pytest.mark.parametrize("waits", [True, False])
def test_the_timeout_comes_while_a_body_is_read(
    make_site: t.Any, monkeypatch: pytest.MonkeyPatch, head: bytes, waits: bool
) -> None:
    """It is the client that makes no progress, unless the app does something else."""

    def give_up(*args: t.Any) -> bool:
        raise RequestTimeout("no progress")

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        stream = environ["wsgi.input"]
        stream.read(1)
        begun.set()
        assert more.wait(10)
        stream.read(1)
        if waits:
            # Not for the wait behind the response, too.
            with monkeypatch.context() as patch:
                patch.setattr(Wire, "wait", give_up)
                stream.read(1)
        raise RequestTimeout("no progress")

    begun, more = threading.Event(), threading.Event()
    site = make_site(app)
    with site.serving() as client:
        client.sendall(head + b"x")
        assert begun.wait(10)
        client.sendall(b"x")
        more.set()
        (answer,) = parse(read_all(client))
    assert answer.status == (408 if waits else 503)
    assert answer.headers["connection"] == "close"
    assert site.monitor.calls[-1][:2] == ("end", answer.status)


def test_slow_body_is_an_error_for_the_app(
    make_site: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_client, "FIRST_CREDIT", 0.05)

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        with pytest.raises(BodyError) as caught:
            environ["wsgi.input"].read()
        return ok(start_response, caught.value.status)

    site = make_site(app)
    with site.serving() as client:
        client.sendall(length(1000))
        client.sendall(b"x")
        (answer,) = parse(read_all(client))
    assert answer.body == b"(408,)"
    assert answer.headers["connection"] == "close"


def test_slow_client_budget() -> None:
    budget = SlowClientBudget(100)
    assert budget.seconds_left() == slow_client.FIRST_CREDIT
    budget.account(4, 0)
    assert budget.seconds_left() == 1
    budget.account(0, 50)
    assert budget.seconds_left() == 1.5
    budget.account(2, 0)
    assert budget.seconds_left() < 0
    # What leaves the queue earns time. What takes its place there earns none again.
    budget.account_queue(1, 300)
    assert budget.seconds_left() == pytest.approx(1.5)
    budget.account(0, 200)
    assert budget.seconds_left() == pytest.approx(1.5)
    budget.account(0, 200)
    assert budget.seconds_left() == pytest.approx(2.5)
    # Nobody earns days.
    budget.account(0, 10**12)
    assert budget.seconds_left() < 60
    # No rate, but no wait for ever either.
    lax = SlowClientBudget(0)
    lax.account(1000, 0)
    assert lax.seconds_left() == 60
