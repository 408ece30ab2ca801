"""The request's head: what is accepted, and what is refused with which status."""

from __future__ import annotations

import pytest

from flask_prefork.http.errors import Refused
from flask_prefork.http.head import read
from flask_prefork.http.limits import Limits

HOST = b"Host: a\r\n"
LIMITS = Limits()


def get(*lines: bytes, host: bytes = HOST) -> bytes:
    return b"GET / HTTP/1.1\r\n" + host + b"".join(x + b"\r\n" for x in lines) + b"\r\n"


def line(request_line: bytes) -> bytes:
    return request_line + b"\r\n" + HOST + b"\r\n"


ACCEPTED = {
    "plain": (get(), {"method": "GET", "target": "/", "keep_alive": True}),
    "no fields in 1.0": (
        b"GET / HTTP/1.0\r\n\r\n",
        {"version": "HTTP/1.0", "keep_alive": False},
    ),
    "1.0 keep-alive": (
        b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
        {"keep_alive": True},
    ),
    "1.0 keep-alive and close": (
        b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
        {"keep_alive": False},
    ),
    "close": (get(b"Connection: Close"), {"keep_alive": False}),
    "close among others": (get(b"Connection: te , close"), {"keep_alive": False}),
    "close in the second": (
        get(b"Connection: te", b"Connection: close"),
        {"keep_alive": False},
    ),
    "a higher minor version": (
        line(b"GET / HTTP/1.7"),
        {"version": "HTTP/1.7", "keep_alive": True},
    ),
    "empty lines before": (b"\r\n\r\n" + get(), {"target": "/"}),
    "length": (get(b"Content-Length: 12"), {"length": 12}),
    "length with blanks": (get(b"Content-Length: \t12\t "), {"length": 12}),
    "no length": (get(b"content-length: 0"), {"length": 0}),
    "the greatest length": (
        get(b"Content-Length: " + b"9" * 18),
        {"length": 10**18 - 1},
    ),
    "a type": (get(b"Content-Type: a/b"), {"length": 0}),
    "chunked": (get(b"Transfer-Encoding: Chunked"), {"length": -1}),
    "expects": (get(b"Expect: 100-Continue"), {"expects": True}),
    "1.0 expects nothing": (
        b"GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n",
        {"expects": False},
    ),
    "1.0 expects something": (b"GET / HTTP/1.0\r\nExpect: x\r\n\r\n", {}),
    "upgrade is ignored": (
        get(b"Connection: upgrade", b"Upgrade: websocket"),
        {"keep_alive": True},
    ),
    "empty value": (get(b"X:"), {"fields": [(b"Host", b"a"), (b"X", b"")]}),
    "blanks": (get(b"X:\t a b \t"), {"fields": [(b"Host", b"a"), (b"X", b"a b")]}),
    "obs-text": (get(b"X: \xe9"), {"fields": [(b"Host", b"a"), (b"X", b"\xe9")]}),
    "all of token": (get(b"!#$%&'*+-.^_`|~1aA: x"), {}),
    "query": (line(b"GET /a?b=c&d?/[]{}|^\\` HTTP/1.1"), {}),
    "escapes": (line(b"GET /%E9%2F%09%1b?100%%0d%0a HTTP/1.1"), {}),
    "pchar": (line(b"GET /-._~!$&'()*+,;=:@/ HTTP/1.1"), {}),
    "double slash": (line(b"GET //a//b HTTP/1.1"), {"target": "//a//b"}),
    "absolute": (line(b"GET http://b:80/x?y HTTP/1.1"), {"target": "http://b:80/x?y"}),
    "absolute without path": (line(b"GET HTTPS://b?y HTTP/1.1"), {}),
    "asterisk": (line(b"OPTIONS * HTTP/1.1"), {"target": "*"}),
    "known methods": (line(b"M-SEARCH / HTTP/1.1"), {"method": "M-SEARCH"}),
    **{
        f"host {host.decode()}": (get(host=b"Host:" + host + b"\r\n"), {})
        for host in (
            # The target has no authority (RFC 9112, 3.2).
            b"",
            b" \t",
            b" a.example",
            b"a_b-c.example:8080",
            b" 127.0.0.1:1 ",
            b"[::1]",
            b"[2001:db8::1]:443",
            b"[v1.x]",
            b"a:",
            b"a:65535",
            b"%61",
        )
    },
}

REFUSED = {
    # RFC 9112, 3.2, and RFC 3986, 3.2.
    "no host": (400, get(host=b"")),
    "two hosts": (400, get(b"Host: a")),
    "an empty host and one": (400, get(b"Host:")),
    "two empty hosts": (400, get(b"Host:", host=b"Host:\r\n")),
    "two hosts in 1.0": (400, b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"),
    "bad host in 1.0": (400, b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n"),
    "no host with absolute": (400, b"GET http://a/ HTTP/1.1\r\n\r\n"),
    **{
        f"host {host.decode()!r}": (400, get(host=b"Host:" + host + b"\r\n"))
        for host in (
            b":",
            b":80",
            b" u@a",
            b" a/b",
            b" a,b",
            b" a, b",
            b" a b",
            b" a:b",
            b" a:-1",
            b" a:+1",
            b" a:65536",
            b" a:000080",
            b" :80",
            b" a:1:2",
            b" http://a",
            b" [::1",
            b" ::1",
            b" [::g]",
            b" [1.2.3.4]",
            b" [::1%25lo]",
            b" [::1]x",
            b" [v.x]",
            b" a?b",
            b" a#b",
            b" a\\b",
            b" %zz",
            b" <a>",
        )
    },
    "non-ascii host": (400, get(host=b"Host: \xe9\r\n")),
    # RFC 9112, 5.
    "space before the colon": (400, get(b"X : y")),
    "tab before the colon": (400, get(b"X\t: y")),
    "no colon": (400, get(b"X")),
    "empty name": (400, get(b": x")),
    "name with blank": (400, get(b"X Y: z")),
    "name with bracket": (400, get(b"X(): z")),
    "name with non-ascii": (400, get(b"X\xe9: z")),
    "obs-fold": (400, get(b"X: y", b" z")),
    "obs-fold with tab": (400, get(b"X: y", b"\tz")),
    "blank line of blanks": (400, get(b" ")),
    "first line folded": (400, get(host=b" Host: a\r\n")),
    **{
        f"value with {byte:#04x}": (400, get(b"X: a" + bytes([byte]) + b"b"))
        for byte in (*range(9), *range(10, 32), 127)
    },
    **{
        f"name with {byte:#04x}": (400, get(b"X" + bytes([byte]) + b"Y: b"))
        for byte in (*range(33), *range(127, 256, 16))
    },
    "bare LFs": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare LF after the request line": (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "bare LF at the end": (400, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    "bare LF between fields": (400, get(b"X: y\nZ: z")),
    "bare CR between fields": (400, get(b"X: y\rZ: z")),
    "CR CR LF": (400, get(b"X: y\r")),
    "bare CRs": (400, b"GET / HTTP/1.1\rHost: a\r\r"),
    # RFC 9112, 3.
    **{
        f"{text!r}": (400, line(text))
        for text in (
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET\t/ HTTP/1.1",
            b"GET /\tHTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET / HTTP/1.1\t",
            b"GET / HTTP/01.1",
            b"GET / HTTP/1.01",
            b"GET / HTTP/1.",
            b"GET / HTTP/1",
            b"GET / HTTP/.1",
            b"GET / HTTP/11",
            b"GET / HTTP/1.10",
            b"GET / HTTP/-1.1",
            b"GET / HTTP 1.1",
            b"GET / HTTP/ 1.1",
            b"GET / http/1.1",
            b"GET / Http/1.1",
            b"GET / HTP/1.1",
            b"GET / HTTPS/1.1",
            b"GET /",
            b"GET / ",
            b"GET",
            b"GET HTTP/1.1",
            b"/ HTTP/1.1",
            b"GET / x HTTP/1.1",
            b"G(T / HTTP/1.1",
            b"G\xc9T / HTTP/1.1",
            b"GET a HTTP/1.1",
            b"GET ?a HTTP/1.1",
            b"GET a.example:80 HTTP/1.1",
            b"GET /a#b HTTP/1.1",
            b"GET /a?b#c HTTP/1.1",
            b"GET /\xe9 HTTP/1.1",
            b"GET /?\xe9 HTTP/1.1",
            b"GET /a\x00b HTTP/1.1",
            b"GET /a\x7fb HTTP/1.1",
            b"GET /a\x1bb HTTP/1.1",
            b"GET /a\rb HTTP/1.1",
            b"GET /a\\b HTTP/1.1",
            b"GET /<a> HTTP/1.1",
            b'GET /"a" HTTP/1.1',
            b"GET /{a} HTTP/1.1",
            b'GET /?"a" HTTP/1.1',
            b"GET /%00 HTTP/1.1",
            b"GET /a%0ab HTTP/1.1",
            b"GET /a%0Ab HTTP/1.1",
            b"GET /a%0dX:%20b HTTP/1.1",
            b"GET /%0D HTTP/1.1",
            b"GET http://a/%0D%0A HTTP/1.1",
            b"GET /%zz HTTP/1.1",
            b"GET /% HTTP/1.1",
            b"GET * HTTP/1.1",
            b"OPTIONS ** HTTP/1.1",
            b"OPTIONS *?a HTTP/1.1",
            b"GET http:// HTTP/1.1",
            b"GET http:///a HTTP/1.1",
            b"GET http://u@a/ HTTP/1.1",
            b"GET http://a:x/ HTTP/1.1",
            b"GET http://a,b/ HTTP/1.1",
            b"GET http:/a HTTP/1.1",
            b"GET ftp://a/ HTTP/1.1",
            b"CONNECT / HTTP/1.1",
            b"CONNECT a HTTP/1.1",
            b"CONNECT a: HTTP/1.1",
            b"CONNECT :80 HTTP/1.1",
            b"CONNECT u@a:80 HTTP/1.1",
            b"CONNECT http://a:80 HTTP/1.1",
            b"",
        )
    },
    "empty lines without end": (400, b"\r\n" * 5 + get()),
    "leading LF": (400, b"\n" + get()),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "http/0.9": (400, b"GET /\r\n"),
    # The rest has its own status.
    "CONNECT": (501, line(b"CONNECT a:80 HTTP/1.1")),
    "lower-case method": (501, line(b"get / HTTP/1.1")),
    "unknown method": (501, line(b"BREW / HTTP/1.1")),
    "method of RTSP": (501, line(b"DESCRIBE / HTTP/1.1")),
    "HTTP/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2.0": (505, line(b"GET / HTTP/2.0")),
    "HTTP/3.0": (505, line(b"GET / HTTP/3.0")),
    "HTTP/0.9 named": (505, line(b"GET / HTTP/0.9")),
    "expectation": (417, get(b"Expect: 200-ok")),
    "two expectations": (417, get(b"Expect: 100-continue, x")),
    # RFC 9112, 6.
    "different lengths": (400, get(b"Content-Length: 1", b"Content-Length: 2")),
    "same lengths": (400, get(b"Content-Length: 1", b"Content-Length: 1")),
    **{
        f"length {value.decode()!r}": (400, get(b"Content-Length:" + value))
        for value in (
            b"",
            b" ",
            b" +1",
            b" -1",
            b" -0",
            b" 1,1",
            b" 1, 1",
            b" 1,",
            b" 1 1",
            b" 0x1",
            b" 1a",
            b" 1.0",
            b" 1_0",
            b" 005",
            b" 0200",
            b" 00",
            b" " + b"0" * 5000,
            b" 1e1",
            b' "1"',
            b" 99999999999999999999",
            b" 18446744073709551617",
            b" " + b"9" * 5000,
        )
    },
    "length of superscripts": (400, get(b"Content-Length: \xb2")),
    "length and coding": (
        400,
        get(b"Content-Length: 1", b"Transfer-Encoding: chunked"),
    ),
    "coding and length": (
        400,
        get(b"Transfer-Encoding: chunked", b"Content-Length: 1"),
    ),
    "coding in 1.0": (
        400,
        b"GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    **{
        f"coding {value.decode()!r}": (400, get(b"Transfer-Encoding:" + value))
        for value in (
            b"",
            b" ",
            b" ,",
            b" chunked, chunked",
            b" chunked,",
            b" ,chunked",
            b" chunked, gzip",
            b" gzip",
            b" identity",
            b" xchunked",
            b" chunkedx",
            b" chunk",
            b" chunked;a=b",
            b' "chunked"',
            b" chun ked",
            b" chunked chunked",
            b" gzip chunked, chunked",
            b" chunked\x0b",
        )
    },
    "chunked in two fields": (
        400,
        get(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    ),
    "chunked before another field": (
        400,
        get(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    ),
    "gzip and chunked": (501, get(b"Transfer-Encoding: gzip, chunked")),
    "unknown and chunked": (
        501,
        get(b"Transfer-Encoding: foo", b"Transfer-Encoding: chunked"),
    ),
    "two types": (400, get(b"Content-Type: a/b", b"content-type: c/d")),
    "the same type twice": (400, get(b"Content-Type: a/b", b"Content-Type: a/b")),
    "TRACE with a body": (
        400,
        b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    data, expected = ACCEPTED[name]
    found = read(data + b"GET /next", LIMITS)
    assert found is not None
    head, size = found
    assert size == len(data)
    for attribute, value in expected.items():
        assert getattr(head, attribute) == value


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    status, data = REFUSED[name]
    with pytest.raises(Refused) as caught:
        read(data, LIMITS)
    assert caught.value.status == status


@pytest.mark.parametrize("name", [n for n in ACCEPTED if n != "plain"])
def test_needs_all_of_it(name: str) -> None:
    data = ACCEPTED[name][0]
    for size in range(1, len(data)):
        assert read(data[:size], LIMITS) is None


@pytest.mark.parametrize("name", REFUSED)
def test_refused_however_split(name: str) -> None:
    status, data = REFUSED[name]
    for size in range(1, len(data) + 1):
        try:
            found = read(data[:size], LIMITS)
        except Refused as e:
            assert e.status == status
            return
        assert found is None
    raise AssertionError("not refused")


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, line(b"GET /" + b"a" * 8000 + b"\\ HTTP/1.1")),
        (400, line(b"GET /" + b"%61" * 2000 + b"\\ HTTP/1.1")),
        (400, line(b"GET http://" + b"a" * 8000 + b"\\ HTTP/1.1")),
        (400, get(host=b"Host: " + b"a" * 8000 + b"\\\r\n")),
        (400, get(host=b"Host: " + b"%61" * 2000 + b"\\\r\n")),
        (400, get(*[b"X: y"] * 90, b"X : y")),
        (400, get(b"Transfer-Encoding: " + b"," * 8000)),
    ],
)
def test_refusing_takes_no_longer_the_longer_it_is(status: int, data: bytes) -> None:
    # With an ambiguous pattern these would take until the end of days.
    with pytest.raises(Refused) as caught:
        read(data, LIMITS)
    assert caught.value.status == status


def padded(size: int) -> bytes:
    return b"X: " + b"x" * (size - 3)


def test_limits_are_inclusive() -> None:
    target = b"/" + b"x" * (8190 - len(b"GET / HTTP/1.1"))
    assert read(line(b"GET " + target + b" HTTP/1.1"), LIMITS)
    assert read(get(padded(8190)), LIMITS)
    assert read(get(*[b"X: y"] * 99), LIMITS)
    limits = Limits(request_line=14, fields=1, field_size=7)
    assert read(get(), limits)


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (414, line(b"GET /" + b"x" * (8191 - len(b"GET / HTTP/1.1")) + b" HTTP/1.1")),
        (414, b"GET /" + b"x" * 8186),
        (414, b"G" * 8190 + b" /"),
        (400, b"G" * 8191),
        (400, line(b"G" * 8191 + b" / HTTP/1.1")),
        (501, line(b"G" * 8000 + b" / HTTP/1.1")),
        (431, get(padded(8191))),
        (431, b"GET / HTTP/1.1\r\n" + padded(8191)),
        (431, get(*[b"X: y"] * 100)),
        (431, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101),
        (431, get(*[padded(8000)] * 9)),
        (431, b"GET / HTTP/1.1\r\n" + (padded(8000) + b"\r\n") * 9),
    ],
)
def test_limits(status: int, data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read(data, LIMITS)
    assert caught.value.status == status


def test_spellings_of_names_are_cached_within_bounds() -> None:
    from flask_prefork.http import head

    for i in range(1100):
        assert read(get(b"X-%d: y" % i), LIMITS)
    assert len(head._meanings) <= 1024
    with pytest.raises(Refused):
        read(get(b"hOsT: a"), LIMITS)
