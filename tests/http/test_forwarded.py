"""X-Forwarded-*: whose are believed, and what they do."""

from __future__ import annotations

import socket
import typing as t
from pathlib import Path

import pytest
from harness import Site
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http.errors import Refused
from flask_prefork.http.forwarded import apply
from flask_prefork.system.peers import parse

PEERS = parse("127.0.0.1,10.0.0.0/8")
NAMES = ("FOR", "PROTO", "HOST", "PORT", "PREFIX")


def base(**told: str) -> dict[str, t.Any]:
    """The environ of a request with these X-Forwarded-* headers."""
    environ: dict[str, t.Any] = {
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "4711",
        "wsgi.url_scheme": "http",
        "HTTP_HOST": "internal:5000",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "5000",
        "SCRIPT_NAME": "",
    }
    for name, value in told.items():
        environ[f"HTTP_X_FORWARDED_{name}"] = value
    return environ


def applied(**told: str) -> dict[str, t.Any]:
    environ = base(**told)
    apply(environ, PEERS)
    return environ


@pytest.mark.parametrize(
    ("value", "address", "port"),
    [
        ("1.2.3.4", "1.2.3.4", "0"),
        ("1.2.3.4:567", "1.2.3.4", "567"),
        ("2001:db8::1", "2001:db8::1", "0"),
        ("[2001:db8::1]", "2001:db8::1", "0"),
        ("[2001:db8::1]:567", "2001:db8::1", "567"),
        # What the client has sent is never looked at.
        ("9.9.9.9, 1.2.3.4", "1.2.3.4", "0"),
        ("<script>, unknown, 1.2.3.4", "1.2.3.4", "0"),
        # From the right while they are listed.
        ("9.9.9.9,1.2.3.4,10.0.0.1,\t10.0.0.2", "1.2.3.4", "0"),
        ("10.0.0.7,10.0.0.1", "10.0.0.7", "0"),
        ("9.9.9.9, 10.0.0.1, 1.2.3.4", "1.2.3.4", "0"),
        (" , 1.2.3.4 ,", "1.2.3.4", "0"),
        (",", "127.0.0.1", "4711"),
        ("1.2.3.4, unix:", "<local>", "0"),
    ],
)
def test_for(value: str, address: str, port: str) -> None:
    environ = applied(FOR=value)
    assert environ["REMOTE_ADDR"] == address
    assert environ["REMOTE_PORT"] == port


def test_a_hop_over_a_unix_socket() -> None:
    environ = base(FOR="1.2.3.4, unix:, 10.0.0.1")
    apply(environ, parse("10.0.0.1,unix:"))
    assert environ["REMOTE_ADDR"] == "1.2.3.4"


def test_everybody_is_believed_for_one_hop() -> None:
    environ = base(FOR="10.0.0.9, 1.2.3.4", PROTO="https, http")
    apply(environ, parse("*"))
    assert environ["REMOTE_ADDR"] == "1.2.3.4"
    assert environ["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize(
    ("told", "changed"),
    [
        ({}, {}),
        ({"PROTO": "https"}, {"wsgi.url_scheme": "https"}),
        ({"PROTO": "HTTPS"}, {"wsgi.url_scheme": "https"}),
        ({"HOST": "a.example"}, {"HTTP_HOST": "a.example", "SERVER_NAME": "a.example"}),
        (
            {"HOST": "a.example:81"},
            {
                "HTTP_HOST": "a.example:81",
                "SERVER_NAME": "a.example",
                "SERVER_PORT": "81",
            },
        ),
        ({"HOST": "[::1]"}, {"HTTP_HOST": "[::1]", "SERVER_NAME": "[::1]"}),
        ({"PORT": "443"}, {"HTTP_HOST": "internal:443", "SERVER_PORT": "443"}),
        (
            {"HOST": "a.example:81", "PORT": "443"},
            {
                "HTTP_HOST": "a.example:443",
                "SERVER_NAME": "a.example",
                "SERVER_PORT": "443",
            },
        ),
        ({"PREFIX": "/shop"}, {"SCRIPT_NAME": "/shop"}),
        ({"PREFIX": "/shop/"}, {"SCRIPT_NAME": "/shop"}),
        ({"PREFIX": "/"}, {}),
        ({"PREFIX": "/%C3%A9/b"}, {"SCRIPT_NAME": "/\xc3\xa9/b"}),
    ],
)
def test_others(told: dict[str, str], changed: dict[str, str]) -> None:
    environ = applied(**told)
    assert environ.pop("werkzeug.proxy_fix.orig")["HTTP_HOST"] == "internal:5000"
    assert environ == {**base(**told), **changed}


@pytest.mark.parametrize(
    ("protos", "scheme"),
    [("https, http", "https"), ("http, https, http", "https"), ("https", "https")],
)
def test_each_proxy_appends_or_replaces(protos: str, scheme: str) -> None:
    # Two proxies: the one next to the client knows best.
    environ = applied(FOR="1.2.3.4, 10.0.0.1", PROTO=protos)
    assert environ["wsgi.url_scheme"] == scheme


def test_what_one_proxy_lets_pass_is_not_believed_of_the_client() -> None:
    environ = applied(FOR="6.6.6.6, 1.2.3.4", PROTO="https, http", HOST="evil, good")
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["HTTP_HOST"] == "good"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "For",
            "unknown|_hidden|1.2.3|1.2.3.4:65536|1.2.3.4:|[1.2.3.4]|::1:x|[::1"
            "|01.2.3.4|fe80::1%eth0|a.example|1.2.3.4, x|1.2.3.4 5|\x1b[31m|abcd",
        ),
        ("Proto", "ftp|https://|http s|wss"),
        ("Host", "a/b|a b|a:b|a:65536|[::g]|a@b|\xe9"),
        ("Port", "0|65536|-1|x|4 43|1e3|" + "1" * 5000),
        (
            "Prefix",
            "shop|//evil.example|/a//b|/a?b|/a#b|/a b|/%2Fevil|/a%|/%0a|/\\evil|/\xe9"
            "|/%5Cevil|/%5cevil",
        ),
    ],
)
def test_nonsense_is_refused(name: str, values: str) -> None:
    for value in values.split("|"):
        environ = base(**{name.upper(): value})
        with pytest.raises(Refused) as caught:
            apply(environ, PEERS)
        assert caught.value.status == 400
        assert caught.value.reason == f"malformed X-Forwarded-{name}"
        # And nothing is applied by halves.
        assert environ == base(**{name.upper(): value})


_addresses = st.integers(0x0B000000, 0x7EFFFFFF).map(
    lambda n: ".".join(str(n >> shift & 255) for shift in (24, 16, 8, 0))
)
_hosts = st.sampled_from(["a.example", "a.example:81", "[::1]", "[::1]:81", "1.2.3.4"])


@given(
    _addresses,
    st.lists(st.integers(1, 9).map(lambda n: f"10.0.0.{n}"), max_size=3),
    st.lists(_addresses, max_size=2),
    st.data(),
)
def test_as_proxy_fix(
    client: str, proxies: list[str], before: list[str], data: st.DataObject
) -> None:
    """werkzeug's ProxyFix, told how many proxies there are."""
    hops = len(proxies) + 1

    def values(one: st.SearchStrategy[str]) -> str:
        return ", ".join(data.draw(st.lists(one, min_size=hops, max_size=hops + 1)))

    told = {
        "FOR": ", ".join([*before, client, *proxies]),
        "PROTO": values(st.sampled_from(["http", "https"])),
        "HOST": values(_hosts),
        "PORT": values(st.integers(1, 65535).map(str)),
        "PREFIX": values(st.sampled_from(["/a", "/b/c"])),
    }
    told = {name: told[name] for name in data.draw(st.sets(st.sampled_from(NAMES)))}
    if "FOR" not in told:
        hops = 1
    expected = base(**told)
    ProxyFix(lambda e, s: [], *([hops] * 5))(expected, lambda *a: lambda b: None)
    if "FOR" in told:
        expected["REMOTE_PORT"] = "0"
    assert applied(**told) == expected


# In the server


def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
    start_response("200 OK", [])
    keys = ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST", "SCRIPT_NAME")
    return ["|".join(environ[key] for key in keys).encode()]


TOLD = (
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n"
    b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: b.example\r\n"
    b"X-Forwarded-Prefix: /shop\r\n\r\n"
)
BELIEVED = b"1.2.3.4|https|b.example|/shop"


@pytest.mark.parametrize(
    ("peers", "body"),
    [
        (None, b"127.0.0.1|http|a|"),
        ("10.0.0.0/8,unix:", b"127.0.0.1|http|a|"),
        ("127.0.0.0/8", BELIEVED),
        ("*", BELIEVED),
    ],
)
@pytest.mark.parametrize("handler", [None, WSGIRequestHandler])
def test_peers(
    make_site: t.Any, peers: str | None, body: bytes, handler: t.Any
) -> None:
    forwarders = None if peers is None else parse(peers)
    options = {} if handler is None else {"handler": handler}
    site: Site = make_site(app, forwarders=forwarders, **options)
    (answer,) = site.ask(TOLD)
    assert answer.body == body
    # Who watches the request knows the same client.
    assert site.monitor.clients[-1] == body.decode().partition("|")[0]


@pytest.mark.parametrize("listed", [True, False])
def test_unix_peers(make_site: t.Any, tmp_path: Path, listed: bool) -> None:
    forwarders = parse("unix:" if listed else "*")
    path = str(tmp_path / "s")
    site = make_site(app, family=socket.AF_UNIX, path=path, forwarders=forwarders)
    (answer,) = site.ask(TOLD)
    assert answer.body == (BELIEVED if listed else b"<local>|http|a|")
    assert site.monitor.clients[-1] == ("1.2.3.4" if listed else "<local>")


@pytest.mark.parametrize("handler", [None, WSGIRequestHandler])
def test_nonsense_of_a_proxy_is_answered(
    make_site: t.Any, caplog: pytest.LogCaptureFixture, handler: t.Any
) -> None:
    caplog.set_level("INFO", "werkzeug")
    bad = TOLD.replace(b"https", b"gopher")
    options = {} if handler is None else {"handler": handler}
    site = make_site(app, forwarders=parse("127.0.0.1"), **options)
    (answer,) = site.ask(bad + TOLD)
    assert answer.status == 400
    assert b"malformed X-Forwarded-Proto" in answer.body
    assert "Traceback" not in caplog.text
    # An unlisted peer may say what it likes.
    (answer,) = make_site(app, forwarders=parse("10.0.0.1"), **options).ask(bad)
    assert answer.status == 200


def test_log_shows_the_client(
    make_site: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "werkzeug")
    make_site(app, forwarders=parse("127.0.0.1")).ask(TOLD)
    (record,) = caplog.records
    assert record.getMessage().startswith("1.2.3.4 - - [")
