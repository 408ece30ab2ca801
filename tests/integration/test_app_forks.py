"""Processes that the app forks: by itself, by multiprocessing, while it is loaded."""

from __future__ import annotations

import json
import os
import signal
import sys
import typing as t
from pathlib import Path

import psutil
import pytest

from .conftest import Run
from .conftest import Serve
from .server import command
from .server import wait_for

ONE = ("--min-idle", "1", "--max-workers", "1")
#: What a plain interpreter does about signals: Ctrl-C is an exception.
PLAIN = {"INT": "SigCgt"}
#: Blocks and ignores all that can be, then becomes the command.
DEAF = """\
import os, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
os.execv(sys.argv[1], sys.argv[1:])
"""


def assert_plain(child: t.Any) -> None:
    assert child["signals"] == PLAIN
    assert child["descriptors"] == []


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_children_of_views(serve: Serve, dispatch: str) -> None:
    server = serve("forking", *ONE, "--dispatch", dispatch)
    pid = server.get().json["pid"]
    for path in ("/fork", "/asked", "/thread", "/run"):
        assert_plain(server.get(path).json)
    # Its parent has handed it pipes, and locks.
    for path in ("/pool", "/executor"):
        assert server.get(path).json["signals"] == PLAIN
    assert server.get().json["pid"] == pid


@pytest.mark.parametrize("by", ["AT_IMPORT", "IN_HOOK"])
def test_children_of_the_zygote(serve: Serve, tmp_path: Path, by: str) -> None:
    said = tmp_path / "said"
    server = serve("forking", *ONE, env={by: str(said)})
    assert server.get().status == 200
    assert_plain(json.loads(said.read_text()))


def test_a_child_can_be_terminated(serve: Serve) -> None:
    server = serve("forking", *ONE)
    assert server.get("/terminate").json["exitcode"] == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_daemonic_children_end_with_their_worker(
    serve: Serve, number: signal.Signals
) -> None:
    server = serve("forking", *ONE)
    told = server.get("/daemon").json
    child = psutil.Process(told["child"])
    server.signal(number)
    wait_for(lambda: not psutil.pid_exists(told["pid"]))
    wait_for(lambda: not child.is_running())
    assert "killed" not in server.log()


def test_started_by_somebody_who_ignores_and_blocks_all(
    run: Run, tmp_path: Path
) -> None:
    """Time-outs, a dead worker, a reload and the end: all by signals."""
    line = command("fault_views", "--port", "0", *ONE, "--timeout", "0.2")
    server = run([sys.executable, "-c", DEAF, *line])
    assert server.get("/wait-in-python").status == 503
    pid = server.get().json["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.get().json["pid"] != pid)
    server.wait_for_log(rf"pid {pid}\).* died: SIGKILL")
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves")
    assert server.get("/wait-in-python").status == 503
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_children_of_views_where_all_is_ignored(run: Run) -> None:
    line = command("forking", "--port", "0", *ONE)
    server = run([sys.executable, "-c", DEAF, *line])
    for path in ("/fork", "/run"):
        assert server.get(path).json["signals"] == PLAIN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_with_a_process_pool_ends(
    serve: Serve, number: signal.Signals
) -> None:
    server = serve("forking", *ONE, "--graceful-timeout", "10")
    told = server.get("/executor").json
    server.signal(number)
    wait_for(lambda: not psutil.pid_exists(told["pid"]))
    assert "killed" not in server.log()
