"""Metrics of many workers, in files of which there are few."""

from __future__ import annotations

import os
import signal
import typing as t
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from .conftest import Serve
from .gate import Gate
from .server import Server
from .server import wait_for

MOST = 3
POOL = ("--min-idle", "2", "--max-idle", "2", "--max-workers", str(MOST))
DEATHS = 200
RELOADS = 10


class Metrics:
    """What a scrape would see."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
        self.last: dict[t.Any, float] = {}

    def read(self) -> dict[t.Any, float]:
        """All samples, by name and path; counters have not gone down."""
        collector = MultiProcessCollector(CollectorRegistry(), str(self.directory))
        samples = {
            (sample.name, sample.labels.get("path", sample.labels.get("le"))): (
                sample.value,
                metric.type,
            )
            for metric in collector.collect()
            for sample in metric.samples
        }
        counts = {k: v for k, (v, kind) in samples.items() if kind != "gauge"}
        for name, before in self.last.items():
            assert counts[name] >= before, name
        self.last = counts
        return {name: value for name, (value, _) in samples.items()}

    def kinds(self) -> Counter[str]:
        """How many files there are of each kind."""
        names = [path.stem for path in self.directory.iterdir()]
        return Counter(name.rpartition("_")[0] for name in names)

    def owners(self) -> set[str]:
        """What the files are named after."""
        return {path.stem.rpartition("_")[2] for path in self.directory.iterdir()}


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    directory = tmp_path / "metrics"
    directory.mkdir()
    return Metrics(directory)


def kill(server: Server, count: int) -> None:
    """Let so many workers die, each while it serves."""
    for request in [server.send("/die") for _ in range(count)]:
        with pytest.raises(ConnectionError):
            request.answer()


def wait_until_quiet(server: Server) -> None:
    """Wait until all workers are idle, and of one generation.

    The place of one that has died may be empty, if there are enough others.
    """

    def is_quiet() -> bool:
        state = server.state()
        return set(state.letters.replace(".", "")) == {"I"} and not state.rest

    wait_for(is_quiet)


def two_idle(server: Server) -> str:
    """Wait until two workers are idle, and none is anything else.

    :return: The slots' letters.
    """

    def letters() -> str:
        found = server.state().letters
        return found if sorted(found.replace(".", "")) == ["I", "I"] else ""

    return wait_for(letters)


def test_deaths_and_reloads(serve: Serve, metrics: Metrics) -> None:
    server = serve("metrics", *POOL, env=metrics.env)
    visits = 0
    for turn in range(1, RELOADS + 1):
        log = len(server.log())
        server.signal(signal.SIGHUP)
        kill(server, DEATHS // RELOADS)
        server.wait_for_log(r"Generation \d+ serves", log)
        for request in [server.send("/") for _ in range(MOST)]:
            visits += request.answer().status == 200
        wait_until_quiet(server)
        seen = metrics.read()
        assert seen["visits_total", "/die"] == turn * DEATHS // RELOADS
        assert seen["visits_total", "/"] == seen["sizes_count", None] == visits
        assert seen["loads_total", None] == turn + 1
        assert max(metrics.kinds().values()) <= 2 * MOST
    assert visits == RELOADS * MOST
    assert set(metrics.kinds()) == {
        "counter",
        "histogram",
        "gauge_livesum",
        "gauge_mostrecent",
    }
    places = {f"{parity}-{slot}" for parity in (0, 1) for slot in range(MOST)}
    assert metrics.owners() <= places
    # The dead ones' gauges are gone, and only theirs.
    wait_for(lambda: metrics.read()["alive", None] == len(server.workers()))


def test_a_promoted_worker_counts_for_itself(
    serve: Serve, metrics: Metrics, gate: Gate
) -> None:
    """Its files are its successor's, while what it leaves behind is a zygote."""
    env = {**metrics.env, "GATE": str(gate.port)}
    pool = ("--min-idle", "2", "--max-idle", "2", "--max-workers", "6")
    server = serve("metrics", *pool, "--refork-after", "5", env=env)
    visits = 0
    while "Generation 2 is to come" not in server.log():
        visits += server.get().status == 200
    zygote = gate.wait_for_one()
    # Another one comes in the place of who was promoted, and counts on.
    while not two_idle(server).startswith("I"):
        kill(server, 1)
    visits += server.get().status == 200
    zygote.release()
    # Now the zygote has looked at the files that there are.
    gate.wait_for_one()
    visits += server.get().status == 200
    gate.close()
    server.wait_for_log("^Generation 2 serves")
    for _ in range(5):
        for request in [server.send("/") for _ in range(MOST)]:
            visits += request.answer().status == 200
        wait_until_quiet(server)
        seen = metrics.read()
        assert seen["visits_total", "/"] == seen["sizes_count", None] == visits
    assert seen["loads_total", None] == 1
    assert max(metrics.kinds().values()) <= 12
    wait_for(lambda: metrics.read()["alive", None] == len(server.workers()))


def test_reloads_that_fail_leave_nothing(
    serve: Serve, metrics: Metrics, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    server = serve("metrics", *POOL, env={**metrics.env, "BROKEN": str(broken)})
    server.wait_for_state("II")
    before = metrics.owners()
    broken.touch()
    for _ in range(3):
        log = len(server.log())
        server.signal(signal.SIGHUP)
        server.wait_for_log("Generation 2 could not be loaded", log)
    assert metrics.owners() == before
    assert metrics.read()["loads_total", None] == 1


def test_nothing_is_lost_between_two_servers(serve: Serve, metrics: Metrics) -> None:
    for turn in (1, 2):
        server = serve("metrics", *POOL, env=metrics.env)
        server.wait_for_state("II")
        assert metrics.read()["alive", None] == 2
        for _ in range(5):
            server.get()
        assert metrics.read()["visits_total", "/"] == 5 * turn
        # The second finds the gauges of workers that nobody buried.
        server.signal_group(signal.SIGKILL)
        server.wait()


def test_a_process_that_the_app_forks_counts_for_itself(
    serve: Serve, metrics: Metrics
) -> None:
    server = serve("metrics", *POOL, env=metrics.env)
    child = server.get("/child").json["child"]
    assert metrics.read()["visits_total", "/child"] == 2
    assert str(child) in metrics.owners()


def test_the_most_recent_one(serve: Serve, metrics: Metrics) -> None:
    server = serve("metrics", *POOL, env=metrics.env)
    server.wait_for_state("II")
    assert metrics.read()["newest", None] in server.workers()


def test_without_the_variable_the_app_is_told(serve: Serve) -> None:
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    server = serve("metrics", *POOL)
    assert "Set PROMETHEUS_MULTIPROC_DIR for the command" in server.log()
    assert server.get().status == 200
