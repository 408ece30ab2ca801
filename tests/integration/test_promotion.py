"""A worker that has served requests becomes the zygote, once for each load."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from .conftest import Fail
from .conftest import Serve
from .gate import Gate
from .gate import Held
from .server import assert_group_ends
from .server import Server
from .server import wait_for

pytestmark = pytest.mark.measured

#: Requests until it is time.
AFTER = 3
ONE = ("--min-idle", "1", "--refork-after", str(AFTER))


def warm_up(server: Server, generation: int = 1) -> list[int]:
    """Make requests until a worker has served enough.

    :return: Who has served them.
    """
    coming = generation + 1
    pids = []
    while f"Generation {coming} is to come" not in server.log():
        pids.append(server.get().json["pid"])
    return pids


def take_over(server: Server, generation: int = 1) -> list[int]:
    pids = warm_up(server, generation)
    server.wait_for_log(rf"^Generation {generation + 1} serves\.$")
    # One that was told to accept just before may serve once more.
    wait_for(lambda: not server.state().rest)
    return pids


def hold(serve: Serve, gate: Gate, where: str, *args: str) -> tuple[Server, Held]:
    """Have a worker promoted, and hold that.

    :param where: In which of its processes, see ``tests/apps/warmed.py``.
    :return: The server, and the process that waits.
    """
    env = {"LEAVING": where, "GATE": str(gate.port)}
    server = serve("warmed", *ONE, *args, env=env)
    warm_up(server)
    return server, gate.wait_for_one()


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_workers_have_what_requests_have_loaded(
    serve: Serve, gate: Gate, dispatch: str
) -> None:
    server = serve("warmed", *ONE, "--dispatch", dispatch)
    (first,) = server.zygotes()
    pids = take_over(server)
    requests = [server.send(gate.path) for _ in range(3)]
    told = [held.told for held in gate.wait_for(3)]
    assert {one["generation"] for one in told} == {2}
    (zygote,) = {one["zygote"] for one in told}
    # Nobody else is its parent, and the first one goes when its workers have gone.
    wait_for(lambda: [one.pid for one in server.zygotes()] == [zygote])
    assert zygote != first.pid
    gate.close()
    assert {request.answer().status for request in requests} == {200}
    answers = [server.get().json for _ in range(5)]
    (maker,) = {answer["maker"] for answer in answers}
    assert maker in pids
    assert server.zombies() == []


def test_once_for_each_load(serve: Serve) -> None:
    server = serve("warmed", *ONE)
    take_over(server)
    for _ in range(2 * AFTER):
        assert server.get().json["generation"] == 2
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 3 serves\.$")
    # Nothing was taken along from the worker to the app that is loaded anew.
    makers = take_over(server, 3)
    answer = server.get().json
    assert answer["generation"] == 4
    assert answer["maker"] in makers
    assert server.log().count("is to come from worker") == 2


def test_what_was_adjusted_by_hand_holds(serve: Serve) -> None:
    server = serve("warmed", *ONE)
    for number in (2, 3):
        server.signal(signal.SIGTTIN)
        server.wait_for_log(f"^min-idle is {number} now")
    take_over(server)
    # Who is idle is not surplus: one more may have come while one was busy.
    wait_for(lambda: server.state().letters.count("I") >= 3)


def test_no_request_fails(serve: Serve, gate: Gate) -> None:
    server = serve("warmed", *ONE)
    held = server.send(gate.path)
    gate.wait_for_one()
    generations: list[set[int]] = []

    def ask() -> None:
        seen: set[int] = set()
        generations.append(seen)
        while 2 not in seen:
            answer = server.get()
            assert answer.status == 200
            seen.add(answer.json["generation"])
        seen.add(0)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Those who have come to their end.
    assert all(0 in seen for seen in generations)
    gate.close()
    assert held.answer().json["generation"] == 1


def test_the_app_hears_of_it(serve: Serve, tmp_path: Path) -> None:
    """The worker has ended for it; so it has given back what it had opened."""
    journal = tmp_path / "journal"
    server = serve("warmed", *ONE, env={"JOURNAL": str(journal)})

    def events() -> list[list[str]]:
        return [line.split() for line in journal.read_text().splitlines()]

    wait_for(lambda: ["when_ready", str(server.zygotes()[0].pid)] in events())
    take_over(server)
    answer = server.get().json
    wait_for(lambda: ["when_ready", str(answer["zygote"])] in events())
    ended = [pid for event, pid in events() if event == "before_exit"]
    assert str(answer["maker"]) in ended
    assert ["after_fork", str(answer["pid"])] in events()
    # The zygote itself has not begun as a worker, nor ended as one.
    assert [event for event, pid in events() if pid == str(answer["zygote"])] == [
        "when_ready"
    ]
    assert "died" not in server.log()


def test_a_database_is_closed_before(serve: Serve, tmp_path: Path) -> None:
    database = tmp_path / "shop.db"
    server = serve("warmed", *ONE, env={"DATABASE": f"sqlite:///{database}"})
    pid = server.get("/query").json["pid"]
    opened = [file.path for file in psutil.Process(pid).open_files()]
    assert str(database) in opened
    take_over(server)
    assert str(database) not in server.get("/files").json
    assert server.get("/query").json["idle"] == 1
    assert "first fork" not in server.log()


def test_a_worker_with_threads_is_not_promoted(serve: Serve) -> None:
    server = serve("warmed", *ONE, env={"THREAD": "1"})
    warm_up(server)
    line = server.wait_for_log(r"^Worker \d \(pid \d+\) can't become the zygote.*$")
    assert "'collector' (threading.Event.wait)" in line[0]
    server.wait_for_log(r"^Generation 2 is given up\.$")
    for _ in range(2 * AFTER):
        assert server.get().json["generation"] == 1
    assert server.log().count("is to come from worker") == 1
    assert "died" not in server.log()


def test_a_worker_that_does_not_end_is_killed(serve: Serve, gate: Gate) -> None:
    server, held = hold(serve, gate, "hold", "--graceful-timeout", "1")
    server.wait_for_log("was killed: it did not finish within the graceful timeout")
    held.wait_until_dead()
    server.wait_for_log(r"^Generation 2 is given up\.$")
    assert server.get().json["generation"] == 1


def test_a_promoted_worker_dies(serve: Serve, gate: Gate) -> None:
    server, held = hold(serve, gate, "hold")
    os.kill(held.pid, signal.SIGKILL)
    server.wait_for_log(r"^Generation 2 is given up\.$")
    assert server.get().json["generation"] == 1


def test_the_promoted_zygote_dies(serve: Serve) -> None:
    """Another one is loaded, and reforked in its turn."""
    server = serve("warmed", *ONE)
    take_over(server)
    os.kill(server.get().json["zygote"], signal.SIGKILL)
    server.wait_for_log(r"^The zygote \(pid \d+\) died; loading another\.$")
    server.wait_for_log(r"^Generation 3 serves\.$")
    take_over(server, 3)
    assert server.get().json["generation"] == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_end_during_a_promotion(
    serve: Serve, gate: Gate, number: signal.Signals
) -> None:
    server, _ = hold(serve, gate, "hold")
    server.signal(number)
    gate.close()
    assert server.wait() == (0 if number != signal.SIGKILL else -number)
    assert_group_ends(server.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_end_while_the_promoted_zygote_hangs(
    serve: Serve, gate: Gate, number: signal.Signals
) -> None:
    """In what the app does after a fork, so nobody knows its pid yet."""
    server, held = hold(serve, gate, "fork")
    server.signal(number)
    held.wait_until_dead()
    assert server.wait() == (0 if number != signal.SIGKILL else -number)
    assert_group_ends(server.pid)


def test_a_promoted_zygote_that_hangs_is_killed(serve: Serve, gate: Gate) -> None:
    limits = ("--graceful-timeout", "1", "--spawn-timeout", "1")
    server, held = hold(serve, gate, "fork", *limits)
    server.wait_for_log(r"^Generation 2 is given up\.$")
    held.wait_until_dead()
    assert server.get().json["generation"] == 1
    wait_for(lambda: server.zombies() == [])


def test_a_reload_during_a_promotion(serve: Serve, gate: Gate) -> None:
    server, _ = hold(serve, gate, "hold")
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 4 is loading\.$")
    gate.close()
    server.wait_for_log(r"^Generation 4 serves\.$")
    assert server.get().json["generation"] == 4
    # What the worker has left behind has seen that nobody listens.
    wait_for(lambda: len(server.zygotes()) == 1)
    assert "Generation 2 serves" not in server.log()


def test_not_while_files_are_watched(serve: Serve) -> None:
    server = serve("warmed", *ONE, "--reload")
    for _ in range(3 * AFTER):
        assert server.get().json["generation"] == 1
    assert "is to come" not in server.log()


def test_workers_that_never_serve_enough(fail: Fail) -> None:
    finished = fail("warmed", "--refork-after", "10", "--max-requests", "10")
    assert finished.status == 2
    assert finished.errors[-1] == (
        "--refork-after (10) has no effect, because workers are replaced"
        " by --max-requests (10) before; give a smaller one."
    )
