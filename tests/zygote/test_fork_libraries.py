"""What known libraries have that a fork breaks is found."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import multiprocessing.pool
import sys
import types
import typing as t
from collections.abc import Callable

import pytest

from flask_prefork.zygote.fork_libraries import find

News = Callable[[], list[str]]


@pytest.fixture
def news() -> News:
    """The advice for what wasn't there when the test began."""

    def found() -> list[str]:
        return [trap.advice for trap in find(gc.get_objects(), [])]

    known = found()
    return lambda: [advice for advice in found() if advice not in known]


def only(findings: list[str]) -> str:
    (finding,) = findings
    return finding


def test_event_loop(news: News) -> None:
    loop = asyncio.new_event_loop()
    try:
        assert "asyncio event loop" in only(news())
    finally:
        loop.close()
    assert not news()


def test_proxies_are_not_taken_for_what_they_stand_for(news: News) -> None:
    class Proxy:
        @property
        def __class__(self) -> type:  # type: ignore[override]
            raise RuntimeError("outside of its context")

    proxy = Proxy()
    assert not news()
    del proxy


def test_pools_of_processes(news: News) -> None:
    """Made by the standard library, but none has a process before it has work."""
    with concurrent.futures.ProcessPoolExecutor(1):
        assert "a ProcessPoolExecutor was made" in only(news())
    assert not news()
    with multiprocessing.pool.ThreadPool(1):
        assert "a multiprocessing Pool was made" in only(news())
    assert not news()


@pytest.mark.parametrize(
    ("module", "name", "attributes", "named"),
    [
        ("grpc", "Channel", {}, "gRPC channel"),
        ("pymongo", "MongoClient", {"_opened": True}, "MongoClient"),
        ("pymongo", "MongoClient", {"_opened": False}, None),
        ("psycopg_pool.base", "BasePool", {"closed": False}, "psycopg_pool is open"),
        ("psycopg_pool.base", "BasePool", {"closed": True}, None),
        ("kafka", "KafkaProducer", {}, "Kafka producer"),
        ("confluent_kafka.cimpl", "Consumer", {}, "Kafka producer or consumer"),
        ("apscheduler.schedulers.base", "BaseScheduler", {"running": True}, "AP"),
        ("apscheduler.schedulers.base", "BaseScheduler", {"running": False}, None),
        ("numpy.random", "Generator", {}, "numpy random generator"),
    ],
)
def test_objects_of_libraries(
    news: News,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    name: str,
    attributes: dict[str, t.Any],
    named: str | None,
) -> None:
    # In the libraries' place: they are large, and what is looked at is little.
    library = types.ModuleType(module)
    base = type(name, (), attributes)
    setattr(library, name, base)
    monkeypatch.setitem(sys.modules, module, library)
    assert not news()
    thing = type("Derived", (base,), {})()
    findings = news()
    assert len(findings) == (named is not None)
    assert all(named in finding for finding in findings if named)
    del thing


def test_numpys_own_state_is_seeded_anew(
    news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_class = type("RandomState", (), {})
    library, inside = map(types.ModuleType, ("numpy.random", "numpy.random.mtrand"))
    library.RandomState = state_class  # type: ignore[attr-defined]
    inside._rand = state_class()  # type: ignore[attr-defined]
    for module in (library, inside):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    assert not news()
    state = state_class()
    assert "numpy random generator" in only(news())
    del state


def test_what_is_of_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("grpc")
    channel_class = type("Channel", (), {})
    library.Channel = channel_class  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "grpc", library)
    one, other = channel_class(), channel_class()
    assert [trap.name for trap in find([one, other], [one])] == ["Channel"]
    assert find([one, other], [other, one]) == []


def test_a_library_that_lacks_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another version, or another package of that name."""
    monkeypatch.setitem(sys.modules, "kafka", types.ModuleType("kafka"))
    assert find([object()], []) == []
