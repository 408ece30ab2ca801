"""Mutated requests in random splits: our own refusals only, and always the same."""

from __future__ import annotations

import typing as t

from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_prefork.http.chunked import Decoder
from flask_prefork.http.errors import BodyError
from flask_prefork.http.errors import Refused
from flask_prefork.http.head import read
from flask_prefork.http.limits import Limits

LIMITS = Limits(request_line=64, fields=6, field_size=48, body=2000)

PIECES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /a?b HTTP/1.1\r\n",
        b"HEAD http://a/ HTTP/1.0\r\n",
        b"Host: a\r\n",
        b"Host: [::1]:80\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close, x\r\n",
        b"Expect: 100-continue\r\n",
        b"X: y\r\n",
        b"X" * 40,
        b" HTTP/2.0",
        b"\r\n",
        b"\r",
        b"\n",
        b" ",
        b"\t",
        b":",
        b"\x00",
        b"\xff",
        b"%",
        b"5\r\nabcde\r\n",
        b"a;b=c\r\n",
        b"0\r\n\r\n",
        b"0",
    ]
)
MESSAGES = st.lists(PIECES | st.binary(max_size=3), max_size=14).map(b"".join)
HEADS = st.lists(PIECES, max_size=6).map(
    lambda more: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(more) + b"\r\n"
)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def prefixes(data: bytes, cuts: list[int]) -> t.Iterator[bytes]:
    """Longer and longer beginnings, up to the whole."""
    position = index = 0
    while position < len(data):
        position += cuts[index % len(cuts)]
        index += 1
        yield data[:position]


def read_head(beginnings: t.Iterable[bytes]) -> object:
    """What a reader finds who looks at each of these."""
    for data in beginnings:
        try:
            found = read(data, LIMITS)
        except Refused as e:
            return e.status, e.reason
        if found is not None:
            head, size = found
            return head.raw, size, head.length, head.keep_alive, head.fields
    return None


@given(MESSAGES | HEADS, CUTS)
@example(b"\r\n" * 6, [1])
@settings(max_examples=300, deadline=None)
def test_head(data: bytes, cuts: list[int]) -> None:
    whole = read_head([data] if data else [])
    assert read_head(prefixes(data, cuts)) == whole
    assert read_head(prefixes(data, [1])) == whole


def decode(pieces: t.Iterable[bytes]) -> object:
    """What a body's reader finds who gets these one after another."""
    decoder = Decoder(LIMITS)
    content = b""
    taken = 0
    for piece in pieces:
        try:
            more, used = decoder.feed(piece, 0.0)
        except BodyError as e:
            return e.status
        content += more
        taken += used
        if decoder.done:
            return content, taken
        assert used == len(piece)
    return content, None


def split(data: bytes, cuts: list[int]) -> t.Iterator[bytes]:
    before = 0
    for beginning in prefixes(data, cuts):
        yield beginning[before:]
        before = len(beginning)


@given(MESSAGES, CUTS)
@example(b"5\r\nabcde\r\n0\r\n\r\nGET", [1])
@settings(max_examples=300, deadline=None)
def test_chunks(data: bytes, cuts: list[int]) -> None:
    whole = decode([data])
    assert decode(split(data, cuts)) == whole
    assert decode(split(data, [1])) == whole


@given(st.lists(st.binary(min_size=1, max_size=400), max_size=8), CUTS, st.booleans())
@settings(deadline=None)
def test_chunks_carry_what_was_put_in(
    chunks: list[bytes], cuts: list[int], extended: bool
) -> None:
    extension = b' ; a=b;c;d="e\\"f"' if extended else b""
    data = b"".join(b"%X%b\r\n%b\r\n" % (len(c), extension, c) for c in chunks)
    data += b"000\r\nX: y\r\n\r\n"
    size = sum(map(len, chunks))
    expected = (b"".join(chunks), len(data)) if size <= LIMITS.body else 413
    assert decode(split(data + b"GET", cuts)) == expected
