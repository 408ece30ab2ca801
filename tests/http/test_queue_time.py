"""How long a request has waited, as the app, the monitor and the log see it."""

from __future__ import annotations

import time
import typing as t

import pytest
from harness import Line
from harness import Site
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http import request_start
from flask_prefork.http import server
from flask_prefork.http.access_logger import AccessLogger
from flask_prefork.http.log_format import compile_format
from flask_prefork.http.request_start import parse
from flask_prefork.http.server import PreforkRequestHandler
from flask_prefork.http.wire import Wire
from flask_prefork.system import peers
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait

KEY = "flask_prefork.queue_time"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
LAST = b"Connection: close\r\n\r\n"
LISTED = "127.0.0.1"


class Seen:
    """An app that keeps the environs of its requests."""

    def __init__(self) -> None:
        self.environs: list[dict[str, t.Any]] = []

    def __call__(self, environ: t.Any, start_response: t.Any) -> list[bytes]:
        self.environs.append(environ)
        start_response("200 OK", [("Content-Length", "0")])
        return []

    @property
    def times(self) -> list[float]:
        return [environ[KEY] for environ in self.environs]


@pytest.fixture
def app() -> Seen:
    return Seen()


def serve(site: Site, data: bytes, queue_time: float = 0.0) -> None:
    """Serve a connection that has brought all of this while it waited."""
    line = Line(site)
    line.send(data)
    line.end()
    line.serve(queue_time=queue_time)


def counted(site: Site) -> list[float]:
    return [call[1] for call in site.monitor.calls if call[0] == "queue_time"]


@pytest.mark.parametrize("handler", [PreforkRequestHandler, WSGIRequestHandler])
def test_first_request(make_site: t.Any, app: Seen, handler: t.Any) -> None:
    site = make_site(app, handler)
    serve(site, GET + LAST, 0.5)
    serve(site, GET + LAST)
    assert app.times == [0.5, 0.0]
    assert counted(site) == [0.5]


def test_only_the_first_request(make_site: t.Any, app: Seen) -> None:
    site = make_site(app)
    serve(site, GET + b"\r\n" + GET + LAST, 0.5)
    assert app.times == [0.5, 0.0]
    assert counted(site) == [0.5]


@pytest.mark.parametrize(
    ("handler", "place", "name"),
    [
        (PreforkRequestHandler, Wire, "peek"),
        (WSGIRequestHandler, server, "bytes_unread"),
    ],
)
def test_nothing_had_come(
    make_site: t.Any,
    app: Seen,
    handler: t.Any,
    place: t.Any,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client has connected, and sends its request once the worker has looked."""
    line = Line(make_site(app, handler))
    look = getattr(place, name)

    def look_once(*args: t.Any) -> t.Any:
        monkeypatch.setattr(place, name, look)
        found = look(*args)
        line.send(GET + LAST)
        return found

    monkeypatch.setattr(place, name, look_once)
    line.serve(queue_time=0.5)
    assert app.times == [0.0]
    assert counted(line.site) == []


def test_the_rest_comes_later(make_site: t.Any, app: Seen) -> None:
    line = Line(make_site(app))
    line.send(GET)
    parked = line.serve(queue_time=0.5)
    assert parked.wait is Wait.HEAD and not parked.arrived
    line.send(LAST, len(GET))
    line.serve(parked, queue_time=0.25)
    assert app.times == [0.25]


def test_yielding_to_others(make_site: t.Any, app: Seen) -> None:
    """The next request is there when its worker gives the connection back."""
    site = make_site(app, limits={"slice": 0.0})
    site.monitor.is_contended = True
    line = Line(site)
    line.send(GET + b"\r\n" + GET + LAST)
    before = time.monotonic()
    parked = line.serve(queue_time=0.5)
    assert isinstance(parked, Parked) and parked.wait is Wait.WORKER
    assert before <= parked.arrived <= time.monotonic()
    line.serve(parked, queue_time=0.125)
    assert app.times == [0.5, 0.125]


def test_access_log(
    make_site: t.Any, app: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flask_prefork.access")
    logger = AccessLogger(compile_format("%(s)s %(queue_time)s"))
    site = make_site(app, access_logger=logger)
    serve(site, GET + b"\r\n" + GET + LAST, 0.5)
    assert caplog.messages == ["200 0.500000", "200 0.000000"]


# X-Request-Start


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1700000000", 1.7e9),
        ("t=1700000000", 1.7e9),
        ("1700000000.25", 1.7e9 + 0.25),
        ("t=1700000000.25", 1.7e9 + 0.25),
        ("1700000000250", 1.7e9 + 0.25),
        ("t=1700000000250.5", 1.7e9 + 0.2505),
        ("t=1700000000250000", 1.7e9 + 0.25),
        (" t=1,\tt=1700000000 ", 1.7e9),
        ("", None),
        ("t=", None),
        ("now", None),
        ("t=17", None),
        ("t=-1700000000", None),
        ("t=0x65531f00", None),
        ("t=1e9", None),
        ("t=900000000", None),
        ("t=1700000000.", None),
        ("t=170000000025000000", None),
        ("t=" + "\u0661" * 10, None),
    ],
)
def test_parse(value: str, seconds: float | None) -> None:
    assert parse(value) == pytest.approx(seconds)


@given(st.text() | st.from_regex(r"(t=)?[0-9.,]*", fullmatch=True))
def test_parse_whatever_comes(value: str) -> None:
    found = parse(value)
    assert found is None or found > 9e8


@given(st.floats(1e9, 4e9))
def test_render(start: float) -> None:
    assert parse(request_start.render(start)) == pytest.approx(start, abs=2e-6)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """A time that stands still."""
    now = 1.7e9
    monkeypatch.setattr("flask_prefork.http.context.time.time", lambda: now)
    return now


@pytest.mark.parametrize("handler", [PreforkRequestHandler, WSGIRequestHandler])
@pytest.mark.parametrize("name", [b"X-Request-Start", b"X-Queue-Start"])
def test_listed_proxy(
    make_site: t.Any, app: Seen, now: float, handler: t.Any, name: bytes
) -> None:
    site = make_site(app, handler, forwarders=peers.parse(LISTED))
    serve(site, GET + name + b": t=1699999998.5\r\n" + LAST, 0.5)
    assert app.times == counted(site) == [1.5]


def test_each_request_of_a_proxy(make_site: t.Any, app: Seen, now: float) -> None:
    site = make_site(app, forwarders=peers.parse(LISTED))
    field = b"X-Request-Start: t=1699999998.5\r\n"
    serve(site, GET + field + b"\r\n" + GET + field + LAST)
    assert app.times == counted(site) == [1.5, 1.5]


@pytest.mark.parametrize("value", [b"t=1700000001", b"garbage", b""])
def test_future_and_garbage(
    make_site: t.Any, app: Seen, now: float, value: bytes
) -> None:
    site = make_site(app, forwarders=peers.parse(LISTED))
    serve(site, GET + b"X-Request-Start: " + value + b"\r\n" + LAST, 0.5)
    assert app.times == [0.5]


@pytest.mark.parametrize("forwarders", [None, "192.0.2.1"])
def test_not_listed(
    make_site: t.Any, app: Seen, now: float, forwarders: str | None
) -> None:
    listed = None if forwarders is None else peers.parse(forwarders)
    site = make_site(app, forwarders=listed)
    serve(site, GET + b"X-Request-Start: t=1699999998\r\n" + LAST, 0.5)
    assert app.times == [0.5]
    assert app.environs[0]["HTTP_X_REQUEST_START"] == "t=1699999998"


@pytest.mark.parametrize("handler", [PreforkRequestHandler, WSGIRequestHandler])
@pytest.mark.parametrize(
    ("is_listed", "field", "expected"),
    [
        (False, b"", "t=1699999999500000"),
        (False, b"X-Request-Start: t=1699999998\r\n", "t=1699999999500000"),
        (True, b"", "t=1699999999500000"),
        (True, b"X-Request-Start: 1699999998.0\r\n", "1699999998.0"),
        (True, b"X-Request-Start: garbage\r\n", "t=1699999999500000"),
        (True, b"X-Queue-Start: t=1699999998\r\n", "t=1699999998000000"),
    ],
)
def test_passed_to_the_app(
    make_site: t.Any,
    app: Seen,
    now: float,
    handler: t.Any,
    is_listed: bool,
    field: bytes,
    expected: str,
) -> None:
    forwarders = peers.parse(LISTED) if is_listed else None
    site = make_site(app, handler, forwarders=forwarders, request_start=True)
    serve(site, GET + field + LAST, 0.5)
    assert app.environs[0]["HTTP_X_REQUEST_START"] == expected
