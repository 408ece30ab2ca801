"""Has something of the library that ``LIBRARY`` names, made while it is loaded.

The port of a peer that accepts connections is in ``PEER``.
"""

from __future__ import annotations

import os
import threading
import typing as t
from collections.abc import Callable

from flask import Flask

app = Flask(__name__)
peer = int(os.environ["PEER"])


def apscheduler() -> t.Any:
    from apscheduler.schedulers.background import BackgroundScheduler

    scheduler = BackgroundScheduler()
    scheduler.start()
    return scheduler


def grpc() -> t.Any:
    import grpc

    return grpc.insecure_channel(f"127.0.0.1:{peer}")


def kafka() -> t.Any:
    from kafka import KafkaProducer

    return KafkaProducer(bootstrap_servers=f"127.0.0.1:{peer}", api_version=(2, 5))


def numpy() -> t.Any:
    import numpy.random

    return numpy.random.default_rng()


def numpy_global() -> t.Any:
    import numpy.random

    return numpy.random.random()


def opentelemetry() -> t.Any:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    return provider


def psycopg_pool() -> t.Any:
    from psycopg_pool import ConnectionPool

    return ConnectionPool(
        f"host=127.0.0.1 port={peer}", min_size=0, max_size=2, open=True
    )


def pymongo() -> t.Any:
    import pymongo

    return pymongo.MongoClient("127.0.0.1", peer)


def pymongo_unconnected() -> t.Any:
    import pymongo

    return pymongo.MongoClient("127.0.0.1", peer, connect=False)


def redis() -> t.Any:
    import redis

    # Nobody answers, so it says nothing when it connects.
    quiet: dict[str, t.Any] = {"redis_connect_func": lambda connection: None}
    pool = redis.ConnectionPool(host="127.0.0.1", port=peer, protocol=2, **quiet)
    pool.release(pool.get_connection())
    return pool


def sentry_sdk() -> t.Any:
    import sentry_sdk

    # Nobody listens there: what it sends at once would leave a connection.
    sentry_sdk.init("http://key@127.0.0.1:1/1", shutdown_timeout=0)
    sentry_sdk.capture_message("loaded")
    return sentry_sdk


makers: dict[str, Callable[[], t.Any]] = {
    maker.__name__: maker
    for maker in (
        apscheduler,
        grpc,
        kafka,
        numpy,
        numpy_global,
        opentelemetry,
        psycopg_pool,
        pymongo,
        pymongo_unconnected,
        redis,
        sentry_sdk,
    )
}
made = makers[os.environ["LIBRARY"]]()
if os.environ["LIBRARY"] == "redis":
    connections = [one._sock.getsockname() for one in made._available_connections]


@app.get("/threads")
def threads() -> list[str]:
    """Threads that run in the worker, once it uses the library."""
    if os.environ["LIBRARY"] == "sentry_sdk":
        made.capture_message("used")
    return [thread.name for thread in threading.enumerate()]


@app.get("/connection")
def connection() -> dict[str, t.Any]:
    """The worker's connection of redis, and those that it was forked with."""
    mine = made.get_connection()
    try:
        return {"mine": mine._sock.getsockname(), "loaded": connections}
    finally:
        made.release(mine)
