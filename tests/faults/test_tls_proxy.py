"""The TLS proxy, which has the connections of all TLS clients."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
from pathlib import Path

import psutil
import pytest
from integration.conftest import Serve
from integration.gate import Gate
from integration.server import runs
from integration.server import Server
from integration.server import wait_for
from werkzeug.serving import make_ssl_devcert
from xprocess import XProcess

from .load import Client
from .load import Load
from .load import now_and_then
from .test_kills import assert_tidy
from .test_resources import limited

TWO = ("--min-idle", "2", "--max-workers", "2")
CLIENTS = 4


def proxy(server: Server) -> psutil.Process | None:
    """The TLS proxy, if there is just one."""
    children = psutil.Process(server.pid).children()
    found = [child for child in children if runs(child, "tlsproxy")]
    return found[0] if len(found) == 1 else None


@pytest.mark.parametrize("keep_alive", [False, True], ids=["close", "keep-alive"])
def test_the_tls_proxy_is_killed(serve: Serve, keep_alive: bool) -> None:
    """``kill -9`` of the TLS proxy under load, three times.

    Each client loses the request that is under way, and no other. Another TLS proxy is
    started, and workers go on.
    """
    server = serve("held", *TWO, "--cert", "adhoc")
    workers = server.workers()
    with Load(server.url, CLIENTS, keep_alive=keep_alive) as load:
        for _ in range(3):
            load.wait_for_more()
            kill(server)
            load.wait_for_more()
    report = load.stop()
    assert len(report.lost) + report.renewed <= 3 * CLIENTS
    assert set(report.statuses) == {200}
    assert server.workers() == workers
    assert_tidy(server)


def kill(server: Server) -> None:
    """Kill the TLS proxy, and wait for another."""
    found = wait_for(lambda: proxy(server))
    found.kill()
    wait_for(lambda: other(server, found))


def test_the_tls_proxy_is_stopped(serve: Serve) -> None:
    """SIGSTOP of the TLS proxy under load.

    It is killed when it was silent for ten seconds, and another one is started.
    """
    server = serve("held", *TWO, "--cert", "adhoc")
    with Load(server.url, CLIENTS) as load:
        load.wait_for_more()
        found = wait_for(lambda: proxy(server))
        found.send_signal(signal.SIGSTOP)
        server.wait_for_log(
            rf"^The TLS proxy \(pid {found.pid}\) is silent: it is killed"
        )
        load.wait_for_more()
    report = load.stop()
    assert len(report.lost) + report.renewed <= CLIENTS
    assert_tidy(server)


def test_the_tls_proxy_has_few_descriptors(xprocess: XProcess, tmp_path: Path) -> None:
    """More connections are idle than the TLS proxy may have descriptors for.

    Those that are idle for the longest time are closed, and the log says so. All others
    are served.
    """
    options = ("--keep-alive", "600", "--cert", "adhoc")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(limited(xprocess, tmp_path, 160, *TWO, *options))
        with Load(server.url, 2, gap=now_and_then) as load:
            clients = [Client(server.url, keep_alive=True) for _ in range(150)]
            for client in clients:
                stack.callback(client.close)
                assert client.ask().status == 200
            server.wait_for_log("^All 1.. descriptors of the TLS proxy are in use")
            # The last one is still there.
            assert clients[-1].ask().status == 200
        load.stop().assert_all_served()


def test_the_certificate_is_replaced(serve: Serve, tmp_path: Path) -> None:
    """HUP with another certificate under load, three times.

    No request fails, and no connection is closed without ``Connection: close``.
    """
    cert, key = make_ssl_devcert(str(tmp_path / "shop"), host="localhost")
    server = serve("held", *TWO, "--cert", cert, "--key", key)
    with Load(server.url, CLIENTS, keep_alive=True, gap=now_and_then) as load:
        for number in range(3):
            load.wait_for_more()
            new = make_ssl_devcert(str(tmp_path / f"new{number}"), host="localhost")
            for old, path in zip((cert, key), new, strict=True):
                os.replace(path, old)
            reload(server)
            load.wait_for_more()
    report = load.stop()
    report.assert_all_served()
    assert report.renewed == 0
    # Without connections the old ones end.
    wait_for(lambda: len(pids(server)) == 1)
    assert_tidy(server)


def pids(server: Server) -> set[int]:
    """The TLS proxies: those before the last one have connections left."""
    children = psutil.Process(server.pid).children()
    return {child.pid for child in children if runs(child, "tlsproxy")}


def reload(server: Server) -> None:
    """Send HUP, and wait for another TLS proxy."""
    before = pids(server)
    server.signal(signal.SIGHUP)
    wait_for(lambda: pids(server) - before)


#: In each process of the server. A TLS proxy that has the listening sockets, and is
#: about to say so and to accept, waits at the gate while a file is there.
WAITS = """
import json, os, pathlib, socket

if b"flask_prefork.tlsproxy" in pathlib.Path("/proc/self/cmdline").read_bytes():
    from flask_prefork.ipc.channel import Channel
    from flask_prefork.ipc.frames import Accepting

    send = Channel.send

    def wait_and_send(self, frame, fds=()):
        if isinstance(frame, Accepting) and os.path.exists(os.environ["HOLD"]):
            gate = "127.0.0.1", int(os.environ["GATE"])
            with socket.create_connection(gate) as sock:
                sock.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\\n")
                sock.recv(1)
        return send(self, frame, fds)

    Channel.send = wait_and_send
"""


def test_the_next_one_has_clients_already(
    serve: Serve, gate: Gate, tmp_path: Path
) -> None:
    """HUP when the TLS proxy of the HUP before accepts already, which the dispatcher
    doesn't know: that was stopped.

    Another TLS proxy follows. Nobody loses a request whom this one has accepted.
    """
    (tmp_path / "sitecustomize.py").write_text(WAITS)
    hold = tmp_path / "hold"
    env = {"PYTHONPATH": str(tmp_path), "GATE": str(gate.port), "HOLD": str(hold)}
    server = serve("held", *TWO, "--cert", "adhoc", env=env)
    (first,) = pids(server)
    hold.touch()
    server.signal(signal.SIGHUP)
    second = gate.wait_for_one()
    hold.unlink()
    clients = [Client(server.url, keep_alive=True) for _ in range(CLIENTS)]
    with contextlib.ExitStack() as stack:
        for pid in (server.pid, first):
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        second.release()
        for client in clients:
            stack.callback(client.close)
            client.connect()
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGCONT)
        for client in clients:
            assert client.ask().status == 200
    wait_for(lambda: not pids(server) & {first, second.pid})
    assert_tidy(server)


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become another user"
)


@needs_root
def test_a_key_for_root_only(serve: Serve, tmp_path: Path) -> None:
    """A key that only root can read, with ``--user``. The TLS proxy is killed later,
    and the server is reloaded.

    It is read each time, and the TLS proxy has no rights of root's afterwards.
    """
    nobody = pwd.getpwnam("nobody")
    cert, key = make_ssl_devcert(str(tmp_path / "shop"), host="localhost")
    os.chmod(key, 0o600)
    server = serve("held", *TWO, "--cert", cert, "--key", key, "--user", "nobody")
    with Load(server.url, 2, gap=now_and_then) as load:
        load.wait_for_more()
        first = wait_for(lambda: proxy(server))
        assert set(first.uids()) == {nobody.pw_uid}
        first.kill()
        second = wait_for(lambda: other(server, first))
        load.wait_for_more()
        server.signal(signal.SIGHUP)
        third = wait_for(lambda: other(server, first, second))
        load.wait_for_more()
    load.stop()
    assert set(third.uids()) == {nobody.pw_uid}
    assert "Can't read" not in server.log()


def other(server: Server, *known: psutil.Process) -> psutil.Process | None:
    """The TLS proxy, if it is none of those."""
    found = proxy(server)
    return None if found in known else found


def test_the_socket_between_has_no_name(serve: Serve) -> None:
    """A process of another user looks for the socket between TLS proxy and workers.

    It has no name in the file system any more, and none in the abstract namespace.
    """
    server = serve("held", *TWO, "--cert", "adhoc")
    with Load(server.url, 1) as load:
        load.wait_for_more()
    load.stop().assert_all_served()
    folder = f"/proc/{server.pid}/fd"
    mine = set()
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            mine.add(os.readlink(f"{folder}/{name}"))
    names = []
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        is_listening = fields[5] == "01"
        if is_listening and f"socket:[{fields[6]}]" in mine:
            names.append(fields[7])
    # Of a file, the kernel shows the name that it had.
    assert names
    for name in names:
        assert name.startswith("/")
        assert not os.path.exists(name)
        assert not os.path.exists(os.path.dirname(name))
