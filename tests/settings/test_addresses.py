"""Admin addresses: what is one, how it is shown, and whom it would be in the way of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.settings.addresses import Address
from flask_prefork.settings.addresses import parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9000", Address("127.0.0.1", 9000)),
        (":9000", Address("127.0.0.1", 9000)),
        ("0", Address("127.0.0.1", 0)),
        ("0.0.0.0:9000", Address("0.0.0.0", 9000)),
        ("localhost:9000", Address("localhost", 9000)),
        ("status.example:80", Address("status.example", 80)),
        ("[::1]:9000", Address("::1", 9000)),
        ("[::]:65535", Address("::", 65535)),
        ("unix:/run/shop.sock", Address("", 0, "/run/shop.sock")),
        ("unix:///run/shop.sock", Address("", 0, "/run/shop.sock")),
        ("unix:shop.sock", Address("", 0, "shop.sock")),
    ],
)
def test_an_address(text: str, address: Address) -> None:
    assert parse(text) == address
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not an address"),
        ("localhost", "is not an address"),
        ("http://localhost:9000", "is not an address"),
        ("localhost:http", "is not an address"),
        ("::1:9000", "is not an address"),
        ("127.0.0.1:", "is not an address"),
        ("9000 ", "is not an address"),
        ("٩٠٠٠", "is not an address"),
        ("*:9000", "is not a host"),
        ("-x:9000", "is not a host"),
        ("[localhost]:9000", "is not a host"),
        ("65536", "is not a port"),
        ("unix:", "has no path"),
        ("unix:/a\0b", "has no path"),
    ],
)
def test_what_is_none(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse(text)
    assert "give " in str(caught.value), "what would be one"


@given(st.text())
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("9000", True),
        ("127.8.8.8:9000", True),
        ("[::1]:9000", True),
        ("localhost:9000", True),
        ("unix:/run/shop.sock", True),
        ("0.0.0.0:9000", False),
        ("[::]:9000", False),
        ("10.0.0.1:9000", False),
        ("status.example:9000", False),
    ],
)
def test_who_reaches_it(text: str, local: bool) -> None:
    assert parse(text).is_local is local


@pytest.mark.parametrize(
    ("text", "reached", "url"),
    [
        ("0.0.0.0:9000", "127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("[::]:9000", "[::1]:9000", "http://[::1]:9000"),
        ("10.0.0.1:9000", "10.0.0.1:9000", "http://10.0.0.1:9000"),
        ("unix:/a", "unix:/a", "unix:/a"),
    ],
)
def test_where_to_ask(text: str, reached: str, url: str) -> None:
    address = parse(text).reached()
    assert (str(address), address.url) == (reached, url)


@pytest.mark.parametrize(
    ("text", "host", "port", "clash"),
    [
        ("5000", "127.0.0.1", 5000, True),
        ("5000", "localhost", 5000, True),
        ("5000", "0.0.0.0", 5000, True),
        ("0.0.0.0:5000", "10.0.0.1", 5000, True),
        ("[::]:5000", "::1", 5000, True),
        ("5000", "127.0.0.1", 5001, False),
        ("5000", "10.0.0.1", 5000, False),
        # Each gets one of its own.
        ("0", "127.0.0.1", 0, False),
        ("5000", "unix:///run/a.sock", 5000, False),
        ("5000", "fd://3", 5000, False),
        ("unix:/run/a.sock", "unix:///run/a.sock", 5000, True),
        ("unix:/run/x/../a.sock", "unix:///run/a.sock", 5000, True),
        ("unix:/run/b.sock", "unix:///run/a.sock", 5000, False),
        ("unix:/run/a.sock", "127.0.0.1", 5000, False),
    ],
)
def test_where_the_app_is_served(text: str, host: str, port: int, clash: bool) -> None:
    assert parse(text).clashes(host, port) is clash
