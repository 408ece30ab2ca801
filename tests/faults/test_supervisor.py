"""Killed dispatchers and zygotes, failing forks, and floods of signals."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import psutil
import pytest
from integration.conftest import Fail
from integration.conftest import Serve
from integration.gate import Gate
from integration.server import group
from integration.server import wait_for

from .load import Load
from .load import now_and_then
from .test_kills import assert_tidy

KINDS = ["tcp", "unix"]


@pytest.mark.parametrize("mode", [(), ("--dispatch", "blocking")], ids=["", "blocking"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_dispatcher_is_killed(
    serve: Serve, gate: Gate, tmp_path: os.PathLike[str], kind: str, mode: tuple[str]
) -> None:
    """``kill -9`` of the dispatcher, under load and with a worker that is busy.

    Idle workers and the zygote exit at once. The busy worker exits after its request,
    which is answered. A new server can bind the address before that.
    """
    path = f"unix://{tmp_path}/sock"
    server = serve("held", *mode, host=path if kind == "unix" else None)
    request = server.send(gate.path)
    held = gate.wait_for_one()
    with Load(server.url, 4) as load:
        load.wait_for_more()
        server.popen.kill()
        assert server.wait() == -signal.SIGKILL
        load.wait_for(lambda report: report.refused)
        # The zygote waits for the busy one.
        last = {held.pid, held.told["zygote"]}
        wait_for(lambda: {process.pid for process in group(server.pid)} == last)
    report = load.stop()
    assert set(report.statuses) == {200}
    if kind == "unix":
        other = serve("held", host=path)
    else:
        other = serve("held", "--port", server.url.rpartition(":")[2])
    assert other.url == server.url
    assert other.get().status == 200
    held.release()
    assert request.answer().status == 200
    wait_for(lambda: not group(server.pid))
    assert other.get().status == 200, "the old one's end did not touch the new one"


@pytest.mark.parametrize("kind", KINDS)
def test_the_dispatcher_is_killed_while_somebody_waits(
    serve: Serve, gate: Gate, tmp_path: os.PathLike[str], kind: str
) -> None:
    """``kill -9`` of the dispatcher while all workers are busy and a client waits.

    No worker will serve it, so its connection is closed at once and not when the busy
    workers exit.
    """
    path = f"unix://{tmp_path}/sock" if kind == "unix" else None
    server = serve("held", "--max-workers", "1", "--min-idle", "1", host=path)
    request = server.send(gate.path)
    held = gate.wait_for_one()
    waiting = server.send("/")
    wait_for(lambda: server.state().waiting)
    server.popen.kill()
    server.wait()
    with pytest.raises(ConnectionError):
        waiting.read()
    held.release()
    assert request.answer().status == 200


BOOTING = """\
import json, os, socket, sys
if any("flask_prefork.observe" in word for word in sys.orig_argv):
    with socket.create_connection(("127.0.0.1", int(os.environ["GATE"]))) as gate:
        gate.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\\n")
        gate.recv(1)
"""


def test_the_dispatcher_is_killed_while_the_observer_starts(
    serve: Serve, gate: Gate, tmp_path: Path
) -> None:
    """``kill -9`` of the dispatcher while the observer still imports its modules.

    Both addresses are free for a new server.
    """
    (tmp_path / "sitecustomize.py").write_text(BOOTING)
    env = {"PYTHONPATH": str(tmp_path), "GATE": str(gate.port)}
    admin = ("--admin", f"unix:{tmp_path}/admin")
    server = serve("held", *admin, env=env)
    observer = gate.wait_for_one()
    server.popen.kill()
    server.wait()
    wait_for(lambda: {process.pid for process in group(server.pid)} == {observer.pid})
    assert not server.is_accepting()
    other = serve("held", "--port", server.url.rpartition(":")[2], *admin)
    assert other.get().status == 200
    observer.release()
    wait_for(lambda: not group(server.pid))


def test_the_dispatcher_is_killed_and_a_worker_is_stuck(
    serve: Serve, gate: Gate
) -> None:
    """``kill -9`` of the dispatcher while a request does not end.

    After the graceful timeout the zygote logs where its worker hangs, kills it, and
    exits too.
    """
    server = serve("held", "--graceful-timeout", "0.5")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.popen.kill()
    server.wait()
    held.wait_until_dead()
    with pytest.raises(ConnectionError):
        request.read()
    wait_for(lambda: not group(server.pid))
    path = re.escape(gate.path)
    late = "it did not finish within the graceful timeout"
    server.wait_for_log(
        rf"^Worker 0 \(pid {held.pid}\) of generation 1 serves GET {path} for .* s,"
        rf" client 127.0.0.1, late: {late};"
        r" its threads:$"
    )
    server.wait_for_log(r'^  File ".*held\.py", line \d+ in ')
    server.wait_for_log(
        rf"^Worker 0 \(pid {held.pid}\) while serving GET {path} was killed: {late}\.$"
    )


def test_an_inherited_socket_outlives_the_server(serve: Serve) -> None:
    """``kill -9`` of a dispatcher that serves an inherited socket.

    The socket isn't shut down: connections wait in it for the next server.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        server = serve("held", host=f"fd://{fd}", pass_fds=(fd,))
        assert server.get().status == 200
        server.popen.kill()
        server.wait()
        wait_for(lambda: not group(server.pid))
        request = server.send("/")
        other = serve("held", host=f"fd://{fd}", pass_fds=(fd,))
        assert request.answer().status == 200
        assert other.url == server.url


def test_the_zygote_is_killed(serve: Serve, gate: Gate) -> None:
    """``kill -9`` of the zygote, five times under load.

    Its workers keep serving until those of a new one are ready. No request fails, not
    even one that runs meanwhile.
    """
    server = serve("held", "--min-idle", "2", "--max-workers", "6")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    with Load(server.url, 3, gap=now_and_then) as load:
        for _ in range(5):
            seen = len(server.log())
            victim = max(server.zygotes(), key=lambda one: one.create_time())
            victim.kill()
            server.wait_for_log(r"^Generation \d+ serves\.$", seen)
            load.wait_for_more()
            # A third generation's workers wait until the first one's are done.
            held.release()
        assert request.answer().json["pid"] == held.pid
    load.stop().assert_all_served()
    wait_for(lambda: len(server.zygotes()) == 1)
    wait_for(lambda: not psutil.pid_exists(held.pid))
    assert_tidy(server)


def test_a_storm_of_sigchld(serve: Serve) -> None:
    """Thousands of SIGCHLDs for dispatcher and zygote, while workers are killed.

    Every exit is noticed once, and no request fails.
    """
    server = serve("held", "--min-idle", "4", "--max-workers", "8")
    (zygote,) = server.zygotes()
    dead = set()
    with Load(server.url, 2) as load:
        for _ in range(10):
            for _ in range(500):
                server.signal(signal.SIGCHLD)
                zygote.send_signal(signal.SIGCHLD)
            load.wait_for_more(5)
    # Nobody asks any more, so all are idle.
    assert_tidy(server)
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
        dead.add(pid)
        for _ in range(500):
            server.signal(signal.SIGCHLD)
            zygote.send_signal(signal.SIGCHLD)
    load.stop().assert_all_served()
    wait_for(lambda: server.log().count("died: SIGKILL") == len(dead))
    wait_for(lambda: not dead & set(server.workers()))
    assert_tidy(server)
    assert server.get().status == 200


def test_forks_fail(serve: Serve) -> None:
    """Every second fork fails, as with a limit of processes, while workers are killed.

    The server tries again after pauses, and serves with the workers that it has. No
    request fails, and in the end no worker is missing.
    """
    env = {"FLASK_PREFORK_FAULTS": "zygote-fork:fail:2"}
    server = serve("held", "--min-idle", "3", "--max-workers", "6", env=env)
    with Load(server.url, 1) as load:
        load.wait_for_more()
        lowest = load.stop().seen("pid")
    for _ in range(3):
        for pid in set(server.workers()) - lowest:
            os.kill(pid, signal.SIGKILL)
        assert server.get().status == 200
        wait_for(lambda: len(server.workers()) >= 3)
    server.wait_for_log(r"^Can't fork worker \d: ")
    wait_for(lambda: server.state().letters.count("I") >= 3)


def test_no_fork_ever_succeeds(fail: Fail) -> None:
    """Every fork fails from the start.

    The server tries a limited number of times, with growing pauses. Then the log says
    so, and the server exits with a status that isn't zero.
    """
    env = {"FLASK_PREFORK_FAULTS": "zygote-fork:fail:1"}
    status, output = fail("held", "--port", "0", env=env)
    assert status == 1
    assert 1 <= output.count("Can't fork worker") <= 10
    assert "giving up" in output
    assert "Running on" not in output


def test_workers_crash_at_their_start(fail: Fail) -> None:
    """An app whose workers all exit before they serve.

    The same as when every fork fails. The log has the exit statuses.
    """
    status, output = fail("exits_at_start", "--port", "0")
    assert status == 1
    assert 1 <= output.count("died: exit status 7") <= 10
    assert "giving up" in output


def test_plain_text_on_a_tls_port(serve: Serve) -> None:
    """Clients that don't use TLS connect to a TLS port, while others do.

    Each connection is closed. The log says so for one in ten seconds. No other client
    is affected.
    """
    server = serve("held", "--cert", "adhoc", "--max-workers", "6")
    host, port = server.url.rpartition("/")[2].split(":")
    with Load(server.url, 3, gap=now_and_then) as load:
        for _ in range(20):
            with socket.create_connection((host, int(port))) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                # Perhaps an alert, then the end; a reset is one, too.
                try:
                    while plain.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
        load.wait_for_more()
    load.stop().assert_all_served()
    assert 1 <= server.log().count("No TLS handshake") < 20
    assert "Traceback" not in server.log()
    assert "died" not in server.log()
    assert_tidy(server)
