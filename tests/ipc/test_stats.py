"""The scoreboard's header: what is written is read, and sums never go down."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import typing as t
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_prefork.dispatcher.policy import Memory
from flask_prefork.dispatcher.policy import Policy
from flask_prefork.ipc import durations
from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.durations import BUCKETS
from flask_prefork.ipc.durations import count
from flask_prefork.ipc.durations import Durations
from flask_prefork.ipc.figures import add
from flask_prefork.ipc.figures import LimitRow
from flask_prefork.ipc.figures import PARKED_STATES
from flask_prefork.ipc.figures import Served
from flask_prefork.ipc.phase import Phase
from flask_prefork.ipc.records import Record
from flask_prefork.ipc.scoreboard import Bank
from flask_prefork.ipc.states import Reason
from flask_prefork.ipc.stats import count_aborted
from flask_prefork.ipc.stats import Part
from flask_prefork.ipc.stats import Reader
from flask_prefork.ipc.stats import Summary
from flask_prefork.ipc.stats import Waiting
from flask_prefork.settings.limits import MAX_LIMITS
from flask_prefork.settings.limits import NAME_SIZE


class Header:
    """Both sides of a header.

    :ivar fd: The scoreboard.
    """

    def __init__(self) -> None:
        self.fd = scoreboard.create()
        self.summary = Summary(self.fd)
        self.reader = Reader(self.fd)
        self.policy = Policy(2, 4, 2, 8, 10.0, 0.0)

    def write(self, now: float, **more: t.Any) -> None:
        """End a turn."""
        said: dict[str, t.Any] = {
            "phase": Phase.SERVING,
            "policy": self.policy,
            "idle": 0,
            "waiting": Waiting({}),
            "reloads": 0,
            "parts": [Part(1, "current", True)],
        }
        self.summary.write(now, **(said | more))

    def close(self) -> None:
        self.summary.close()
        self.reader.close()
        os.close(self.fd)


@pytest.fixture
def header() -> Iterator[Header]:
    with contextlib.closing(Header()) as header:
        yield header


def waiting(bodies: int) -> Waiting:
    """So many wait for the rest of a body."""
    parked = {**dict.fromkeys(PARKED_STATES, 0), "body": bodies}
    return Waiting(parked, spooled=2**40, delivering=3)


def record(**more: t.Any) -> Record:
    """A worker's that has served three requests."""
    made = Record(
        42,
        1,
        since=5.0,
        requests=3,
        connections=2,
        sent=700,
        classes=(0, 0, 2, 0, 1, 0),
        spent=1.5,
    )
    return made._replace(**more)


#: The histograms of the same three.
SPREAD = Durations((2, *[0] * (BUCKETS - 2), 1))


# What the dispatcher tells


def test_what_is_written_is_read(header: Header) -> None:
    summary = header.summary
    summary.orders, summary.resumed, summary.parked, summary.spawned = 5, 6, 7, 8
    summary.deliveries["complete"] += 4
    summary.deliveries["lost"] += 1
    parts = [Part(4, "current", True), Part(5, "next", False)]
    for reason in (Reason.EXIT, Reason.EXIT, Reason.RETIRED, None):
        summary.count_exit(reason)
    header.write(
        20.0,
        phase=Phase.DRAINING,
        idle=1,
        waiting=waiting(9),
        reloads=2,
        parts=tuple(parts),
    )
    figures = header.reader.figures()
    assert figures.phase is Phase.DRAINING
    gauges, counters = figures.gauges, figures.counters
    assert (gauges.min_idle, gauges.max_idle, gauges.max_workers) == (2, 4, 8)
    assert (counters.orders, counters.resumed, counters.parked) == (5, 6, 7)
    assert (counters.spawned, counters.reloads) == (8, 2)
    assert gauges.parked_by_state == {**dict.fromkeys(PARKED_STATES, 0), "body": 9}
    assert (gauges.spooled, gauges.delivering) == (2**40, 3)
    assert counters.deliveries == {"complete": 4, "incomplete": 0, "lost": 1}
    assert figures.parts == tuple(parts)
    assert figures.gauges.idle_at == 20.0
    assert figures.counters.retired == 1
    assert {r: n for r, n in figures.counters.deaths.items() if n} == {"exit": 2}


def test_before_the_first_turn_there_is_nothing(header: Header) -> None:
    figures = header.reader.figures()
    assert figures.phase is Phase.LOADING
    assert figures.parts == ()
    assert header.reader.exited().sums == Served()


def test_more_generations_than_there_is_room_for(header: Header) -> None:
    parts = [Part(number, "retiring", True) for number in range(9, 3, -1)]
    header.write(1.0, parts=parts)
    assert header.reader.figures().parts == tuple(parts[:4])


def test_when_a_worker_was_idle(header: Header) -> None:
    header.write(1.0, idle=0)
    assert header.reader.figures().gauges.idle_at == 0
    header.write(2.0, idle=3)
    header.write(9.0, idle=0)
    assert header.reader.figures().gauges.idle_at == 9.0, "it was until this turn"
    header.write(12.0, idle=0)
    assert header.reader.figures().gauges.idle_at == 9.0


def test_saturation_is_counted_over_generations(header: Header) -> None:
    def saturate(at: float) -> None:
        header.policy.grow(at, idle=0, starting=0, total=8, waiting=9)

    saturate(3.0)
    header.write(3.0)
    header.write(5.0)
    figures = header.reader.figures()
    assert (figures.gauges.saturated_since, figures.counters.saturated) == (3.0, 0.0)
    header.policy = Policy(2, 4, 2, 8, 10.0, 7.0)
    header.write(7.0)
    figures = header.reader.figures()
    assert (figures.gauges.saturated_since, figures.counters.saturated) == (0.0, 4.0)
    saturate(10.0)
    header.write(10.0)
    # While the server drains, the policy isn't asked any more.
    header.write(11.0, phase=Phase.DRAINING)
    header.write(20.0, phase=Phase.DRAINING)
    figures = header.reader.figures()
    assert (figures.gauges.saturated_since, figures.counters.saturated) == (0.0, 5.0)


def test_memory_and_its_budget(header: Header) -> None:
    header.policy = Policy(2, 4, 2, 8, 10.0, 0.0, budget=2**40)
    header.policy.grow(1.0, idle=2, starting=0, total=2, memory=Memory(2**35, 5, 7))
    header.summary.shortages = 3
    header.write(1.0)
    figures = header.reader.figures()
    assert figures.gauges.memory == 2**35
    assert figures.gauges.memory_budget == 2**40
    assert figures.counters.shortages == 3
    assert figures.parts == (Part(1, "current", True),)


def test_a_writer_that_stops_at_any_moment_leaves_all_whole(
    header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a block is written, and its writer was stopped before the rest."""
    header.write(1.0, waiting=waiting(77))
    block = header.summary._header.figures
    copy = block._copies[(block._count[0] + 1) % 2]
    garbage = b"\xff" * (block._layout.size // 2)
    header.summary._header.map[copy : copy + len(garbage)] = garbage
    assert header.reader.figures().gauges.parked_by_state["body"] == 77


def test_a_reader_beside_a_fast_writer(header: Header) -> None:
    """All numbers that are read are of one turn."""
    done = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def write() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            header.summary.orders = header.summary.parked = turn
            header.write(float(turn), waiting=waiting(turn), reloads=turn)

    header.write(0.0)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            figures = header.reader.figures()
            counters = figures.counters
            seen = {counters.orders, counters.parked, counters.reloads}
            seen.add(figures.gauges.parked_by_state["body"])
            assert len(seen) == 1
    finally:
        done.set()
        writer.join()
        sys.setswitchinterval(interval)


# What the dead have counted


def test_a_request_that_dies_with_its_worker() -> None:
    assert count_aborted(record(), SPREAD, 9.0) == (record(), SPREAD)
    dead = record(began=8.0, method="GET", target="/")
    counted, spread = count_aborted(dead, SPREAD, 8.3)
    assert counted.requests == 4
    assert counted.classes == (1, 0, 2, 0, 1, 0)
    assert counted.spent == pytest.approx(1.8)
    assert spread == Durations(count(SPREAD.latencies, 8.3 - 8.0))


def test_an_upgraded_connection_that_ends_with_its_worker() -> None:
    """Its client had what it asked for, and in no time."""
    dead = record(began=8.0, upgraded=8.3)
    counted, spread = count_aborted(dead, SPREAD, 5000.0)
    assert counted.requests == 4
    assert counted.classes == (0, 1, 2, 0, 1, 0)
    assert counted.spent == pytest.approx(1.8)
    assert spread == Durations(count(SPREAD.latencies, 8.3 - 8.0))


def test_a_record_is_in_the_sums_or_on_the_board(header: Header) -> None:
    bank = Bank(header.fd, 1)
    entry = bank.entry(3)
    entry.enter(42, 1, 5.0)
    before = header.reader.exited()
    assert not before.is_in(1, 3)
    with header.summary.exited(1, 3, record(), SPREAD, 9.0):
        between = header.reader.exited()
        assert between.is_in(1, 3)
        assert not between.is_in(2, 3), "that is the other bank's"
        assert between.sums == add(Served(), record())
        assert between.durations == SPREAD
        bank.clear(3)
    after = header.reader.exited()
    assert after.sums == between.sums
    assert after.durations == SPREAD
    # Else the next worker in its place wouldn't count.
    assert not after.is_in(1, 3)
    assert before.version < between.version < after.version
    entry.release()
    bank.close()


counts = st.integers(0, 2**40)


@settings(max_examples=50)
@given(
    records=st.lists(
        st.builds(
            Record,
            requests=counts,
            connections=counts,
            sent=counts,
            classes=st.tuples(*[counts] * 6),
            began=st.just(0.0),
            spent=st.floats(0, 1e9),
            queued=st.floats(0, 1e9),
        ),
        max_size=4,
    )
)
def test_sums(records: list[Record]) -> None:
    with contextlib.closing(Header()) as header:
        for one in records:
            with header.summary.exited(1, 0, one, SPREAD, 1.0):
                pass
        _, _, sums, spread = header.reader.exited()
    assert sums.requests == sum(one.requests for one in records)
    assert sums.sent == sum(one.sent for one in records)
    assert sums.spent == pytest.approx(sum(one.spent for one in records))
    for index in range(6):
        assert sums.classes[index] == sum(one.classes[index] for one in records)
    assert spread == durations.total([Durations(), *[SPREAD] * len(records)])


def test_an_exit_leaves_the_histograms_whole_that_are_read(header: Header) -> None:
    """They are there twice, for a dispatcher may be stopped while it writes them."""
    with header.summary.exited(1, 3, record(), SPREAD, 9.0):
        pass
    before = header.reader.exited()
    ours = header.summary._header
    ours.write_durations(1 - header.summary._copy, Durations((7,) * BUCKETS))
    assert header.reader.exited() == before
    # A connection that is refused writes the other sums only.
    header.summary.count_accepted()
    after = header.reader.exited()
    assert after.sums.connections == before.sums.connections + 1
    assert after.durations == before.durations


def test_connections_are_counted_no_further_than_they_can_be(header: Header) -> None:
    """An app has written over its worker's record."""
    most = record()._replace(connections=2**64 - 1)
    with header.summary.exited(1, 3, most, SPREAD, 9.0):
        pass
    header.summary.count_accepted()
    assert header.reader.exited().sums.connections == 2**64 - 1


# Limits of routes


def test_limits_are_read_as_they_were_written(header: Header) -> None:
    assert header.reader.limits() == ()
    rows = [LimitRow("/report/<name>", 1, 1, 9, 2**40), LimitRow("chat", 0, 3, 0, 0)]
    header.summary.write_limits(rows)
    assert header.reader.limits() == tuple(rows)
    header.summary.write_limits(rows[1:])
    assert header.reader.limits() == tuple(rows[1:])
    header.summary.write_limits([])
    assert header.reader.limits() == ()


def test_as_many_limits_as_an_app_may_have(header: Header) -> None:
    rows = [LimitRow(f"/{n}", n + 1, n, 2 * n, 3 * n) for n in range(MAX_LIMITS)]
    header.summary.write_limits([*rows, LimitRow("/more", 1, 0, 0, 0)])
    assert header.reader.limits() == tuple(rows)


def test_a_long_name_is_cut_to_whole_characters(header: Header) -> None:
    header.summary.write_limits([LimitRow("/" + "\xe9" * NAME_SIZE, 1, 0, 0, 0)])
    (row,) = header.reader.limits()
    assert row.name == "/" + "\xe9" * ((NAME_SIZE - 1) // 2)


def test_limits_leave_the_other_figures_alone(header: Header) -> None:
    bank = Bank(header.fd, 0)
    with contextlib.closing(bank):
        bank.set_spooled(77)
        header.write(20.0, reloads=2)
        header.summary.count_accepted()
        rows = [LimitRow("x" * NAME_SIZE, *[2**64 - 1] * 4)] * MAX_LIMITS
        header.summary.write_limits(rows)
        assert bank.spooled() == 77
        assert not bank.states(8).strip("\0")
    assert header.reader.figures().counters.reloads == 2
    assert header.reader.exited().sums.connections == 1
    assert header.reader.limits() == tuple(rows)


def test_limits_are_written_only_when_they_change(header: Header) -> None:
    block = header.summary._header.limits
    rows = [LimitRow("/report", 1, 0, 0, 0)]
    header.summary.write_limits(rows)
    written, _ = block.read()
    header.summary.write_limits(list(rows))
    assert block.read()[0] == written
    header.summary.write_limits([rows[0]._replace(running=1)])
    assert block.read()[0] == written + 1
