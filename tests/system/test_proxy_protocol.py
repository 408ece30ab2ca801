"""The PROXY protocol's headers."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.system.proxy_protocol import from_tag
from flask_prefork.system.proxy_protocol import MalformedHeader
from flask_prefork.system.proxy_protocol import read
from flask_prefork.system.proxy_protocol import Source

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    size = len(block) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, family, size) + block


IPV4 = socket.inet_aton("1.2.3.4") + socket.inet_aton("5.6.7.8") + b"\x02\x37\x01\xbb"
IPV6 = b"".join(
    (
        socket.inet_pton(socket.AF_INET6, "2001:db8::1"),
        socket.inet_pton(socket.AF_INET6, "::1"),
        b"\x02\x37\x01\xbb",
    )
)
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")
TLVS = b"\x03\x00\x04abcd\x04\x00\x01x"

GOOD = [
    (b"PROXY TCP4 1.2.3.4 5.6.7.8 567 443\r\n", Source(True, "1.2.3.4", 567)),
    (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        Source(True, "255.255.255.255", 65535),
    ),
    (b"PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n", Source(True, "1.2.3.4", 0)),
    (b"PROXY TCP6 2001:db8::1 ::1 567 443\r\n", Source(True, "2001:db8::1", 567)),
    (b"PROXY TCP6 2001:DB8:0:0::1 ::1 5 6\r\n", Source(True, "2001:db8::1", 5)),
    (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 5 6\r\n", Source(True, "::ffff:1.2.3.4", 5)),
    (b"PROXY UNKNOWN\r\n", Source(False)),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", Source(False)),
    (v2(0x21, 0x11, IPV4), Source(True, "1.2.3.4", 567)),
    (v2(0x21, 0x11, IPV4 + TLVS), Source(True, "1.2.3.4", 567)),
    (v2(0x21, 0x21, IPV6), Source(True, "2001:db8::1", 567)),
    (v2(0x21, 0x21, IPV6 + bytes(4060)), Source(True, "2001:db8::1", 567)),
    (v2(0x21, 0x31, UNIX), Source(True)),
    (v2(0x21, 0x00, b""), Source(False)),
    (v2(0x21, 0x00, TLVS), Source(False)),
    (v2(0x20, 0x00, b""), Source(False)),
    (v2(0x20, 0x11, IPV4), Source(False)),
    # With LOCAL the family is ignored, whatever it is.
    (v2(0x20, 0xFF, b"abc"), Source(False)),
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 567 443\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 567 443 \r\n",
    b"PROXY TCP4  1.2.3.4 5.6.7.8 567 443\r\n",
    b"PROXY TCP4 1.2.3 5.6.7.8 567 443\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.888 567 443\r\n",
    b"PROXY TCP4 01.2.3.4 5.6.7.8 567 443\r\n",
    b"PROXY TCP4 ::1 ::1 567 443\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 443\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 567 65536\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 0567 443\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 443\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 567\r\n",
    b"PROXY TCP6 1.2.3.4 5.6.7.8 567 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 567 443\r\n",
    b"PROXY TCP6 ::g ::1 567 443\r\n",
    b"PROXY tcp4 1.2.3.4 5.6.7.8 567 443\r\n",
    b"PROXY UDP4 1.2.3.4 5.6.7.8 567 443\r\n",
    b"PROXY UNKNOWN\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY UNKNOWN a\rb\r\n",
    b"PROXY \r\n",
    b"PROXY UNKNOWN " + b"x" * 93,
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"proxy TCP4 1.2.3.4 5.6.7.8 567 443\r\n",
    b"\r\n\r\n\x00\r\nQUIT\r",
    v2(0x11, 0x11, IPV4),
    v2(0x22, 0x11, IPV4),
    v2(0x21, 0x41, IPV4),
    v2(0x21, 0x12, IPV4),
    v2(0x21, 0x10, IPV4),
    v2(0x21, 0x13, IPV4),
    v2(0x21, 0x03, b""),
    v2(0x21, 0x11, IPV4[:-1]),
    v2(0x21, 0x21, IPV6[:-1]),
    v2(0x21, 0x31, UNIX[:-1]),
    v2(0x21, 0x11, IPV4, 4097),
    v2(0x20, 0x00, b"", 65535),
]


@pytest.mark.parametrize(("header", "source"), GOOD)
@pytest.mark.parametrize("after", [b"", b"GET / HTTP/1.1\r\n", b"PROXY UNKNOWN\r\n"])
def test_good(header: bytes, source: Source, after: bytes) -> None:
    assert read(header + after) == (source, len(header))


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_every_beginning_waits_for_more(header: bytes, source: Source) -> None:
    for count in range(len(header)):
        assert read(header[:count]) is None


@pytest.mark.parametrize("data", BAD)
def test_bad(data: bytes) -> None:
    with pytest.raises(MalformedHeader):
        read(data)


def outcome(data: bytes) -> tuple[Source, int] | str | None:
    try:
        return read(data)
    except MalformedHeader as e:
        return str(e)


_lines = st.builds(
    lambda words, end: b"PROXY " + b" ".join(words) + end,
    st.lists(
        st.sampled_from(
            [b"TCP4", b"TCP6", b"UNKNOWN", b"1.2.3.4", b"::1", b"80", b"99999", b""]
        ),
        max_size=6,
    ),
    st.sampled_from([b"\r\n", b"\n", b"\r", b""]),
)
_blocks = st.builds(
    v2,
    st.sampled_from([0x20, 0x21, 0x21, 0x22, 0x10]),
    st.sampled_from([0x00, 0x11, 0x21, 0x31, 0x12, 0x41, 0xFF]),
    st.binary(max_size=40) | st.just(IPV4) | st.just(IPV6 + TLVS),
    st.none() | st.integers(0, 65535),
)


@given(_lines | _blocks | st.binary(max_size=20), st.binary(max_size=4))
def test_splits_change_nothing(header: bytes, after: bytes) -> None:
    """Bytes that come one by one end in the same as all of them at once."""
    data = header + after
    whole = outcome(data)
    for count in range(len(data)):
        part = outcome(data[:count])
        if part is not None:
            assert part == whole
            return


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    found = outcome(data)
    if isinstance(found, tuple):
        assert 0 < found[1] <= len(data)


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_tags(header: bytes, source: Source) -> None:
    tag = source.tag()
    assert 0 < len(tag) <= 19
    assert from_tag(tag) == source


@pytest.mark.parametrize("tag", [b"", b"\2", b"abc", bytes(19)])
def test_what_is_no_tag(tag: bytes) -> None:
    with pytest.raises(ValueError):
        from_tag(tag)
