"""What is registered for the end, and threads that a view has started."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from .conftest import Serve
from .gate import Gate
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.measured

ONE = ("--min-idle", "1", "--max-workers", "1")
ONCE = (*ONE, "--max-requests", "1")
#: The ways there are to have something done at the end.
WAYS = ["Finalize", "atexit", "finalize", "threading"]


class Journal:
    """What an app has noted.

    :ivar env: For the app.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "journal"
        self.home = directory / "home"
        self.home.mkdir()
        self._path.touch()
        self.env = {"JOURNAL": str(self._path), "HOME": str(self.home)}

    def events(self) -> list[tuple[str, int]]:
        lines = [line.split() for line in self._path.read_text().splitlines()]
        return [(event, int(pid)) for event, pid in lines]

    def of(self, suffix: str) -> list[tuple[str, int]]:
        """Those of registered handlers."""
        return [one for one in self.events() if one[0].endswith(suffix)]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def end_one_worker(server: Server) -> int:
    """Let a worker of :data:`ONCE` end.

    :return: Its pid.
    """
    pid = int(server.get().json["pid"])
    wait_for(lambda: not psutil.pid_exists(pid))
    return pid


# At-exit handlers


@pytest.mark.parametrize("path", ["/", "/forget", "/fork"])
def test_those_of_the_load_run_once_when_the_generation_ends(
    serve: Serve, journal: Journal, path: str
) -> None:
    server = serve("registered", *ONCE, env=journal.env)
    first = server.get(path).json["pid"]
    wait_for(lambda: not psutil.pid_exists(first))
    end_one_worker(server)
    assert all(server.get().json["there"])
    assert journal.of("-load") == []
    (zygote,) = [one.pid for one in server.zygotes()]
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert journal.of("-load")[0] == ("threading-load", zygote)
    assert sorted(journal.of("-load")) == [(f"{way}-load", zygote) for way in WAYS]
    assert list(journal.home.iterdir()) == []
    assert server.log().count("remembered at load") == 1


def test_those_of_a_worker_run_in_it(serve: Serve, journal: Journal) -> None:
    server = serve("registered", *ONCE, env=journal.env)
    pid = server.get("/register").json["pid"]
    wait_for(lambda: not psutil.pid_exists(pid))
    events = [event for event, one in journal.events() if one == pid]
    assert events[:2] == ["before_exit", "threading-worker"]
    expected = ["at-fork", *(f"{way}-worker" for way in WAYS if way != "threading")]
    assert sorted(events[2:]) == sorted(expected)
    assert not list(journal.home.glob("worker-*"))
    assert all(server.get().json["there"])


def test_those_of_the_load_run_after_a_reload(serve: Serve, journal: Journal) -> None:
    server = serve("registered", *ONE, env=journal.env)
    (zygote,) = [one.pid for one in server.zygotes()]
    server.signal(signal.SIGHUP)
    wait_for(lambda: not psutil.pid_exists(zygote))
    assert {pid for _, pid in journal.of("-load")} == {zygote}
    assert all(server.get().json["there"])


def test_those_of_the_load_run_when_the_dispatcher_has_died(
    serve: Serve, journal: Journal
) -> None:
    server = serve("registered", *ONE, env=journal.env)
    server.popen.kill()
    server.wait()
    wait_for(lambda: len(journal.of("-load")) == len(WAYS))
    wait_for(lambda: not list(journal.home.iterdir()))


def test_a_thread_of_the_load_that_does_not_end(serve: Serve, journal: Journal) -> None:
    """At-exit handlers run though, and the log tells of it.

    It is waited for no longer than a second, whatever the graceful timeout is.
    """
    env = {**journal.env, "BACKGROUND": "1"}
    server = serve("registered", *ONE, "--graceful-timeout", "3600", env=env)
    (zygote,) = [one.pid for one in server.zygotes()]
    server.signal(signal.SIGHUP)
    wait_for(lambda: not psutil.pid_exists(zygote))
    assert len(journal.of("-load")) == len(WAYS)
    server.wait_for_log(rf"^The zygote \(pid {zygote}\) ends before .*'never-ends'")


def test_a_promoted_worker_hands_on_what_is_registered(
    serve: Serve, journal: Journal
) -> None:
    """In the first zygote and in the worker: it runs once, when the next one ends."""
    server = serve("registered", *ONE, "--refork-after", "2", env=journal.env)
    (first,) = [one.pid for one in server.zygotes()]
    worker = server.get("/register").json["pid"]
    server.get()
    server.wait_for_log(r"^Generation 2 serves\.$")
    wait_for(lambda: not {first, worker} & set(psutil.pids()))
    assert journal.of("-load") == journal.of("-worker") == []
    there = server.get().json["there"]
    assert len(there) == 6
    assert all(there)
    (zygote,) = [one.pid for one in server.zygotes()]
    assert zygote != first
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    expected = sorted(f"{way}-{where}" for way in WAYS for where in ("load", "worker"))
    ended = sorted([*journal.of("-load"), *journal.of("-worker")])
    assert ended == [(event, zygote) for event in expected]
    assert list(journal.home.iterdir()) == []


def test_a_worker_that_is_not_promoted_runs_its_own(
    serve: Serve, journal: Journal, gate: Gate
) -> None:
    server = serve("registered", *ONE, "--refork-after", "2", env=journal.env)
    (zygote,) = [one.pid for one in server.zygotes()]
    worker = server.get("/register").json["pid"]
    # A job is waited for, and an executor's threads would be missed afterwards.
    server.get(f"/jobs?gate={gate.port}")
    for _ in range(3):
        gate.wait_for_one().release()
    wait_for(lambda: not psutil.pid_exists(worker))
    assert {pid for _, pid in journal.of("-worker")} == {worker}
    server.wait_for_log(r"can't become the zygote")
    server.wait_for_log(r"^Generation 2 is given up\.$")
    assert [one.pid for one in server.zygotes()] == [zygote]
    assert journal.of("-load") == []


@pytest.mark.usefixtures("unmeasured_server")
def test_a_worker_that_is_not_promoted_has_time_for_its_end(
    serve: Serve, journal: Journal, gate: Gate
) -> None:
    """It waits for a thread that doesn't end, and has nobody else wait for that."""
    options = (*ONE, "--refork-after", "2", "--graceful-timeout", "5")
    server = serve("registered", *options, env=journal.env)
    pid = server.get("/register").json["pid"]
    assert server.get(f"/thread?gate={gate.port}").json["pid"] == pid
    held = gate.wait_for_one()
    wait_for(lambda: ("before_exit", pid) in journal.events())
    assert server.get().json["pid"] != pid
    assert psutil.pid_exists(pid)
    held.wait_until_dead()
    server.wait_for_log(rf"^Worker 0 \(pid {pid}\) ends before its threads .*'mailer'")
    wait_for(lambda: not psutil.pid_exists(pid))
    assert ("atexit-worker", pid) in journal.events()
    assert "late" not in server.log()
    assert "killed" not in server.log()


# Threads


def leave(server: Server, why: str) -> None:
    if why == "exit":
        with pytest.raises(ConnectionError):
            server.get("/exit")
    elif why == "recycled":
        server.get()
    else:
        server.signal(signal.Signals[f"SIG{why}"])


@pytest.mark.parametrize("why", ["TERM", "HUP", "recycled", "exit"])
@pytest.mark.parametrize(("path", "events"), [("/thread", 1), ("/jobs", 3)])
def test_work_in_threads_is_finished(
    serve: Serve, journal: Journal, gate: Gate, why: str, path: str, events: int
) -> None:
    server = serve("registered", *ONE, "--max-requests", "2", env=journal.env)
    pid = server.get(f"{path}?gate={gate.port}").json["pid"]
    held = gate.wait_for_one()
    leave(server, why)
    if why == "HUP":
        server.wait_for_log(r"^Generation 2 serves")
    # It is in nobody's way meanwhile.
    if why != "TERM":
        assert server.get().json["pid"] != pid
    wait_for(lambda: ("before_exit", pid) in journal.events())
    assert psutil.pid_exists(pid)
    held.release()
    for _ in range(events - 1):
        gate.wait_for_one().release()
    wait_for(lambda: not psutil.pid_exists(pid))
    done = [event for event, one in journal.events() if one == pid]
    assert done[0] == "before_exit"
    assert len(done) == 2 + events
    assert "ends before" not in server.log()


@pytest.mark.usefixtures("unmeasured_server")
@pytest.mark.parametrize("why", ["TERM", "HUP", "INT"])
def test_what_is_cut_off_is_told(
    serve: Serve, journal: Journal, gate: Gate, why: str
) -> None:
    timeout = "3600" if why == "INT" else "5"
    server = serve("registered", *ONE, "--graceful-timeout", timeout, env=journal.env)
    pid = server.get(f"/thread?gate={gate.port}").json["pid"]
    server.get("/register")
    held = gate.wait_for_one()
    server.wait_for_state("I")
    server.signal(signal.Signals[f"SIG{why}"])
    held.wait_until_dead()
    server.wait_for_log(
        rf"^Worker 0 \(pid {pid}\) ends before .*'mailer' \(registered\.wait_at_gate\)"
    )
    # Its at-exit handlers have run all the same.
    wait_for(lambda: not psutil.pid_exists(pid))
    assert ("atexit-worker", pid) in journal.events()
    assert "killed" not in server.log()
