"""What a fork would break in the app: found before, and renewed after.

A forked process has its parent's memory, its descriptors and only the thread
that forked (``fork(2)``). :func:`check` runs in the zygote before the first fork and
reports what the app has that can't be shared; :func:`renew` runs in each worker, and
:func:`close_connections` in one that is to be promoted.

What needs no renewal: CPython renews the locks of ``logging`` and seeds
``random`` again in each child (both by ``os.register_at_fork``).
"""

from __future__ import annotations

import gc
import socket
import sys
import threading
import typing as t
import uuid

from ..worker.at_exit import RENEWING
from ..worker.leaving import what_runs
from . import fork_files
from . import fork_holders
from . import fork_libraries
from . import fork_pipes
from . import fork_sockets
from .fork_libraries import connections
from .fork_libraries import HOOK
from .fork_libraries import is_in_memory
from .fork_pipes import Own
from .fork_sockets import Renewed

if t.TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy.engine import Engine

#: Ports of database servers for URLs that name none, by SQLAlchemy's dialect.
_PORTS = {
    "postgresql": 5432,
    "mysql": 3306,
    "mariadb": 3306,
    "mssql": 1433,
    "oracle": 1521,
}

_NOTHING = Own()
#: Python 3.12 has frozen some objects when it begins.
_FROZEN_BY_PYTHON = gc.get_freeze_count()

#: Pools as they were before the fork. Their connections are the zygote's: one
#: that is finalized here might say goodbye to its server in the zygote's name.
_foreign_pools: list[object] = []
#: And how many there are: a worker that becomes a zygote still has their descriptors,
#: and so have all that it forks.
_foreign: list[Renewed] = []


def check(
    app: Flask, listeners: t.Iterable[socket.socket] = (), own: Own = _NOTHING
) -> list[str]:
    """Look for what workers can't share.

    :param listeners: Sockets that they do share.
    :param own: What else is the server's.
    :return: A sentence or two for each finding: what it is, and what to do.
    """
    is_frozen = gc.get_freeze_count() > _FROZEN_BY_PYTHON
    _uncover()
    try:
        return _find(app, {sock.getsockname() for sock in listeners}, own)
    finally:
        if is_frozen:
            gc.freeze()


def _uncover() -> None:
    """Let the garbage collector show all that there is, and nothing that there isn't.

    It doesn't show what is frozen: in a zygote that was a worker that is all that was
    loaded, and so who holds a connection. What nobody holds may still have a
    descriptor, as part of a cycle that wasn't collected yet.
    """
    gc.unfreeze()
    gc.collect()


def _find(app: Flask, shared: t.Collection[t.Any], own: Own) -> list[str]:
    engines = _engines(app)
    renewed = [*map(_renewed_of, engines.values()), *_foreign]
    objects = gc.get_objects()
    traps = fork_libraries.find(objects, list(engines.values()))
    # What has no name to go by is explained by nothing.
    explained = {trap.explains for trap in traps if trap.explains}
    findings = [
        *_threads(explained | RENEWING),
        *fork_sockets.find(shared, renewed, objects, explained),
        *_files(own, objects, explained),
        *_pools(engines),
        *(trap.advice for trap in traps),
    ]
    # Two that read the same are one thing to do.
    return list(dict.fromkeys(findings))


def renew(app: Flask) -> None:
    """Renew what can be renewed in a worker without the app's help."""
    for engine in _engines(app).values():
        _foreign_pools.append(engine.pool)
        _foreign.append(_renewed_of(engine))
        engine.dispose(close=False)
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()
    _rename_socketio(app)


def _rename_socketio(app: Flask) -> None:
    """Give the worker an ID of its own in the message queue of Flask-SocketIO.

    It is made with the manager (``socketio.PubSubManager``), and who has it ignores
    messages with the same one. If all workers had that of the zygote, their clients
    would hear nothing of each other.
    """
    server = getattr(app.extensions.get("socketio"), "server", None)
    manager = getattr(server, "manager", None)
    if manager is not None and hasattr(manager, "host_id"):
        manager.host_id = uuid.uuid4().hex


def close_connections(app: Flask) -> None:
    """Close what can be closed in a worker that is to be forked as a zygote."""
    for engine in _engines(app).values():
        engine.dispose()


# Threads


def threads() -> list[str]:
    """The threads beside this one, by name, and what they run."""
    return [
        f"{thread.name!r} ({what_runs(thread)})"
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
    ]


def _threads(explained: t.Collection[str]) -> list[str]:
    """Findings among the threads.

    :param explained: Packages whose threads aren't reported one by one.
    """
    return [
        f"the thread {thread.name!r} ({what}) runs; workers won't have it, and a lock"
        f" that it holds stays locked there. Start it {HOOK}."
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
        and (what := what_runs(thread)).partition(".")[0] not in explained
    ]


# Pipes and files


def _files(
    own: Own, objects: list[t.Any], explained: t.Collection[str]
) -> t.Iterator[str]:
    """Findings among pipes and files, and who holds them.

    :param explained: Packages whose pipes and files aren't reported one by one.
    """
    helpers, files = fork_pipes.find(own, objects), fork_files.find(own.fds)
    if not (helpers or files):
        return
    raw = fork_holders.raw_files(objects)
    wanted = [end.fd for helper in helpers for end in helper.ends]
    wanted += [file.fd for file in files]
    holders = fork_holders.find({fd: raw[fd] for fd in wanted if fd in raw}, objects)
    nobody = fork_holders.NOBODY
    for helper in helpers:
        known = [holders.get(end.fd, nobody) for end in helper.ends]
        holder = min(known, key=fork_holders.rank)
        if holder.package not in explained:
            yield fork_pipes.describe(helper, holder)
    for file in files:
        holder = holders.get(file.fd, nobody)
        is_harmless = fork_files.is_harmless(file, file.fd in raw, holder)
        if not is_harmless and holder.package not in explained:
            yield fork_files.describe(file, holder)


# SQLAlchemy


def _engines(app: Flask) -> dict[str, Engine]:
    """The engines that Flask-SQLAlchemy made for the app, by their bind's name.

    Without those of databases in memory: their connections are memory, of which
    each worker has its own copy, and a new one would be empty.
    """
    extension = app.extensions.get("sqlalchemy")
    if extension is None:
        # Nothing the app does when a context ends keeps it from being served.
        return {}
    with app.app_context():
        engines = getattr(extension, "engines", {})
    return {
        name or "default": engine
        for name, engine in engines.items()
        if not is_in_memory(engine)
    }


def _renewed_of(engine: Engine) -> Renewed:
    """The idle connections of an engine, which :func:`renew` leaves to the zygote."""
    url = engine.url
    said = str(url.query.get("port"))
    usual = _PORTS.get(engine.dialect.name, 0)
    port = url.port or (int(said) if said.isdecimal() else usual)
    places: set[int | str] = {port}
    if (path := url.query.get("unix_socket")) or (path := url.query.get("unix_sock")):
        places = {str(path).rpartition("/")[2]}
    elif engine.dialect.name == "postgresql":
        # Its servers' unix sockets have such names.
        places.add(f".s.PGSQL.{port}")
    return Renewed(places, connections(engine, "checkedin"))


def _pools(engines: dict[str, Engine]) -> list[str]:
    return [
        f"a connection of the SQLAlchemy engine {name!r} ({engine.url!r}) is in use;"
        " all workers would use it at once. Close the session or connection that the"
        " app has opened while it was loaded."
        for name, engine in engines.items()
        if connections(engine, "checkedout")
    ]
