"""Request ids."""

from __future__ import annotations

import re
import typing as t

import pytest
from harness import Site

from flask_prefork.http.access_logger import AccessLogger
from flask_prefork.http.log_format import compile_format
from flask_prefork.http.request_id import RequestIds
from flask_prefork.system.peers import parse

MADE = r"[0-9a-f]{21}-[0-9a-f]{6,}"


def test_made() -> None:
    ids = [RequestIds() for _ in range(20)]
    made = [one.choose(None) for one in ids for _ in range(50)]
    assert len(set(made)) == 1000
    assert all(re.fullmatch(MADE, one) for one in made)
    # In the order of time.
    assert made[:50] == sorted(made[:50])


@pytest.mark.parametrize(
    "offered", ["a", "01JD-abc.DEF_~+/=:@", "Root=1-67891233-abcdef012345678912345678"]
)
def test_taken(offered: str) -> None:
    assert RequestIds().choose(offered) == offered


@pytest.mark.parametrize("offered", ["", " ", "a b", 'a"', "a,b", "\xe9", "x" * 129])
def test_not_sane(offered: str) -> None:
    assert re.fullmatch(MADE, RequestIds().choose(offered))


def ids_of(site: Site, field: bytes) -> tuple[str | None, str | None]:
    """What the app sees as the id, and as the header."""
    seen: dict[str, t.Any] = {}

    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        seen.update(environ)
        start_response("200 OK", [])
        return []

    site.server.app = app
    site.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n")
    return seen.get("flask_prefork.request_id"), seen.get("HTTP_X_REQUEST_ID")


OFFER = b"X-Request-ID: theirs\r\n"


@pytest.mark.parametrize("text", ["json", "%({X-Request-Id}i)s"])
def test_environ(make_site: t.Any, text: str) -> None:
    logger = AccessLogger(compile_format(text))
    site = make_site(access_logger=logger, forwarders=parse("127.0.0.1"))
    assert ids_of(site, OFFER) == ("theirs", "theirs")
    made, shown = ids_of(site, b"")
    assert made == shown and made is not None and re.fullmatch(MADE, made)
    # Twice is no id.
    made, shown = ids_of(site, OFFER + OFFER)
    assert made == shown and made is not None and re.fullmatch(MADE, made)
    # Nor is it one that anybody may choose.
    made, shown = ids_of(make_site(access_logger=logger), OFFER)
    assert made == shown and made is not None and re.fullmatch(MADE, made)


def test_made_only_when_asked_for(make_site: t.Any) -> None:
    assert ids_of(make_site(), OFFER) == (None, "theirs")
    combined = AccessLogger(compile_format("combined"))
    assert ids_of(make_site(access_logger=combined), b"") == (None, None)
    asking = AccessLogger(compile_format("json"))
    site = make_site(access_logger=asking, access_log=False)
    assert ids_of(site, b"") == (None, None)
