"""A request's line in the log."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import typing as t
from pathlib import Path

import pytest
from harness import Site
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st
from werkzeug import serving
from werkzeug.serving import WSGIRequestHandler
from werkzeug.urls import uri_to_iri

from flask_prefork.http import access_log

ADDRESS = r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d\] "


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are for a terminal."""
    monkeypatch.setattr(access_log, "goes_to_terminals", lambda: True)
    monkeypatch.setattr(serving, "_log_add_style", True)


def logged(site: Site, caplog: pytest.LogCaptureFixture, data: bytes) -> str:
    caplog.clear()
    caplog.set_level("INFO", "werkzeug")
    site.exchange(data)
    (record,) = caplog.records
    message = record.getMessage()
    found = re.match(ADDRESS, message)
    assert found is not None
    return message[found.end() :]


@pytest.mark.parametrize(
    ("status", "color"),
    [
        ("200 OK", '"GET / HTTP/1.1" 200 -'),
        ("201 Created", '"\x1b[35m\x1b[1mGET / HTTP/1.1\x1b[0m" 201 -'),
        ("304 x", '"\x1b[36mGET / HTTP/1.1\x1b[0m" 304 -'),
        ("302 x", '"\x1b[32mGET / HTTP/1.1\x1b[0m" 302 -'),
        ("404 x", '"\x1b[33mGET / HTTP/1.1\x1b[0m" 404 -'),
        ("403 x", '"\x1b[31m\x1b[1mGET / HTTP/1.1\x1b[0m" 403 -'),
        ("500 x", '"\x1b[35m\x1b[1mGET / HTTP/1.1\x1b[0m" 500 -'),
    ],
)
@pytest.mark.usefixtures("terminal")
def test_colors(
    make_site: t.Any, caplog: pytest.LogCaptureFixture, status: str, color: str
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        start_response(status, [])
        return []

    data = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert logged(make_site(app), caplog, data) == color


def test_no_colors_for_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serving, "_log_add_style", True)
    logger = logging.getLogger("werkzeug")
    ours, theirs = os.openpty()
    with (
        open(ours, "rb", buffering=0),
        open(theirs, "w") as terminal,
        open(tmp_path / "log", "w") as file,
    ):
        monkeypatch.setattr(logger, "propagate", False)
        first, second = map(logging.StreamHandler, (terminal, file))
        monkeypatch.setattr(logger, "handlers", [first])
        assert access_log.color("GET /", "404") == "\x1b[33mGET /\x1b[0m"
        logger.addHandler(second)
        assert access_log.color("GET /", "404") == "GET /"
        logger.removeHandler(second)
        assert access_log.color("GET /", "404") != "GET /"
        access_log.allow_color(False)
        assert access_log.color("GET /", "404") == "GET /"


class Stock(WSGIRequestHandler):
    """werkzeug's handler, as far as it logs."""

    def __init__(self, path: str) -> None:
        self.command, self.path, self.request_version = "GET", path, "HTTP/1.1"

    def log(self, type: str, message: str, *args: t.Any) -> None:
        self.line = message % args


@pytest.mark.parametrize("status", [102, 200, 204, 301, 304, 400, 404, 418, 503])
@pytest.mark.parametrize("path", ["/", "/a?b", "/%C3%A9", "/%0A%1b[31m%9b", "/\\"])
@pytest.mark.usefixtures("terminal")
def test_as_werkzeug(status: int, path: str) -> None:
    stock = Stock(path)
    stock.log_request(status)
    text = access_log.request_text("GET", path, "HTTP/1.1")
    line = f'"{access_log.color(text, str(status))}" {status} -'
    assert line == stock.line


@given(st.text(st.sampled_from("/ab.-_~?&=%20C3A9+:;,@!|[]"), max_size=12))
@example("/[")
def test_shortcut_changes_nothing(rest: str) -> None:
    path = text = "/" + rest
    # What starts with "//[" is too much for uri_to_iri().
    with contextlib.suppress(ValueError):
        text = uri_to_iri(path)
    expected = access_log.escape(f"GET {text} HTTP/1.1")
    assert access_log.request_text("GET", path, "HTTP/1.1") == expected


@given(st.text())
def test_nothing_unprintable_is_left(text: str) -> None:
    assert access_log.escape(text).isprintable()
    lines = access_log.escape_lines(text)
    assert all(line.isprintable() for line in lines.split("\n"))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET /%1b[31m%0a%E2%80%AE HTTP/1.1\r\nHost: a\r\n", None),
        (b"G\x1b[31m\x9b\r\r\n", "G\\x1b[31m\\x9b"),
        (b"GET /\x1b[31m HTTP/1.1\r\n", "GET /\\x1b[31m HTTP/1.1"),
        # Not as if it were another line's end, or its status.
        (b'GET / HTTP/1.1" 200 5 "\r\n', '"GET / HTTP/1.1\\" 200 5 \\"" 400 -'),
        (b"GET /%22%5c HTTP/1.1\r\nHost: a\r\n", '"GET /\\"\\\\ HTTP/1.1" '),
    ],
)
def test_escapes(
    site: Site, caplog: pytest.LogCaptureFixture, data: bytes, text: str | None
) -> None:
    line = logged(site, caplog, data + b"\r\n")
    assert "\x1b" not in re.sub(r"\x1b\[(31|1|0)m", "", line)
    assert "\u202e" not in line
    if text is not None:
        assert text in line


def test_address_of_a_proxy_is_escaped(
    make_site: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        environ["REMOTE_ADDR"] = environ["HTTP_X_FORWARDED_FOR"]
        start_response("200 OK", [])
        return []

    site = make_site(app)
    caplog.set_level("INFO", "werkzeug")
    data = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %s1\x9b31m\r\n\r\n"
    second = data.replace(b"%s1\x9b31m", b"10.0.0.1")
    seen = site.ask(data + second)
    assert len(seen) == 2
    first, last = (r.getMessage() for r in caplog.records)
    assert first.startswith("%s1\\x9b31m - - [")
    # And what one request set is not the next one's.
    assert last.startswith("10.0.0.1 - - [")


def test_off(make_site: t.Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "werkzeug")
    site = make_site(access_log=False)
    site.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    site.exchange(b"GET / HTTP/1.1\r\n\r\n")
    assert not caplog.records


def test_long_targets() -> None:
    # With an ambiguous pattern this would take until the end of days.
    text = access_log.request_text("GET", "/" + "a" * 8000 + "%20", "HTTP/1.1")
    assert text == f"GET /{'a' * 8000}%20 HTTP/1.1"


def test_targets_that_werkzeug_cannot_read(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    line = logged(site, caplog, b"GET //[ HTTP/1.1\r\nHost: a\r\n\r\n")
    assert line == '"GET //[ HTTP/1.1" 200 -'
