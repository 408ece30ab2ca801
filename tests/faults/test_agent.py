"""HAProxy's agent check, while the server is busy, reloads, stops or fails."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
import threading

import psutil
import pytest
from integration.conftest import Serve
from integration.gate import DEADLINE
from integration.gate import Gate
from integration.server import Server
from integration.server import wait_for

from .load import now_and_then
from .rows import load

FIXED = ("--min-idle", "2", "--max-idle", "2", "--max-workers", "4")
IDLE = "ready up 100%\n"


class Agent:
    """A server's agent check, as HAProxy asks it.

    :param server: Its log tells where.
    """

    def __init__(self, server: Server) -> None:
        where = server.wait_for_log(r"Agent check on (\S+):(\d+)\n")
        self.address = (where[1], int(where[2]))

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, DEADLINE)

    def ask(self) -> str:
        """Ask it, and read to the end."""
        with self.connect() as sock:
            return b"".join(iter(lambda: sock.recv(100), b"")).decode()

    def wait_for(self, line: str) -> None:
        """Ask until it says so."""
        wait_for(lambda: self.ask() == line)

    def is_refused(self) -> bool:
        """Whether nobody is there."""
        try:
            self.ask()
        except ConnectionError:
            return True
        return False


def observer(server: Server) -> psutil.Process:
    """The process that answers."""
    zygotes = {zygote.pid for zygote in server.zygotes()}
    children = psutil.Process(server.pid).children()
    (found,) = (child for child in children if child.pid not in zygotes)
    return found


def test_the_pool_is_saturated(serve: Serve, gate: Gate) -> None:
    """Every worker is busy and the accept queue is full.

    The agent answers with the lowest weight, and afterwards with the full weight.
    """
    server = serve("held", "--max-workers", "2", "--backlog", "2", "--agent-check", "0")
    agent = Agent(server)
    agent.wait_for(IDLE)
    requests = [server.send(gate.path)]
    gate.wait_for_one()
    agent.wait_for("ready up 50%\n")
    requests.append(server.send(gate.path))
    gate.wait_for_one()
    agent.wait_for("ready up 1%\n")
    requests += [server.send("/") for _ in range(3)]
    for _ in range(20):
        assert agent.ask() == "ready up 1%\n"
    for held in gate.held:
        held.release()
    for request in requests:
        assert request.answer().status == 200
    agent.wait_for(IDLE)


def test_connections_wait_for_workers_that_start(serve: Serve, gate: Gate) -> None:
    """More connections come than there are workers, up to max-workers.

    Each lowers the weight by its part, whether it has a worker or waits for one.
    """
    server = serve("held", *FIXED, "--agent-check", "0")
    agent = Agent(server)
    requests = []
    for percent in (75, 50, 25, 1):
        requests.append(server.send(gate.path))
        agent.wait_for(f"ready up {percent}%\n")
    for held in gate.wait_for(4):
        held.release()
    for request in requests:
        assert request.answer().status == 200


def test_a_reload_takes_no_weight(serve: Serve) -> None:
    """HUP three times while clients send requests and the agent is queried.

    The agent never answers down, fail or drain.
    """
    server = serve("held", *FIXED, "--agent-check", "0")
    agent = Agent(server)
    said: set[str] = set()
    done = threading.Event()

    def ask() -> None:
        while not done.wait(now_and_then()):
            said.add(agent.ask())

    agent.wait_for(IDLE)
    asks = threading.Thread(target=ask)
    asks.start()
    try:
        with load(server):
            for generation in (2, 3, 4):
                server.signal(signal.SIGHUP)
                server.wait_for_log(f"^Generation {generation} serves")
    finally:
        done.set()
        asks.join()
    assert {line.rpartition(" ")[0] for line in said} == {"ready up"}


def test_term_with_a_drain_delay(serve: Serve, gate: Gate) -> None:
    """TERM with a drain delay; then TERM again, while a request runs.

    First it answers drain, and requests are served. In the end it doesn't answer.
    """
    server = serve("held", "--drain-delay", "600", "--agent-check", "0")
    agent = Agent(server)
    server.signal(signal.SIGTERM)
    agent.wait_for("drain\n")
    assert server.get().status == 200
    assert agent.ask() == "drain\n"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert agent.is_refused()


def test_term_while_a_request_runs(serve: Serve, gate: Gate) -> None:
    """TERM while a request runs, without a drain delay.

    For HAProxy the server has stopped.
    """
    server = serve("held", "--agent-check", "0")
    agent = Agent(server)
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGTERM)
    agent.wait_for("stopped # the server is closing\n")
    held.release()
    assert request.answer().status == 200
    assert server.wait() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no proc(5)")
def test_the_dispatcher_is_stopped(serve: Serve) -> None:
    """SIGSTOP and SIGCONT to the dispatcher.

    The agent answers fail until the dispatcher continues.
    """
    server = serve("held", "--agent-check", "0")
    agent = Agent(server)
    agent.wait_for(IDLE)
    server.signal(signal.SIGSTOP)
    try:
        agent.wait_for("fail # the dispatcher doesn't answer\n")
    finally:
        server.signal(signal.SIGCONT)
    agent.wait_for(IDLE)


def test_the_dispatcher_is_killed(serve: Serve) -> None:
    """SIGKILL to the dispatcher.

    The agent doesn't answer any more.
    """
    server = serve("held", "--agent-check", "0")
    agent = Agent(server)
    agent.wait_for(IDLE)
    server.popen.kill()
    server.wait()
    wait_for(agent.is_refused)


def test_the_observer_is_killed(serve: Serve) -> None:
    """SIGKILL to the observer while clients send requests.

    Queries that come meanwhile are answered by the next observer. Requests are served.
    """
    server = serve("held", *FIXED, "--agent-check", "0")
    agent = Agent(server)
    agent.wait_for(IDLE)
    with load(server):
        first = observer(server)
        first.kill()
        server.wait_for_log(rf"^The observer \(pid {first.pid}\) died")
        assert agent.ask().startswith("ready up ")


def test_clients_of_the_agent_that_never_read(serve: Serve) -> None:
    """A hundred clients connect to the agent, send nothing, read nothing and stay.

    The next client is answered, and the others occupy no thread.
    """
    server = serve("held", "--agent-check", "0")
    agent = Agent(server)
    agent.wait_for(IDLE)
    process = observer(server)
    # The main one, the agent's, and the one that samples memory, which begins last.
    threads = 3
    wait_for(lambda: process.num_threads() == threads)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(agent.connect())
        assert agent.ask() == IDLE
        assert process.num_threads() == threads


@pytest.mark.parametrize(
    "garbage", [b"web1\n", b"GET / HTTP/1.1\r\n\r\n", b"\0\xff" * 500_000]
)
def test_clients_of_the_agent_that_send_garbage(serve: Serve, garbage: bytes) -> None:
    """Clients send much data to the agent, and reset their connections.

    The next client is answered, by the same observer.
    """
    server = serve("held", "--agent-check", "0")
    agent = Agent(server)
    agent.wait_for(IDLE)
    process = observer(server)
    for _ in range(20):
        with agent.connect() as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(garbage)
            linger = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        assert agent.ask() == IDLE
    assert observer(server).pid == process.pid
    assert server.get().status == 200
