"""Processes that die when they shouldn't."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from .conftest import Serve
from .gate import Gate
from .server import group
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.measured

MODES = [
    pytest.param((), id="ordered"),
    pytest.param(("--dispatch", "blocking"), id="blocking"),
]


def _assert_tidy(server: Server, letters: str) -> None:
    """Nobody is missing, and the dead are buried."""
    server.wait_for_state(letters)
    wait_for(lambda: not server.zombies())
    wait_for(lambda: len(server.workers()) == len(letters))


@pytest.mark.parametrize("mode", MODES)
def test_no_client_sees_the_death_of_an_idle_worker(
    serve: Serve, mode: tuple[str, ...]
) -> None:
    server = serve("held", "--min-idle", "2", "--max-workers", "2", *mode)
    for number in range(8):
        server.wait_for_state("II")
        os.kill(server.workers()[number % 2], signal.SIGKILL)
        assert server.get().status == 200
    _assert_tidy(server, "II")


def test_the_death_of_all_idle_workers(serve: Serve) -> None:
    server = serve("held", "--min-idle", "3", "--max-workers", "3")
    server.wait_for_state("III")
    dead = server.workers()
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    assert server.get().json["pid"] not in dead
    _assert_tidy(server, "III")


@pytest.mark.parametrize("mode", MODES)
def test_only_the_client_of_a_dying_worker_sees_it(
    serve: Serve, gate: Gate, mode: tuple[str, ...]
) -> None:
    server = serve("held", "--min-idle", "3", "--max-workers", "3", *mode)
    server.wait_for_state("III")
    other = server.send(gate.path)
    held = gate.wait_for_one()
    with pytest.raises(ConnectionError):
        server.send("/exit").read()
    pattern = r"^Worker \d \(pid \d+\) while serving GET /exit died: exit status 3\.$"
    server.wait_for_log(pattern)
    assert server.get().status == 200
    held.release()
    assert other.answer().json["pid"] == held.pid
    _assert_tidy(server, "III")


def test_a_busy_worker_is_killed(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "2", "--max-workers", "2")
    server.wait_for_state("II")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    os.kill(held.pid, signal.SIGKILL)
    with pytest.raises(ConnectionError):
        request.read()
    server.wait_for_log(rf"^Worker 0 \(pid {held.pid}\) .* died: SIGKILL")
    _assert_tidy(server, "II")
    answer = server.get().json
    assert answer["slot"] == 0, "the slot is used again"
    assert answer["pid"] != held.pid


@pytest.mark.parametrize("hook", ["before_fork", "when_ready", "pool_resized"])
def test_after_an_event_loop_has_run_in_a_hook(serve: Serve, hook: str) -> None:
    limits = ("--min-idle", "2", "--max-workers", "2")
    server = serve("looped", *limits, env={"HOOK": hook})
    server.wait_for_log(r"^The loop has run\.$")
    for _ in range(3):
        server.wait_for_state("II")
        dead = server.workers()[0]
        os.kill(dead, signal.SIGKILL)
        server.wait_for_log(rf"^Worker \d \(pid {dead}\) died: SIGKILL\.$")
        _assert_tidy(server, "II")


def test_a_stopped_worker_is_passed_over_and_replaced(serve: Serve) -> None:
    limits = ("--min-idle", "2", "--max-workers", "2", "--graceful-timeout", "1")
    server = serve("held", *limits, "--spawn-timeout", "1")
    server.wait_for_state("II")
    stopped = server.get().json["pid"]
    (other,) = set(server.workers()) - {stopped}
    server.wait_for_state("II")
    os.kill(stopped, signal.SIGSTOP)
    # It is ordered, and stays silent; then the next one is.
    assert server.get().json["pid"] == other
    server.wait_for_log(rf"^Worker \d \(pid {stopped}\) was killed: ")
    server.wait_for_state("II")
    assert stopped not in server.workers()
    assert server.get().json["slot"] == 0


def test_a_fork_in_a_view_makes_no_second_worker(serve: Serve) -> None:
    server = serve("held", "--min-idle", "2", "--max-workers", "2")
    server.wait_for_state("II")
    before = sorted(server.workers())
    # The child answers first, and ends.
    assert server.send("/fork").read().startswith(b"HTTP/1.1 200 ")
    assert [server.get().status for _ in range(10)] == [200] * 10
    server.wait_for_state("II")
    assert sorted(server.workers()) == before
    assert len(server.processes()) == 4


def test_a_dead_zygote_is_replaced(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "2", "--max-workers", "4")
    server.wait_for_state("II")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    (zygote,) = server.zygotes()
    zygote.kill()
    server.wait_for_log(r"^Generation [2-9] serves")
    assert server.get().json["generation"] > 1
    held.release()
    assert request.answer().json["generation"] == 1
    wait_for(lambda: not psutil.pid_exists(held.pid))
    wait_for(lambda: server.state().rest == "")


def test_nobody_outlives_the_dispatcher(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "3")
    server.wait_for_state("III")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.popen.kill()
    assert server.wait() == -signal.SIGKILL
    # The idle go at once, the busy one after what it serves.
    wait_for(
        lambda: {p.pid for p in server.processes()} <= {held.pid, held.told["zygote"]}
    )
    held.release()
    assert request.answer().status == 200
    wait_for(lambda: not group(server.pid))
    assert "Traceback" not in server.log()
