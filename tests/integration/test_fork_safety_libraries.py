"""What known libraries have when the app is loaded: told, unless they mend it."""

from __future__ import annotations

import socket
import typing as t
from collections.abc import Iterator

import pytest

from .conftest import Run
from .environments import Environment
from .environments import installed
from .server import APPS
from .server import Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def libraries() -> Environment:
    return installed(
        "libraries",
        "apscheduler<4",
        "grpcio",
        "kafka-python",
        "numpy",
        "opentelemetry-sdk",
        "psycopg[binary,pool]",
        "pymongo",
        "redis",
        "sentry-sdk",
    )


Load = t.Callable[[str], Server]


@pytest.fixture
def load(libraries: Environment, run: Run) -> Iterator[Load]:
    """Starts an app that has something of a library."""
    with socket.create_server(("127.0.0.1", 0)) as peer:

        def start(library: str) -> Server:
            line = [libraries.program("flask"), "--app", str(APPS / "library.py")]
            env = {"LIBRARY": library, "PEER": str(peer.getsockname()[1])}
            options = ["--port", "0", "--min-idle", "1", "--graceful-timeout", "1"]
            return run([*line, "prefork-run", *options], env=env)

        yield start


def told(server: Server) -> list[str]:
    lines = server.log().splitlines()
    return [line for line in lines if line.startswith("Before the first fork: ")]


@pytest.mark.parametrize(
    ("library", "what", "advice"),
    [
        ("apscheduler", "an APScheduler runs", "in a process of its own"),
        ("grpc", "a gRPC channel is open", "after_fork"),
        ("kafka", "a Kafka producer or consumer", "after_fork"),
        ("numpy", "a numpy random generator", "after_fork"),
        ("psycopg_pool", "a psycopg_pool is open", "open=False"),
        ("pymongo", "a MongoClient is connected", "connect=False"),
    ],
)
def test_one_finding_with_its_advice(
    load: Load, library: str, what: str, advice: str
) -> None:
    """Neither its threads nor its connections are told of besides."""
    (finding,) = told(load(library))
    assert what in finding
    assert advice in finding


@pytest.mark.parametrize("library", ["numpy_global", "pymongo_unconnected"])
def test_what_is_of_no_harm(load: Load, library: str) -> None:
    assert told(load(library)) == []


@pytest.mark.parametrize(
    ("library", "thread"),
    [
        ("opentelemetry", "OtelBatchSpanRecordProcessor"),
        ("sentry_sdk", "sentry-sdk.BackgroundWorker"),
    ],
)
def test_threads_that_start_anew_by_themselves(
    load: Load, library: str, thread: str
) -> None:
    server = load(library)
    assert told(server) == []
    assert thread in server.get("/threads").json


def test_connections_that_are_renewed_by_themselves(load: Load) -> None:
    server = load("redis")
    assert told(server) == []
    seen = server.get("/connection").json
    assert len(seen["loaded"]) == 1
    assert seen["mine"] not in seen["loaded"]
