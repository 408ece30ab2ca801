"""Workers that have served their number of requests are replaced."""

from __future__ import annotations

import json
import socket
import threading
import typing as t
from collections import Counter
from http.client import HTTPResponse
from pathlib import Path

import pytest

from .conftest import Serve
from .gate import DEADLINE
from .server import wait_for

pytestmark = pytest.mark.measured


class Journal:
    """What workers noted of their births and ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def events(self) -> list[tuple[str, int]]:
        lines = (line.split() for line in self.path.read_text().splitlines())
        return [(event, int(pid)) for event, pid in lines]

    def has_left(self, pid: int) -> bool:
        return ("left", pid) in self.events()

    def counts(self) -> list[int]:
        """How many workers lived after each event."""
        alive, counts = 0, []
        for event, _ in self.events():
            alive += 1 if event == "born" else -1
            counts.append(alive)
        return counts


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def _options(**options: t.Any) -> list[str]:
    words = []
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_the_replacement_comes_first(
    serve: Serve, journal: Journal, dispatch: str
) -> None:
    # So many that one is idle whoever serves: growth would disturb.
    pool = _options(min_idle=1, max_idle=4, min_workers=4, max_workers=5)
    options = [*pool, *_options(max_requests=3, dispatch=dispatch)]
    server = serve("journal", *options, env={"JOURNAL": str(journal.path)})
    server.wait_for_state("IIII")
    served: Counter[int] = Counter()
    for _ in range(4):
        before = len(journal.events())
        while not any(count >= 3 for count in served.values()):
            served[server.get().json["pid"]] += 1
        (due,) = (pid for pid, count in served.items() if count >= 3)
        wait_for(lambda due=due: journal.has_left(due))
        assert [event for event, _ in journal.events()[before:]] == ["born", "left"]
        del served[due]
    assert set(journal.counts()[3:]) == {4, 5}
    assert "died" not in server.log()


@pytest.mark.parametrize("run_length", [1, 64])
def test_only_idle_workers_are_replaced_and_never_two_at_once(
    serve: Serve, journal: Journal, run_length: int
) -> None:
    pool = _options(min_idle=1, max_idle=6, min_workers=6, max_workers=7)
    options = [*pool, *_options(max_requests=5, run_length=run_length)]
    server = serve("journal", *options, env={"JOURNAL": str(journal.path)})
    server.wait_for_state("IIIIII")
    served: Counter[int] = Counter()
    requests = [server.send("/") for _ in range(4)]
    replaced = 0
    while replaced < 20:
        answer = requests.pop(0).answer()
        assert answer.status == 200
        served[answer.json["pid"]] += 1
        assert served.total() < 5000
        replaced = sum(1 for event, _ in journal.events() if event == "left")
        requests.append(server.send("/"))
    for request in requests:
        served[request.answer().json["pid"]] += 1
    # All that are due are gone when nothing is left to serve.
    wait_for(lambda: all(journal.has_left(pid) for pid, n in served.items() if n >= 5))
    for event, pid in journal.events():
        assert event == "born" or served[pid] >= 5, "it left before its time"
    started = journal.counts().index(6)
    assert set(journal.counts()[started:]) <= {6, 7}
    assert "died" not in server.log()
    assert "killed" not in server.log()


def test_nobody_goes_while_none_can_be_started(
    serve: Serve, journal: Journal, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    pool = _options(min_idle=2, max_idle=4, min_workers=4, max_workers=8)
    options = [*pool, *_options(max_requests=3)]
    env = {"JOURNAL": str(journal.path), "BROKEN": str(broken)}
    server = serve("journal", *options, env=env)
    server.wait_for_state("IIII")
    broken.touch()
    assert {server.get().status for _ in range(60)} == {200}
    # It is tried again, and again.
    for times in (1, 2):
        wait_for(lambda times=times: server.log().count("died: exit status 3") > times)
    assert not any(event == "left" for event, _ in journal.events())
    broken.unlink()
    wait_for(lambda: any(event == "left" for event, _ in journal.events()))
    assert server.get().status == 200


def test_without_room_the_old_one_goes_first(serve: Serve, journal: Journal) -> None:
    options = _options(min_idle=1, max_workers=1, max_requests=2)
    server = serve("journal", *options, env={"JOURNAL": str(journal.path)})
    assert {server.get().status for _ in range(20)} == {200}
    assert max(journal.counts()) == 1
    assert ("left", journal.events()[0][1]) in journal.events()


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_who_is_due_is_replaced_while_others_wait(serve: Serve, dispatch: str) -> None:
    """Without room for one more, and though it never has nothing to do."""
    options = _options(min_idle=1, max_workers=1, max_requests=5, dispatch=dispatch)
    server = serve("held", *options)
    requests = [server.send("/") for _ in range(4)]
    pids = []
    for _ in range(300):
        pids.append(requests.pop(0).answer().json["pid"])
        requests.append(server.send("/"))
    for request in requests:
        pids.append(request.answer().json["pid"])
    # Who blocks in accept tells after a run, which is 64 connections long.
    assert len(set(pids)) > 2


def test_jitter_spreads_the_replacements(serve: Serve, journal: Journal) -> None:
    pool = _options(min_idle=1, max_idle=2, min_workers=2, max_workers=3)
    options = [*pool, *_options(max_requests=2, max_requests_jitter=40)]
    server = serve("journal", *options, env={"JOURNAL": str(journal.path)})
    served: Counter[int] = Counter()
    while sum(1 for event, _ in journal.events() if event == "left") < 6:
        served[server.get().json["pid"]] += 1
    lives = [served[pid] for event, pid in journal.events() if event == "left"]
    assert min(lives) >= 2
    assert len(set(lives)) > 1


@pytest.mark.parametrize("dispatch", ["ordered", "blocking"])
def test_a_connection_that_never_pauses_changes_its_worker(
    serve: Serve, dispatch: str
) -> None:
    options = _options(min_idle=1, max_workers=3, max_requests=5, dispatch=dispatch)
    server = serve("held", *options)
    (first,) = server.workers()
    # All at once: the next request is there whenever a response was sent.
    count = 400
    requests = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * count
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), DEADLINE) as client:
        sender = threading.Thread(target=client.sendall, args=(requests,))
        sender.start()
        answers = client.makefile("rb")
        pids = []
        for _ in range(count):
            with HTTPResponse(_Shared(answers)) as response:  # type: ignore[arg-type]
                response.begin()
                pids.append(json.load(response)["pid"])
        sender.join()
    assert pids[0] == first
    assert pids[-1] != first
    wait_for(lambda: first not in server.workers())


class _Shared:
    """Lets one response after another read from a connection."""

    def __init__(self, file: t.Any) -> None:
        self.file = file

    def makefile(self, mode: str) -> t.Any:
        return self

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self.file, name)

    def close(self) -> None:
        """The next response comes from it too."""
