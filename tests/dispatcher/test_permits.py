"""Permits of limited routes."""

from __future__ import annotations

import typing as t

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle
from hypothesis.stateful import consumes
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine

from flask_prefork.dispatcher.permits import LimitRow
from flask_prefork.dispatcher.permits import Permits
from flask_prefork.ipc.parked_connections import Connection
from flask_prefork.settings.limits import RouteLimit
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Wait

#: Above what deadlines are precise to.
LATE = 0.051


def request(name: str = "/report", arrived: float = 1.0) -> Connection:
    state = Parked(Wait.PERMIT, 0.0, arrived=arrived, limit=1)
    return Connection(-1, 0, state, limit=name)


def permits(
    concurrency: int | None = 1, queue_timeout: float | None = None, default: float = 0
) -> Permits:
    made = Permits()
    limit = RouteLimit("/report", concurrency, queue_timeout=queue_timeout)
    made.configure([limit], default)
    return made


def test_first_come_first_served() -> None:
    made = permits()
    first, second, third = request(), request(arrived=2.0), request(arrived=3.0)
    for one in (first, third, second):
        made.wait(one, 3.0)
    assert made.grant() == [first]
    assert made.grant() == []
    made.take(first, "worker")
    assert made.grant() == []
    made.release("worker")
    assert made.grant() == [second]
    assert made.rows() == [LimitRow("/report", 1, 1, 1, 0)]


def test_a_second_release_releases_nobody_else() -> None:
    made = permits()
    first, second, third = request(), request(), request()
    for one in (first, second, third):
        made.wait(one, 1.0)
    made.grant()
    made.take(first, "one")
    made.release("one")
    assert made.grant() == [second]
    made.release("one")
    assert made.grant() == []
    made.take(second, "two")
    made.release("one")
    assert made.grant() == []


def test_one_that_is_closed_gives_its_permit_back() -> None:
    made = permits()
    first, second = request(), request()
    made.wait(first, 1.0)
    made.wait(second, 1.0)
    assert made.grant() == [first]
    made.forget(first)
    assert made.grant() == [second]
    made.forget(second)
    assert made.rows() == [LimitRow("/report", 1, 0, 0, 0)]


def test_one_that_is_closed_does_not_wait() -> None:
    made = permits()
    for one in (first := request(), second := request(), third := request()):
        made.wait(one, 1.0)
    made.grant()
    made.forget(second)
    assert second not in made
    made.forget(first)
    assert made.grant() == [third]


def test_limits_are_separate() -> None:
    made = Permits()
    made.configure([RouteLimit("/a", 1), RouteLimit("/b", 2), RouteLimit("/c")], 0)
    requests = [request(name) for name in ("/a", "/a", "/b", "/b", "/b")]
    for one in requests:
        made.wait(one, 1.0)
    assert set(made.grant()) == {requests[0], requests[2], requests[3]}
    assert [row.name for row in made.rows()] == ["/a", "/b", "/c"]


def test_who_waits_too_long_is_refused() -> None:
    made = permits(queue_timeout=2)
    first, second, third = request(), request(arrived=1.5), request(arrived=4.0)
    for one in (first, second, third):
        made.wait(one, 4.0)
    assert made.grant() == [first]
    assert made.expire(3.0) == []
    assert made.deadline() is not None
    assert made.expire(3.5 + LATE) == [second]
    assert second not in made
    assert made.rows() == [LimitRow("/report", 1, 1, 1, 1)]


def test_the_setting_is_for_limits_without_a_timeout() -> None:
    made = permits(default=3)
    made.wait(one := request(), 1.0)
    made.wait(other := request(), 1.0)
    assert made.grant() == [one]
    assert made.expire(4.0 + LATE) == [other]
    unbounded = permits(queue_timeout=0, default=3)
    unbounded.wait(request(), 1.0)
    assert unbounded.deadline() is None


def test_who_cannot_wait() -> None:
    made = permits(2)
    assert made.ask("one", "/report")
    assert made.ask("two", "/report")
    assert not made.ask("three", "/report")
    assert made.rows() == [LimitRow("/report", 2, 2, 0, 1)]
    made.release("one")
    made.wait(waiting := request(), 1.0)
    # It would be passed by.
    assert not made.ask("three", "/report")
    assert made.grant() == [waiting]
    assert made.ask("one", "/another")


def test_a_reload_keeps_to_the_names() -> None:
    made = permits(1)
    for one in (first := request(), second := request(), third := request()):
        made.wait(one, 1.0)
    made.grant()
    made.take(first, "old")
    made.configure([RouteLimit("/report", 2)], 0)
    assert made.grant() == [second]
    made.configure([RouteLimit("/other", 1)], 0)
    assert made.grant() == [third], "it isn't limited any more"
    made.configure([RouteLimit("/report", 1)], 0)
    made.wait(fourth := request(), 1.0)
    assert made.grant() == []
    for one in (second, third):
        made.forget(one)
    assert made.grant() == []
    made.release("old")
    assert made.grant() == [fourth]


def test_all_are_given_up() -> None:
    made = permits(queue_timeout=5)
    for one in (first := request(), second := request()):
        made.wait(one, 1.0)
    made.grant()
    assert made.clear() == [second]
    assert len(made) == 0
    assert made.deadline() is None
    made.forget(first)


NAMES = ["/a", "/b", "/c"]


class Machine(RuleBasedStateMachine):
    """Any sequence of requests, ends, deaths, losses and reloads."""

    waiting = Bundle("waiting")
    granted = Bundle("granted")
    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.permits = Permits()
        self.now = 1.0
        self.bounds: dict[str, int] = {}
        #: By the model: who waits in which order, and who has a permit.
        self.lines: dict[str, list[Connection]] = {name: [] for name in NAMES}
        self.has: dict[t.Any, str] = {}
        self.number = 0

    @initialize(bounds=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3)))
    def begin(self, bounds: dict[str, int]) -> None:
        self.reload(bounds)

    @rule(bounds=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3)))
    def reload(self, bounds: dict[str, int]) -> None:
        self.bounds = bounds
        limits = [RouteLimit(name, most) for name, most in bounds.items()]
        self.permits.configure(limits, 5.0)

    @rule(target=waiting, name=st.sampled_from(NAMES), back=st.integers(0, 3))
    def park(self, name: str, back: int) -> Connection:
        connection = request(name, self.now - back / 10)
        self.permits.wait(connection, self.now)
        line = self.lines[name]
        line.append(connection)
        line.sort(key=lambda one: one.state.arrived)
        return connection

    @rule(time=st.floats(0, 3))
    def later(self, time: float) -> None:
        self.now += time
        for connection in self.permits.expire(self.now):
            line = self.lines[connection.limit]
            assert connection.state.arrived + 5 <= self.now
            # Those before it have waited for as long, or without a bound.
            line.remove(connection)

    @rule(target=granted)
    def grant(self) -> tuple[Connection, ...]:
        before = {name: list(line) for name, line in self.lines.items()}
        found = self.permits.grant()
        for connection in found:
            name = connection.limit
            assert self.lines[name][0] is connection, "another one came first"
            del self.lines[name][0]
            self.has[connection] = name
        for name, line in self.lines.items():
            free = self.bounds.get(name, len(before[name]) + 100) - self.running(name)
            assert not line or free <= 0, "a permit is left, and somebody waits"
        return tuple(found)

    @rule(target=workers, batch=granted)
    def take(self, batch: tuple[Connection, ...]) -> list[str]:
        names = []
        for connection in batch:
            self.number += 1
            name = f"worker {self.number}"
            self.permits.take(connection, name)
            if connection in self.has:
                self.has[name] = self.has.pop(connection)
            names.append(name)
        return names

    @rule(batch=granted, line=waiting)
    def close(self, batch: tuple[Connection, ...], line: Connection) -> None:
        for connection in (*batch, line):
            self.permits.forget(connection)
            self.has.pop(connection, None)
            if connection in self.lines[connection.limit]:
                self.lines[connection.limit].remove(connection)

    @rule(names=consumes(workers), times=st.integers(1, 2))
    def end(self, names: list[str], times: int) -> None:
        for name in names * times:
            self.permits.release(name)
            self.has.pop(name, None)

    @rule(target=workers, name=st.sampled_from(NAMES))
    def ask(self, name: str) -> list[str]:
        self.number += 1
        worker = f"worker {self.number}"
        room = self.running(name) < self.bounds.get(name, self.running(name) + 1)
        granted = self.permits.ask(worker, name)
        assert granted == (room and not self.lines[name])
        if granted:
            self.has[worker] = name
        return [worker]

    def running(self, name: str) -> int:
        return list(self.has.values()).count(name)

    @invariant()
    def nothing_leaks(self) -> None:
        for row in self.permits.rows():
            assert row.running == self.running(row.name)
            assert row.waiting == len(self.lines[row.name])
        assert len(self.permits) == sum(map(len, self.lines.values()))


TestPermits = Machine.TestCase
TestPermits.settings = settings(max_examples=100, stateful_step_count=30)
