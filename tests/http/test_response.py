"""What an app may say, and how it is framed."""

from __future__ import annotations

import socket
import typing as t

import pytest
from harness import parse
from harness import read_all
from harness import Site

from flask_prefork.http import fields
from flask_prefork.http import wire
from flask_prefork.system import slow_client

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
OLD_ALIVE = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


class Iterable:
    """Yields pieces, and knows whether it was closed."""

    def __init__(self, *pieces: t.Any) -> None:
        self.pieces = iter(pieces)
        self.closed = 0

    def __iter__(self) -> Iterable:
        return self

    def __next__(self) -> t.Any:
        piece = next(self.pieces)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def respond(make_site: t.Any) -> t.Any:
    """Makes a site whose app gives this response."""

    def respond(
        body: t.Any = (), status: str = "200 OK", headers: t.Any = (), **options: t.Any
    ) -> Site:
        def app(environ: t.Any, start_response: t.Any) -> t.Any:
            start_response(status, list(headers))
            return body() if callable(body) else body

        site: Site = make_site(app, **options)
        return site

    return respond


def size(n: int) -> list[tuple[str, str]]:
    return [("Content-Length", str(n))]


def generate() -> t.Iterator[bytes]:
    yield b""
    yield b"ab"
    yield b""
    yield b"cd"


def test_length_of_sequences_is_known(respond: t.Any) -> None:
    for body, expected in (([b"ab", b"cd"], b"abcd"), ((b"",), b""), ([], b"")):
        first, second = respond(body).ask(GET + GET)
        assert first == second
        assert first.body == expected
        assert first.headers["content-length"] == str(len(expected))


def test_unknown_length(respond: t.Any) -> None:
    site = respond(generate)
    first, second = site.ask(GET + GET)
    assert first == second
    assert first.body == b"abcd"
    assert first.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in first.headers
    # No chunks for HTTP/1.0: the end of the connection is the body's.
    (old,) = site.ask(OLD_ALIVE + OLD_ALIVE)
    assert old.body == b"abcd"
    assert "transfer-encoding" not in old.headers
    assert old.headers["connection"] == "close"


def test_nothing_of_unknown_length(respond: t.Any) -> None:
    first, _ = respond(lambda: iter([b""])).ask(GET + GET)
    assert first.headers["content-length"] == "0"


def test_large_chunks(respond: t.Any) -> None:
    body = b"x" * 300_000
    for headers in ([], size(300_002)):
        site = respond(lambda: iter([b"a", body, b"b"]), headers=headers)
        with site.serving() as client:
            client.sendall(GET)
            client.shutdown(socket.SHUT_WR)
            (answer,) = parse(read_all(client))
        assert answer.body == b"a" + body + b"b"


def test_more_than_the_kernel_takes_at_once(respond: t.Any) -> None:
    pieces = [bytes([i]) * 3_000_000 for i in range(5)]
    site = respond(lambda: iter(pieces))
    with site.serving() as client:
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        assert parse(read_all(client))[0].body == b"".join(pieces)


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was sent, each write by itself."""
    sends: list[bytes] = []
    send = wire.Wire._send

    def record(self: wire.Wire, data: bytes, flags: int) -> int:
        sends.append(data)
        return send(self, data, flags)

    monkeypatch.setattr(wire.Wire, "_send", record)
    return sends


def test_head_and_first_chunk_leave_together(
    respond: t.Any, sends: list[bytes]
) -> None:
    respond(generate).exchange(GET)
    assert len(sends) == 3
    assert sends[0].endswith(b"\r\n\r\n2\r\nab\r\n")


@pytest.mark.parametrize("request_", [GET, CLOSE])
@pytest.mark.parametrize("body", [[b"abcd"], [], lambda: generate()])
def test_the_worker_says_once_that_it_is_about_to_accept(
    respond: t.Any, sends: list[bytes], request_: bytes, body: t.Any
) -> None:
    """Right before the last byte, so that a client that connects anew when it has that
    finds somebody."""
    announced = []
    site = respond(body)
    site.monitor.about_to_accept = lambda: announced.append(len(sends))
    site.exchange(request_)
    assert announced == [len(sends) - 1]


@pytest.mark.parametrize(
    ("request_", "body", "ends"),
    [
        (CLOSE, [b"abcd"], True),
        (CLOSE, [], True),
        (CLOSE, generate, True),
        (GET, [b"abcd"], False),
    ],
)
def test_end_comes_before_the_app_cleans_up(
    respond: t.Any, request_: bytes, body: t.Any, ends: bool
) -> None:
    seen = []

    class Closing:
        def __iter__(self) -> t.Iterator[bytes]:
            return iter(body() if callable(body) else body)

        def close(self) -> None:
            client.settimeout(None if ends else 0.0)
            try:
                while data := client.recv(65536):
                    seen.append(data)
                seen.append(b"")
            except BlockingIOError:
                pass

    site = respond(Closing)
    client, connection, address = site.connect()
    client.sendall(request_)
    client.shutdown(socket.SHUT_WR)
    site.follow(connection, address)
    client.settimeout(None)
    rest = read_all(client)
    assert (seen[-1:] == [b""]) is ends
    assert parse(b"".join(seen) + rest)[0].status == 200


@pytest.mark.parametrize("headers", [[], size(4)])
@pytest.mark.parametrize("body", [generate, [b"abcd"]])
def test_no_body_for_head(respond: t.Any, body: t.Any, headers: t.Any) -> None:
    first, second = respond(body, headers=headers).ask(HEAD + HEAD, "HEAD", "HEAD")
    assert first == second
    assert first.body == b""
    known = headers or body is not generate
    assert first.headers.get("content-length") == ("4" if known else None)


def test_length_for_head_is_unknown_without_a_body(respond: t.Any) -> None:
    for body in ([], [b""]):
        (answer,) = respond(body).ask(HEAD, "HEAD")
        assert "content-length" not in answer.headers


@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content", "304 "])
@pytest.mark.parametrize("headers", [[], size(4)])
@pytest.mark.parametrize("body", [generate, [b"abcd"], []])
def test_no_body_for_status(
    respond: t.Any, status: str, body: t.Any, headers: t.Any
) -> None:
    first, second = respond(body, status, headers).ask(GET + GET)
    assert first == second
    assert first.status == int(status[:3])
    assert first.body == b""
    expected = "0" if first.status == 205 else None
    assert first.headers.get("content-length") == expected
    assert "transfer-encoding" not in first.headers


def test_more_than_promised(respond: t.Any, caplog: pytest.LogCaptureFixture) -> None:
    for body in ([b"abcdef"], lambda: iter([b"ab", b"cdef", b"gh"])):
        first, second = respond(body, headers=size(4)).ask(GET + GET)
        assert first == second
        assert first.body == b"abcd"
    assert "longer than its Content-Length" in caplog.text


def test_less_than_promised(respond: t.Any, caplog: pytest.LogCaptureFixture) -> None:
    raw = respond([b"ab"], headers=size(4)).exchange(GET + GET)
    assert raw.count(b"HTTP/1.1") == 1
    assert raw.endswith(b"\r\n\r\nab")
    assert "shorter than its Content-Length" in caplog.text


def test_endless(respond: t.Any) -> None:
    def endless() -> t.Iterator[bytes]:
        while True:
            yield b"ab"

    assert respond(endless, headers=size(3)).ask(GET)[0].body == b"aba"
    assert respond(endless).ask(HEAD, "HEAD")[0].body == b""


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK\r\nX: y", []),
        ("200 OK\n", []),
        ("200 \x00", []),
        ("20 OK", []),
        ("2000 OK", []),
        # No final status, or none of HTTP.
        ("100 Continue", []),
        ("101 Switching Protocols", [("Upgrade", "x")]),
        ("103 Early Hints", [("Link", "</a>")]),
        ("199 ", []),
        ("099 OK", []),
        ("000 ", []),
        ("600 OK", []),
        ("999 Denied", []),
        ("2xx OK", []),
        (" 200 OK", []),
        ("+20 OK", []),
        ("\u0662\u0660\u0660 OK", []),
        ("OK", []),
        ("", []),
        (200, []),
        (b"200 OK", []),
        ("200 \u20ac", []),
        ("200 OK", [("X", "a\r\nY: b")]),
        ("200 OK", [("X", "a\nY: b")]),
        ("200 OK", [("X", "a\n")]),
        ("200 OK", [("X", "a\r")]),
        ("200 OK", [("X", "a\x00b")]),
        ("200 OK", [("X", "a\x1bb")]),
        ("200 OK", [("X", "\u20ac")]),
        ("200 OK", [("X", 1)]),
        ("200 OK", [("X", b"a")]),
        ("200 OK", [("X", None)]),
        ("200 OK", [("X\r\nY", "a")]),
        ("200 OK", [("X Y", "a")]),
        ("200 OK", [("X:", "a")]),
        ("200 OK", [("", "a")]),
        ("200 OK", [("\xe9", "a")]),
        ("200 OK", [(1, "a")]),
        ("200 OK", [("X",)]),
        ("200 OK", None),
        ("200 OK", [("Content-Length", "-1")]),
        ("200 OK", [("Content-Length", "a")]),
        ("200 OK", [("Content-Length", "")]),
        ("200 OK", [("Content-Length", "\xb2")]),
        ("200 OK", [("Content-Length", "1"), ("content-length", "1")]),
        ("200 OK", [("Date", "a"), ("Date", "b")]),
        ("200 OK", [("Server", "a"), ("Server", "b")]),
        ("200 OK", [("Transfer-Encoding", "chunked")]),
        ("200 OK", [("transfer-encoding", "identity")]),
        ("200 OK", [("Connection", "close\r\nX: y")]),
        ("200 OK", [("Connection", None)]),
        ("200 OK", [("Keep-Alive", b"timeout=5")]),
        ("200 OK", [("TE", "\u20ac")]),
        ("200 OK", [("Upgrade", "x\n")]),
    ],
)
def test_what_an_app_must_not_say(
    make_site: t.Any, status: t.Any, headers: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response(status, headers)
        return [b"x"]

    site = make_site(app)
    first, second = site.ask(GET + GET)
    assert first.status == second.status == 500
    assert b"Internal Server Error" in first.body
    assert "Error on request" in caplog.text
    assert [a.status for a in site.ask(OLD)] == [500]


CLOSED, ALIVE = "close", None


@pytest.mark.parametrize(
    ("headers", "connection"),
    [
        ([("Connection", "keep-alive")], ALIVE),
        ([("connection", "Keep-Alive"), ("Keep-Alive", "timeout=5, max=100")], ALIVE),
        ([("Connection", "close")], CLOSED),
        ([("CONNECTION", "Close")], CLOSED),
        ([("Connection", "close, X-Foo"), ("X-Foo", "a")], CLOSED),
        ([("Connection", "X-Foo ,\tCLOSE\t")], CLOSED),
        ([("Connection", "keep-alive"), ("Connection", "close")], CLOSED),
        ([("Connection", "close"), ("connection", "keep-alive")], CLOSED),
        ([("Connection", "closed")], ALIVE),
        ([("Connection", "x=close")], ALIVE),
        ([("Connection", "")], ALIVE),
        ([("Connection", ",,")], ALIVE),
        ([("Proxy-Connection", "close")], ALIVE),
        ([("Keep-Alive", "close")], ALIVE),
        ([("TE", "trailers"), ("Trailer", "X"), ("Trailers", "X")], ALIVE),
        # An upgrade that is offered, and one that isn't.
        ([("Upgrade", "h2c"), ("Connection", "Upgrade")], "upgrade"),
        ([("upgrade", "h2c")], "upgrade"),
        ([("Upgrade", "h2c"), ("Connection", "upgrade, close")], "close, upgrade"),
        ([("Connection", "upgrade")], ALIVE),
    ],
)
def test_the_connection_is_the_servers(
    respond: t.Any, headers: t.Any, connection: str | None
) -> None:
    site = respond([b"x"], headers=headers)
    first, *rest = site.ask(GET + GET)
    assert (first.status, first.body) == (200, b"x")
    assert first.headers.get("connection") == connection
    closes = connection is not None and "close" in connection
    assert len(rest) == (0 if closes else 1)
    kept = {"connection", "content-length", "date", "server", "upgrade", "x-foo"}
    assert set(first.headers) <= kept
    # Who has asked for it is told, unless it ends.
    old, *_ = site.ask(OLD_ALIVE + OLD_ALIVE)
    told = connection or "keep-alive"
    assert old.headers["connection"] == (
        "keep-alive, upgrade" if told == "upgrade" else told
    )


def test_date_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 784111777.25
    monkeypatch.setattr(fields.time, "time", lambda: now)
    first = fields.date_line()
    assert first == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    now += 0.5
    assert fields.date_line() is first
    now += 0.5
    assert fields.date_line() == b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"


def test_one_date_and_one_server(respond: t.Any) -> None:
    (answer,) = respond().ask(GET)
    assert answer.headers["server"] == "flask_prefork"
    assert answer.headers["date"].endswith(" GMT")
    own = [("date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("SERVER", "x")]
    (answer,) = respond(headers=own).ask(GET)
    assert answer.headers["server"] == "x"
    assert answer.headers["date"].startswith("Thu, 01 Jan 1970")


def test_values_stay_as_they_are(respond: t.Any) -> None:
    headers = [("Set-Cookie", "a=\xe9"), ("X", "a\tb"), ("Y", "")]
    raw = respond(headers=headers, status="299 \xe9 x").exchange(GET)
    assert raw.startswith(b"HTTP/1.1 299 \xe9 x\r\n")
    assert b"\r\nSet-Cookie: a=\xe9\r\nX: a\tb\r\nY: \r\n" in raw


def test_write(make_site: t.Any) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"ab")
        write(b"")
        return [b"cd", b"", b"ef"]

    first, second = make_site(app).ask(GET + GET)
    assert first.body == second.body == b"abcdef"


def test_start_response_late(make_site: t.Any) -> None:
    def app(environ: t.Any, start_response: t.Any) -> t.Iterator[bytes]:
        start_response("202 Accepted", [])
        yield b"ab"

    (answer,) = make_site(app).ask(GET)
    assert (answer.status, answer.body) == (202, b"ab")


def test_start_response_again(make_site: t.Any) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response("200 OK", [("X", "y")])
        try:
            raise ValueError
        except ValueError as e:
            start_response("503 Busy", [], (type(e), e, e.__traceback__))
        return [b"sorry"]

    (answer,) = make_site(app).ask(GET)
    assert (answer.status, answer.body) == (503, b"sorry")
    assert "x" not in answer.headers


def call_twice(environ: t.Any, start_response: t.Any) -> list[bytes]:
    start_response("200 OK", [])
    start_response("200 OK", [])
    return []


def call_never(environ: t.Any, start_response: t.Any) -> list[bytes]:
    return [b"x"]


def call_never_empty(environ: t.Any, start_response: t.Any) -> list[bytes]:
    return []


def give_text(environ: t.Any, start_response: t.Any) -> list[t.Any]:
    start_response("200 OK", [])
    return ["x"]


def generate_text(environ: t.Any, start_response: t.Any) -> t.Iterator[t.Any]:
    start_response("200 OK", [])
    yield "x"


def give_none(environ: t.Any, start_response: t.Any) -> None:
    start_response("200 OK", [])


def fail(environ: t.Any, start_response: t.Any) -> list[bytes]:
    raise ConnectionError("of the app's own, not the client's \x1b[31m")


@pytest.mark.parametrize(
    "app",
    [
        call_twice,
        call_never,
        call_never_empty,
        give_text,
        generate_text,
        give_none,
        fail,
        None,
    ],
)
def test_broken_apps(
    make_site: t.Any, app: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = make_site(app).ask(GET + GET)
    assert first.status == second.status == 500
    assert "Traceback" in caplog.text
    assert "\x1b[31m\n" not in caplog.text


def test_closed_always(respond: t.Any, caplog: pytest.LogCaptureFixture) -> None:
    for pieces, sent in (
        ([b"ab"], b"ab"),
        ([ValueError()], None),
        ([b"ab", ValueError()], None),
        (["x"], None),
    ):
        body = Iterable(*pieces)
        raw = respond(body).exchange(GET)
        assert body.closed == 1
        if sent:
            assert sent in raw
        # A chunked response that was cut off doesn't look complete.
        assert raw.endswith(b"0\r\n\r\n") == (sent is not None)


def test_failure_while_closing(
    respond: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Iterable):
        def close(self) -> None:
            raise ValueError("while closing")

    site = respond(lambda: Failing(b"ab"))
    # The responses are whole, and have said nothing of an end.
    assert [a.body for a in site.ask(GET + GET)] == [b"ab", b"ab"]
    assert caplog.text.count("ValueError: while closing") == 2


def test_client_that_left_is_no_error(
    respond: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    body = Iterable(*[b"x" * 100_000] * 200)
    site = respond(body)
    with site.serving() as client:
        client.sendall(GET)
        client.recv(10)
    assert body.closed == 1
    assert "Traceback" not in caplog.text
    assert site.results == [None]


def test_client_that_takes_nothing(
    respond: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_client, "FIRST_CREDIT", 0.05)
    monkeypatch.setattr(slow_client, "CREDIT", 0.05)
    body = Iterable(*[b"x" * 100_000] * 200)
    site = respond(body)
    client, connection, address = site.connect()
    client.sendall(GET)
    site.server.serve(connection, address)
    assert body.closed == 1
