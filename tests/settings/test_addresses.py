"""Addresses: what is one, how it is shown, and whom it would be in the way of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.settings.addresses import Address
from flask_prefork.settings.addresses import bracketed
from flask_prefork.settings.addresses import check_distinct
from flask_prefork.settings.addresses import parse
from flask_prefork.settings.addresses import parse_host
from flask_prefork.settings.addresses import split


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
    ("text", "host", "clash"),
    [
        ("5000", "127.0.0.1", True),
        ("5000", "localhost", True),
        ("5000", "0.0.0.0", True),
        ("0.0.0.0:5000", "10.0.0.1", True),
        ("[::]:5000", "::1", True),
        ("[::1]:5000", "0:0::1", True),
        ("[::]:5000", "127.0.0.1", True),
        ("5000", "127.0.0.1:5001", False),
        ("5001", "127.0.0.1:5001", True),
        ("5000", "10.0.0.1", False),
        # Each gets one of its own.
        ("0", "127.0.0.1:0", False),
        ("5000", "unix:///run/a.sock", False),
        ("5000", "fd://3", False),
        ("unix:/run/a.sock", "unix:///run/a.sock", True),
        ("unix:/run/x/../a.sock", "unix:/run/a.sock", True),
        ("unix:/run/b.sock", "unix:///run/a.sock", False),
        ("unix:/run/a.sock", "127.0.0.1", False),
        ("unix:/run/a.sock", "fd://3", False),
    ],
)
def test_where_the_app_is_served(text: str, host: str, clash: bool) -> None:
    app = parse_host(host, 5000)
    assert parse(text).clashes(app) is app.clashes(parse(text)) is clash


# The app's


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", Address("127.0.0.1", 5000)),
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("0", Address("0", 5000)),
        ("0:80", Address("0", 80)),
        ("localhost", Address("localhost", 5000)),
        ("shop_1.example.:65535", Address("shop_1.example.", 65535)),
        ("b\u00fccher.example:80", Address("b\u00fccher.example", 80)),
        ("::1", Address("::1", 5000)),
        ("[::1]", Address("::1", 5000)),
        ("[::1]:8000", Address("::1", 8000)),
        ("::", Address("::", 5000)),
        ("::1:8000", Address("::1:8000", 5000)),
        ("fe80::1%eth0", Address("fe80::1%eth0", 5000)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("::ffff:127.0.0.1", Address("::ffff:127.0.0.1", 5000)),
        ("unix:/run/shop.sock", Address("", 0, "/run/shop.sock")),
        ("unix:///run/shop.sock", Address("", 0, "/run/shop.sock")),
        ("unix:shop.sock", Address("", 0, "shop.sock")),
        ("unix://shop.sock", Address("", 0, "shop.sock")),
        ("unix:/run/a shop, b:80", Address("", 0, "/run/a shop, b:80")),
        ("fd://3", Address("", 0, fd=3)),
    ],
)
def test_a_host(text: str, address: Address) -> None:
    assert parse_host(text, 5000) == address
    assert parse_host(str(address), 1) == address
    assert parse_host(address.target, address.port) == address


@pytest.mark.parametrize(
    ("text", "why", "right"),
    [
        ("", "is empty", "give 0.0.0.0"),
        ("*", "'*' is not a host", "give 0.0.0.0"),
        ("*:80", "'*' is not a host", "or [::] for all"),
        (":80", "has no host", "give 127.0.0.1:80"),
        ("8000", "is a port without a host", "give --port 8000, or 127.0.0.1:8000"),
        ("a:", "'' in 'a:' is not a port", "0 to 65535"),
        ("a:http", "'http' in 'a:http' is not a port", "0 to 65535"),
        ("a:65536", "'65536' in 'a:65536' is not a port", "0 to 65535"),
        ("a:-1", "'-1' in 'a:-1' is not a port", "0 to 65535"),
        ("a:\u0668", "is not a port", "0 to 65535"),
        ("[::1]:", "'' in '[::1]:' is not a port", "0 to 65535"),
        ("[::1]:x", "'x' in '[::1]:x' is not a port", "0 to 65535"),
        ("[::1]80", "is not an IPv6 address", "such as [::1]:8000"),
        ("[::1", "is not an IPv6 address", "such as [::1]:8000"),
        ("1:2:3:4:5:6:7:8:80", "is not an IPv6 address", "such as [::1]:8000"),
        ("a:80:81", "is not an IPv6 address", "such as [::1]:8000"),
        ("[127.0.0.1]:80", "'127.0.0.1' in brackets", "give HOST, HOST:PORT"),
        ("[]", "'' in brackets", "give HOST, HOST:PORT"),
        ("http://a:80/b", "'http://' before the host", "give 'a:80'"),
        ("tcp://", "'tcp://' before the host", "give HOST, HOST:PORT"),
        ("-a", "'-a' is not a host", "give HOST, HOST:PORT"),
        ("a/b c", "'a/b c' is not a host", "give a unix socket as unix:a/b c"),
        ("/a.sock", "'/a.sock' is not a host", "give a unix socket as unix:/a.sock"),
        ("127.0.0.1,::1", "is not one address", "give --host for each"),
        ("127.0.0.1 ::1", "is not one address", "give --host for each"),
        ("unix:", "has no path", "unix:/run/shop.sock"),
        ("unix://", "has no path", "unix:/run/shop.sock"),
        ("unix:/a\0b", "has no path", "unix:/run/shop.sock"),
        ("fd:3", "names no descriptor", "fd://3"),
        ("fd://", "names no descriptor", "fd://3"),
        ("fd://-1", "names no descriptor", "fd://3"),
        ("fd://x", "names no descriptor", "fd://3"),
        ("fd://2147483648", "names no descriptor", "fd://3"),
        ("fd://" + "9" * 5000, "names no descriptor", "fd://3"),
    ],
)
def test_a_host_that_is_none(text: str, why: str, right: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_host(text, 5000)
    assert why in str(caught.value) and right in str(caught.value)


@given(st.text() | st.from_regex(r"\[?[0-9a-f:.]*\]?(:[0-9]*)?", fullmatch=True))
def test_any_host_is_taken_or_refused(text: str) -> None:
    try:
        address = parse_host(text, 5000)
    except ValueError:
        return
    assert parse_host(str(address), 1) == address


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("a:1, b  c,[::1]:2\n", ["a:1", "b", "c", "[::1]:2"]),
        (" , ", [" , "]),
    ],
)
def test_hosts_in_a_variable(text: str, hosts: list[str]) -> None:
    assert split(text) == hosts


@pytest.mark.parametrize(
    ("hosts", "error"),
    [
        ("127.0.0.1 127.0.0.2", None),
        ("127.0.0.1 127.0.0.1:5001", None),
        ("127.0.0.1 ::1 unix:a fd://3 fd://4 unix:b", None),
        ("127.0.0.1:0 127.0.0.1:0", None),
        ("0.0.0.0 ::", None),
        (":: 127.0.0.1", None),
        ("0.0.0.0 ::1", None),
        ("0.0.0.0 127.0.0.1:0", None),
        ("a a", "--host a and --host a are the same address; give it once."),
        ("a b A:5000", "--host a and --host A:5000 are the same address"),
        ("localhost 127.0.0.1", "--host localhost and --host 127.0.0.1 are the same"),
        ("::1 [0::1]:5000", "--host ::1 and --host [0::1]:5000 are the same"),
        ("unix:a unix://b/../a", "--host unix:a and --host unix://b/../a are the same"),
        ("fd://3 fd://03", "--host fd://3 and --host fd://03 are the same"),
        ("0.0.0.0 a", "--host 0.0.0.0 includes --host a; leave one of them out."),
        ("127.0.0.1 0.0.0.0", "--host 0.0.0.0 includes --host 127.0.0.1;"),
        ("::1 ::", "--host :: includes --host ::1;"),
    ],
)
def test_hosts_that_are_the_same(hosts: str, error: str | None) -> None:
    texts = hosts.split()
    wanted = [parse_host(text, 5000) for text in texts]
    if error is None:
        check_distinct(texts, wanted)
        return
    with pytest.raises(ValueError) as caught:
        check_distinct(texts, wanted)
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("hosts", "is_alone"),
    [
        (":: 0.0.0.0", True),
        ("[::0] 127.0.0.1", True),
        (":: 127.0.0.1:80", False),
        (":: unix:a", False),
        ("::", False),
        ("::1 127.0.0.1", False),
    ],
)
def test_one_of_all_addresses_that_is_not_for_ipv4(hosts: str, is_alone: bool) -> None:
    wanted = [parse_host(text, 5000) for text in hosts.split()]
    assert wanted[0].is_ipv6_only(wanted) is is_alone


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("::1:8000", "[::1]:8000"),
        ("::8000", "[::]:8000"),
        ("2001:db8::1:80", "[2001:db8::1]:80"),
        ("1:2:3:4:5:6:7:80", ""),
        ("::1:f", ""),
        ("2001:db8::1", ""),
        ("127.0.0.1", ""),
    ],
)
def test_a_port_that_was_taken_for_a_part_of_the_host(host: str, meant: str) -> None:
    assert bracketed(host) == meant


def test_a_name_that_was_found() -> None:
    address = Address("192.0.2.1", 80, name="shop.example")
    assert (str(address), address.shown) == (
        "192.0.2.1:80",
        "shop.example:80 (192.0.2.1)",
    )
    assert Address("::1", 80).shown == "[::1]:80"
