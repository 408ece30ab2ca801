"""Workers that are killed, and the load that found SpamAssassin's race conditions."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal

import pytest
from integration.conftest import Serve
from integration.gate import Gate
from integration.server import Server
from integration.server import wait_for

from .load import Client
from .load import Load

MODES = [
    pytest.param((), id="standing-orders"),
    pytest.param(("--run-length", "1"), id="run-length-1"),
    pytest.param(("--dispatch", "blocking"), id="blocking"),
]
KILLS = 1000
POOL = 64


def wait_until_idle(server: Server) -> None:
    """Wait until all workers are idle, and have parked what they had.

    What the dispatcher says once may be of a moment before it has read their reports.
    """
    idle = {"I", "."}
    wait_for(lambda: all(set(server.state().letters) <= idle for _ in range(2)))


def assert_tidy(server: Server) -> None:
    """All workers are idle again, and the dead are buried."""
    wait_until_idle(server)
    wait_for(lambda: not server.zombies())


def test_idle_workers_are_killed_a_thousand_times(serve: Serve) -> None:
    """``kill -9`` of idle workers, 1,000 times, as fast as they are replaced.

    After each volley the next request is answered. No client sees an error, including
    those with parked connections. No zombie is left.
    """
    pool = (str(POOL), "--max-idle", str(POOL), "--max-workers", str(POOL))
    server = serve("held", "--min-idle", *pool, "--keep-alive", "3600")
    waiting = [Client(server.url, keep_alive=True) for _ in range(8)]
    for client in waiting:
        assert client.ask().status == 200
    wait_until_idle(server)
    client = Client(server.url)
    killed: set[int] = set()
    while len(killed) < KILLS:
        # Nobody asks, so all that live are idle, or about to be.
        for pid in server.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        assert client.ask().told["pid"] not in killed
    for client in waiting:
        assert client.ask().status == 200, "on the connection it had before"
        client.close()
    wait_for(lambda: server.state().letters == "I" * POOL)
    wait_for(lambda: not server.zombies())
    assert len(server.workers()) == POOL
    died = re.findall(r"\(pid (\d+)\).* died: SIGKILL", server.log())
    assert sorted(map(int, died)) == sorted(killed)
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("mode", MODES)
def test_eight_wait_for_one_worker(serve: Serve, mode: tuple[str, ...]) -> None:
    """Eight clients keep the accept queue of a single worker filled.

    All are answered, by that worker.
    """
    server = serve("held", "--max-workers", "1", *mode)
    with Load(server.url, 8) as load:
        load.wait_for_more(200)
    report = load.stop()
    report.assert_all_served()
    assert report.seen("slot") == {0}
    assert len(report.seen("pid")) == 1
    server.wait_for_state("I")


@pytest.mark.parametrize("mode", MODES)
def test_twenty_one_clients_on_ten_workers(serve: Serve, mode: tuple[str, ...]) -> None:
    """21 clients send requests to ten workers, with pauses of random length.

    All are answered, by not more than ten processes.
    """
    server = serve("held", "--min-idle", "3", "--max-workers", "10", *mode)
    rng = random.Random(21)
    with Load(server.url, 21, gap=lambda: rng.expovariate(100)) as load:
        load.wait_for_more(400)
    report = load.stop()
    report.assert_all_served()
    assert max(report.seen("slot")) < 10
    assert len(report.seen("pid")) <= 10
    assert_tidy(server)


def test_workers_die_between_order_and_accept(serve: Serve) -> None:
    """Every third order kills the worker that gets it, before it accepts.

    The connection is still in the accept queue, and the next worker serves it. No
    client notices.
    """
    pool = ("--min-idle", "8", "--max-workers", "16", "--run-length", "1")
    env = {"FLASK_PREFORK_FAULTS": "worker-ordered:kill:3"}
    server = serve("held", *pool, env=env)
    with Load(server.url, 2, gap=lambda: 0.01) as load:
        load.wait_for(lambda report: len(report.answered) >= 60)
    load.stop().assert_all_served()
    assert server.log().count("died: SIGKILL") >= 10
    assert_tidy(server)


def test_a_busy_worker_is_killed(serve: Serve, gate: Gate) -> None:
    """``kill -9`` of a worker that serves a request.

    Only its client is affected: the connection is closed. The log names the signal, the
    method and the URL.
    """
    server = serve("held", "--min-idle", "2", "--max-workers", "4")
    with Load(server.url, 2) as load:
        request = server.send(gate.path + "&name=fatal")
        held = gate.wait_for_one()
        os.kill(held.pid, signal.SIGKILL)
        with pytest.raises(ConnectionError):
            request.read()
        load.wait_for_more()
    load.stop().assert_all_served()
    url = re.escape(gate.path + "&name=fatal")
    server.wait_for_log(
        rf"^Worker \d \(pid {held.pid}\) while serving GET {url} died: SIGKILL\.$"
    )
    assert_tidy(server)


@pytest.mark.parametrize("mode", MODES)
def test_any_worker_is_killed_at_any_time(serve: Serve, mode: tuple[str, ...]) -> None:
    """``kill -9`` of random workers under load, 50 times.

    At most one request is lost with each worker, the one that it served. All others are
    answered.
    """
    server = serve("held", "--min-idle", "4", "--max-workers", "8", *mode)
    rng = random.Random(50)
    deaths = 0
    with Load(server.url, 4) as load:
        while deaths < 50:
            workers = server.workers()
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(workers), signal.SIGKILL)
                deaths += 1
            load.wait_for_more(1)
    report = load.stop()
    assert len(report.lost) <= deaths
    assert all(isinstance(lost, ConnectionError) for lost in report.lost)
    assert report.refused == 0
    assert set(report.statuses) == {200}
    assert_tidy(server)
