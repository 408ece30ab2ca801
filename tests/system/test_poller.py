"""The poll set, by each system call that there is."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import time
import typing as t
from collections.abc import Iterator
from functools import partial

import pytest

from flask_prefork.system import polling
from flask_prefork.system.log import base
from flask_prefork.system.poller import Poller

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=[name for name in ("epoll", "poll") if hasattr(select, name)])
def poller(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Poller]:
    """A poll set by each system call that there is."""
    if request.param == "poll":
        monkeypatch.setattr(polling, "make", polling.SystemPoll)
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


class Calls(polling.SystemPoll):
    """Takes the timeouts down."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float | None] = []

    def poll(
        self, timeout: float | None = None, most: int = -1
    ) -> list[tuple[int, int]]:
        self.timeouts.append(timeout)
        return []


@pytest.mark.parametrize(
    ("seconds", "waits"),
    [
        (None, None),
        (0, 0),
        (-1, 0),
        (1, 1),
        (2.5, 2.5),
        (math.inf, 86400),
        (-math.inf, 0),
        (math.nan, 0),
    ],
)
def test_how_long_it_waits(
    monkeypatch: pytest.MonkeyPatch, seconds: float | None, waits: float | None
) -> None:
    monkeypatch.setattr(polling, "make", Calls)
    poller = Poller()
    poller.wait(seconds)
    assert t.cast(Calls, poller._poll).timeouts == [waits]
    poller.close()


def test_a_wait_is_never_too_short(poller: Poller) -> None:
    # Else the loop would turn without a rest through the last fraction.
    end = time.monotonic() + 0.0005
    poller.wait(0.0005)
    assert time.monotonic() >= end


def test_a_hang_up_is_told_of_though_nobody_reads_what_came_before() -> None:
    poller, hung_up = Poller(), []
    ours, theirs = socket.socketpair()
    poller.watch_hang_up(ours.fileno(), lambda: hung_up.append(True))
    theirs.send(b"what nobody reads")
    assert poller.wait(0) == []
    theirs.shutdown(socket.SHUT_WR)
    for callback in poller.wait(0):
        callback()
    assert hung_up == [True]
    poller.forget(ours.fileno())
    assert poller.wait(0) == []
    for one in (ours, theirs, poller):
        one.close()


def test_who_was_forgotten_by_another_hang_up_is_not_told_of() -> None:
    poller, hung_up = Poller(), []
    pairs = [socket.socketpair() for _ in range(2)]
    fds = [ours.fileno() for ours, _ in pairs]

    def forget_all(fd: int) -> None:
        hung_up.append(fd)
        for one in fds:
            poller.forget(one)

    for fd in fds:
        poller.watch_hang_up(fd, partial(forget_all, fd))
    for _, theirs in pairs:
        theirs.close()
    for callback in poller.wait(0):
        callback()
    assert len(hung_up) == 1
    for ours, _ in pairs:
        ours.close()
    poller.close()


class Full:
    """A poll set that has room for so many descriptors.

    :param poll: The one that it limits.
    """

    def __init__(self, poll: t.Any, room: int) -> None:
        self._poll = poll
        self.room = room

    def register(self, fd: int, events: int) -> None:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= 1
        self._poll.register(fd, events)

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self._poll, name)


@pytest.fixture
def full(poller: Poller) -> Full:
    full = Full(poller._poll, 1)
    poller._poll = t.cast(t.Any, full)
    return full


def test_no_room_for_one_more(
    poller: Poller,
    full: Full,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "propagate", True)
    pairs = [socket.socketpair() for _ in range(3)]
    for number, (ours, theirs) in enumerate(pairs):
        poller.watch(ours.fileno(), partial(int, number))
        theirs.send(b"x")
    fds = [ours.fileno() for ours, _ in pairs]
    assert [poller.is_watched(fd) for fd in fds] == [True, False, False]
    assert (
        caplog.text.count("Can't poll a descriptor, and try again: No space left") == 1
    )
    assert [found() for found in poller.wait(0)] == [0]
    with pytest.raises(OSError, match="No space left"):
        poller.try_watch(fds[2], called)
    # One that was given up meanwhile isn't registered any more.
    poller.forget(fds[1])
    full.room = 5
    assert sorted(found() for found in poller.wait(None)) == [0, 2]
    assert [poller.is_watched(fd) for fd in fds] == [True, False, True]
    for ours, theirs in pairs:
        poller.forget(ours.fileno())
        ours.close()
        theirs.close()


def test_it_does_not_wait_long_while_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    calls = Calls()
    monkeypatch.setattr(polling, "make", lambda: Full(calls, 0))
    poller = Poller()
    poller.watch(pair[0].fileno(), called)
    for seconds in (None, 60.0, 0.01):
        assert poller.wait(seconds) == []
    assert calls.timeouts == [0.1, 0.1, 0.01]
    poller.close()


@pytest.mark.skipif(not hasattr(select, "EPOLLRDHUP"), reason="only Linux has that")
def test_no_room_for_hang_ups_at_first(pair: Pair) -> None:
    poller = Poller()
    full = Full(poller._poll, 0)
    poller._poll = t.cast(t.Any, full)
    ours, theirs = pair
    with pytest.raises(OSError, match="No space left"):
        poller.watch_hang_up(ours.fileno(), called)
    full.room = 1
    poller.watch_hang_up(ours.fileno(), called)
    theirs.shutdown(socket.SHUT_WR)
    (callback,) = poller.wait(0)
    callback()
    poller.close()
