"""What the signals do, sent to the dispatcher or to all processes at once."""

from __future__ import annotations

import contextlib
import signal
import subprocess

import pytest

from .conftest import Serve
from .gate import Gate
from .server import group
from .server import State
from .server import wait_for

pytestmark = pytest.mark.measured

WAYS = ["dispatcher", "group"]
MODES = [
    pytest.param((), id="standing-orders"),
    pytest.param(("--run-length", "1"), id="run-length-1"),
    pytest.param(("--dispatch", "blocking"), id="blocking"),
]


def _assert_clean(log: str) -> None:
    """No tracebacks, and nobody died unexpectedly."""
    assert "Traceback" not in log
    assert "died" not in log


@pytest.mark.parametrize("way", WAYS)
def test_term_lets_requests_finish(serve: Serve, gate: Gate, way: str) -> None:
    server = serve("held", "--min-idle", "3")
    requests = [server.send(gate.path) for _ in range(2)]
    held = gate.wait_for(2)
    if way == "group":
        server.signal_group(signal.SIGTERM)
    else:
        server.signal(signal.SIGTERM)
    # It refuses others as soon as nobody waits any more.
    wait_for(lambda: not server.is_accepting())
    for one in held:
        one.release()
    assert {request.answer().status for request in requests} == {200}
    assert server.wait() == 0
    _assert_clean(server.log())
    assert "killed" not in server.log()


@pytest.mark.parametrize("mode", MODES)
def test_term_serves_the_accept_queue(
    serve: Serve, gate: Gate, mode: tuple[str, ...]
) -> None:
    server = serve("held", "--min-idle", "1", "--max-workers", "1", *mode)
    requests = [server.send(gate.path) for _ in range(4)]
    held = gate.wait_for_one()
    wait_for(lambda: server.state() == State("B", "", 3))
    server.signal(signal.SIGTERM)
    for _ in range(3):
        held.release()
        held = gate.wait_for_one()
    held.release()
    assert {request.answer().status for request in requests} == {200}
    assert server.wait() == 0
    _assert_clean(server.log())


def test_term_kills_after_the_graceful_timeout(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--graceful-timeout", "0.5")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGTERM)
    held.wait_until_dead()
    with pytest.raises(ConnectionError):
        request.read()
    assert server.wait() == 0
    _assert_clean(server.log())


def test_a_second_term_ends_at_once(serve: Serve, gate: Gate) -> None:
    pool = ("--min-idle", "2", "--max-workers", "2")
    server = serve("held", *pool, "--graceful-timeout", "3600")
    server.wait_for_state("II")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGTERM)
    # Two that come together are one.
    wait_for(lambda: not server.is_accepting())
    server.signal(signal.SIGTERM)
    held.wait_until_dead()
    with pytest.raises(ConnectionError):
        request.read()
    assert server.wait() == 0
    _assert_clean(server.log())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_end_at_once(
    serve: Serve, gate: Gate, number: signal.Signals, way: str
) -> None:
    pool = ("--min-idle", "2", "--max-workers", "2")
    server = serve("held", *pool, "--graceful-timeout", "3600")
    server.wait_for_state("II")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    if way == "group":
        server.signal_group(number)
    else:
        server.signal(number)
    held.wait_until_dead()
    with pytest.raises(ConnectionError):
        request.read()
    assert server.wait() == 0
    _assert_clean(server.log())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_with_nothing_to_do_ends_quietly(
    serve: Serve, number: signal.Signals
) -> None:
    server = serve("held")
    server.wait_for_state("II")
    server.signal_group(number)
    assert server.wait() == 0
    _assert_clean(server.log())
    assert "killed" not in server.log()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_until_the_end_do_not_change_it(
    serve: Serve, number: signal.Signals
) -> None:
    server = serve("held")
    server.signal(signal.SIGTERM)
    while server.popen.returncode is None:
        server.signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Not without a pause: they would be all that it has time for.
            server.popen.wait(0.0001)
    assert server.wait() == 0
    _assert_clean(server.log())


def test_usr1_tells_the_state(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "3", "--max-workers", "3")
    server.wait_for_state("III")
    assert server.state() == State("III", "", 0)
    for _ in range(2):
        server.send(gate.path)
        gate.wait_for_one()
    assert server.state() == State("BBI", "", 0)


def test_usr2_shows_where_busy_workers_are(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "2", "--max-workers", "2")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal(signal.SIGUSR2)
    server.wait_for_log(r"/apps/held\.py\", line \d+ in hold$")
    held.release()
    assert request.answer().status == 200


@pytest.mark.without_pauses(reason="they would be frames that aren't the server's")
def test_usr2_to_all_processes_shows_each_once(serve: Serve, gate: Gate) -> None:
    """As from ``pkill``: what comes is the dispatcher's records, and nothing else."""
    server = serve("held", "--min-idle", "4", "--max-workers", "4", "--reload")
    requests = [server.send(f"{gate.path}&x=%1b[31m") for _ in range(4)]
    held = gate.wait_for(4)
    before = len(server.log())
    server.signal_group(signal.SIGUSR2)
    for one in held:
        server.wait_for_log(
            rf"^Worker {one.slot} \(pid {one.pid}\) of generation 1 serves GET"
            r" /hold\?gate=\d+&x=%1b\[31m for \d+\.\d s, client 127\.0\.0\.1;"
            r" its threads:\nMain thread \(most recent call first\):\n"
            r"  File \".*held\.py\", line \d+ in hold\n(?:  File \".*\n)+"
            r"  \(\d+ frames of the server cut\)$",
            before,
        )
    server.state()
    for one in held:
        one.release()
    assert {request.answer().status for request in requests} == {200}
    log = server.log()[before:]
    assert log.count("its threads:") == log.count("Main thread ") == 4
    assert log.count(" in hold\n") == 4
    # Neither the zygote's nor the reloader's, whom nobody has asked.
    assert "thread 0x" not in log
    for path in ("/click/", "/flask_prefork/", "/flask/cli.py", "/runpy.py"):
        assert path not in log


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_workers_pass_over_the_dispatchers_signals(
    serve: Serve, gate: Gate, number: signal.Signals
) -> None:
    server = serve("held", "--min-idle", "2")
    request = server.send(gate.path)
    held = gate.wait_for_one()
    server.signal_group(number)
    # Signals are taken in order of their numbers, not of their arrival; the
    # state line comes after whatever the first one did to the request.
    server.state()
    held.release()
    assert request.answer().json["pid"] == held.pid
    assert server.get().status == 200
    assert "died" not in server.log()


def test_hup_brings_a_new_generation(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "2", "--max-workers", "4")
    assert server.get().json["generation"] == 1
    old = server.send(gate.path)
    held = gate.wait_for_one()
    seen = set(server.workers())
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves")
    new = server.get().json
    assert (new["generation"], new["slot"]) == (2, 0)
    assert new["pid"] not in seen
    held.release()
    assert old.answer().json["generation"] == 1
    wait_for(lambda: server.state().rest == "")
    wait_for(lambda: len(server.zygotes()) == 1)
    assert not seen & set(server.workers())
    _assert_clean(server.log())


def test_the_first_generation_can_be_interrupted_while_it_loads(
    serve: Serve, gate: Gate
) -> None:
    """A Ctrl-C while the app loads; the banner isn't there yet."""
    env = {"GATE": str(gate.port)}
    server = serve("waits_at_import", env=env, begun="Serving Flask app")
    gate.wait_for_one()
    assert len(group(server.pid)) == 2
    server.signal_group(signal.SIGINT)
    server.wait()
    _assert_clean(server.log())
    assert "Running on" not in server.log()
