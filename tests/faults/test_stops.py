"""Processes that are stopped, as by a debugger or by a machine that swaps."""

from __future__ import annotations

import os
import re
import select
import signal
import time

import psutil
import pytest
from integration.conftest import Serve
from integration.gate import Gate
from integration.server import Server
from integration.server import wait_for

from .load import Load
from .load import now_and_then
from .test_kills import assert_tidy

#: Longer than any answer may take.
NEVER = "3600"
MODES = [
    pytest.param((), id="standing-orders"),
    pytest.param(("--run-length", "1"), id="run-length-1"),
]


def wait_for_death(server: Server, pid: int) -> re.Match[str]:
    """Wait until the log says that a worker was killed.

    :return: With the slot and the reason.
    """
    return server.wait_for_log(rf"^Worker (\d+) \(pid {pid}\).* was killed: (.*)\.$")


@pytest.mark.parametrize("mode", MODES)
def test_an_idle_worker_is_stopped(serve: Serve, mode: tuple[str, ...]) -> None:
    """SIGSTOP of the lowest-numbered idle worker, which gets the next order.

    After a second another worker gets the connection. The stopped worker isn't killed,
    because it could be swapped out, and no connection waits for it. When it continues,
    it serves again.
    """
    pool = ("--min-idle", "2", "--max-workers", "6", "--spawn-timeout", NEVER)
    server = serve("held", *pool, *mode)
    stopped = server.get().json["pid"]
    # The answer comes a moment before the worker is idle again.
    assert_tidy(server)
    os.kill(stopped, signal.SIGSTOP)
    with Load(server.url) as load:
        # Within a client's timeout, which is less than the worker's time.
        load.wait_for_more(200)
        os.kill(stopped, signal.SIGCONT)
        load.wait_until_seen("pid", stopped)
    report = load.stop()
    report.assert_all_served()
    assert_tidy(server)
    assert "killed" not in server.log()


def test_a_stopped_worker_is_replaced(serve: Serve) -> None:
    """SIGSTOP of an idle worker that never continues.

    It is killed when it hasn't reacted to an order for the spawn timeout. Another
    process gets its slot.
    """
    pool = ("--min-idle", "2", "--max-workers", "6", "--spawn-timeout", "1")
    server = serve("held", *pool)
    stopped = server.get().json["pid"]
    # The answer comes a moment before the worker is idle again.
    assert_tidy(server)
    os.kill(stopped, signal.SIGSTOP)
    with Load(server.url, gap=now_and_then) as load:
        death = wait_for_death(server, stopped)
        load.wait_for_more()
    report = load.stop()
    report.assert_all_served()
    assert death.groups() == ("0", "it was ordered to accept and stayed silent")
    assert stopped not in report.seen("pid")
    assert_tidy(server)
    assert stopped not in server.workers()


def test_workers_are_stopped_between_order_and_accept(serve: Serve) -> None:
    """Every fourth order stops its worker (SIGSTOP).

    Other workers serve their connections, and they are killed and replaced.
    """
    pool = ("--min-idle", "4", "--max-workers", "8", "--spawn-timeout", "1")
    env = {"FLASK_PREFORK_FAULTS": "worker-ordered:stop:4"}
    server = serve("held", *pool, "--run-length", "1", env=env)
    with Load(server.url, 2) as load:
        load.wait_for(lambda report: len(report.answered) >= 16)
    load.stop().assert_all_served()
    server.wait_for_log("was killed: it was ordered to accept and stayed silent")
    # All that were stopped are replaced, without anybody asking.
    assert_tidy(server)


def test_a_busy_worker_is_stopped(serve: Serve, gate: Gate) -> None:
    """SIGSTOP of a worker that serves a request.

    Its client waits until the request's timeout and five more seconds are over. Then
    the worker is killed and replaced. No other client waits.
    """
    pool = ("--min-idle", "2", "--max-workers", "4", "--timeout", "1")
    server = serve("held", *pool)
    request = server.send(gate.path)
    held = gate.wait_for_one()
    os.kill(held.pid, signal.SIGSTOP)
    with Load(server.url, gap=now_and_then) as load:
        load.wait_for_more(100)
        death = wait_for_death(server, held.pid)
        load.wait_for_more()
    report = load.stop()
    report.assert_all_served()
    with pytest.raises(ConnectionError):
        request.read()
    assert "no progress for 1 s" in death[2]
    assert gate.path in death[0]
    assert held.pid not in report.seen("pid")
    assert_tidy(server)


def test_a_worker_is_stopped_between_two_requests(serve: Serve) -> None:
    """SIGSTOP of a worker that has a connection, but no request of it yet.

    When it has done nothing for longer than it may wait for a client, it is killed and
    replaced.
    """
    timeouts = ("--timeout", "1", "--header-timeout", "1", "--keep-alive", "0")
    env = {"FLASK_PREFORK_FAULTS": "worker-accepted:stop:4"}
    server = serve("held", "--min-idle", "2", *timeouts, env=env)
    lowest = psutil.Process(server.get().json["pid"])
    assert_tidy(server)

    def is_stopped() -> bool:
        return lowest.status() == psutil.STATUS_STOPPED

    while not is_stopped():
        sock = server.send("/").sock
        wait_for(lambda sock=sock: is_stopped() or select.select([sock], [], [], 0)[0])
    death = wait_for_death(server, lowest.pid)
    assert death.groups() == ("0", "it was busy for too long without a request")
    assert_tidy(server)


@pytest.mark.parametrize("mode", MODES)
def test_all_processes_are_stopped(serve: Serve, mode: tuple[str, ...]) -> None:
    """SIGSTOP of all processes at once, as when a container is frozen.

    When they continue, no worker is killed because of the time that has passed, and
    every request is answered.
    """
    timeouts = ("--spawn-timeout", "1", "--timeout", "1")
    server = serve("held", "--min-idle", "2", "--max-workers", "4", *timeouts, *mode)
    with Load(server.url, 6) as load:
        for _ in range(3):
            load.wait_for_more(50)
            server.signal_group(signal.SIGSTOP)
            time.sleep(1.5)
            server.signal_group(signal.SIGCONT)
        load.wait_for_more(50)
    load.stop().assert_all_served()
    assert "killed" not in server.log()
    assert "died" not in server.log()
    assert "Traceback" not in server.log()
    assert_tidy(server)


@pytest.mark.parametrize("mode", MODES)
def test_the_dispatcher_is_stopped(serve: Serve, mode: tuple[str, ...]) -> None:
    """SIGSTOP of the dispatcher under load, and SIGCONT after all deadlines.

    It reads all reports before it checks deadlines. No worker is killed, and every
    request is answered.
    """
    timeouts = ("--spawn-timeout", "1", "--timeout", "1")
    server = serve("held", "--min-idle", "2", "--max-workers", "4", *timeouts, *mode)
    server.wait_for_state("II")
    with Load(server.url, 6) as load:
        for _ in range(3):
            load.wait_for_more(50)
            server.signal(signal.SIGSTOP)
            # Nothing but time has to pass here: more than the workers have.
            time.sleep(1.5)
            server.signal(signal.SIGCONT)
        load.wait_for_more(50)
    report = load.stop()
    report.assert_all_served()
    assert "killed" not in server.log()
    assert "died" not in server.log()
    assert_tidy(server)


def test_the_zygote_is_stopped(serve: Serve, gate: Gate) -> None:
    """SIGSTOP of the zygote under load, while more workers are needed.

    The existing workers keep serving. When it continues, the pool grows.
    """
    server = serve("held", "--min-idle", "2", "--max-workers", "6")
    server.wait_for_state("II")
    (zygote,) = server.zygotes()
    zygote.suspend()
    server.send(gate.path)
    gate.wait_for_one()
    with Load(server.url) as load:
        load.wait_for_more(100)
        workers = server.workers()
        zygote.resume()
        wait_for(lambda: len(server.workers()) > len(workers))
    load.stop().assert_all_served()
