"""Who serves, and how many there are."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from .conftest import Serve
from .gate import Gate
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.measured

MODES = [
    pytest.param((), id="standing-orders"),
    pytest.param(("--run-length", "1"), id="run-length-1"),
]
BLOCKING = ("--dispatch", "blocking")
ALL_MODES = [*MODES, pytest.param(BLOCKING, id="blocking")]


@pytest.mark.parametrize("mode", MODES)
def test_slot_0_serves_whenever_it_is_idle(serve: Serve, mode: tuple[str, ...]) -> None:
    server = serve("held", "--min-idle", "3", "--max-workers", "3", *mode)
    answers = []
    for _ in range(20):
        server.wait_for_state("III")
        answers.append(server.get().json)
    assert {answer["slot"] for answer in answers} == {0}
    assert {answer["generation"] for answer in answers} == {1}
    assert len({answer["pid"] for answer in answers}) == 1


@pytest.mark.without_pauses(reason="slot 0 would often be busy when the client is back")
@pytest.mark.parametrize("mode", MODES)
def test_slot_0_serves_sequential_requests(serve: Serve, mode: tuple[str, ...]) -> None:
    server = serve("held", "--min-idle", "3", *mode)
    server.wait_for_state("III")
    slots = Counter(server.get().json["slot"] for _ in range(200))
    # The client is back before slot 0 has said that it is idle. Others are to serve
    # only when it was kept from the processor in that moment.
    assert slots[0] > 180


@pytest.mark.parametrize("mode", MODES)
def test_concurrent_requests_take_the_lowest_numbered_idle_workers(
    serve: Serve, gate: Gate, mode: tuple[str, ...]
) -> None:
    server = serve("held", "--min-idle", "4", "--max-workers", "4", *mode)
    server.wait_for_state("IIII")
    requests, held = [], []
    for slot in range(4):
        requests.append(server.send(gate.path))
        held.append(gate.wait_for_one())
        assert held[-1].slot == slot
    assert server.state().letters == "BBBB"
    for free in (2, 1):
        held[free].release()
        assert requests[free].answer().json["slot"] == free
    server.wait_for_state("BIIB")
    server.send(gate.path)
    assert gate.wait_for_one().slot == 1
    server.send(gate.path)
    assert gate.wait_for_one().slot == 2


@pytest.mark.parametrize("mode", ALL_MODES)
def test_a_burst_is_served_at_once_by_as_many_workers(
    serve: Serve, gate: Gate, mode: tuple[str, ...]
) -> None:
    server = serve("held", "--min-idle", "6", "--max-workers", "6", *mode)
    server.wait_for_state("IIIIII")
    requests = [server.send(gate.path) for _ in range(6)]
    held = gate.wait_for(6)
    assert {one.slot for one in held} == set(range(6))
    assert len({one.pid for one in held}) == 6
    for one in held:
        one.release()
    assert {request.answer().status for request in requests} == {200}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what waits")
@pytest.mark.parametrize("mode", ALL_MODES)
def test_the_pool_grows_by_as_many_as_wait_at_a_unix_socket(
    serve: Serve, gate: Gate, tmp_path: Path, mode: tuple[str, ...]
) -> None:
    """Not by one for each of them that is served: nobody is."""
    server = serve(
        *("held", "--min-idle", "1", "--max-workers", "3", *mode),
        host=f"unix://{tmp_path}/s",
    )
    requests = [server.send(gate.path) for _ in range(8)]
    held = gate.wait_for(3)
    # What is left is known exactly.
    assert server.state().waiting == 5
    for one in held:
        one.release()
    for _ in range(5):
        gate.wait_for_one().release()
    assert {request.answer().status for request in requests} == {200}


@pytest.mark.parametrize("mode", ALL_MODES)
def test_the_pool_grows_to_the_demand_and_shrinks_back(
    serve: Serve, gate: Gate, mode: tuple[str, ...]
) -> None:
    limits = ("--min-idle", "2", "--max-idle", "3", "--max-workers", "8")
    server = serve("held", *limits, "--idle-timeout", "0.5", *mode)
    requests = [server.send(gate.path) for _ in range(8)]
    held = gate.wait_for(8)
    assert {one.slot for one in held} == set(range(8))
    assert len(server.workers()) == 8

    for one in held:
        one.release()
    for request in requests:
        assert request.answer().status == 200
    # The highest-numbered retire.
    server.wait_for_state("III")
    # The zygote reaps them after the dispatcher has seen their end.
    lowest = sorted(one.pid for one in held if one.slot < 3)
    wait_for(lambda: sorted(server.workers()) == lowest)
    assert "died" not in server.log()


@pytest.mark.parametrize("mode", ALL_MODES)
def test_a_full_pool_lets_connections_wait_and_says_so_once(
    serve: Serve, gate: Gate, mode: tuple[str, ...]
) -> None:
    server = serve("held", "--min-idle", "1", "--max-workers", "2", *mode)
    requests = [server.send(gate.path) for _ in range(5)]
    held = gate.wait_for(2)
    wait_for(lambda: server.state() == ("BB", "", 3))
    server.wait_for_log("max-workers reached: all 2 workers are busy")
    for number in range(3):
        held[number].release()
        held.append(gate.wait_for_one())
        assert gate.is_empty()
    for one in held:
        one.release()
    assert {request.answer().status for request in requests} == {200}
    server.wait_for_state("II")
    assert server.log().count("max-workers reached") == 1


def test_blocking_dispatch_serves_in_sequence(serve: Serve) -> None:
    server = serve("held", "--min-idle", "3", "--max-workers", "3", *BLOCKING)
    assert {server.get().status for _ in range(50)} == {200}
    server.wait_for_state("III")


def test_at_least_min_workers(serve: Serve) -> None:
    server = serve("held", "--min-idle", "1", "--max-idle", "1", "--min-workers", "4")
    server.wait_for_state("IIII")


def test_the_pool_answers_while_it_starts(serve: Serve) -> None:
    server = serve("held", "--min-idle", "8", "--max-workers", "8")
    assert server.get().status == 200
    server.wait_for_state("IIIIIIII")


def _min_idle(server: Server, number: signal.Signals) -> str:
    seen = len(server.log())
    server.signal(number)
    return server.wait_for_log(r"^min-idle is (\d+) now", seen)[1]


def test_ttin_and_ttou_raise_and_lower_min_idle(serve: Serve) -> None:
    limits = ("--min-idle", "2", "--max-idle", "2", "--max-workers", "4")
    server = serve("held", *limits, "--min-workers", "1", "--idle-timeout", "0.2")
    assert _min_idle(server, signal.SIGTTIN) == "3"
    server.wait_for_state("III")
    assert _min_idle(server, signal.SIGTTIN) == "4"
    server.wait_for_state("IIII")
    assert _min_idle(server, signal.SIGTTIN) == "4", "max-workers is the bound"
    for left in ("3", "2", "1", "1"):
        assert _min_idle(server, signal.SIGTTOU) == left
    server.wait_for_state("I")
    assert server.get().status == 200


def test_more_workers_than_a_zygote_can_be_told_of_at_once(serve: Serve) -> None:
    workers = ("--min-workers", "300", "--max-workers", "300", "--min-idle", "1")
    server = serve("held", *workers)
    server.wait_for_state("I" * 300)
    assert "does not listen" not in server.log()
