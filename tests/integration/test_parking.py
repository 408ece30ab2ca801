"""Connections that wait for their client cost no worker, and none is lost."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import Serve
from .gate import Gate
from .kept_alive import ask_all
from .kept_alive import BEGUN
from .kept_alive import Client
from .kept_alive import END
from .kept_alive import GET
from .kept_alive import Hammer
from .kept_alive import request
from .kept_alive import Tricklers
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.measured

TWO = ("--min-idle", "2", "--max-workers", "2")
PATIENT = ("--keep-alive", "600", "--header-timeout", "600")
MODES = [
    pytest.param((), id="ordered"),
    pytest.param(("--dispatch", "blocking"), id="blocking"),
]


class Connect(t.Protocol):
    def __call__(self, server: Server, count: int) -> list[Client]: ...


@pytest.fixture
def connect(serve: Serve) -> Iterator[Connect]:
    """Opens connections that end with the test, before the servers do."""
    with contextlib.ExitStack() as stack:

        def make(server: Server, count: int) -> list[Client]:
            clients = []
            for _ in range(count):
                clients.append(Client(server))
                stack.callback(clients[-1].close)
            return clients

        yield make


@pytest.fixture
def descriptors() -> Iterator[int]:
    """Raises this process's limit, and says how many descriptors it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 20_000 if hard == resource.RLIM_INFINITY else min(hard, 20_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    yield max(soft, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def wait_until_parked(server: Server) -> None:
    """Wait until both workers are idle and nobody waits for them.

    What the dispatcher says once it says of a moment at which it may have known of
    a client and not yet dealt with it. Before it says it again it has.
    """
    quiet = ("II", "", 0)
    wait_for(lambda: server.state() == quiet and server.state() == quiet)


@pytest.mark.without_pauses(reason="it compares how fast two are served")
def test_crowds_that_idle_or_trickle_take_no_worker(
    serve: Serve, connect: Connect, descriptors: int
) -> None:
    server = serve("held", *TWO, *PATIENT)
    dispatcher = psutil.Process(server.pid)
    slow = min(1000, descriptors // 8)
    crowd = min(5_000, descriptors - slow - 500)
    ask_all(connect(server, 200))  # what is needed but once
    before = dispatcher.memory_full_info().uss
    idle = []
    while len(idle) < crowd:
        # The kernel doesn't keep any number of connections that have sent nothing.
        idle += connect(server, 200)
        ask_all(idle[-200:])
    wait_until_parked(server)
    growth = dispatcher.memory_full_info().uss - before
    assert growth < 2048 * crowd

    tricklers = Tricklers(connect(server, slow))
    tricklers.start()
    try:
        wait_for(lambda: tricklers.rounds)
        # Whoever came before was accepted before.
        assert server.get().status == 200
        for _ in range(10):
            begun = tricklers.rounds
            assert server.get().status == 200
            assert tricklers.rounds <= begun + 2, "who trickles was faster"
        wait_for(lambda: tricklers.rounds >= 3)
        assert server.get().status == 200
        assert len(server.workers()) == 2
    finally:
        tricklers.stop()
    for client in tricklers.clients:
        client.send(END)
    assert {client.read().status for client in tricklers.clients} == {200}
    assert not any(client.has_ended() for client in idle)
    ask_all(idle[::10])
    server.signal(signal.SIGTERM)
    assert {client.wait_for_end() for client in (*idle, *tricklers.clients)} == {b""}
    assert server.wait() == 0


# Descriptors


def few_descriptors(tmp_path: Path, limit: int) -> dict[str, str]:
    """Environment variables for a server that may have so many."""
    lines = f"import resource as r\nr.setrlimit(r.RLIMIT_NOFILE, ({limit}, {limit}))\n"
    (tmp_path / "sitecustomize.py").write_text(lines)
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_out_of_descriptors_the_longest_idle_are_closed(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    env = few_descriptors(tmp_path, 256)
    options = ("--keep-alive", "600", "--header-timeout", "0.5")
    server = serve("held", *TWO, *options, env=env)
    dispatcher = psutil.Process(server.pid)
    clients = []
    for _ in range(400):
        clients += connect(server, 1)
        assert clients[-1].ask().status == 200
    wait_for(lambda: sum(client.has_ended() for client in clients) >= 400 - 256)
    wait_until_parked(server)
    ended = [client.has_ended() for client in clients]
    # A client may be answered a moment before its connection is parked, so that
    # neighbours may change places.
    assert all(ended[:140])
    assert not any(ended[-100:])
    assert server.log().count("No descriptors are left for") == 1

    # None of this makes the dispatcher spin.
    used, began = sum(dispatcher.cpu_times()[:2]), time.monotonic()
    for _ in range(3):
        (late,) = connect(server, 1)
        assert late.ask(BEGUN + END).status == 200
        late.send(BEGUN)
        assert late.read().status == 408
    elapsed = time.monotonic() - began
    assert sum(dispatcher.cpu_times()[:2]) - used < elapsed / 3
    survivors = clients[-50:]
    ask_all(survivors)
    assert server.get().status == 200


def test_a_pool_grows_although_descriptors_are_short(
    serve: Serve, connect: Connect, gate: Gate, tmp_path: Path
) -> None:
    env = few_descriptors(tmp_path, 192)
    limits = ("--min-idle", "2", "--max-workers", "40", "--keep-alive", "600")
    server = serve("held", *limits, env=env)
    for _ in range(300):
        ask_all(connect(server, 1))
    requests = [server.send(gate.path) for _ in range(40)]
    held = gate.wait_for(40)
    for one in held:
        one.release()
    assert {request.answer().status for request in requests} == {200}
    assert "Traceback" not in server.log()


# Fairness


@pytest.mark.parametrize("mode", MODES)
def test_busy_clients_have_turns(
    serve: Serve, connect: Connect, mode: tuple[str, ...]
) -> None:
    server = serve("held", *TWO, *mode)
    hammer = Hammer(connect(server, 64))
    hammer.run(lambda: min(hammer.turns.values()) >= 5)
    assert max(hammer.turns.values()) <= 25


@pytest.mark.parametrize("mode", MODES)
def test_new_connections_are_served_beside_busy_ones(
    serve: Serve, connect: Connect, mode: tuple[str, ...]
) -> None:
    server = serve("held", *TWO, *mode)
    hammer = Hammer(connect(server, 64))
    thread = threading.Thread(target=hammer.run)
    thread.start()
    try:
        wait_for(lambda: min(hammer.turns.values()) >= 1)
        waits = []
        for _ in range(20):
            before = max(hammer.turns.values())
            assert server.get().status == 200
            waits.append(max(hammer.turns.values()) - before)
    finally:
        hammer.stop()
        thread.join()
    # The others had no more than a few turns in the meantime.
    assert max(waits) <= 5
    assert min(hammer.answers.values()) >= 1


# Time


def test_a_head_that_takes_too_long_is_answered(serve: Serve, connect: Connect) -> None:
    server = serve("held", *TWO, "--header-timeout", "0.5")
    still, trickling, after = connect(server, 3)
    assert after.ask().status == 200
    for client in (still, trickling, after):
        client.send(BEGUN)
    while not trickling.is_answered():
        trickling.send(b"x")
    for client in (still, trickling, after):
        answer = client.read()
        assert answer.status == 408
        assert answer.fields["connection"] == "close"
        assert client.wait_for_end() == b""
    wait_until_parked(server)


def test_an_idle_connection_is_closed_without_a_word(
    serve: Serve, connect: Connect
) -> None:
    server = serve("held", *TWO, "--keep-alive", "0.5", "--header-timeout", "0.5")
    silent, idle = connect(server, 2)
    assert idle.ask().status == 200
    assert idle.wait_for_end() == b""
    assert silent.wait_for_end() == b""


def test_keep_alive_may_be_off(serve: Serve, connect: Connect) -> None:
    server = serve("held", *TWO, "--keep-alive", "0")
    (client,) = connect(server, 1)
    assert client.ask().fields["connection"] == "close"
    assert client.wait_for_end() == b""


# Order


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_pipelined_requests_are_answered_in_order(
    serve: Serve, connect: Connect, tmp_path: Path, mode: tuple[str, ...], unix: bool
) -> None:
    host = f"unix://{tmp_path / 'sock'}" if unix else None
    server = serve("held", *TWO, *mode, host=host)
    paths = ["/", "/missing", "/hold", "/", "/", "/missing", "/hold", "/missing"]
    statuses = {"/": 200, "/missing": 404, "/hold": 400}
    whole = b"".join(request(path) for path in paths)
    (client,) = connect(server, 1)
    # Cut within a head, so that its first part is parked.
    for cut in (len(request("/")) + 10, 3, len(whole) - 1, len(whole) - 60):
        client.send(whole[:cut])
        # All whose heads are there are answered.
        answered = [client.read().status for _ in range(whole[:cut].count(END))]
        wait_until_parked(server)
        client.send(whole[cut:])
        answered += [client.read().status for _ in paths[len(answered) :]]
        assert answered == [statuses[path] for path in paths]


def test_a_head_that_comes_in_pieces_is_served(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    # Unix sockets know no SO_RCVLOWAT: what is there wakes at once, for nothing.
    server = serve("held", *TWO, host=f"unix://{tmp_path / 'sock'}")
    clients = connect(server, 20)
    for start in range(0, len(GET), 9):
        for client in clients:
            client.send(GET[start : start + 9])
        wait_until_parked(server)
    assert {client.read().status for client in clients} == {200}


# Nobody is lost


@pytest.mark.parametrize("mode", MODES)
def test_killed_workers_lose_no_parked_connection(
    serve: Serve, connect: Connect, mode: tuple[str, ...]
) -> None:
    server = serve("held", *TWO, *mode)
    clients = connect(server, 40)
    for _ in range(3):
        ask_all(clients[:20])
        for client in clients[20:]:
            client.send(BEGUN)
        wait_until_parked(server)
        old = server.workers()
        for pid in old:
            psutil.Process(pid).kill()
        wait_for(lambda old=old: not set(old) & set(server.workers()))
        ask_all(clients[:20])
        for client in clients[20:]:
            client.send(END)
            assert client.read().status == 200
    assert server.zombies() == []


def test_a_connection_whose_worker_dies_before_taking_it_is_the_next_ones(
    serve: Serve, connect: Connect
) -> None:
    server = serve("held", *TWO)
    (client,) = connect(server, 1)
    first = psutil.Process(client.ask().json["pid"])
    wait_until_parked(server)
    first.suspend()
    client.send()
    wait_for(lambda: server.state().letters.startswith("O"))
    first.kill()
    answer = client.read()
    assert answer.status == 200
    assert answer.json["pid"] != first.pid


def test_connections_outlive_workers_that_retire(
    serve: Serve, connect: Connect, gate: Gate
) -> None:
    limits = ("--min-idle", "1", "--max-idle", "1", "--max-workers", "6")
    server = serve("held", *limits, "--idle-timeout", "0.2")
    clients = connect(server, 6)
    for client in clients:
        client.send(request(gate.path))
    for held in gate.wait_for(6):
        held.release()
    answers = [client.read().json for client in clients]
    assert {answer["slot"] for answer in answers} == set(range(6))
    (pid,) = (answer["pid"] for answer in answers if not answer["slot"])
    server.wait_for_state("I")
    assert server.workers() == [pid]
    assert [client.ask().status for client in clients] == [200] * 6


def test_connections_outlive_replaced_workers(serve: Serve, connect: Connect) -> None:
    server = serve("held", *TWO, "--max-requests", "3")
    clients = connect(server, 8)
    pids: set[int] = set()

    def are_replaced() -> bool:
        # How many requests a worker serves over its limit is a matter of how long its
        # replacement takes to start.
        pids.update(client.ask().json["pid"] for client in clients)
        return len(pids) > 5

    wait_for(are_replaced)
    assert "died" not in server.log()


def test_connections_outlive_a_reload(serve: Serve, connect: Connect) -> None:
    server = serve("held", *TWO)
    idle, begun = connect(server, 2)
    assert idle.ask().json["generation"] == 1
    begun.send(BEGUN)
    wait_until_parked(server)
    server.signal(signal.SIGHUP)
    server.wait_for_log("Generation 2 serves")
    assert idle.ask().json["generation"] == 2
    begun.send(END)
    assert begun.read().json["generation"] == 2


def test_term_ends_idle_connections_and_serves_begun_requests(
    serve: Serve, connect: Connect
) -> None:
    server = serve("held", *TWO)
    *idle, begun, other = connect(server, 10)
    ask_all([*idle, other])
    begun.send(BEGUN)
    other.send(BEGUN)
    wait_until_parked(server)
    server.signal(signal.SIGTERM)
    begun.send(b"x")
    for client in (begun, other):
        client.send(END)
        assert client.read().status == 200
    # One that was answered before the server had looked at the signal is kept as long
    # as others have begun a request.
    assert {client.wait_for_end() for client in (*idle, begun, other)} == {b""}
    assert server.wait() == 0
