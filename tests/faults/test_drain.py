"""Stops under load: every request is answered or refused."""

from __future__ import annotations

import signal
import threading

import pytest
from integration.conftest import Serve
from integration.gate import Gate
from integration.server import Server
from integration.server import wait_for

from .load import Client
from .load import Load
from .load import now_and_then

KINDS = ["tcp", "tls", "unix"]
MODES = [
    pytest.param((), id="standing-orders"),
    pytest.param(("--run-length", "1"), id="run-length-1"),
    pytest.param(("--dispatch", "blocking"), id="blocking"),
]


def assert_clean(server: Server) -> None:
    """It ended as it should, and nobody was killed for it."""
    assert server.wait() == 0
    for word in ("Traceback", "died", "killed"):
        assert word not in server.log()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_term_under_load(
    serve: Serve, tmp_path: object, kind: str, mode: tuple[str, ...]
) -> None:
    """TERM under load, over TCP, TLS and unix sockets.

    Every request is answered completely, or its connection is refused. The server exits
    with status 0.
    """
    args = ("--cert", "adhoc") if kind == "tls" else ()
    host = f"unix://{tmp_path}/sock" if kind == "unix" else None
    server = serve("held", "--max-workers", "4", *args, *mode, host=host)
    with Load(server.url, 8) as load:
        load.wait_for_more(50)
        server.signal(signal.SIGTERM)
        load.wait_for(lambda report: report.refused)
        assert_clean(server)
    report = load.stop()
    assert report.lost == []
    assert set(report.statuses) == {200}


def test_kept_connections_end_with_a_response(serve: Serve, gate: Gate) -> None:
    """TERM while requests run on kept-alive connections.

    Each is answered with ``Connection: close``, and then the connection is closed.
    """
    server = serve("held", "--min-idle", "2")
    clients = [Client(server.url, keep_alive=True) for _ in range(3)]
    for client in clients:
        assert client.ask().status == 200
        assert client.is_kept
    threads = [
        threading.Thread(target=client.ask, args=(gate.path,)) for client in clients
    ]
    for thread in threads:
        thread.start()
    held = gate.wait_for(len(clients))
    # Somebody for who is on the way in when it is told to stop.
    wait_for(lambda: "I" in server.state().letters)
    server.signal(signal.SIGTERM)
    wait_for(lambda: not server.is_accepting())
    for one in held:
        one.release()
    for thread in threads:
        thread.join()
    # The responses said so.
    assert not any(client.is_kept for client in clients)
    assert_clean(server)


def test_the_drain_delay(serve: Serve, gate: Gate) -> None:
    """TERM with a drain delay, and a second TERM to end it.

    Connections are accepted and answered as before. The second TERM ends the delay.
    """
    server = serve("held", "--drain-delay", "3600", "--min-idle", "2")
    with Load(server.url, 4) as load:
        load.wait_for_more()
        server.signal(signal.SIGTERM)
        server.state()
        load.wait_for_more(100)
        assert load.report.refused == 0
    load.stop().assert_all_served()
    wait_for(lambda: set(server.state().letters) <= {"I", "."})
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_the_drain_delay_ends(serve: Serve) -> None:
    """TERM with a short drain delay under load.

    After the delay the server drains: every request is answered or refused.
    """
    server = serve("held", "--drain-delay", "0.5", "--min-idle", "2")
    with Load(server.url, 4) as load:
        load.wait_for_more()
        server.signal(signal.SIGTERM)
        load.wait_for(lambda report: report.refused)
        assert_clean(server)
    assert load.stop().lost == []


def test_the_graceful_timeout(serve: Serve, gate: Gate) -> None:
    """TERM while a request doesn't end, with a graceful timeout.

    After the timeout the worker is killed, and the log says why. Only that request is
    lost.
    """
    server = serve("held", "--graceful-timeout", "0.5", "--max-workers", "4")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    with Load(server.url, 3) as load:
        load.wait_for_more()
        server.signal(signal.SIGTERM)
        held.wait_until_dead()
        assert server.wait() == 0
        load.wait_for(lambda report: report.refused)
    report = load.stop()
    assert report.lost == []
    with pytest.raises(ConnectionError):
        request.read()
    killed = rf"^Worker \d \(pid {held.pid}\) while serving GET \S+ was killed: "
    server.wait_for_log(killed)
    assert server.log().count("was killed") == 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal(serve: Serve, gate: Gate, second: signal.Signals) -> None:
    """TERM, and then TERM or INT while a request still runs.

    The server exits at once.
    """
    server = serve("held", "--graceful-timeout", "3600")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGTERM)
    wait_for(lambda: not server.is_accepting())
    server.signal(second)
    held.wait_until_dead()
    assert server.wait() == 0
    with pytest.raises(ConnectionError):
        request.read()


def test_ten_stops_and_starts_on_one_port(serve: Serve) -> None:
    """TERM and a new start on the same port at once, ten times under load.

    Each start succeeds. Every request is answered or refused.
    """
    server = serve("held", "--max-workers", "4")
    port = server.url.rpartition(":")[2]
    with Load(server.url, 4, gap=now_and_then) as load:
        for _ in range(10):
            load.wait_for_more()
            server.signal(signal.SIGTERM)
            assert_clean(server)
            server = serve("held", "--max-workers", "4", "--port", port)
        load.wait_for_more()
    report = load.stop()
    assert report.lost == []
    assert set(report.statuses) == {200}
