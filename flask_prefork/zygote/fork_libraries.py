"""What known libraries have that a fork breaks, and what they renew by themselves.

Called by :func:`.fork_checks.check` in the zygote. Only libraries that the app has
loaded are looked at, and none is imported for it.
"""

from __future__ import annotations

import os
import sys
import typing as t

from .prometheus import VARIABLE

#: Where to make what can't be shared.
HOOK = "in a hook, Prefork.after_fork"


class Trap(t.NamedTuple):
    """A class whose instances a fork breaks.

    :param module: Where the class is, if it is loaded.
    :param name: Its name there.
    :param advice: What it is, and what to do.
    :param is_set: Whether an instance is in that state.
    :param explains: A package whose threads and connections are reported by this.
    :param shares: What an instance has in common with others that stand for the same.
    """

    module: str
    name: str
    advice: str
    is_set: t.Callable[[t.Any], bool] = lambda one: True
    explains: str = ""
    shares: t.Callable[[t.Any], object] = lambda one: one


def find(objects: list[t.Any], renewed: t.Collection[t.Any]) -> list[Trap]:
    """Look for instances of the classes of :data:`TRAPS`.

    :param objects: All that the garbage collector knows.
    :param renewed: Those of no harm.
    :return: Each trap that is set, once.
    """
    traps = {
        getattr(module, trap.name, None): trap
        for trap in TRAPS
        if (module := sys.modules.get(trap.module)) is not None
    }
    # By type and not by isinstance(), which proxies answer for what they stand for.
    caught: dict[type, Trap] = {}
    for kind in set(map(type, objects)):
        for base in kind.__mro__:
            if base in traps:
                caught[kind] = traps[base]
    found = [
        trap
        for one in objects
        if (trap := caught.get(type(one))) is not None
        and not any(trap.shares(one) is trap.shares(other) for other in renewed)
        and trap.is_set(one)
    ]
    return [trap for trap in TRAPS if trap in found]


def connections(engine: t.Any, what: str) -> int:
    """Connections of a SQLAlchemy engine's pool, as far as its kind counts them.

    :param what: ``checkedin`` or ``checkedout``.
    """
    count = getattr(engine.pool, what, None)
    return int(count()) if count is not None else 0


def _is_open_loop(loop: t.Any) -> bool:
    return not loop.is_closed()


def is_in_memory(engine: t.Any) -> bool:
    """Whether a SQLAlchemy engine's database is memory, of which each worker has its
    own copy."""
    if engine.dialect.name != "sqlite":
        return False
    database, mode = engine.url.database, engine.url.query.get("mode")
    return not database or ":memory:" in database or mode == "memory"


def _has_connections(engine: t.Any) -> bool:
    count = connections(engine, "checkedin") + connections(engine, "checkedout")
    return count > 0 and not is_in_memory(engine)


def _counts_alone(metric: t.Any) -> bool:
    return VARIABLE not in os.environ


def _is_not_numpys_own(state: t.Any) -> bool:
    """Other than the one behind ``numpy.random.random()``, which is seeded anew."""
    return state is not getattr(sys.modules["numpy.random.mtrand"], "_rand", None)


_MONGO = (
    "a MongoClient is connected; it must not be used after a fork. Make it with"
    f" connect=False, or {HOOK}."
)
_NUMPY = (
    "a numpy random generator was made; all workers would draw the same numbers from"
    f" it. Make it {HOOK}."
)
_KAFKA = (
    "a Kafka producer or consumer was made; its threads are missing in workers, and"
    f" messages would stay in its queue. Make it {HOOK}."
)

TRAPS = (
    Trap(
        "asyncio.events",
        "AbstractEventLoop",
        "an asyncio event loop is open; all workers would wait on its one selector."
        f" Close it, and make another {HOOK}.",
        _is_open_loop,
    ),
    Trap(
        "sqlalchemy.engine.base",
        "Engine",
        "a SQLAlchemy engine that Flask-SQLAlchemy doesn't know has connections; all"
        f" workers would use them at once. Call engine.dispose(close=False) {HOOK}.",
        _has_connections,
        # One with execution_options() has the pool of the one that it was made from.
        shares=lambda engine: engine.pool,
    ),
    Trap(
        "psycopg_pool.base",
        "BasePool",
        "a psycopg_pool is open; its threads are missing in workers, who would all use"
        " its connections at once. Make it with open=False, and call its open()"
        f" {HOOK}.",
        lambda pool: not pool.closed,
        explains="psycopg_pool",
    ),
    Trap(
        "grpc",
        "Channel",
        "a gRPC channel is open; its threads are missing in workers, and calls may"
        f" hang. Open it {HOOK}.",
    ),
    Trap(
        "pymongo",
        "MongoClient",
        _MONGO,
        lambda client: bool(getattr(client, "_opened", True)),
        explains="pymongo",
    ),
    Trap("kafka", "KafkaProducer", _KAFKA, explains="kafka"),
    Trap("kafka", "KafkaConsumer", _KAFKA, explains="kafka"),
    Trap("confluent_kafka.cimpl", "Producer", _KAFKA),
    Trap("confluent_kafka.cimpl", "Consumer", _KAFKA),
    Trap(
        "apscheduler.schedulers.base",
        "BaseScheduler",
        "an APScheduler runs; its jobs run in the process that has loaded the app, in"
        " both generations' during a reload, and what workers add to it never runs."
        " Run it in a process of its own.",
        lambda scheduler: bool(scheduler.running),
        explains="apscheduler",
    ),
    Trap(
        "concurrent.futures.process",
        "ProcessPoolExecutor",
        "a ProcessPoolExecutor was made; all workers would share its queues, and take"
        f" each other's results. Make it {HOOK}, or when it is first used.",
        lambda executor: not executor._shutdown_thread,
    ),
    Trap(
        "multiprocessing.pool",
        "Pool",
        "a multiprocessing Pool was made; its threads are missing in workers, and"
        f" calls would hang. Make it {HOOK}, or when it is first used.",
        lambda pool: pool._state == "RUN",
        explains="multiprocessing",
    ),
    Trap("numpy.random", "Generator", _NUMPY),
    Trap("numpy.random", "RandomState", _NUMPY, _is_not_numpys_own),
    Trap(
        "prometheus_client.metrics",
        "MetricWrapperBase",
        "Prometheus metrics are counted in each worker for itself, so that a scrape"
        f" sees one worker's. Set {VARIABLE} for the command.",
        _counts_alone,
    ),
)
