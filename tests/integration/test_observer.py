"""The real observer, beside servers that are saturated, stopped, killed or reloaded."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import typing as t
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from .admin import Admin
from .admin import letters
from .admin import needs_proc
from .admin import ROUTES
from .conftest import Run
from .conftest import Serve
from .gate import DEADLINE
from .gate import Gate
from .server import command
from .server import wait_for

pytestmark = pytest.mark.measured

# What is seen


def test_what_is_seen_of_a_server(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "2", "--admin", "0")
    admin = Admin(server)
    assert server.get().status == 200
    # Until its worker is idle again, the next request is for another one.
    admin.wait_until(lambda s: s["totals"]["requests"] == 1 and letters(s)[0] == "I")
    server.send(f"{gate.path}&x=1")
    held = gate.wait_for_one()
    status = admin.wait_until(lambda s: letters(s) == "BII")
    assert status["pid"] == server.pid
    assert (status["phase"], status["ready"]) == ("serving", True)
    assert status["addresses"] == [server.url]
    (generation,) = status["generations"]
    assert (generation["number"], generation["role"]) == (1, "current")
    busy, idle, _ = generation["workers"]
    assert (busy["slot"], busy["pid"], busy["requests"]) == (0, held.pid, 1)
    assert (busy["method"], busy["target"]) == ("GET", f"{gate.path}&x=1")
    assert busy["busy_for"] > 0
    assert idle["busy_for"] is None
    totals = status["totals"]
    assert totals["requests"] == totals["classes"][2] == 1
    assert totals["connections"] == 2
    # The second may have come by the first one's standing order.
    assert 1 <= totals["orders"] <= 2
    assert totals["spawned"] == 3
    status = admin.wait_until(lambda s: len(s["history"]) >= 2)
    assert status["history"][0]["age"] > status["history"][1]["age"]
    assert status["history"][-1]["workers"] == 3
    if Path("/proc/self/smaps_rollup").exists():
        admin.wait_until(lambda s: s["generations"][0]["workers"][0]["pss"])


def test_parked_connections_are_seen(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=DEADLINE)
    with contextlib.closing(connection):
        for turn in (1, 2):
            connection.request("GET", "/")
            connection.getresponse().read()
            # Right after the answer it may still be seen as it was before the request.
            status = admin.wait_until(lambda s, n=turn: s["totals"]["parked"] >= n)
            assert status["parked"] == 1
            assert status["totals"]["parked"] == turn
            assert status["totals"]["resumed"] == turn - 1
    admin.wait_until(lambda s: s["parked"] == 0)


def test_connections_without_a_request_are_counted(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    address = server.url.removeprefix("http://").rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = socket.create_connection((address[0], int(address[1])))
            stack.enter_context(connection)
            # The kernel keeps those to itself that have sent nothing.
            connection.sendall(b"GET / HTTP/1.1\r\n")
        status = admin.wait_until(lambda s: s["totals"]["parked"] == 3)
        assert status["totals"]["connections"] == 3
        assert status["totals"]["requests"] == 0


def test_the_app_and_the_observer_dont_see_each_others_requests(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    for path in ROUTES:
        assert admin.get(path).status == 200
    assert admin.status()["totals"]["requests"] == 0
    for path in ROUTES[1:]:
        assert server.get(path).status == 404
    assert admin.get("/hold").status == 404
    # A worker counts a request when its client may have read the response already.
    served = len(ROUTES) - 1
    admin.wait_until(lambda status: status["totals"]["requests"] >= served)
    assert admin.status()["totals"]["requests"] == served


def test_without_admin_there_is_no_observer(run: Run) -> None:
    server = run(command("held", "--port", "0"))
    assert len(psutil.Process(server.pid).children()) == 1


# While the server is in need


def test_a_saturated_server_is_seen(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--max-workers", "2", "--backlog", "4", "--admin", "0")
    admin = Admin(server)
    for _ in range(2):
        server.send(gate.path)
    gate.wait_for(2)
    # Linux lets one more in than the limit (sk_acceptq_is_full).
    full = 5 if sys.platform == "linux" else 1
    waiting = [server.send("/") for _ in range(5)]
    status = admin.wait_until(lambda s: s["waiting"] == full)
    if sys.platform == "linux":
        assert status["queue_limit"] == 4
    admin.wait_until(lambda s: s["saturated"] and letters(s) == "BB")
    admin.wait_for_answer("/readyz", 503)
    for path in ROUTES[:-1]:
        assert admin.get(path).status == 200
    assert "no worker is idle" in admin.get("/readyz").text
    status = admin.status()
    assert status["waiting"] == full, "nobody else was served meanwhile"
    assert status["totals"]["requests"] == 0
    assert status["totals"]["saturated"] > 0
    for held in gate.held:
        held.release()
    for request in waiting:
        assert request.answer().status == 200
    status = admin.wait_until(lambda s: s["totals"]["requests"] == 7)
    assert status["queue"] == 0
    # The dispatcher hears of it a moment later.
    admin.wait_until(lambda s: s["ready"] and not s["saturated"])


@needs_proc
def test_a_stopped_dispatcher_is_seen(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    assert admin.get("/livez").status == 200
    server.signal(signal.SIGSTOP)
    try:
        answer = admin.wait_for_answer("/livez", 503)
        assert answer.text == "the dispatcher doesn't answer\n"
        assert admin.get("/readyz").status == 503
        status = admin.status()
        assert (status["responsive"], letters(status)) == (False, "II")
        assert admin.get("/metrics").status == 200
        assert admin.get("/").status == 200
    finally:
        server.signal(signal.SIGCONT)
    admin.wait_for_answer("/livez", 200)
    admin.wait_for_answer("/readyz", 200)


def test_a_killed_observer_comes_back(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    assert server.get().status == 200
    before = admin.status()
    for _ in range(2):
        first = wait_for(admin.process)
        first.kill()
        server.wait_for_log(rf"^The observer \(pid {first.pid}\) died: SIGKILL\.")
        assert server.get().status == 200
        # Who asks meanwhile waits.
        assert admin.get("/livez").status == 200
        second = wait_for(admin.process)
        assert second.pid != first.pid
    after = admin.status()
    assert after["totals"]["requests"] == before["totals"]["requests"] + 2
    assert after["uptime"] > before["uptime"]


def test_however_often_the_observer_is_killed_probes_are_answered(serve: Serve) -> None:
    # With pauses that double each time, this would take minutes.
    admin = Admin(serve("held", "--admin", "0"))
    killed = set()
    for _ in range(9):
        assert admin.get("/livez").status == 200
        observer = wait_for(admin.process)
        observer.kill()
        killed.add(observer.pid)
    assert admin.get("/livez").status == 200
    assert len(killed) == 9


def test_an_observer_that_hangs_is_replaced(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    assert admin.get("/livez").status == 200
    observer = wait_for(admin.process)
    observer.suspend()
    server.wait_for_log(
        rf"^The observer \(pid {observer.pid}\) is silent: it is killed"
    )
    assert admin.get("/livez").status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_for_all_are_for_the_dispatcher(
    serve: Serve, number: signal.Signals
) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    assert admin.get("/livez").status == 200
    server.signal_group(number)
    assert server.wait() == 0
    assert "Traceback" not in server.log()
    assert "died" not in server.log()


def test_the_observer_ends_with_a_killed_dispatcher(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    assert admin.get("/livez").status == 200
    observer = wait_for(admin.process)
    server.popen.kill()
    server.wait()
    wait_for(lambda: not observer.is_running() or _is_dead(observer))


def _is_dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_many_kept_connections_keep_nobody_out(serve: Serve) -> None:
    admin = Admin(serve("held", "--admin", "0"))
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            connection = stack.enter_context(contextlib.closing(admin.connect()))
            connection.request("GET", "/livez")
            assert connection.getresponse().read() == b"alive\n"
        assert admin.get("/livez").status == 200


# Counters


class Watcher:
    """Looks at a server's counters again and again, in a thread.

    :ivar seen: The totals, as numbers by name.
    """

    def __init__(self, admin: Admin) -> None:
        self.seen: list[dict[str, float]] = []
        self._admin = admin
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.is_set():
            self.seen.append(self._flat(self._admin.status()["totals"]))

    @staticmethod
    def _flat(totals: dict[str, t.Any]) -> dict[str, float]:
        flat: dict[str, float] = {}
        for name, value in totals.items():
            if isinstance(value, dict):
                flat.update({f"{name}-{key}": one for key, one in value.items()})
            elif isinstance(value, list):
                flat.update({f"{name}-{i}": one for i, one in enumerate(value)})
            else:
                flat[name] = value
        return flat

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


@pytest.fixture
def watch() -> Iterator[t.Callable[[Admin], Watcher]]:
    with contextlib.ExitStack() as stack:

        def start(admin: Admin) -> Watcher:
            watcher = Watcher(admin)
            stack.callback(watcher.stop)
            return watcher

        yield start


def test_counters_only_grow(serve: Serve, watch: t.Callable[[Admin], Watcher]) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    watcher = watch(admin)
    for turn in range(1, 31):
        assert server.get().status == 200
        with pytest.raises(ConnectionError):
            server.send("/exit").read()
        if not turn % 15:
            seen = len(server.log())
            server.signal(signal.SIGHUP)
            server.wait_for_log(r"^Generation \d+ serves", seen)
            # Else the next one has no place to go to.
            admin.wait_until(lambda s: len(s["generations"]) == 1)

    def is_complete(status: t.Any) -> bool:
        """Whether what became of everybody is known; zygotes tell it when they end."""
        totals = status["totals"]
        alive = sum(len(one["workers"]) for one in status["generations"])
        ended = totals["retired"] + sum(totals["deaths"].values())
        return bool(totals["spawned"] == alive + ended)

    totals = admin.wait_until(is_complete)["totals"]
    watcher.stop()
    assert totals["requests"] == 60
    assert totals["reloads"] == 2
    assert (totals["classes"][0], totals["classes"][2]) == (30, 30)
    assert sum(totals["buckets"]) == 60
    assert totals["deaths"]["exit"] == sum(totals["deaths"].values()) == 30
    assert len(watcher.seen) > 30
    for before, after in zip(watcher.seen, watcher.seen[1:], strict=False):
        assert all(after[name] >= before[name] for name in before), (before, after)
    assert max(seen["requests"] for seen in watcher.seen) <= 60


def test_a_reload_is_seen(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGHUP)
    server.wait_for_log("^Generation 2 serves")
    status = admin.wait_until(lambda s: s["generations"][0]["number"] == 2)
    status = admin.wait_until(lambda s: s["generations"][-1]["letters"] == "R")
    roles = [(g["number"], g["role"]) for g in status["generations"]]
    assert roles == [(2, "current"), (1, "retiring")]
    assert status["generations"][1]["workers"][0]["pid"] == held.pid
    assert status["totals"]["reloads"] == 1
    held.release()
    assert request.answer().status == 200
    status = admin.wait_until(lambda s: len(s["generations"]) == 1)
    assert status["totals"]["requests"] == 1, "it is remembered"


# The end


def test_readyz_says_no_while_load_balancers_take_notice(serve: Serve) -> None:
    server = serve("held", "--admin", "0", "--drain-delay", "600")
    admin = Admin(server)
    assert admin.get("/readyz").status == 200
    server.signal(signal.SIGTERM)
    answer = admin.wait_for_answer("/readyz", 503)
    assert answer.text == "the server is draining\n"
    assert admin.get("/livez").status == 200
    assert server.get().status == 200
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_the_end_is_seen(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGTERM)
    status = admin.wait_until(lambda s: s["phase"] == "closing")
    assert not status["ready"]
    # The observer keeps no socket open at which nobody serves.
    assert wait_for(lambda: not server.is_accepting())
    held.release()
    assert request.answer().status == 200
    assert server.wait() == 0
