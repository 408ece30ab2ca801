"""Three real servers behind the real HAProxy, which asks them how much is idle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import typing as t
from collections.abc import Iterator
from pathlib import Path

import programs
import psutil
import pytest
from faults.load import Load
from faults.load import now_and_then
from faults.reloaded import Source

from .admin import Admin
from .balancer import balancing
from .balancer import CONFIGURATION
from .balancer import Haproxy
from .balancer import PASSTHROUGH
from .balancer import Ports
from .balancer import PROGRAM
from .balancer import running_haproxy
from .conftest import Serve
from .gate import DEADLINE
from .gate import Gate
from .gate import Held
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=programs.lack("haproxy"))
#: The names in the configuration.
NAMES = ("web1", "web2", "web3")
_BACKEND = "flask_prefork"
#: An app whose workers die as soon as they are there, while a file is.
DYING = """
import os

from flask import Flask
from flask_prefork import Prefork

app = Flask(__name__)
prefork = Prefork(app)


@prefork.after_fork
def leave():
    if os.path.exists(os.environ["SIGN"]):
        os._exit(1)
"""


def ports(server: Server) -> Ports:
    """Where a server is."""
    log = server.wait_for_log("(?s)Status on (?P<admin>.*)\n.*Agent check on .*\n")
    agent = server.wait_for_log(r"Agent check on .*:(\d+)\n")
    app = server.url.rpartition(":")[2]
    return Ports(int(app), int(log["admin"].rpartition(":")[2]), int(agent[1]))


class Farm:
    """Servers, and HAProxy in front of them.

    :param haproxy: It.
    :param servers: By their names there.
    """

    def __init__(self, haproxy: Haproxy, servers: dict[str, Server]) -> None:
        self.haproxy = haproxy
        self.servers = servers

    def name(self, held: Held) -> str:
        """Which server a request is held by."""
        family = {parent.pid for parent in psutil.Process(held.pid).parents()}
        (name,) = (n for n, server in self.servers.items() if server.pid in family)
        return name

    def wait_for_weights(self, **weights: int) -> None:
        """Wait until HAProxy has given servers these weights."""
        for name, weight in weights.items():
            self.haproxy.wait_until(name, lambda stat: stat.weight == weight)  # noqa: B023


class Begin(t.Protocol):
    """Starts a server with all that HAProxy asks for."""

    def __call__(self, *args: str, where: Ports | None = None) -> Server: ...


@pytest.fixture
def begin(serve: Serve) -> Begin:
    def start(*args: str, where: Ports | None = None) -> Server:
        app, admin, agent = where or (0, 0, 0)
        told = ("--admin", str(admin), "--agent-check", str(agent))
        return serve("held", "--port", str(app), *told, *args)

    return start


@pytest.fixture
def farm(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[t.Callable[..., Farm]]:
    """Puts HAProxy in front of servers, and shows its log if the test fails."""
    with contextlib.ExitStack() as stack:

        def start(*servers: Server) -> Farm:
            log = tmp_path / "haproxy.log"
            stack.callback(lambda: print(log.read_text()[-5000:]))
            where = [ports(server) for server in servers]
            haproxy = stack.enter_context(balancing(where, log))
            made = Farm(haproxy, dict(zip(NAMES, servers, strict=True)))
            for name in NAMES:
                haproxy.wait_until(name, lambda stat: stat.agent)
            return made

        yield start


def test_the_configuration_is_valid() -> None:
    assert PROGRAM is not None
    line = [PROGRAM, "-c", "-q", "-f", str(CONFIGURATION)]
    done = subprocess.run(line, capture_output=True, text=True)
    # Not a warning either.
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# The load follows the idle capacity


def test_the_load_follows(
    begin: Begin, farm: t.Callable[..., Farm], gate: Gate
) -> None:
    servers = [begin("--max-workers", "16") for _ in NAMES]
    busy = [0, 8, 12]
    for server, count in zip(servers, busy, strict=True):
        for _ in range(count):
            server.send(gate.path)
    gate.wait_for(sum(busy))
    behind = farm(*servers)
    behind.wait_for_weights(web1=100, web2=50, web3=25)
    before = behind.haproxy.stats()
    for _ in range(140):
        assert behind.haproxy.send("/").answer().status == 200
    after = behind.haproxy.stats()
    sent = [after[name].sent - before[name].sent for name in NAMES]
    assert sum(sent) == 140
    # 80, 40 and 20, but for the one that each is asked in the middle of.
    assert sent[0] > 1.5 * sent[1] > 2 * sent[2] > 0
    for held in gate.held:
        held.release()
    behind.wait_for_weights(web1=100, web2=100, web3=100)


def test_saturated_draining_and_reloading(
    begin: Begin,
    serve: Serve,
    farm: t.Callable[..., Farm],
    gate: Gate,
    tmp_path: Path,
) -> None:
    saturated = begin("--max-workers", "2")
    draining = begin("--drain-delay", "600")
    source = Source(tmp_path)
    told = ("--admin", "0", "--agent-check", "0")
    reloading = source.serve(serve, *told)
    behind = farm(saturated, draining, reloading)
    haproxy = behind.haproxy
    behind.wait_for_weights(web1=100, web2=100, web3=100)

    waiting = [saturated.send(gate.path) for _ in range(3)]
    gate.wait_for(2)
    draining.signal(signal.SIGTERM)
    source.hold(gate)
    reloading.signal(signal.SIGHUP)
    loading = gate.wait_for_one()
    behind.wait_for_weights(web1=1)
    assert haproxy.wait_until("web2", lambda s: s.status.startswith("DRAIN"))

    before = haproxy.stats()
    requests = [haproxy.send("/") for _ in range(50)]
    sent = wait_for(lambda: _sent(haproxy, before, 50))
    assert (sent["web2"], sent["web1"] <= 3) == (0, True), sent
    assert haproxy.stats()["web1"].status == "UP", "it may not be ready, but serves"
    source.go_on()
    loading.release()
    reloading.wait_for_log("^Generation 2 serves")
    for held in gate.held:
        held.release()
    gate.wait_for_one().release()
    for request in [*requests, *waiting]:
        assert request.answer().status == 200
    behind.wait_for_weights(web1=100, web3=100)
    draining.signal(signal.SIGTERM)
    assert draining.wait() == 0
    haproxy.wait_until("web2", lambda stat: stat.status.startswith("DOWN"))


def _sent(haproxy: Haproxy, before: t.Any, count: int) -> dict[str, int] | None:
    """How many requests went to each server, when there are enough."""
    now = haproxy.stats()
    sent = {name: now[name].sent - before[name].sent for name in NAMES}
    return sent if sum(sent.values()) == count else None


# What the agent says is understood


def only_the_agent(behind: Farm) -> None:
    """Stop HAProxy's own checks, which would notice the same."""
    for name in NAMES:
        assert not behind.haproxy.command(f"disable health {_BACKEND}/{name}").strip()


def test_failing_and_stopped(
    begin: Begin, farm: t.Callable[..., Farm], gate: Gate
) -> None:
    behind = farm(*(begin() for _ in NAMES))
    haproxy = behind.haproxy
    stopped, closing = behind.servers["web1"], behind.servers["web2"]
    only_the_agent(behind)
    request = closing.send(gate.path)
    held = gate.wait_for_one()
    closing.signal(signal.SIGTERM)
    stopped.signal(signal.SIGSTOP)
    try:
        stat = haproxy.wait_until("web1", lambda s: s.status == "DOWN (agent)")
        assert stat.agent == "via agent : fail (the dispatcher doesn't answer)"
        stat = haproxy.wait_until("web2", lambda s: s.status == "DOWN (agent)")
        assert stat.agent == "via agent : stopped (the server is closing)"
    finally:
        stopped.signal(signal.SIGCONT)
    haproxy.wait_until("web1", lambda s: s.agent == "via agent : up")
    haproxy.wait_until("web1", lambda s: not s.status.startswith("DOWN"))
    held.release()
    assert request.answer().status == 200


def test_a_server_whose_workers_die(
    begin: Begin, serve: Serve, farm: t.Callable[..., Farm], tmp_path: Path
) -> None:
    app, sign = tmp_path / "dying.py", tmp_path / "sign"
    app.write_text(DYING)
    told = ("--admin", "0", "--agent-check", "0")
    dying = serve(str(app), *told, env={"SIGN": str(sign)})
    behind = farm(begin(), begin(), dying)
    haproxy = behind.haproxy
    only_the_agent(behind)
    sign.touch()
    for pid in dying.workers():
        os.kill(pid, signal.SIGKILL)
    stat = haproxy.wait_until("web3", lambda s: s.status == "DOWN (agent)")
    assert stat.agent == "via agent : down (no worker is there)"
    sign.unlink()
    haproxy.wait_until("web3", lambda s: s.agent == "via agent : up")


# Nothing is lost


@pytest.mark.parametrize("keep_alive", [False, True])
def test_rolling_reloads(
    begin: Begin, farm: t.Callable[..., Farm], keep_alive: bool
) -> None:
    behind = farm(*(begin() for _ in NAMES))
    url = behind.haproxy.url
    with Load(url, 6, keep_alive=keep_alive, gap=now_and_then) as load:
        for server in behind.servers.values():
            load.wait_for_more()
            server.signal(signal.SIGHUP)
            server.wait_for_log("^Generation 2 serves")
        load.wait_for_more(100)
    report = load.stop()
    report.assert_all_served()
    assert report.renewed == 0
    assert report.seen("generation") == {1, 2}
    assert {s.status for s in behind.haproxy.stats().values()} == {"UP"}


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_rolling_stop(
    begin: Begin, farm: t.Callable[..., Farm], keep_alive: bool
) -> None:
    drain = ("--drain-delay", "2")
    behind = farm(*(begin(*drain) for _ in NAMES))
    haproxy = behind.haproxy
    with Load(haproxy.url, 6, keep_alive=keep_alive, gap=now_and_then) as load:
        for name in NAMES:
            load.wait_for_more()
            server = behind.servers[name]
            where = ports(server)
            server.signal(signal.SIGTERM)
            haproxy.wait_until(name, lambda stat: stat.status.startswith("DRAIN"))
            assert server.wait() == 0
            behind.servers[name] = begin(where=where)
            # Its agent takes back what the one before it has said.
            haproxy.wait_until(name, lambda stat: stat.status == "UP")
            before = haproxy.stats()[name].sent
            haproxy.wait_until(name, lambda stat: stat.sent > before)  # noqa: B023
    report = load.stop()
    report.assert_all_served()
    assert report.renewed == 0


# Servers that end or stop without a word


def test_a_killed_server(begin: Begin, farm: t.Callable[..., Farm], gate: Gate) -> None:
    """What is in flight may be lost, if it can't be repeated; nothing else."""
    behind = farm(*(begin("--min-idle", "4") for _ in NAMES))
    haproxy = behind.haproxy
    post = haproxy.send(gate.path, "POST")
    name = behind.name(gate.wait_for_one())
    victim = behind.servers[name]
    gets = [haproxy.send(gate.path)]
    while behind.name(gate.wait_for_one()) != name:
        gets.append(haproxy.send(gate.path))
    with Load(haproxy.url, 6, gap=now_and_then) as load:
        load.wait_for_more()
        where = ports(victim)
        victim.signal_group(signal.SIGKILL)
        victim.wait()
        assert post.answer().status == 502
        # The other one begins anew where somebody lives.
        assert behind.name(gate.wait_for_one()) != name
        haproxy.wait_until(name, lambda stat: stat.status.startswith("DOWN"))
        load.wait_for_more(100)
        behind.servers[name] = begin(where=where)
        haproxy.wait_until(name, lambda stat: stat.status == "UP")
        load.wait_for_more(100)
    load.stop().assert_all_served()
    for held in gate.held:
        held.release()
    for get in gets:
        assert get.answer().status == 200


@pytest.mark.parametrize("whole", [False, True])
def test_a_stopped_server(
    begin: Begin, farm: t.Callable[..., Farm], whole: bool
) -> None:
    """Nothing is lost if it goes on, and others wait for nothing.

    If the agent is stopped, too, it is HAProxy's own check that notices.
    """
    behind = farm(*(begin() for _ in NAMES))
    haproxy, victim = behind.haproxy, behind.servers["web2"]
    send = victim.signal_group if whole else victim.signal
    with Load(haproxy.url, 6, gap=now_and_then) as stuck:
        stuck.wait_for_more()
        send(signal.SIGSTOP)
        try:
            haproxy.wait_until("web2", lambda stat: stat.status.startswith("DOWN"))
            before = haproxy.stats()["web2"].sent
            with Load(haproxy.url, 4, gap=now_and_then) as load:
                load.wait_for_more(100)
            load.stop().assert_all_served()
            assert haproxy.stats()["web2"].sent == before
        finally:
            send(signal.SIGCONT)
        haproxy.wait_until("web2", lambda stat: stat.status == "UP")
        haproxy.wait_until("web2", lambda stat: stat.sent > before)
        stuck.wait_for_more(100)
    stuck.stop().assert_all_served()


# TLS that HAProxy doesn't end


def test_tls_passed_through(serve: Serve, tmp_path: Path) -> None:
    """The server sees the client's address, and health checks are no handshakes."""
    server = serve(
        *("fronted", "--cert", "adhoc", "--admin", "0"),
        *("--proxy-protocol", "--proxy-allow-from", "127.0.0.1"),
    )
    admin = Admin(server)
    app, port = (url.rpartition(":")[2] for url in (server.url, admin.address))
    text, places = re.subn(
        r"192\.0\.2\.1:5000 (.*) port 9000\n",
        rf"127.0.0.1:{app} \1 port {port}\n",
        PASSTHROUGH.read_text(),
    )
    assert places == 1
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with running_haproxy(text, tmp_path / "haproxy.log") as haproxy:
        place, source = ("127.0.0.1", haproxy.port), ("127.0.0.2", 0)
        with (
            socket.create_connection(place, DEADLINE, source) as sock,
            context.wrap_socket(sock, server_hostname="shop.test") as client,
        ):
            for _ in range(2):
                client.sendall(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
                seen = json.loads(client.recv(65536).partition(b"\r\n\r\n")[2])
                assert (seen["address"], seen["scheme"]) == ("127.0.0.2", "https")
        haproxy.wait_until("web1", lambda stat: stat.status == "UP")
    found = admin.wait_until(lambda s: s["totals"]["tls_handshakes"]["full"])
    assert found["totals"]["tls_handshakes"] == {"full": 1, "resumed": 0, "failed": 0}
