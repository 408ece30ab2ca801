"""The simulation of overload, with the dispatcher's own shedding and permits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import simulate_overload
from simulation.overload import Overloaded
from simulation.overload import Request

from flask_prefork.settings.limits import RouteLimit


def same(count: int, every: float, service: float, limit: str = "") -> list[Request]:
    """Requests that all take as long."""
    return [Request(number * every, service, limit) for number in range(count)]


def test_nobody_waits_who_finds_an_idle_worker() -> None:
    ended = Overloaded(2, queue_timeout=1.0).run(same(10, 1.0, 0.5))
    assert [one.waited for one in ended] == [0.0] * 10
    assert all(one.served for one in ended)


@pytest.mark.parametrize("timeout", [0.0, 1.0])
def test_who_waits_longer_than_the_queue_timeout_is_refused(timeout: float) -> None:
    ended = Overloaded(1, queue_timeout=timeout).run(same(100, 0.1, 0.3))
    assert len(ended) == 100
    waits = [one.waited for one in ended if one.served]
    refused = [one.waited for one in ended if not one.served]
    if timeout:
        assert max(waits) == pytest.approx(timeout)
        assert refused == pytest.approx([timeout] * len(refused))
        # The worker has no rest: in 10 s and the time that the last may wait.
        assert len(waits) >= 33
    else:
        assert not refused
        assert max(waits) > 10


def test_no_more_than_the_bound_wait() -> None:
    ended = Overloaded(1, max_queue=3).run(same(100, 0.1, 0.3))
    # Looks are every 50 ms, and nobody waits longer than for three others.
    assert all(one.waited < 1.5 for one in ended)
    assert any(not one.served for one in ended)


def test_after_a_stall_fresh_requests_are_served() -> None:
    server = Overloaded(2, queue_timeout=1.0, stall=(2.0, 12.0))
    ended = server.run(same(200, 0.1, 0.1))
    fresh = [one for one in ended if one.request.arrived > 12.5]
    stuck = [one for one in ended if 2.0 < one.request.arrived < 10.9]
    assert all(one.served and one.waited < 1.0 for one in fresh)
    assert sum(not one.served for one in stuck) >= len(stuck) - 2
    assert all(one.waited < 1.2 for one in stuck if not one.served)


def test_a_limit_is_kept_and_others_are_served() -> None:
    limit = RouteLimit("slow", 2)
    server = Overloaded(6, limits=[limit])
    requests = [*same(12, 0.0, 1.0, "slow"), *same(50, 0.1, 0.01)]
    requests.sort(key=lambda one: one.arrived)
    ended = server.run(requests)
    assert len(ended) == 62
    assert all(one.served for one in ended)
    assert server.most_running == {"slow": 2}
    assert all(one.waited == 0.0 for one in ended if not one.request.limit)
    slow = [one.waited for one in ended if one.request.limit]
    assert slow == pytest.approx([float(number // 2) for number in range(12)])
    assert [row.running for row in server.permits.rows()] == [0]


def test_who_waits_too_long_for_a_permit_is_refused() -> None:
    server = Overloaded(6, limits=[RouteLimit("slow", 1, None, 1.5)])
    ended = server.run(same(4, 0.0, 1.0, "slow"))
    assert [(one.served, one.waited) for one in ended] == [
        (True, 0.0),
        (True, 1.0),
        (False, 1.5),
        (False, 1.5),
    ]


def test_the_report_has_all_loads_and_both_timeouts() -> None:
    rows = simulate_overload.loads(20, 1, 3.0)
    loads, timeouts = simulate_overload.LOADS, ("never", "2")
    assert [row[:2] for row in rows] == [(f"{x:g}", y) for x in loads for y in timeouts]
    text = simulate_overload.report(20, 1, seconds=3.0)
    assert text == simulate_overload.report(20, 1, seconds=3.0)
