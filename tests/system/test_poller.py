"""The poll set, by both system calls."""

from __future__ import annotations

import math
import os
import select
import socket
from collections.abc import Iterator

import pytest

from flask_prefork.system.poller import Poller

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["epoll", "poll"])
def poller(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Poller]:
    """A poll set by the system call of the name."""
    if request.param == "poll":
        monkeypatch.delattr(select, "epoll", raising=False)
    elif not hasattr(select, "epoll"):
        pytest.skip("this system has no epoll")
    poller = Poller()
    yield poller
    poller.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def called() -> None:
    """Stands for a callback; the poll set calls none itself."""


def test_quiet(poller: Poller, pair: Pair) -> None:
    ours, _ = pair
    poller.watch(ours.fileno(), called)
    assert poller.is_watched(ours.fileno())
    assert poller.wait(0) == []
    assert poller.wait(-5) == []


def test_readable_until_it_is_read(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    poller.watch(ours.fileno(), called)
    theirs.send(b"x")
    assert poller.wait(None) == [called]
    assert poller.wait(0) == [called]
    ours.recv(1)
    assert poller.wait(0) == []


def test_end_is_readable(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    poller.watch(ours.fileno(), called)
    theirs.close()
    assert poller.wait(None) == [called]


def test_forgotten(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    poller.watch(ours.fileno(), called)
    poller.forget(ours.fileno())
    assert not poller.is_watched(ours.fileno())
    assert poller.wait(0) == []
    # Again, and what it never knew.
    poller.forget(ours.fileno())
    poller.forget(theirs.fileno())
    poller.watch(ours.fileno(), called)
    assert poller.wait(0) == [called]


def test_descriptors_number_may_come_back(poller: Poller) -> None:
    for _ in range(2):
        read, write = os.pipe()
        poller.watch(read, called)
        os.write(write, b"x")
        assert poller.wait(0) == [called]
        poller.forget(read)
        os.close(read)
        os.close(write)


def test_all_that_are_ready_come_in_one_batch(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(5)]
    seen: list[int] = []
    for number, (ours, theirs) in enumerate(pairs):
        poller.watch(ours.fileno(), lambda number=number: seen.append(number))  # type: ignore[misc]
        if number % 2:
            theirs.send(b"x")
    for callback in poller.wait(None):
        callback()
    assert sorted(seen) == [1, 3]
    for ours, theirs in pairs:
        poller.forget(ours.fileno())
        ours.close()
        theirs.close()


class Calls:
    """Stands for the system's poll object, and takes its timeouts down."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []

    def poll(self, *timeout: float) -> list[tuple[int, int]]:
        self.timeouts.extend(timeout)
        return []


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [
        (0, 0),
        (-1, 0),
        (1, 1000),
        (0.0001, 1),
        (0.0123, 13),
        (2.5, 2500),
        (math.inf, 86400000),
        (-math.inf, 0),
        (math.nan, 0),
    ],
)
def test_wait_is_rounded_up(poller: Poller, seconds: float, milliseconds: int) -> None:
    poller.close()
    calls = poller._poll = Calls()
    unit = poller._unit
    poller.wait(seconds)
    assert calls.timeouts == [pytest.approx(milliseconds * unit / 1000)]
