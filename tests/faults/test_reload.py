"""Reloads under load, and faults during a reload."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from integration.conftest import Serve
from integration.gate import Gate
from integration.server import Server
from integration.server import wait_for

from .load import Load
from .load import now_and_then
from .reloaded import Source
from .test_kills import assert_tidy

KINDS = ["tcp", "tls", "unix"]
#: Code of a worker that does not become idle.
HANGS = "os.register_at_fork(after_in_child=threading.Event().wait)"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def start(source: Source, serve: Serve, kind: str, *args: str) -> Server:
    if kind == "tls":
        args = ("--cert", "adhoc", *args)
    host = f"unix://{source.directory}/sock" if kind == "unix" else None
    return source.serve(serve, "--max-workers", "6", *args, host=host)


def assert_settled(server: Server) -> None:
    """Of the old generations nothing is left."""
    wait_for(lambda: len(server.zygotes()) == 1)
    wait_for(lambda: server.state().rest == "")
    assert_tidy(server)


@pytest.mark.parametrize("keep_alive", [False, True], ids=["close", "keep-alive"])
@pytest.mark.parametrize("kind", KINDS)
def test_reload_under_load(
    source: Source, serve: Serve, kind: str, keep_alive: bool
) -> None:
    """HUP with changed code, dependency and settings, three times under load.

    Over TCP, TLS and unix sockets, with and without kept-alive connections, no request
    fails. Code, dependency and settings change together, and in the end only the last
    generation is left.
    """
    server = start(source, serve, kind)
    with Load(server.url, 4, keep_alive=keep_alive, gap=now_and_then) as load:
        for version in (2, 3, 4):
            load.wait_for_more()
            source.set(version, min_idle=version)
            server.signal(signal.SIGHUP)
            server.wait_for_log(rf"^Generation {version} serves\.$")
            load.wait_until_seen("version", version)
        load.wait_for_more()
    report = load.stop()
    report.assert_all_served()
    # The connections went from one generation to the next.
    assert report.renewed == 0
    told = [answer.told for answer in report.answered]
    assert {(one["generation"], one["version"]) for one in told} == {
        (version, version) for version in (1, 2, 3, 4)
    }
    assert all(one["version"] == one["dependency"] for one in told)
    assert_settled(server)
    assert len(server.workers()) >= 4, "min-idle of the last version"
    assert "Traceback" not in server.log()


def test_ten_reloads(source: Source, serve: Serve) -> None:
    """Ten HUPs under load, each as soon as some requests were answered.

    Some of them come while a generation is loading, and replace it. No request fails,
    and in the end there is one generation.
    """
    server = start(source, serve, "tcp")
    with Load(server.url, 4) as load:
        for _ in range(10):
            server.signal(signal.SIGHUP)
            load.wait_for_more(5)
        source.set(2)
        server.signal(signal.SIGHUP)
        load.wait_until_seen("version", 2)
    load.stop().assert_all_served()
    assert_settled(server)


def test_the_new_app_cannot_be_loaded(source: Source, serve: Serve) -> None:
    """HUP with an app that raises while it is imported, and with a syntax error.

    The traceback is in the log, and the old generation keeps serving. The next HUP with
    a correct app works.
    """
    server = start(source, serve, "tcp")
    with Load(server.url, 4, gap=now_and_then) as load:
        for more in ("raise LookupError('the catalogue is missing')", "def"):
            seen = len(server.log())
            source.set(2, more=more)
            server.signal(signal.SIGHUP)
            server.wait_for_log("could not be loaded; generation 1 serves on", seen)
            load.wait_for_more()
        source.set(3)
        server.signal(signal.SIGHUP)
        load.wait_until_seen("version", 3)
    report = load.stop()
    report.assert_all_served()
    assert report.seen("version") == {1, 3}
    assert "LookupError: the catalogue is missing" in server.log()
    assert "SyntaxError" in server.log()
    assert_settled(server)


def test_hup_during_a_reload(source: Source, serve: Serve, gate: Gate) -> None:
    """HUP while the app of a new generation is being loaded.

    That generation is given up, and another one loads the latest code. No request
    fails.
    """
    server = start(source, serve, "tcp")
    with Load(server.url, 4, gap=now_and_then) as load:
        source.set(2)
        source.hold(gate)
        server.signal(signal.SIGHUP)
        first = gate.wait_for_one()
        source.set(3)
        source.go_on()
        server.signal(signal.SIGHUP)
        first.wait_until_dead()
        load.wait_until_seen("version", 3)
    report = load.stop()
    report.assert_all_served()
    assert report.seen("version") == {1, 3}
    assert_settled(server)


def test_term_during_a_reload(source: Source, serve: Serve, gate: Gate) -> None:
    """TERM while the app of a new generation is being loaded.

    The new generation is given up. Connections that wait and requests that run are
    served, new connections are refused, and the server exits with status 0.
    """
    server = start(source, serve, "tcp")
    with Load(server.url, 4, gap=now_and_then) as load:
        source.hold(gate)
        server.signal(signal.SIGHUP)
        loading = gate.wait_for_one()
        load.wait_for_more()
        server.signal(signal.SIGTERM)
        loading.wait_until_dead()
        assert server.wait() == 0
        load.wait_for(lambda report: report.refused)
    report = load.stop()
    assert report.lost == []
    assert report.seen("generation") == {1}
    assert "died" not in server.log()


#: Code of an app with requests that wait at a gate. So does its second worker before it
#: is idle, if a file says where.
HOLDS = """
from flask_prefork import worker_started

def wait(gate):
    with socket.create_connection(("127.0.0.1", int(gate))) as sock:
        sock.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\\n")
        sock.recv(1)

@app.get("/hold")
def hold():
    wait(request.args["gate"])
    return "held"

def start(sender, slot, generation):
    if slot == 1 and (HERE / "stuck").exists():
        wait((HERE / "stuck").read_text())

worker_started.connect(start)
"""


@pytest.mark.parametrize("event", ["reload", "zygote-killed", "stop"])
def test_a_generation_that_serves_already_is_given_up(
    source: Source, serve: Serve, gate: Gate, event: str
) -> None:
    """With blocking dispatch, workers accept as soon as they are there, and so before
    all of their generation are. Then that is given up: for another HUP, since its
    zygote is killed, or since the server stops.

    Its requests are answered.
    """
    source.set(1, more=HOLDS)
    server = source.serve(serve, "--dispatch", "blocking", "--max-workers", "2")
    requests = [server.send(gate.path) for _ in range(2)]
    gate.wait_for(2)
    stuck = source.directory / "stuck"
    stuck.write_text(str(gate.port))
    server.signal(signal.SIGHUP)
    gate.wait_for_one()
    stuck.unlink()
    wait_for(lambda: "generation 2: IS" in server.state().rest)
    requests.append(server.send(gate.path))
    worker = gate.wait_for_one()
    if event == "reload":
        seen = len(server.log())
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"^Generation \d is loading\.$", seen)
    elif event == "stop":
        server.signal(signal.SIGTERM)
        server.wait_for_log("SIGTERM")
    else:
        (zygote,) = psutil.Process(worker.pid).parents()[:1]
        zygote.kill()
        server.wait_for_log("Generation 2 ended; generation 1 serves on")
    for held in gate.held:
        held.release()
    for one in requests:
        assert one.answer().status == 200
    if event == "stop":
        assert server.wait() == 0
    else:
        assert_settled(server)


def test_the_new_zygote_is_killed(source: Source, serve: Serve, gate: Gate) -> None:
    """``kill -9`` of the new generation's zygote while it loads the app.

    The old generation keeps serving, and the next HUP reloads the app.
    """
    server = start(source, serve, "tcp")
    with Load(server.url, 4, gap=now_and_then) as load:
        source.set(2)
        source.hold(gate)
        server.signal(signal.SIGHUP)
        loading = gate.wait_for_one()
        (zygote,) = (one for one in server.zygotes() if one.pid == loading.pid)
        zygote.kill()
        server.wait_for_log("Generation 2 could not be loaded; generation 1 serves on")
        load.wait_for_more()
        source.go_on()
        server.signal(signal.SIGHUP)
        load.wait_until_seen("version", 2)
    load.stop().assert_all_served()
    assert_settled(server)


def test_the_old_zygote_is_killed_during_a_reload(
    source: Source, serve: Serve, gate: Gate
) -> None:
    """``kill -9`` of the serving generation's zygote while the next one loads.

    Its workers serve until the new ones are ready. No request fails.
    """
    server = start(source, serve, "tcp")
    (old,) = server.zygotes()
    with Load(server.url, 4, gap=now_and_then) as load:
        source.set(2)
        source.hold(gate)
        server.signal(signal.SIGHUP)
        loading = gate.wait_for_one()
        old.kill()
        server.wait_for_log(rf"The zygote \(pid {old.pid}\) died")
        load.wait_for_more()
        source.go_on()
        loading.release()
        load.wait_until_seen("version", 2)
    load.stop().assert_all_served()
    assert_settled(server)


def test_no_new_worker_becomes_idle(source: Source, serve: Serve) -> None:
    """HUP with an app whose workers hang before they are idle.

    They are killed at the spawn timeout. The pause before each attempt is longer, and
    after some attempts the generation is given up. The old one keeps serving.
    """
    server = start(source, serve, "tcp", "--spawn-timeout", "1")
    with Load(server.url, 4, gap=now_and_then) as load:
        source.set(2, more=HANGS)
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"^Generation 2 is given up\.$")
        load.wait_for_more()
        source.set(3)
        server.signal(signal.SIGHUP)
        load.wait_until_seen("version", 3)
    report = load.stop()
    report.assert_all_served()
    assert report.seen("version") == {1, 3}
    assert "it did not become idle within the spawn timeout" in server.log()
    assert_settled(server)
