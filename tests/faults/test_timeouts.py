"""Requests that take long or make no progress, and the reasons of workers' exits."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.conftest import Serve
from integration.gate import Gate
from integration.server import command
from integration.server import running
from integration.server import Server
from integration.server import wait_for
from xprocess import XProcess

from .rows import exchange
from .rows import get
from .rows import HEAD
from .rows import load
from .rows import lose

FIXED = ("--min-idle", "3", "--max-idle", "3", "--max-workers", "3")


@pytest.mark.parametrize("path", ["/loop-in-python", "/wait-in-python"])
def test_app_makes_no_progress(serve: Serve, path: str) -> None:
    """The app loops or waits for ever in Python.

    After the timeout the client gets a 503. The tracebacks of all threads are in the
    log, with method, path, age and slot. The worker keeps serving.
    """
    server = serve("fault_views", *FIXED, "--timeout", "1")
    server.wait_for_state("III")
    with load(server):
        assert get(server, path).status == 503
        told = server.wait_for_log(
            rf"^Worker (\d) \(pid (\d+)\) of generation 1 serves GET {path} for"
            r" (\d+\.\d) s, client 127.0.0.1, without progress for 1 s; its threads:\n"
            r"(?s:.)*^  File \".*fault_views.py\","
            rf" line \d+ in {path[1:].replace('-', '_')}$"
        )
        assert float(told[3]) >= 1
        assert int(told[2]) in server.workers()
    assert {"died:", "killed:"}.isdisjoint(server.log().split())


def test_app_makes_no_progress_after_a_part_was_sent(serve: Serve) -> None:
    """The app waits for ever when a part of its response was sent.

    After the timeout the connection is closed without the last chunk. The worker keeps
    serving.
    """
    server = serve("fault_views", *FIXED, "--timeout", "1")
    server.wait_for_state("III")
    with load(server):
        data = exchange(server, HEAD % b"/stall-after-head" + b"\r\n")
        assert data.startswith(b"HTTP/1.1 200 ")
        assert data.endswith(b"so far\r\n")
        assert data.count(b"HTTP/1.1 ") == 1
        server.wait_for_log(r"serves GET /stall-after-head .* without progress")
    assert {"died:", "killed:"}.isdisjoint(server.log().split())


@pytest.mark.parametrize("path", ["/loop-in-c", "/stubborn"])
def test_app_does_not_end_when_told_to(serve: Serve, path: str) -> None:
    """The app loops for ever in C with the GIL held, or catches every exception and
    continues.

    Its tracebacks are logged too. Five seconds after the timeout its worker is killed,
    and the log says why. Another worker gets the slot.
    """
    server = serve("fault_views", *FIXED, "--timeout", "1")
    server.wait_for_state("III")
    with load(server):
        lose(server, path)
        server.wait_for_log(rf'^  File ".*", line \d+ in {path[1:].replace("-", "_")}$')
        server.wait_for_log(
            rf"^Worker \d \(pid \d+\) while serving GET {path} was killed: no progress"
            r" for 1 s, and it didn't end\.$"
        )
    server.wait_for_state("III")
    assert not server.zombies()


def test_app_ignores_the_signal_to_end(serve: Serve) -> None:
    """The app ignores every signal, then waits for ever.

    It is killed five seconds after the timeout.
    """
    server = serve("fault_views", *FIXED, "--timeout", "1")
    server.wait_for_state("III")
    with load(server):
        lose(server, "/ignore-signals?wait=3600")
        server.wait_for_log(r"was killed: no progress for 1 s, and it didn't end\.$")
    server.wait_for_state("III")


@pytest.mark.parametrize("handler", ["ours", "werkzeug's"])
def test_slow_progress_is_progress(serve: Serve, handler: str) -> None:
    """The app sends a byte now and then, for longer than the timeout.

    It isn't aborted, with any request handler.
    """
    args = ["--timeout", "1"]
    if handler != "ours":
        args += ["--request-handler", "werkzeug.serving:WSGIRequestHandler"]
    server = serve("fault_views", *FIXED, *args)
    server.wait_for_state("III")
    with load(server):
        answer = get(server, "/slowly?pause=0.25&pieces=10")
        assert (answer.status, answer.body) == (200, b"x" * 10)
    assert "threads:" not in server.log()
    assert {"died:", "killed:"}.isdisjoint(server.log().split())


def test_slow_log_only_logs(serve: Serve, gate: Gate) -> None:
    """A request takes longer than --slow-log.

    It is logged once, with the tracebacks, and continues to its end.
    """
    server = serve("fault_views", *FIXED, "--slow-log", "0.3", "--timeout", "0")
    server.wait_for_state("III")
    with load(server):
        request = server.send(gate.path)
        held = gate.wait_for_one()
        server.wait_for_log(
            rf"^Worker {held.slot} \(pid {held.pid}\) of generation 1 serves GET"
            rf" {re.escape(gate.path)} for \d+\.\d s, client 127.0.0.1; its threads:\n"
            r"(?s:.)*^  File \".*fault_views.py\", line"
            r" \d+ in hold$"
        )
        held.release()
        assert request.answer().status == 200
    assert server.log().count("its threads:") == 1


def test_usr2_shows_the_busy_workers(serve: Serve, gate: Gate) -> None:
    """The dispatcher gets a USR2.

    The tracebacks of busy workers are in the log; nothing else happens.
    """
    server = serve("fault_views", *FIXED)
    server.wait_for_state("III")
    with load(server, 1):
        request = server.send(gate.path)
        held = gate.wait_for_one()
        seen = len(server.log())
        server.signal(signal.SIGUSR2)
        server.wait_for_log(r'^  File ".*fault_views.py", line \d+ in hold$', seen)
        held.release()
        assert request.answer().status == 200
    assert {"died:", "killed:"}.isdisjoint(server.log().split())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGTERM])
def test_somebody_else_kills_a_worker(
    serve: Serve, gate: Gate, number: signal.Signals
) -> None:
    """A user sends a fatal signal to a busy worker.

    The log names the signal and the request, and doesn't say that the server or the
    kernel has killed it. Workers ignore TERM, which is for the dispatcher.
    """
    server = serve("fault_views", *FIXED)
    server.wait_for_state("III")
    with load(server):
        request = server.send(gate.path)
        held = gate.wait_for_one()
        os.kill(held.pid, number)
        if number == signal.SIGTERM:
            held.release()
            assert request.answer().status == 200
            assert "died" not in server.log()
            return
        with pytest.raises(ConnectionError):
            request.answer()
        server.wait_for_log(
            rf"^Worker {held.slot} \(pid {held.pid}\) while serving"
            rf" GET {re.escape(gate.path)} died: {number.name}\.$"
        )


MEMORY = Path("/sys/fs/cgroup/memory")


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A memory control group below our own (``cgroups(7)``, version 1).

    :param limit: Bytes that its processes may have together.
    """
    found = re.search(
        r"^\d+:(?:.*,)?memory(?:,.*)?:(.*)$",
        Path("/proc/self/cgroup").read_text() if sys.platform == "linux" else "",
        re.MULTILINE,
    )
    if found is None:
        pytest.skip("this system has no memory control groups of version 1")
    group = MEMORY / found[1].lstrip("/") / f"flask-prefork-test-{uuid.uuid4().hex}"
    try:
        group.mkdir()
    except OSError as e:
        pytest.skip(f"control groups can't be made here: {e}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        yield group
    finally:
        # The kernel lets go of a process a moment after it was reaped.
        wait_for(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def _start_in(
    group: Path, xprocess: XProcess, tmp_path: Path
) -> contextlib.AbstractContextManager[Server]:
    line = command("fault_views", "--port", "0", "--no-access-log", *FIXED)
    enter = f'echo 0 > "{group}/cgroup.procs"; exec "$@"'
    return running(xprocess, "oom", ["/bin/sh", "-c", enter, "sh", *line], tmp_path)


def test_a_worker_uses_up_its_groups_memory(xprocess: XProcess, tmp_path: Path) -> None:
    """The app uses up all memory of its control group.

    The kernel kills the worker. Only its client is affected, and the log says that it
    was the kernel. Another worker gets the slot.
    """
    with (
        memory_group(200 << 20) as group,
        _start_in(group, xprocess, tmp_path) as server,
    ):
        server.wait_for_state("III")
        with load(server):
            lose(server, "/use-up-memory")
            server.wait_for_log(
                r"^Worker \d \(pid \d+\) while serving GET /use-up-memory died:"
                r" SIGKILL, by the kernel, which ran out of memory\.$"
            )
        server.wait_for_state("III")
        assert not server.zombies()
        # Nobody is blamed for what is over.
        seen = len(server.log())
        os.kill(server.workers()[-1], signal.SIGKILL)
        server.wait_for_log(r" died: SIGKILL\.$", seen)
