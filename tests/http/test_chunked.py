"""The chunked coding: what is accepted and what is not."""

from __future__ import annotations

import pytest

from flask_prefork.http.chunked import Decoder
from flask_prefork.http.errors import BodyError
from flask_prefork.http.limits import Limits

END = b"\r\nabcde\r\n0\r\n\r\n"


def decode(data: bytes, **limits: int) -> tuple[bytes, int, bool]:
    decoder = Decoder(Limits(**limits))
    content, used = decoder.feed(data, 0.0)
    # However it is cut.
    for cut in {1, 2, 3, len(data) // 2, len(data) - 1} & {*range(1, len(data))}:
        other = Decoder(Limits(**limits))
        first, taken = other.feed(data[:cut], 0.0)
        second, more = other.feed(data[taken:] if taken < cut else data[cut:], 0.0)
        assert (first + second, taken + more) == (content, used)
    return content, used, decoder.done


@pytest.mark.parametrize(
    "data",
    [
        b"5\r\nabcde\r\n0\r\n\r\n",
        b"00005\r\nabcde\r\n000\r\n\r\n",
        b"0" * 1021 + b"5\r\nabcde\r\n" + b"0" * 1022 + b"\r\n\r\n",
        b"0" * 15 + b"5;a\r\nabcde\r\n" + b"0" * 16 + b";a\r\n\r\n",
        b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
        b"5;a\r\nabcde\r\n0;b=c\r\n\r\n",
        b"5 ; a = b\r\nabcde\r\n0\r\n\r\n",
        b'5;a="b;\\"c\\r"\r\nabcde\r\n0\r\n\r\n',
        b"5\r\nabcde\r\n0\r\nX: y\r\nContent-Length: 7\r\n\r\n",
    ],
)
def test_accepted(data: bytes) -> None:
    assert decode(data + b"GET / HTTP/1.1\r\n") == (b"abcde", len(data), True)


@pytest.mark.parametrize(
    "data",
    [
        b"0x5" + END,
        b"+5" + END,
        b"-5" + END,
        b"5_0" + END,
        b" 5" + END,
        b"5 " + END,
        b"5\t" + END,
        b"" + END,
        b"g" + END,
        b"5;" + END,
        b"5;a b" + END,
        b"5;a=" + END,
        b'5;a="b' + END,
        b"5,5" + END,
        b"\xb2" + END,
        b"0" * 1023 + b"5" + END,
        b"0" * 1100 + b"5" + END,
        b"000g" + END,
        b"0" * 30 + b"1000000000000000" + END,
        b"10000000000000000" + END,
        b"ffffffffffffffff" + END,
        b"5\nabcde\r\n0\r\n\r\n",
        b"5\rabcde\r\n0\r\n\r\n",
        b"5\r\r\nabcde\r\n0\r\n\r\n",
        b"5\r\nabcde\n0\r\n\r\n",
        b"5\r\nabcde0\r\n\r\n",
        b"5\r\nabcdef\r\n0\r\n\r\n",
        b"5\r\nabcd\r\n0\r\n\r\n",
        b"5\r\nabcde\r\r\n0\r\n\r\n",
        b"5\r\nabcde\r\n0\n\r\n",
        b"5\r\nabcde\r\n0\r\n\n",
        b"5\r\nabcde\r\n0\r\n\r\r",
        b"5;a\nb\r\nabcde\r\n0\r\n\r\n",
        b"5;a\rb\r\nabcde\r\n0\r\n\r\n",
        b"5;a\x00\r\nabcde\r\n0\r\n\r\n",
        b"5\r\nabcde\r\n0\r\nX : y\r\n\r\n",
        b"5\r\nabcde\r\n0\r\nX\r\n\r\n",
        b"5\r\nabcde\r\n0\r\n X: y\r\n\r\n",
        b"5\r\nabcde\r\n0\r\nX: y\r\n z\r\n\r\n",
        b"5\r\nabcde\r\n0\r\nX: a\x00b\r\n\r\n",
        b"5" + b" ;a" * 300 + b" \r\n",
        b'5;a="' + b"\\\\" * 400 + b"\r\n",
        # Bounds.
        b"5;" + b"a" * 1024 + END,
        b"5;" + b"a" * 5000,
        (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 20,
        b"0\r\n" + b"X: y\r\n" * 101,
        b"0\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 9,
        b"0\r\nX: " + b"y" * 8190 + b"\r\n",
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(BodyError) as caught:
        decode(data)
    assert caught.value.status == 400


def test_limit() -> None:
    assert decode(b"5" + END, body=5)[2]
    with pytest.raises(BodyError) as caught:
        decode(b"5" + END, body=4)
    assert caught.value.status == 413
    with pytest.raises(BodyError) as caught:
        decode(b"fffffff\r\n", body=4)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "chunk",
    [
        b"1\r\na\r\n",
        b"1;a=b\r\na\r\n",
        b"0001\r\na\r\n",
        b"4\r\nabcd\r\n",
        b"1; a\r\na\r\n",
    ],
)
def test_many_small_chunks(chunk: bytes) -> None:
    decoder = Decoder(Limits())
    taken = 0
    with pytest.raises(BodyError) as caught:
        for _ in range(1000):
            taken += decoder.feed(chunk * 1000, 1.0)[1]
    assert caught.value.status == 400
    assert taken > 16384


@pytest.mark.parametrize("chunk", [b"5\r\nline\n\r\n", b"10\r\n%b\r\n" % (b"x" * 16)])
def test_chunks_of_short_lines_have_no_limit(chunk: bytes) -> None:
    decoder = Decoder(Limits())
    for _ in range(1000):
        assert decoder.feed(chunk * 1000, 1.0)[1] == len(chunk) * 1000


def test_small_chunks_that_take_their_time() -> None:
    decoder = Decoder(Limits())
    for moment in range(100):
        assert decoder.feed(b"1\r\na\r\n" * 10_000, float(moment))[1] == 60_000
    # What was large before pays for nothing that comes after it.
    decoder.feed(b"1000000\r\n" + bytes(1 << 24) + b"\r\n", 100.0)
    with pytest.raises(BodyError):
        decoder.feed(b"1\r\na\r\n" * 100_000, 100.0)
