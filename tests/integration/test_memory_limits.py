"""Workers that have too much memory are replaced, and a pool keeps to its budget."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import time
import typing as t
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flask_prefork.system import cgroup
from flask_prefork.system import smaps

from .conftest import Run
from .conftest import Serve
from .gate import DEADLINE
from .gate import Gate
from .server import command
from .server import Server
from .server import wait_for

MIB = 2**20


def _options(**options: t.Any) -> list[str]:
    words = []
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


def _keep(size: int, gate: Gate) -> str:
    """The path of a request that keeps so many MiB, and is held."""
    return f"/keep/{size}{gate.path.removeprefix('/hold')}"


# A worker's limit


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_who_has_too_much_is_replaced(serve: Serve, dispatch: str) -> None:
    options = _options(min_idle=1, max_workers=3, max_worker_memory="60M")
    server = serve("heavy", *options, "--dispatch", dispatch, begun=None)
    for _ in range(3):
        server.get("/keep/10")
    # Not long after the last look; and no other request comes.
    heavy = server.get("/keep/80").json["pid"]
    wait_for(lambda: heavy not in server.workers())
    found = server.wait_for_log(r"Worker \d \(pid (\d+)\) has (\d+)\.\d MiB for itself")
    assert int(found[1]) == heavy
    assert 80 <= int(found[2]) < 120
    assert server.get().json["pid"] != heavy
    # The dispatcher learns of the end after the process has gone.
    server.wait_until(lambda status: status.totals.retired == 1)
    assert server.log().count("for itself") == 1
    assert "died" not in server.log()


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_without_room_the_old_one_goes_first(serve: Serve, dispatch: str) -> None:
    options = _options(min_idle=1, max_workers=1, max_worker_memory="60M")
    server = serve("heavy", *options, "--dispatch", dispatch, begun=None)
    (first,) = server.workers()
    # Who follows it must not have too much as well.
    requests = [server.send(path) for path in ("/keep/80", "/", "/", "/")]
    end = time.monotonic() + DEADLINE
    while requests.pop(0).answer().json["pid"] == first:
        assert time.monotonic() < end
        requests.append(server.send("/"))
    for request in requests:
        assert request.answer().status == 200
    server.wait_until(lambda status: status.totals.retired == 1)


# The pool's budget


def _pss(server: Server) -> int:
    """What zygote and workers have in memory."""
    (zygote,) = server.zygotes()
    found = [smaps.read(pid) for pid in (zygote.pid, *server.workers())]
    return sum(one.pss for one in found if one is not None)


def _fill(server: Server, gate: Gate, budget: int) -> None:
    """Ask for more workers of 40 MiB than the budget is enough for."""
    size = 40 * MIB
    assert server.get("/keep/40").status == 200
    server.wait_until(lambda status: status.memory > size)
    requests = [server.send(_keep(40, gate)) for _ in range(9)]
    server.wait_until(lambda status: status.totals.shortages == 1)
    status = server.wait_until(
        lambda status: status if status.count("B") == len(status.workers) else None
    )
    count = len(status.workers)
    assert 1 < count < len(requests)
    assert status.saturated
    gate.wait_for(count)
    assert budget - size < _pss(server) <= budget
    for held in gate.held:
        held.release()
    for _ in requests[count:]:
        gate.wait_for_one().release()
    assert [request.answer().status for request in requests] == [200] * len(requests)
    totals = server.status().totals
    assert totals.spawned == count
    assert not any(totals.deaths.values())
    assert server.log().count("memory-budget reached: ") == 1
    assert "max-workers reached" not in server.log()


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_no_more_workers_than_the_budget_is_enough_for(
    serve: Serve, gate: Gate, dispatch: str
) -> None:
    pool = _options(min_idle=1, max_idle=12, max_workers=12, idle_timeout=3600)
    server = serve(
        "heavy", *pool, "--memory-budget", "220M", "--dispatch", dispatch, begun=None
    )
    _fill(server, gate, 220 * MIB)


def test_above_the_budget_cold_workers_go(serve: Serve, gate: Gate) -> None:
    pool = _options(min_idle=1, max_idle=9, max_workers=9, idle_timeout=3600)
    server = serve("heavy", *pool, "--memory-budget", "120M", begun=None)
    requests = [server.send(gate.path) for _ in range(3)]
    server.wait_for_state("BBBI")
    for held in gate.wait_for(3):
        held.release()
    for request in requests:
        request.answer()
    server.wait_for_state("IIII")
    hot = server.get("/keep/130").json["pid"]
    # min-idle is kept, by who has not grown.
    wait_for(lambda: server.state().letters.strip(".") == "I")
    assert hot not in server.workers()
    status = server.status()
    assert status.memory < status.memory_budget == 120 * MIB
    assert status.totals.shortages == 1
    assert status.totals.retired == status.totals.spawned - 1


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_a_budget_that_a_leak_uses_up(serve: Serve, dispatch: str) -> None:
    """It is told at once, and the log says which requests have done it."""
    pool = _options(min_idle=1, max_workers=2, idle_timeout=3600)
    server = serve(
        "heavy", *pool, "--memory-budget", "100M", "--dispatch", dispatch, begun=None
    )
    first = server.get("/").json["pid"]
    served = [server.get("/leak/10").json["pid"] for _ in range(9)]
    wait_for(lambda: first not in server.workers())
    found = server.wait_for_log(
        r"Worker 0 \(pid (\d+)\) has (\d+)\.\d MiB for itself, too much for the memory"
        r" budget; it is to be replaced\. GET /leak/10 grew it most: by (\d+)\.\d MiB"
        r" in (\d) requests\."
    )
    assert int(found[1]) == first
    # The kernel counts some pages later.
    assert int(found[2]) >= int(found[3]) >= 10 * int(found[4]) - 2
    # Not before it has used it up, and before it has got much further.
    assert 2 <= served.count(first) <= 8
    assert not any(server.status().totals.deaths.values())


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_a_leak_that_is_faster_than_looks(serve: Serve, dispatch: str) -> None:
    """Who is above its limit stops on its standing order, and looks at once."""
    pool = _options(min_idle=1, max_workers=1, max_worker_memory="60M")
    server = serve("heavy", *pool, "--dispatch", dispatch, begun=None)
    # All wait for one worker, which would take them on one order.
    requests = [server.send("/leak/20") for _ in range(12)]
    served = Counter(request.answer().json["pid"] for request in requests)
    # Three are too much, and so are two with what a new worker has.
    assert max(served.values()) <= 3, server.log()
    for found in re.finditer(r"has (\d+)\.\d MiB for itself", server.log()):
        assert int(found[1]) < 60 + 20 + 1
    assert not any(server.status().totals.deaths.values())


def test_a_budget_that_is_too_small_still_serves(serve: Serve) -> None:
    pool = _options(min_idle=2, max_workers=9, idle_timeout=3600)
    server = serve("heavy", *pool, "--memory-budget", "1M", begun=None)
    server.wait_for_state("II")
    assert server.get().status == 200
    server.reload()
    server.wait_for_state("II")
    assert server.get().json["generation"] == 2


def _budget(limit: int) -> int:
    """What is the pool's of a control group's memory."""
    return max(int((limit - 40 * MIB) * 0.9), MIB)


def test_a_budget_by_the_control_group(serve: Serve) -> None:
    """What that says here, whatever it is."""
    server = serve("heavy", "--memory-budget", "auto", begun=None)
    limit = cgroup.memory_limit()
    if limit is None:
        assert server.status().memory_budget == 0
        assert "No control group limits this server's memory" in server.log()
    else:
        assert server.status().memory_budget == _budget(limit)


@contextlib.contextmanager
def _limited(size: int) -> Iterator[list[str] | None]:
    """A control group for so many bytes of memory, of either version.

    :return: A command line's beginning that enters it; ``None`` if there can be none.
    """
    for name in ("memory.limit_in_bytes", "memory.max"):
        for mount, path in cgroup.folders():
            folder = Path(f"{mount}{path}") / f"flask_prefork-test-{os.getpid()}"
            with contextlib.suppress(OSError):
                folder.mkdir()
                try:
                    (folder / name).write_text(str(size))
                    enter = f'echo 0 > "{folder}/cgroup.procs"; exec "$@"'
                    yield ["sh", "-c", enter, "sh"]
                    return
                finally:
                    wait_for(lambda folder=folder: _is_removed(folder))
    yield None


def _is_removed(folder: Path) -> bool:
    # A moment after its last process has ended.
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def test_a_pool_in_a_small_control_group(run: Run, gate: Gate) -> None:
    """Where none can be made, a pool with the same budget by number."""
    size = 290 * MIB
    budget = _budget(size)
    pool = _options(min_idle=1, max_idle=12, max_workers=12, idle_timeout=3600)
    with _limited(size) as enter:
        server = run(
            [
                *(enter or ()),
                *command("heavy", "--port", "0", "--no-access-log", *pool),
                *("--memory-budget", "auto" if enter else str(budget)),
            ],
            begun=None,
        )
        assert server.status().memory_budget == budget
        _fill(server, gate, budget)
        server.stop()


# What requests give back


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is not glibc"
)
def test_what_a_large_body_took_is_there_for_the_next(serve: Serve) -> None:
    server = serve("heavy", *_options(min_idle=1, max_workers=1))
    body = bytes(1_000_000)
    faults = []
    for _ in range(6):
        request = urllib.request.Request(f"{server.url}/take", body)
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:
            told = json.load(response)
        assert told["size"] == len(body)
        faults.append(told["faults"])
    # All of its pages would be some 250, and they are taken twice at least.
    assert faults[-1] - faults[2] < 150


@pytest.mark.parametrize("option", ["--gc-freeze", "--no-gc-freeze"])
def test_what_the_app_made_is_kept_from_the_collector(
    serve: Serve, option: str
) -> None:
    server = serve("heavy", option)
    count = server.get("/frozen").json["count"]
    # Python 3.12 has frozen some hundred itself.
    assert (count > 5000) == (option == "--gc-freeze")
