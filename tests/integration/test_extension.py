"""Hooks and signals, each in its process and at its time."""

from __future__ import annotations

import json
import os
import signal
import typing as t
from pathlib import Path

import pytest

from .conftest import Fail
from .conftest import Serve
from .gate import Gate
from .server import wait_for

pytestmark = pytest.mark.measured

ONE = ("--min-idle", "1", "--max-idle", "1", "--max-workers", "1")
TWO = ("--min-idle", "2", "--max-idle", "2", "--max-workers", "2")


class Journal:
    """What the app ``hooked`` has noted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = {"JOURNAL": str(path)}

    def lines(self, *events: str) -> list[dict[str, t.Any]]:
        """The lines, or those of some events."""
        if not self.path.exists():
            return []
        # The last line may be on its way.
        whole, _, _ = self.path.read_text().rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if not events or line["event"] in events]

    def events(self, pid: int) -> list[str]:
        """What one process has noted."""
        return [line["event"] for line in self.lines() if line["pid"] == pid]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, t.Any]]:
        return wait_for(
            lambda: found if len(found := self.lines(event)) >= count else None
        )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def test_a_workers_life(serve: Serve, journal: Journal) -> None:
    server = serve("hooked", *TWO, env=journal.env)
    server.wait_for_state("II")
    workers = server.workers()
    (zygote,) = server.zygotes()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert {line["app"] for line in journal.lines()} == {"hooked"}
    for slot, pid in enumerate(workers):
        assert journal.events(pid) == [
            "after_fork",
            "worker_started",
            "worker_exiting",
            "early_exit",
            "before_exit",
        ]
        noted = [line for line in journal.lines() if line["pid"] == pid]
        assert {line["slot"] for line in noted} == {slot}
        assert {line["parent"] for line in noted} <= {zygote.pid, server.pid, 1}
    before = journal.lines("before_fork")
    assert [(line["pid"], line["slot"]) for line in before] == [(zygote.pid, None)] * 2
    (ready,) = journal.lines("when_ready")
    assert ready["pid"] == zygote.pid
    (started, _) = journal.lines("worker_started")
    assert started["generation"] == 1


def test_hooks_come_before_the_first_request(serve: Serve, journal: Journal) -> None:
    server = serve("hooked", *ONE, env=journal.env)
    (started,) = journal.lines("worker_started")
    answers = [server.get().json for _ in range(3)]
    assert answers == [
        {"slot": 0, "generation": 1, "pid": started["pid"], "served": served}
        for served in range(3)
    ]
    assert server.get("/child").json == {"worker": False}
    assert server.get().json["served"] == 4


@pytest.mark.parametrize("hook", ["after_fork", "worker_started", "before_fork"])
def test_a_failing_start_keeps_the_worker_from_serving(
    fail: Fail, journal: Journal, hook: str
) -> None:
    status, output = fail("hooked", "--port", "0", env={**journal.env, "FAIL": hook})
    assert status == 1
    told = {
        "after_fork": "The hook after_fork (hooked.after_fork) failed:",
        "before_fork": "The hook before_fork (hooked.before_fork) failed:",
        "worker_started": "A receiver of worker-started failed:",
    }
    assert told[hook] in output
    assert "LookupError: the catalogue is missing" in output
    assert "giving up" in output
    assert "Running on" not in output
    # It never began, so it has nothing to end.
    assert not journal.lines("before_exit", "worker_exiting", "when_ready")


@pytest.mark.parametrize("hook", ["early_exit", "worker_exiting", "when_ready"])
def test_other_failures_keep_nothing_from_happening(
    serve: Serve, journal: Journal, hook: str
) -> None:
    server = serve("hooked", *ONE, env={**journal.env, "FAIL": hook})
    assert server.get().status == 200
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert len(journal.lines("before_exit")) == 1
    assert server.log().count("LookupError: the catalogue is missing") == 1


def test_a_killed_worker_has_no_last_words(serve: Serve, journal: Journal) -> None:
    server = serve("hooked", *ONE, env=journal.env)
    (pid,) = server.workers()
    server.zygotes()[0].children()[0].kill()
    journal.wait_for("worker_started", 2)
    assert journal.events(pid) == ["after_fork", "worker_started"]


def test_reload(serve: Serve, journal: Journal) -> None:
    server = serve("hooked", *ONE, env=journal.env)
    (old,) = server.workers()
    server.signal(signal.SIGHUP)
    (told,) = journal.wait_for("reloaded")
    assert told["generation"] > 1
    ready = journal.lines("when_ready")
    assert len(ready) == 2
    assert ready[0]["pid"] != ready[1]["pid"] == told["pid"]
    wait_for(lambda: "before_exit" in journal.events(old))
    assert server.get().json["generation"] == told["generation"]


def test_the_pools_size(serve: Serve, journal: Journal) -> None:
    options = ("--min-idle", "1", "--max-workers", "3", "--max-idle", "1")
    server = serve("hooked", *options, "--idle-timeout", "0.1", env=journal.env)
    wait_for(lambda: sizes(journal) == [1])
    for expected in (2, 3):
        server.signal(signal.SIGTTIN)
        wait_for(lambda expected=expected: sizes(journal)[-1] == expected)
    for expected in (2, 1):
        server.signal(signal.SIGTTOU)
        wait_for(lambda expected=expected: sizes(journal)[-1] == expected)
    assert sizes(journal) == [1, 2, 3, 2, 1]
    (zygote,) = server.zygotes()
    assert {line["pid"] for line in journal.lines("pool_resized")} == {zygote.pid}


def sizes(journal: Journal) -> list[int]:
    return [line["workers"] for line in journal.lines("pool_resized")]


def test_who_is_slow_to_hear_of_the_size_hears_of_the_last(
    serve: Serve, journal: Journal, gate: Gate
) -> None:
    env = {**journal.env, "GATE": str(gate.port)}
    options = ("--min-idle", "1", "--max-workers", "4", "--max-idle", "1")
    server = serve("hooked", *options, env=env)
    first = gate.wait_for_one()
    assert first.told == {"workers": 1}
    for _ in range(3):
        server.signal(signal.SIGTTIN)
        server.state()
    # The dispatcher has ordered more by now, and serves meanwhile.
    wait_for(lambda: len(server.state().letters) == 4)
    assert server.get().status == 200
    first.release()
    second = gate.wait_for_one()
    assert second.told == {"workers": 4}
    second.release()
    server.wait_for_state("IIII")
    assert sizes(journal) == [1, 4]


def test_the_app_is_told_of_each_exit(serve: Serve, journal: Journal) -> None:
    server = serve("hooked", *TWO, env=journal.env)
    server.wait_for_state("II")
    first, second = server.workers()
    os.kill(first, signal.SIGABRT)
    (killed,) = journal.wait_for("worker_exited")
    server.wait_for_state("II")
    (third,) = {*server.workers()} - {second}
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert told(killed) == (0, first, "signal", -signal.SIGABRT)
    assert killed["generation"] == 1
    rest = [told(line) for line in journal.lines("worker_exited")[1:]]
    assert sorted(rest) == [(0, third, "retired", 0), (1, second, "retired", 0)]
    (ended,) = journal.lines("when_ended")
    assert journal.lines()[-1] == ended
    assert {line["pid"] for line in journal.lines("worker_exited", "when_ended")} == {
        journal.lines("when_ready")[0]["pid"]
    }


def told(line: dict[str, t.Any]) -> tuple[int, int, str, int | None]:
    """What the app was told of an exit, but for the process: that is the zygote."""
    return line["of"], line["told_pid"], line["reason"], line["status"]


def test_the_app_is_told_why_a_worker_was_killed(
    serve: Serve, journal: Journal
) -> None:
    server = serve("hooked", *ONE, "--timeout", "0.2", env=journal.env)
    (pid,) = server.workers()
    request = server.send("/hang")
    (line,) = journal.wait_for("worker_exited")
    assert told(line) == (0, pid, "timeout", -signal.SIGKILL)
    with pytest.raises(ConnectionError):
        request.read()


def test_a_reload_ends_a_generation(serve: Serve, journal: Journal) -> None:
    server = serve("hooked", *ONE, env=journal.env)
    (old,) = server.workers()
    server.signal(signal.SIGHUP)
    (ended,) = journal.wait_for("when_ended")
    (line,) = journal.lines("worker_exited")
    assert told(line) == (0, old, "retired", 0)
    assert ended["pid"] == line["pid"] == journal.lines("when_ready")[0]["pid"]


@pytest.mark.parametrize("hook", ["worker_exited", "when_ended"])
def test_the_server_ends_though_a_hook_at_the_end_hangs(
    serve: Serve, journal: Journal, hook: str
) -> None:
    env = {**journal.env, "HANG": hook}
    server = serve("hooked", *ONE, "--graceful-timeout", "0.5", env=env)
    server.signal(signal.SIGTERM)
    server.wait()
    assert journal.lines(hook)


def test_nobody_is_left_to_tell_but_the_zygote(serve: Serve, journal: Journal) -> None:
    server = serve("hooked", *ONE, env=journal.env)
    (worker,) = server.workers()
    os.kill(server.pid, signal.SIGKILL)
    (line,) = journal.wait_for("worker_exited")
    assert told(line) == (0, worker, "retired", 0)
    journal.wait_for("when_ended")
    server.wait()


def test_a_slip_in_a_key(fail: Fail) -> None:
    env = {"CONFIG": json.dumps({"PREFORK_MIN_IDEL": 3})}
    status, output = fail("configured", "--port", "0", env=env)
    assert status == 2
    assert "'PREFORK_MIN_IDEL'" in output
    assert "did you mean 'PREFORK_MIN_IDLE'?" in output
    assert "Traceback" not in output
