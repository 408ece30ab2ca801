"""Lists of peers."""

from __future__ import annotations

import pytest

from flask_prefork.system.peers import LOCAL
from flask_prefork.system.peers import parse


@pytest.mark.parametrize(
    ("text", "peer", "listed"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.0/8, ::1", "10.255.0.1", True),
        ("10.0.0.0/8, ::1", "::1", True),
        ("10.0.0.0/8, ::1", "11.0.0.1", False),
        ("2001:db8::/32", "2001:db8:1::2", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", LOCAL, False),
        ("unix:", LOCAL, True),
        ("unix:", "127.0.0.1", False),
        ("*", "1.2.3.4", True),
        ("*", LOCAL, False),
        ("*,unix:", LOCAL, True),
        ("127.0.0.1", "no address", False),
    ],
)
def test_lists(text: str, peer: str, listed: bool) -> None:
    peers = parse(text)
    assert peers.lists(peer) is listed
    # And the second time, from memory.
    assert peers.lists(peer) is listed


def test_everybody_is_not_named() -> None:
    peers = parse("*,10.0.0.0/8")
    assert peers.names("10.0.0.1")
    assert not peers.names("11.0.0.1")


def test_without_local() -> None:
    peers = parse("unix:,::1").without_local()
    assert not peers.lists(LOCAL)
    assert peers.lists("::1")


def test_memory_is_bounded() -> None:
    peers = parse("10.0.0.0/8")
    for number in range(3000):
        assert peers.lists(f"10.0.{number >> 8}.{number & 255}")
    assert len(peers._known) <= 1024


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("localhost", "'localhost' is no address"),
        ("", "'' is no address"),
        ("10.0.0.1,", "'' is no address"),
        ("10.0.0.1/8", "give the network 10.0.0.0/8, or the address 10.0.0.1"),
        ("10.0.0.0/33", "'10.0.0.0/33' is no address"),
        ("fe80::1%eth0", "'fe80::1%eth0' is no address"),
        ("unix:/run/shop", "'unix:/run/shop' is no address"),
    ],
)
def test_what_is_no_list(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert words in str(caught.value)
