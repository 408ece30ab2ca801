"""What an app has that workers can't share is told, or mended."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Serve
from .gate import DEADLINE
from .gate import Gate
from .postgresql import find
from .postgresql import postgresql
from .server import APPS
from .server import wait_for


def test_what_cant_be_shared_is_told_by_name(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as peer:
        port = peer.getsockname()[1]
        server = serve("unshareable", env={"PEER": str(port)})
    told = [line for line in server.log().splitlines() if "first fork:" in line]
    assert len(told) == 3
    assert "thread 'poller' (threading.Event.wait)" in told[0]
    assert f"connection to 127.0.0.1:{port}" in told[1]
    assert "event loop" in told[2]
    assert all("after_fork" in line for line in told)


@pytest.mark.parametrize("app", ["held", "hooked"])
def test_an_app_without_such_things(serve: Serve, tmp_path: Path, app: str) -> None:
    server = serve(app, env={"JOURNAL": str(tmp_path / "journal")})
    assert "first fork" not in server.log()


@pytest.fixture(params=["sqlite", *(["postgresql"] if find("initdb") else [])])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database: PostgreSQL's too, where it is installed."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'visits.db'}"
    else:
        with postgresql() as url:
            yield url


def test_connections_to_a_database_are_never_shared(
    serve: Serve, gate: Gate, database: str
) -> None:
    server = serve("database", "--min-idle", "3", env={"DATABASE": database})
    server.wait_for_state("III")
    pids = set()
    for _ in range(2):
        requests = [server.send(f"/?gate={gate.port}") for _ in range(3)]
        held = gate.wait_for(3)
        for one in held:
            assert one.told["maker"] == one.pid
            pids.add(one.pid)
            one.release()
        assert {request.answer().status for request in requests} == {200}
    assert len(pids) >= 3
    visits = server.get("/visits").json
    assert sorted(set(visits)) == sorted(pids)
    assert len(visits) == 6
    # The zygote's connection is no one's trouble, so nobody is told of it.
    assert "first fork" not in server.log()


def test_nor_are_they_told_when_a_worker_is_promoted(
    serve: Serve, database: str
) -> None:
    """It has those of the zygote, which it has left alone, and has closed its own."""
    env = {"DATABASE": database, "EARLY": "1"}
    server = serve("warmed", "--min-idle", "1", "--refork-after", "1", env=env)
    assert server.get("/query").json["idle"] == 1
    server.wait_for_log(r"^Generation 2 serves\.$")
    wait_for(lambda: server.get("/query").json["generation"] == 2)
    assert "first fork" not in server.log()


def test_one_that_the_zygote_opens_later_is_nobody_elses(serve: Serve) -> None:
    """A worker that is forked afterwards must not write into it."""
    with socket.create_server(("127.0.0.1", 0)) as peer:
        port = peer.getsockname()[1]
        server = serve("late_connection", "--max-workers", "1", env={"PEER": str(port)})
        peer.settimeout(DEADLINE)
        connection, _ = peer.accept()
        with connection:
            first = server.get().json
            assert first["ended"] == []
            os.kill(first["pid"], signal.SIGKILL)
            second = server.get().json
            assert second["pid"] != first["pid"]
            assert second["ended"] == [True]
            connection.setblocking(False)
            # The zygote's end is still open.
            with pytest.raises(BlockingIOError):
                connection.recv(1)


# Processes and files


linux = pytest.mark.skipif(sys.platform != "linux", reason="no /proc here")


@linux
def test_a_process_that_the_app_has_started(serve: Serve) -> None:
    server = serve("helped")
    helper = server.get().json["helper"]
    told = [line for line in server.log().splitlines() if "first fork:" in line]
    assert len(told) == 2
    assert f"pipes to the process {helper} (cat) (helped.Renderer) are open" in told[0]
    assert f"the file {APPS / 'helped.py'} (helped.archive) is open" in told[1]
    assert all("after_fork" in line for line in told)


@linux
@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_one_that_each_worker_has_for_itself(serve: Serve, dispatch: str) -> None:
    server = serve(
        "helped", "--min-idle", "3", "--dispatch", dispatch, env={"RESET": "1"}
    )
    names = [str(number) for number in range(60)]
    requests = [server.send(f"/render/{name}") for name in names]
    assert [request.answer().json["rendered"] for request in requests] == names
    assert "first fork" not in server.log()


@linux
def test_one_of_a_worker_that_is_promoted(serve: Serve) -> None:
    """It was started there, so the dispatcher has adopted it."""
    options = ("--min-idle", "1", "--refork-after", "1")
    server = serve("helped", *options, env={"LATE": "1"})
    helper = server.get().json["helper"]
    line = server.wait_for_log(r"^Before the first fork: (.*) are open.*$")
    assert line[1] == f"pipes to the process {helper} (cat) (helped.Renderer)"
    server.wait_for_log(r"^Generation 2 serves\.$")
