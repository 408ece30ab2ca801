"""What a fork would break in the app: found before, and mended after.

A forked process has its parent's memory, its descriptors and only the thread
that forked (``fork(2)``). :func:`look` runs in the zygote before the first fork and
says what the app has that can't be shared; :func:`mend` runs in each worker.

What needs no mending: CPython renews the locks of ``logging`` and seeds
``random`` again in each child (both by ``os.register_at_fork``).
"""

from __future__ import annotations

import gc
import os
import socket
import stat
import sys
import threading
import typing as t

from .prometheus import VARIABLE

if t.TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy.engine import Engine

_HOOK = "in a hook, Prefork.after_fork"

#: Ports of database servers for URLs that name none, by SQLAlchemy's dialect.
_PORTS = {
    "postgresql": 5432,
    "mysql": 3306,
    "mariadb": 3306,
    "mssql": 1433,
    "oracle": 1521,
}

#: Pools as they were before the fork. Their connections are the zygote's: one
#: that is finalized here might say goodbye to its server in the zygote's name.
_foreign_pools: list[object] = []


def look(app: Flask, listeners: t.Iterable[socket.socket] = ()) -> list[str]:
    """Look for what workers can't share.

    :param listeners: Sockets that they do share.
    :return: A sentence or two for each finding: what it is, and what to do.
    """
    engines = _engines(app)
    return [
        *_threads(),
        *_sockets({sock.getsockname() for sock in listeners}, engines),
        *_pools(engines),
        *_objects(engines),
    ]


def mend(app: Flask) -> None:
    """Renew what can be renewed in a worker without the app's help."""
    for engine in _engines(app).values():
        _foreign_pools.append(engine.pool)
        engine.dispose(close=False)
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


# Threads


def _threads() -> list[str]:
    return [
        f"the thread {thread.name!r} ({_what_runs(thread)}) runs; workers won't have"
        f" it, and a lock that it holds stays locked there. Start it {_HOOK}."
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
    ]


def _what_runs(thread: threading.Thread) -> str:
    """Whose a thread is: its function, or its class."""
    what = getattr(thread, "_target", None) or type(thread)
    module = getattr(what, "__module__", None) or "?"
    return f"{module}.{getattr(what, '__qualname__', what)}"


# Sockets


def _sockets(shared: set[t.Any], engines: dict[str, Engine]) -> list[str]:
    """Findings among the descriptors.

    :param shared: Own addresses of sockets that workers are to share.
    :param engines: Whose idle connections each worker leaves alone.
    """
    # How many sockets to each port are known to be of no harm.
    mended: dict[int, int] = {}
    for engine in engines.values():
        port = engine.url.port or _PORTS.get(engine.dialect.name, 0)
        mended[port] = mended.get(port, 0) + _count(engine, "checkedin")
    findings = []
    for sock in _inet_sockets():
        with sock:
            here = sock.getsockname()
            peer = _peer(sock)
            if here in shared:
                continue
            if peer is not None and mended.get(peer[1], 0):
                mended[peer[1]] -= 1
                continue
            findings.append(_describe(sock, here, peer))
    return findings


def _inet_sockets() -> t.Iterator[socket.socket]:
    """Copies of all Internet sockets of this process; the caller closes them."""
    for name in os.listdir("/dev/fd"):
        fd = int(name)
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            sock = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue  # the listing's own descriptor
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            yield sock
        else:
            sock.close()


def _peer(sock: socket.socket) -> t.Any:
    try:
        return sock.getpeername()
    except OSError:
        return None


def _describe(sock: socket.socket, here: t.Any, peer: t.Any) -> str:
    if peer is not None:
        return (
            f"a connection to {_address(peer)} is open; all workers would read and"
            f" write it at once. Open it {_HOOK}, or when it is first used."
        )
    if sock.type == socket.SOCK_STREAM:
        return (
            f"a socket of the app's own is bound to {_address(here)}; all workers"
            f" would accept from it. Open it in a process of its own."
        )
    return (
        f"a datagram socket ({_address(here)}) is open; what it receives goes to any"
        f" of the workers. Open it {_HOOK}."
    )


def _address(address: t.Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# SQLAlchemy


def _engines(app: Flask) -> dict[str, Engine]:
    """The engines that Flask-SQLAlchemy made for the app, by their bind's name.

    Without those of databases in memory: their connections are memory, of which
    each worker has its own copy, and a new one would be empty.
    """
    with app.app_context():
        engines = getattr(app.extensions.get("sqlalchemy"), "engines", {})
    return {
        name or "default": engine
        for name, engine in engines.items()
        if not _is_in_memory(engine)
    }


def _is_in_memory(engine: Engine) -> bool:
    if engine.dialect.name != "sqlite":
        return False
    database, mode = engine.url.database, engine.url.query.get("mode")
    return not database or ":memory:" in database or mode == "memory"


def _count(engine: Engine, what: str) -> int:
    """Connections of an engine's pool, as far as its kind of pool counts them.

    :param what: ``checkedin`` or ``checkedout``.
    """
    count = getattr(engine.pool, what, None)
    return int(count()) if count is not None else 0


def _pools(engines: dict[str, Engine]) -> list[str]:
    return [
        f"a connection of the SQLAlchemy engine {name!r} ({engine.url!r}) is in use;"
        " all workers would use it at once. Close the session or connection that the"
        " app has opened while it was loaded."
        for name, engine in engines.items()
        if _count(engine, "checkedout")
    ]


# Objects of libraries that keep something a fork breaks


def _is_open_loop(loop: t.Any) -> bool:
    return not loop.is_closed()


def _has_connections(engine: t.Any) -> bool:
    return bool(_count(engine, "checkedin") or _count(engine, "checkedout"))


def _counts_alone(metric: t.Any) -> bool:
    return VARIABLE not in os.environ


class _Trap(t.NamedTuple):
    """A class whose instances a fork breaks.

    :param module: Where the class is, if it is loaded.
    :param name: Its name there.
    :param is_set: Whether an instance is in that state.
    :param advice: What it is, and what to do.
    """

    module: str
    name: str
    is_set: t.Callable[[t.Any], bool]
    advice: str


_TRAPS = (
    _Trap(
        "asyncio.events",
        "AbstractEventLoop",
        _is_open_loop,
        "an asyncio event loop is open; all workers would wait on its one selector."
        f" Close it, and make another {_HOOK}.",
    ),
    _Trap(
        "sqlalchemy.engine.base",
        "Engine",
        _has_connections,
        "a SQLAlchemy engine that Flask-SQLAlchemy doesn't know has connections; all"
        f" workers would use them at once. Call engine.dispose(close=False) {_HOOK}.",
    ),
    _Trap(
        "grpc",
        "Channel",
        lambda channel: True,
        "a gRPC channel is open; its threads are missing in workers, and calls may"
        f" hang. Open it {_HOOK}.",
    ),
    _Trap(
        "pymongo.mongo_client",
        "MongoClient",
        lambda client: bool(getattr(client, "_opened", True)),
        "a MongoClient is connected; it must not be used after a fork. Make it with"
        f" connect=False, or {_HOOK}.",
    ),
    _Trap(
        "prometheus_client.metrics",
        "MetricWrapperBase",
        _counts_alone,
        "Prometheus metrics are counted in each worker for itself, so that a scrape"
        f" sees one worker's. Set {VARIABLE} for the command.",
    ),
)


def _objects(engines: dict[str, Engine]) -> list[str]:
    """Findings among the objects that there are."""
    traps = {
        getattr(module, trap.name): trap
        for trap in _TRAPS
        if (module := sys.modules.get(trap.module)) is not None
    }
    if not traps:
        return []
    mended = list(engines.values())
    objects = gc.get_objects()
    # By type and not by isinstance(), which proxies answer for what they stand for.
    caught: dict[type, _Trap] = {}
    for kind in set(map(type, objects)):
        for base in kind.__mro__:
            if base in traps:
                caught[kind] = traps[base]
    found = [
        caught[type(one)]
        for one in objects
        if type(one) in caught
        and not any(one is engine for engine in mended)
        and caught[type(one)].is_set(one)
    ]
    return [trap.advice for trap in _TRAPS if trap in found]
