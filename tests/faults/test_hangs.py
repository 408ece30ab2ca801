"""Processes of the server that hang, or are stopped."""

from __future__ import annotations

import os
import re
import signal
import typing as t
from pathlib import Path

import psutil
import pytest
from integration.admin import Admin
from integration.conftest import Serve
from integration.server import Server
from integration.server import wait_for

from .load import Load
from .load import now_and_then
from .test_kills import assert_tidy

#: Longer than any test may take.
NEVER = "3600"
#: Where a zygote hangs that serves: at the third fork, the first in another's place.
SERVING = ["before_fork:3", "at_fork:3", "resized:2", "when_ready"]


class Start(t.Protocol):
    """Starts a server whose app hangs.

    :param place: Where, see ``tests/apps/hanging.py``.
    """

    def __call__(
        self, place: str, *args: str, begun: str = ...
    ) -> tuple[Server, Path]: ...


@pytest.fixture
def start(serve: Serve, tmp_path: Path) -> Start:
    mark = tmp_path / "hangs"

    def start(place: str, *args: str, begun: str = "Press CTRL") -> tuple[Server, Path]:
        env = {"HANG": place, "MARK": str(mark)}
        pool = ("--min-idle", "2", "--max-workers", "4")
        return serve("hanging", *pool, *args, env=env, begun=begun), mark

    return start


def want_one_more(server: Server) -> None:
    """Let the zygote be told to fork another worker."""
    server.wait_for_state("II")
    server.signal(signal.SIGTTIN)


@pytest.mark.parametrize("place", SERVING)
def test_a_zygote_hangs(start: Start, place: str) -> None:
    """The zygote hangs: in a hook, in a handler of the app, before a fork.

    After the spawn timeout its tracebacks are logged. It is killed, and another one
    loads the app. The workers keep serving, and no request fails.
    """
    server, mark = start(place, "--spawn-timeout", "1")
    want_one_more(server)
    wait_for(mark.exists)
    with Load(server.url, gap=now_and_then) as load:
        server.wait_for_log(r"^The zygote of generation 1 \(pid \d+\) is late: it did ")
        server.wait_for_log(r"hanging\.py\", line \d+ in stay$")
        server.wait_for_log(r"^The zygote of generation 1 .* was killed: it did not ")
        server.wait_for_log(r"^Generation 2 serves\.$")
        load.wait_for_more()
    load.stop().assert_all_served()
    assert_tidy(server)
    wait_for(lambda: len(server.zygotes()) == 1)
    for lie in ("The zygote (pid", "could not be loaded"):
        assert lie not in server.log()


@pytest.mark.parametrize("place", ["load", "in_child"])
def test_who_hangs_at_the_start_is_shown(start: Start, place: str) -> None:
    """USR2 while a zygote loads, or while a worker hangs before it is idle.

    The log shows where it is, below a line that says which process that is.
    """
    server, mark = start(place, begun="Serving Flask app")
    wait_for(mark.exists)
    who = {
        "load": r"The zygote of generation 1 \(pid \d+\) has been loading for .* s",
        "in_child": r"Worker \d \(pid \d+\) of generation 1 is starting",
    }[place]
    shown = (
        rf"^{who}; its threads:\n(?:.+\n)*  File \".*hanging\.py\", line \d+ in stay$"
    )
    asked = 0

    def is_shown() -> bool:
        nonlocal asked
        log = server.log()
        if log.count("; its threads:") >= asked:
            # For the first time; or the dispatcher hadn't heard of the worker yet.
            asked += 1
            server.signal(signal.SIGUSR2)
        return bool(re.search(shown, log, re.M))

    wait_for(is_shown)


def test_a_zygote_is_stopped_and_all_workers_die(start: Start) -> None:
    """SIGSTOP of the zygote, and ``kill -9`` of all workers.

    The status shows no busy worker, and the server as not ready and not alive. After
    the spawn timeout, and the time to load the app, it serves again.
    """
    server, _ = start("nowhere", "--spawn-timeout", "8", "--admin", "0")
    admin = Admin(server)
    assert admin.get("/readyz").status == 200
    (zygote,) = server.zygotes()
    zygote.suspend()
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
    admin.wait_until(lambda status: not status["ready"])
    wait_for(lambda: admin.get("/livez").status == 503)
    assert set(server.state().letters) <= {"S", "."}
    server.wait_for_log(r"^Generation 2 serves\.$")
    assert server.get().status == 200
    wait_for(lambda: admin.get("/livez").status == 200)
    assert "max-workers reached" not in server.log()
    assert not psutil.pid_exists(zygote.pid)


def stop_the_zygote(server: Server) -> None:
    (zygote,) = server.zygotes()
    zygote.suspend()


def stop_the_observer(server: Server) -> None:
    known = {zygote.pid for zygote in server.zygotes()}
    (observer,) = (
        child
        for child in psutil.Process(server.pid).children()
        if child.pid not in known
    )
    observer.suspend()


def stop_the_workers(server: Server) -> None:
    for pid in server.workers():
        os.kill(pid, signal.SIGSTOP)


def stop_all(server: Server) -> None:
    stop_the_workers(server)
    stop_the_observer(server)
    stop_the_zygote(server)


STOPS = [stop_the_zygote, stop_the_observer, stop_the_workers, stop_all]


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.__name__)
def test_term_while_somebody_is_stopped(
    start: Start, stop: t.Callable[[Server], None]
) -> None:
    """TERM while zygote, observer or workers are stopped.

    The server exits within the graceful timeout, and no process is left.
    """
    options = ("--admin", "0", "--graceful-timeout", "0.5", "--spawn-timeout", NEVER)
    server, _ = start("nowhere", *options)
    assert_tidy(server)
    stop(server)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "died" not in server.log()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stop", STOPS[::3], ids=lambda stop: stop.__name__)
def test_a_second_signal_while_somebody_is_stopped(
    start: Start, stop: t.Callable[[Server], None], second: signal.Signals
) -> None:
    """TERM and TERM or INT while zygote, observer or workers are stopped.

    After the second signal the server doesn't wait for the graceful timeout.
    """
    options = ("--admin", "0", "--graceful-timeout", NEVER, "--spawn-timeout", NEVER)
    server, _ = start("nowhere", *options)
    assert_tidy(server)
    stop(server)
    server.signal(signal.SIGTERM)
    # Taken in with the first one, or after it.
    server.state()
    server.signal(second)
    assert server.wait() == 0


@pytest.mark.parametrize("place", [*SERVING, "before_exit", "at_exit"])
def test_term_while_the_app_hangs(start: Start, place: str) -> None:
    """TERM while the zygote or a retiring worker hangs.

    The server exits within the graceful timeout. Before that, the tracebacks of the
    process that hangs are logged.
    """
    server, mark = start(place, "--graceful-timeout", "0.5", "--spawn-timeout", NEVER)
    if place in SERVING:
        want_one_more(server)
        wait_for(mark.exists)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    # What runs at the end has a deadline of its own, which names it.
    shown = r"hanging\.py\", line \d+ in stay$|before its at-exit handlers are done"
    server.wait_for_log(shown)
    assert mark.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_app_hangs_in_its_load(
    start: Start, number: signal.Signals
) -> None:
    """TERM or INT while the app hangs in its load.

    The server exits at once.
    """
    server, mark = start("load", begun="Serving Flask app")
    wait_for(mark.exists)
    server.signal(number)
    server.wait()


def test_a_reload_hangs(start: Start, tmp_path: Path) -> None:
    """HUP, and the app hangs in its load.

    The old generation keeps serving, and USR2 logs where the new one hangs. Another HUP
    gives that one up, and so does TERM.
    """
    mark = tmp_path / "hangs"
    mark.touch()
    server, _ = start("load")
    for _ in range(2):
        mark.unlink()
        server.signal(signal.SIGHUP)
        wait_for(mark.exists)
        seen = len(server.log())
        server.signal(signal.SIGUSR2)
        server.wait_for_log(r"hanging\.py\", line \d+ in stay$", seen)
        assert server.get().json["generation"] == 1
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation \d+ serves\.$")
    mark.unlink()
    server.signal(signal.SIGHUP)
    wait_for(mark.exists)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_an_old_generation_hangs(start: Start) -> None:
    """HUP three times, and the first generation's zygote hangs in an at-exit handler.

    It is killed after the graceful timeout, and later reloads work.
    """
    server, mark = start("at_exit", "--graceful-timeout", "0.5")
    for number in (2, 3, 4):
        server.signal(signal.SIGHUP)
        server.wait_for_log(rf"^Generation {number} serves\.$")
    wait_for(lambda: len(server.zygotes()) == 1)
    assert mark.exists()


def test_an_old_generation_is_stopped(start: Start) -> None:
    """HUP three times, and the first generation's zygote is stopped.

    It is killed when it hasn't exited in time, and later reloads work.
    """
    server, _ = start("nowhere", "--graceful-timeout", "0.5")
    assert_tidy(server)
    stop_the_zygote(server)
    for number in (2, 3, 4):
        server.signal(signal.SIGHUP)
        server.wait_for_log(rf"^Generation {number} serves\.$")
    server.wait_for_log(r"^The zygote of generation 1 \(pid \d+\) is late: it did not ")
    server.wait_for_log(r"^The zygote of generation 1 .* was killed: it did not ")
    wait_for(lambda: len(server.zygotes()) == 1)


def test_a_worker_hangs_while_it_retires(start: Start) -> None:
    """HUP, and a worker hangs in a ``before_exit`` hook.

    USR2 logs where it hangs. After the graceful timeout that is logged again, and the
    worker is killed.
    """
    server, mark = start("before_exit", "--graceful-timeout", "3")
    server.signal(signal.SIGHUP)
    wait_for(mark.exists)
    server.signal(signal.SIGUSR2)
    server.wait_for_log(r"hanging\.py\", line \d+ in stay$")
    late = server.wait_for_log(r"^Worker \d \(pid \d+\) .*late: it did not finish")
    server.wait_for_log(r"hanging\.py\", line \d+ in stay$", late.end())
    server.wait_for_log(
        r"was killed: it did not finish within the graceful", late.end()
    )
    wait_for(lambda: server.state().rest == "")


def test_a_worker_hangs_before_it_is_idle(start: Start) -> None:
    """A worker hangs in an ``after_fork`` hook.

    After the spawn timeout its tracebacks are logged and it is killed. Another one is
    started.
    """
    server, _ = start("after_fork:1", "--spawn-timeout", "1")
    late = server.wait_for_log(r"^Worker \d \(pid \d+\) .*late: it did not become idle")
    server.wait_for_log(r"hanging\.py\", line \d+ in stay$", late.end())
    server.wait_for_log(r"was killed: it did not become idle within", late.end())
    wait_for(lambda: server.state().letters.count("I") >= 2)
