"""Pauses wherever a process of the server hands something to another one.

Tests of integration and faults run with them by ``--pauses``. Here is a short version
of that, and that races are found by it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import typing as t

import pytest
from conftest import let_servers_pause
from integration.conftest import Serve
from integration.server import Server
from pauses import handovers

from .load import Load


@pytest.fixture
def pausing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's servers pause, with or without ``--pauses``."""
    if handovers.VARIABLE not in os.environ:
        let_servers_pause(monkeypatch, "1")


def drawn(seed: str, *forks: int) -> list[float]:
    """The first pauses of a process.

    :param forks: Which child of its parent each is, from the first process on.
    """
    pauses = handovers.Pauses(seed, "command")
    for number in forks:
        for _ in range(number):
            pauses.before_fork()
        pauses.after_fork()
    return [pauses.next() for _ in range(2000)]


def test_a_seed_has_the_same_pauses_again() -> None:
    assert drawn("1", 1, 2) == drawn("1", 1, 2)
    others = [drawn("2", 1, 2), drawn("1", 1, 3), drawn("1", 2, 2), drawn("1", 1)]
    assert drawn("1", 1, 2) not in others
    # Most are none, some are short, few are long.
    pauses = drawn("1", 1, 2)
    assert 0.8 < pauses.count(0.0) / len(pauses) < 0.95
    assert any(seconds >= handovers.LONG[0] for seconds in pauses)
    assert max(pauses) <= handovers.LONG[1]


def test_the_dispatcher_has_no_long_pauses() -> None:
    pauses = handovers.Pauses("1", "command")
    pauses.dispatcher = os.getpid()
    drawn = [pauses.next() for _ in range(2000)]
    assert handovers.SHORT[1] < max(drawn) <= handovers.LONG_IN_DISPATCHER[1]


def found(name: str) -> tuple[t.Any, str]:
    """Where a function is, and its name there.

    :param name: Its module in the package, and its name in that, after a colon.
    """
    module, _, point = name.partition(":")
    where: t.Any = importlib.import_module(f"flask_prefork.{module}")
    *owners, function = point.split(".")
    for owner in owners:
        where = getattr(where, owner)
    return where, function


@pytest.mark.parametrize(
    "name",
    [
        ":".join(handovers.DISPATCHER),
        *(
            f"{module}:{point}"
            for module, points in handovers.POINTS.items()
            for point in points
        ),
    ],
)
def test_each_point_exists(name: str) -> None:
    where, function = found(name)
    assert callable(vars(where)[function])


@pytest.mark.usefixtures("pausing")
@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_nothing_is_lost(serve: Serve, dispatch: str) -> None:
    """Pauses at random points of all processes, under load, with HUP, ``kill -9`` of a
    worker, and TERM.

    At most the request is lost that the killed worker served. No promise of a kept
    connection is broken, but for its. The server ends with status 0.
    """
    server = serve("held", "--min-idle", "2", "--dispatch", dispatch)
    with (
        Load(server.url, 3, gap=lambda: 0.02) as quick,
        Load(server.url, 3, keep_alive=True, gap=lambda: 0.02) as kept,
    ):
        quick.wait_for_more()
        kept.wait_for_more()
        server.signal(signal.SIGHUP)
        server.wait_for_log("Generation 2 serves")
        quick.wait_until_seen("generation", 2)
        kept.wait_until_seen("generation", 2)
        kill_a_worker(server)
        quick.wait_for_more()
        kept.wait_for_more()
        server.signal(signal.SIGTERM)
        quick.wait_for(lambda report: report.refused)
        kept.wait_for(lambda report: report.refused)
        assert server.wait() == 0
    reports = [quick.stop(), kept.stop()]
    lost = [one for report in reports for one in report.lost]
    # A kept connection that it held unread is renewed.
    assert len(lost) + sum(report.renewed for report in reports) <= 1
    for report in reports:
        assert set(report.statuses) == {200}
    assert "Traceback" not in server.log()


def kill_a_worker(server: Server) -> None:
    """Kill a worker of the generation that serves, if it is still there."""
    *_, pid = server.workers()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("pausing")
def test_a_race_is_found(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    # The zygote that a promoted worker leaves behind doesn't wait for that one's end,
    # which may be late.
    monkeypatch.setenv(handovers.RACE_VARIABLE, "promotion")
    server = serve("held", "--min-idle", "1", "--refork-after", "1")
    outcome = r"^Generation (\d+) (serves|is given up)\.$"
    for load in range(20):
        seen = len(server.log())
        if load:
            server.signal(signal.SIGHUP)
            server.wait_for_log(outcome, seen)
            seen = len(server.log())
        with Load(server.url, 1):
            if server.wait_for_log(outcome, seen)[2] == "is given up":
                return
    pytest.fail("no pause has brought it to light")
