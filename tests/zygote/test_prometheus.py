"""Names of Prometheus's files, without a worker."""

from __future__ import annotations

import errno
import logging
import os
import sys
import typing as t
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import metrics
from prometheus_client import values
from prometheus_client.multiprocess import MultiProcessCollector

from flask_prefork.system.log import base as logger
from flask_prefork.zygote import prometheus


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if the variable had been set when the library was imported."""
    monkeypatch.setenv(prometheus.VARIABLE, str(tmp_path))
    monkeypatch.setattr(prometheus, "_named", (0, ""))
    monkeypatch.setattr(prometheus, "_kinds", {})
    monkeypatch.setattr(prometheus, "_value_class", None)
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    load()
    return tmp_path


def load() -> None:
    """As a zygote before the app makes its metrics."""
    with prometheus.loading():
        pass


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def samples(directory: Path) -> dict[str, float]:
    collector = MultiProcessCollector(CollectorRegistry(), str(directory))
    return {
        sample.name: sample.value
        for metric in collector.collect()
        for sample in metric.samples
    }


def counter(name: str = "visits") -> metrics.Counter:
    return metrics.Counter(name, "Requests.", registry=None)


def gauge(mode: t.Any, name: str = "size") -> metrics.Gauge:
    return metrics.Gauge(name, "Of it.", registry=None, multiprocess_mode=mode)


def test_places_differ_by_slot_and_parity() -> None:
    assert prometheus.place(1, 7) == prometheus.place(3, 7) != prometheus.place(2, 7)
    assert prometheus.place(1, 7) != prometheus.place(1, 17)
    assert "_" not in prometheus.place(1, 7)


def test_what_was_counted_before_goes_to_the_first_worker(directory: Path) -> None:
    visits = counter()
    visits.inc(3)
    gauge("max").set(5)
    gauge("livesum", "live").set(1)
    former = f"counter_{os.getpid()}.db"
    assert former in names(directory)
    prometheus.prepare(1)
    assert names(directory) == {"counter_1-0.db", "gauge_max_1-0.db"}
    assert samples(directory) == {"visits_total": 3, "size": 5}
    prometheus.enter(1, 0)
    visits.inc()
    assert samples(directory)["visits_total"] == 4


def test_each_generation_adds_to_what_there_is(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 4):
        # A zygote that is another process.
        monkeypatch.setattr(prometheus, "_named", (0, ""))
        load()
        counter().inc(2)
        prometheus.prepare(number)
    assert names(directory) == {"counter_0-0.db", "counter_1-0.db"}
    assert samples(directory) == {"visits_total": 6}


def test_the_next_in_a_place_goes_on(directory: Path) -> None:
    visits, live, size = counter(), gauge("livesum", "live"), gauge("max")
    prometheus.prepare(1)
    for worker in (1, 2):
        pid = os.fork()
        if not pid:
            prometheus.enter(1, 4)
            visits.inc()
            live.inc()
            size.set(worker)
            os._exit(0)
        assert os.waitpid(pid, 0) == (pid, 0)
    assert samples(directory) == {"visits_total": 2, "live": 1, "size": 2}
    prometheus.remove_dead(1, 4)
    assert "live" not in samples(directory)
    assert samples(directory)["visits_total"] == 2


def test_the_zygote_counts_for_itself(directory: Path) -> None:
    visits = counter()
    prometheus.prepare(2)
    visits.inc()
    assert names(directory) == {"counter_0-0.db", "counter_zygote-0.db"}


def test_live_gauges_of_an_earlier_server_go(directory: Path) -> None:
    counter()
    for name in ("gauge_liveall_0-3.db", "gauge_livesum_1-0.db", "gauge_max_1-0.db"):
        (directory / name).write_bytes(b"something")
    (directory / "gauge_liveall_1234.db").touch()
    prometheus.prepare(3)
    assert "gauge_liveall_0-3.db" in names(directory), "another generation's"
    assert "gauge_livesum_1-0.db" not in names(directory)
    prometheus.prepare(1)
    assert "gauge_liveall_0-3.db" not in names(directory)
    assert {"gauge_max_1-0.db", "gauge_liveall_1234.db"} <= names(directory)


def test_removing_a_dead_worker_leaves_the_others(directory: Path) -> None:
    for slot in (1, 10, 11):
        (directory / f"gauge_liveall_1-{slot}.db").touch()
    prometheus.remove_dead(1, 1)
    assert names(directory) == {"gauge_liveall_1-10.db", "gauge_liveall_1-11.db"}


def test_files_of_a_worker_are_whole_from_the_beginning(directory: Path) -> None:
    visits = counter()
    counter("others").inc()
    gauge("livesum", "live").set(1)
    prometheus.prepare(1)
    # A draft that another one has left is of no harm.
    (directory / "counter_1-4.new").touch()
    prometheus.enter(1, 4)
    made = {"counter_1-4.db", "gauge_livesum_1-4.db"}
    assert names(directory) == {"counter_1-0.db", *made}
    assert all((directory / name).stat().st_size for name in made)
    assert samples(directory) == {"visits_total": 0, "others_total": 1}
    visits.inc()
    assert samples(directory)["visits_total"] == 1
    # The next one goes on with it.
    prometheus.enter(1, 4)
    assert samples(directory)["visits_total"] == 1


def test_empty_files_of_the_dead_go(directory: Path) -> None:
    """Theirs alone: a worker that lives may be about to fill it."""
    counter()
    for name in ("counter_1-0.db", "histogram_1-1.db", "histogram_0-1.db"):
        (directory / name).touch()
    prometheus.remove_dead(1, 1)
    assert names(directory) >= {"counter_1-0.db", "histogram_0-1.db"}
    assert "histogram_1-1.db" not in names(directory)
    prometheus.prepare(3)
    assert "histogram_0-1.db" in names(directory)
    (directory / "counter_1-7.db").touch()
    # Of an earlier server there is nobody left.
    prometheus.prepare(1)
    assert names(directory) == {"counter_1-0.db"}
    assert samples(directory) == {"visits_total": 0}


def test_what_could_not_be_loaded_leaves_nothing(directory: Path) -> None:
    others = {f"counter_1{os.getpid()}.db", "counter_1-0.db"}
    for name in others:
        (directory / name).write_bytes(b"something")
    with pytest.raises(SystemExit), prometheus.loading():
        counter().inc()
        gauge("max").set(5)
        assert len(names(directory)) == 4
        sys.exit(1)
    assert names(directory) == others


def test_what_could_be_loaded_is_kept(directory: Path) -> None:
    with prometheus.loading():
        counter().inc()
    assert names(directory) == {f"counter_{os.getpid()}.db"}


@pytest.mark.parametrize("missing", ["the variable", "the library"])
def test_without_it_nothing_happens(
    directory: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing == "the variable":
        monkeypatch.delenv(prometheus.VARIABLE)
    else:
        # As if it weren't installed.
        monkeypatch.setitem(sys.modules, "prometheus_client.values", None)
    (directory / "gauge_liveall_1-0.db").touch()
    prometheus.prepare(1)
    prometheus.enter(1, 0)
    prometheus.remove_dead(1, 0)
    assert names(directory) == {"gauge_liveall_1-0.db"}
    assert prometheus._named == (0, "")


def test_the_variable_was_not_set_for_the_command(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(prometheus.VARIABLE)
    with prometheus.loading():
        # As the library has it when the app imports it then.
        monkeypatch.setattr(values, "ValueClass", values.MutexValue)
    monkeypatch.setenv(prometheus.VARIABLE, str(directory))
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.WARNING, logger.name):
        prometheus.prepare(1)
    assert f"{prometheus.VARIABLE} must be set before" in caplog.text


def test_the_library_was_imported_before(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a plugin of the command, when the variable was not set yet."""
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)
    load()
    counter().inc(3)
    prometheus.prepare(1)
    assert samples(directory) == {"visits_total": 3}


@pytest.mark.parametrize("stage", ["prepare", "enter", "remove_dead"])
def test_a_full_disk_is_no_reason_not_to_serve(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stage: str,
) -> None:
    def fail(self: Path, *args: t.Any, **kwargs: t.Any) -> t.Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    counter().inc()
    prometheus.prepare(1) if stage != "prepare" else None
    (directory / "gauge_liveall_1-0.db").touch()
    monkeypatch.setattr(logger, "propagate", True)
    for name in ("open", "unlink"):
        monkeypatch.setattr(Path, name, fail)
    arguments = (1,) if stage == "prepare" else (1, 0)
    with caplog.at_level(logging.WARNING, logger.name):
        getattr(prometheus, stage)(*arguments)
    monkeypatch.undo()
    assert "No space left on device" in caplog.text
