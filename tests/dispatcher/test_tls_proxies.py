"""Which TLS proxy accepts, and which ones end."""

from __future__ import annotations

import typing as t

import pytest

from flask_prefork.dispatcher import tls_proxies
from flask_prefork.dispatcher.tls_proxies import _LAST_HANDSHAKES
from flask_prefork.dispatcher.tls_proxies import TLSProxies


class Handle:
    """Stands in for a process."""

    def __init__(self, settings: dict[str, t.Any], number: int) -> None:
        self.settings, self.number = settings, number
        self.pid = number
        self.connections = 3
        self.certificates = 100 + number
        self.is_ready = self.is_refused = self.is_closed = False
        self.calls: list[str] = []

    def deadline(self) -> None:
        return None

    def step(self, now: float) -> None:
        pass

    def __getattr__(self, name: str) -> t.Any:
        return lambda: self.calls.append(name)


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.made: list[Handle] = []
        self.proxies = TLSProxies(self.make, lambda: self.now)

    def make(self, settings: t.Any, listeners: t.Any, number: int) -> t.Any:
        self.made.append(Handle(settings, number))
        return self.made[-1]

    def open(self) -> Handle:
        self.proxies.open({"timeout": 1}, [])
        (handle,) = self.made
        handle.is_ready = True
        return handle

    def step(self) -> None:
        self.proxies.step(self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_without_tls_nothing_is_waited_for(world: World) -> None:
    world.step()
    world.proxies.reload()
    world.proxies.configure({"timeout": 2})
    assert world.proxies.is_ready
    assert world.proxies.is_closed()
    assert (world.proxies.count, world.proxies.connections, world.made) == (0, 0, [])


def test_the_start(world: World) -> None:
    world.proxies.open({"timeout": 1}, [])
    assert not world.proxies.is_ready
    world.made[0].is_ready = True
    assert world.proxies.is_ready
    assert world.proxies.certificates(1) == 101
    assert world.proxies.certificates(2) == -1


def test_a_certificate_that_can_not_be_used_at_the_start(world: World) -> None:
    world.proxies.open({}, [])
    assert not world.proxies.is_refused
    world.made[0].is_refused = True
    assert world.proxies.is_refused


def test_a_reload(world: World) -> None:
    """The one before goes on until the next one accepts, and with what it has."""
    first = world.open()
    world.proxies.reload()
    world.step()
    second = world.made[1]
    assert first.calls == []
    second.is_ready = True
    world.step()
    assert first.calls == ["leave"]
    assert world.proxies.connections == 6
    assert world.proxies.certificates(1) == 101, "its clients are still there"
    first.pid = 0
    world.step()
    assert (world.proxies.count, world.proxies.connections) == (1, 3)


def test_a_reload_with_a_bad_certificate(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    first = world.open()
    world.proxies.reload()
    world.made[1].is_refused, world.made[1].pid = True, 0
    world.step()
    assert "could not be replaced; the old one stays" in caplog.text
    assert not world.proxies.is_refused
    assert first.calls == []
    world.proxies.reload()
    assert len(world.made) == 3


def test_reloads_in_a_row(world: World) -> None:
    world.open()
    for _ in range(3):
        world.proxies.reload()
    assert [one.calls for one in world.made] == [[], ["discard"], ["discard"], []]
    assert [one.number for one in world.made] == [1, 2, 3, 4]
    for one in world.made[1:3]:
        one.pid = 0
    world.step()
    assert world.proxies.count == 2


def test_other_settings(world: World) -> None:
    world.open()
    world.proxies.configure({"timeout": 1})
    assert len(world.made) == 1
    world.proxies.configure({"timeout": 2})
    assert world.made[1].settings == {"timeout": 2}


def test_the_end(world: World) -> None:
    """Whoever is on the way in is waited for, for a while."""
    first = world.open()
    world.proxies.reload()
    assert not world.proxies.is_closed()
    assert first.calls == ["leave"]
    assert world.made[1].calls == ["discard"]
    first.is_closed = True
    assert not world.proxies.is_closed(), "it may have accepted clients already"
    world.proxies.reload()
    assert len(world.made) == 2
    assert world.proxies.deadline() == 100 + _LAST_HANDSHAKES
    world.now += _LAST_HANDSHAKES
    assert world.proxies.is_closed()
    assert world.proxies.deadline() is None


def test_the_end_comes_with_the_last_of_them(world: World) -> None:
    first = world.open()
    assert not world.proxies.is_closed()
    first.is_closed = True
    assert world.proxies.is_closed()
    world.proxies.release()
    world.proxies.kill()
    assert first.calls == ["leave", "release", "end"]


def test_counters_end_at_64_bits() -> None:
    """A TLS proxy may say anything, and the dispatcher writes the sums."""
    counts = {"full": 5}
    for more in (2**64 - 1, 2**64 - 1, -7):
        tls_proxies._add(counts, "full", more)
    assert counts == {"full": 2**64 - 1}
