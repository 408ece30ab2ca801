"""What a fork would break is found, and what can be renewed is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import pty
import random
import select
import socket
import subprocess
import sys
import threading
import types
import typing as t
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest
import socketio
import sqlalchemy
from flask import Flask
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy

from flask_prefork.worker.at_exit import RENEWING
from flask_prefork.zygote import fork_checks
from flask_prefork.zygote.fork_checks import check
from flask_prefork.zygote.fork_checks import renew

#: How long a child may take, in seconds, before the test ends it.
DEADLINE = 20


@pytest.fixture
def app() -> Flask:
    return Flask(__name__)


@pytest.fixture
def news(app: Flask) -> Callable[[], list[str]]:
    """What is found that wasn't there when the test began."""
    known = check(app)

    def find() -> list[str]:
        return [finding for finding in check(app) if finding not in known]

    return find


def only(findings: list[str]) -> str:
    (finding,) = findings
    return finding


News = t.Callable[[], list[str]]


def test_thread(news: News) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="a poller")
    thread.start()
    try:
        finding = only(news())
    finally:
        end.set()
        thread.join()
    assert "'a poller' (threading.Event.wait)" in finding
    assert not news()


def test_thread_of_a_class_of_its_own(news: News) -> None:
    end = threading.Event()

    class Poller(threading.Thread):
        def run(self) -> None:
            end.wait()

    thread = Poller()
    thread.start()
    try:
        assert f"({__name__}.{Poller.__qualname__})" in only(news())
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connection(news: News, app: Flask, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        address = server.getsockname()
        with socket.create_connection(address[:2]) as client:
            findings = check(app, [server])
            shown = f"[{host}]" if ":" in host else host
            assert any(f"connection to {shown}:{address[1]}" in f for f in findings)
            assert client.fileno() >= 0, "looking has left it open"


def test_servers_own_sockets_are_to_be_shared(app: Flask, news: News) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        finding = only(news())
        assert f"of the app's own is bound to 127.0.0.1:{port}" in finding
        # By its address: the process may have a copy of it.
        assert not any(str(port) in finding for finding in check(app, [server]))


def test_datagram_socket(news: News) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert f"datagram socket on 127.0.0.1:{port} is open" in only(news())


def test_other_descriptors_are_of_no_interest(news: News, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull), open(tmp_path / "log", "a"):
        assert not news()


def test_a_finding_explains_its_librarys_threads(
    news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = types.ModuleType("psycopg_pool.base")
    pool_class = type("BasePool", (), {"closed": False})
    library.BasePool = pool_class  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "psycopg_pool.base", library)
    with running("psycopg_pool.sched"):
        assert "the thread" in only(news())
        pool = pool_class()
        assert "psycopg_pool is open" in only(news())
        del pool


@pytest.mark.parametrize("package", sorted(RENEWING))
def test_threads_that_start_anew_by_themselves(news: News, package: str) -> None:
    with running(f"{package}.worker"):
        assert not news()
    with running(f"{package}_lookalike"):
        assert "the thread" in only(news())


@contextlib.contextmanager
def running(module: str) -> Iterator[None]:
    """A thread that runs a function of a module."""
    end = threading.Event()

    def wait() -> None:
        end.wait()

    wait.__module__ = module
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


# SQLAlchemy


def test_without_it_nothing_of_the_app_is_run(app: Flask) -> None:
    """What an app does wrong at a context's end is no matter of the fork's."""
    calls = []
    app.teardown_appcontext(lambda error: calls.append("torn down"))
    check(app)
    renew(app)
    assert not calls


@pytest.fixture
def database(app: Flask, tmp_path: Path) -> Iterator[SQLAlchemy]:
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'test.db'}"
    app.config["SQLALCHEMY_BINDS"] = {"scratch": "sqlite:///:memory:"}
    db = SQLAlchemy(app)
    with app.app_context():
        engines = dict(db.engines)
    yield db
    for engine in engines.values():
        engine.dispose()
    # What tests renewed in this process has to be closed in it, too.
    for pool in fork_checks._foreign_pools:
        pool.dispose()  # type: ignore[attr-defined]
    fork_checks._foreign_pools.clear()
    fork_checks._foreign.clear()


def test_engines_are_renewed(app: Flask, database: SQLAlchemy) -> None:
    with app.app_context():
        engine = database.engine
        with engine.connect() as connection:
            before = connection.connection.dbapi_connection
        renew(app)
        with engine.connect() as connection:
            assert connection.connection.dbapi_connection is not before
    # The zygote's is not closed in its name.
    assert before is not None
    assert before.execute("SELECT 1").fetchone() == (1,)


def test_databases_in_memory_stay(app: Flask, database: SQLAlchemy) -> None:
    with app.app_context():
        scratch = database.engines["scratch"]
        with scratch.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE t (n INTEGER)"))
        renew(app)
        with scratch.begin() as connection:
            connection.execute(sqlalchemy.text("SELECT n FROM t"))


def test_connection_in_use(app: Flask, database: SQLAlchemy) -> None:
    with app.app_context():
        engine = database.engine
    with engine.connect():
        findings = [finding for finding in check(app) if "is in use" in finding]
        assert "'default' (sqlite:///" in only(findings)
    assert not any("SQLAlchemy" in finding for finding in check(app))


def test_password_of_a_database_is_not_told(app: Flask) -> None:
    class Pool:
        def checkedout(self) -> int:
            return 1

    class Engine:
        url = sqlalchemy.make_url("postgresql://me:secret@db/x")
        pool = Pool()

    findings = fork_checks._pools({"default": t.cast(t.Any, Engine())})
    assert "postgresql://me:***@db/x" in only(findings)


def test_engine_that_is_not_flask_sqlalchemys(news: News, tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'own.db'}")
    assert not news()
    with engine.connect():
        assert "dispose(close=False)" in only(news())
    engine.dispose()
    assert not news()


def test_idle_connections_of_a_known_engine_are_not_told(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        engines = {None: engine_at(port)}
        app.extensions["sqlalchemy"] = types.SimpleNamespace(engines=engines)

        def connections() -> int:
            found = check(app, [server])
            return sum(f"connection to 127.0.0.1:{port}" in f for f in found)

        with socket.create_connection(("127.0.0.1", port)):
            assert connections() == 0
            with socket.create_connection(("127.0.0.1", port)):
                assert connections() == 1


def engine_at(port: int) -> t.Any:
    """In the place of an engine with an idle connection to a port."""

    class Engine:
        url = sqlalchemy.make_url(f"postgresql://127.0.0.1:{port}/x")
        dialect = types.SimpleNamespace(name="postgresql")
        pool = types.SimpleNamespace(checkedin=lambda: 1)

        def dispose(self, close: bool = True) -> None:
            self.pool = types.SimpleNamespace(checkedin=lambda: 0)

    return Engine()


def test_connections_that_a_worker_has_left_to_the_zygote(app: Flask) -> None:
    """It still has them when it becomes the next zygote itself, and no pool has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        engines = {None: engine_at(port)}
        app.extensions["sqlalchemy"] = types.SimpleNamespace(engines=engines)

        def connections() -> int:
            found = check(app, [server])
            return sum(f"connection to 127.0.0.1:{port}" in f for f in found)

        try:
            with socket.create_connection(("127.0.0.1", port)):
                renew(app)
                fork_checks.close_connections(app)
                assert connections() == 0
                # This one is not among them.
                with socket.create_connection(("127.0.0.1", port)):
                    assert connections() == 1
        finally:
            fork_checks._foreign_pools.clear()
            fork_checks._foreign.clear()


def test_an_engine_with_options_of_its_own(
    app: Flask, news: News, database: SQLAlchemy
) -> None:
    """It has the same pool."""
    with app.app_context():
        engine = database.engine
    derived = engine.execution_options(isolation_level="AUTOCOMMIT")
    with derived.connect():
        pass
    assert engine.pool.checkedin() == 1  # type: ignore[attr-defined]
    assert not news()


def test_a_database_in_memory_is_each_workers_own(news: News) -> None:
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.QueuePool)
    with engine.connect():
        assert not news()
    engine.dispose()


def test_what_nobody_holds_any_more(news: News) -> None:
    """Though the garbage collector has not come to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        known = len(news())
        cycle: list[t.Any] = [socket.create_connection(server.getsockname())]
        cycle.append(cycle)
        assert len(news()) == known + 1
        gc.disable()
        try:
            with pytest.warns(ResourceWarning):
                del cycle
                assert len(news()) == known
        finally:
            gc.enable()


def test_what_has_no_name_is_found_beside_a_library(news: News) -> None:
    """A library is explained by what is reported of it, and nothing else is."""
    ours, theirs = pty.openpty()
    with (
        contextlib.closing(asyncio.new_event_loop()),
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen(["cat"], stdin=theirs, stdout=theirs) as process,
    ):
        try:
            client = socket.create_connection(server.getsockname()).detach()
            peer, _ = server.accept()
            findings = "\n".join(news())
            os.close(client)
            peer.close()
        finally:
            process.kill()
    os.close(ours)
    os.close(theirs)
    assert "event loop" in findings
    assert f"a pseudo terminal to the process {process.pid} (cat)" in findings
    assert "a connection to 127.0.0.1:" in findings


def test_what_is_frozen(app: Flask, news: News) -> None:
    """As all is that a promoted zygote has loaded: who holds what is found there."""
    loop = asyncio.new_event_loop()
    gc.freeze()
    try:
        assert "event loop" in only(news())
        assert gc.get_freeze_count(), "it stays so"
    finally:
        gc.unfreeze()
        loop.close()


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("postgresql://db/x", {5432, ".s.PGSQL.5432"}),
        ("postgresql://db:5433/x", {5433, ".s.PGSQL.5433"}),
        ("postgresql:///x?host=/run/postgresql&port=5434", {5434, ".s.PGSQL.5434"}),
        ("postgresql+pg8000:///x?unix_sock=/run/.s.PGSQL.5432", {".s.PGSQL.5432"}),
        ("mysql+pymysql://db/x", {3306}),
        ("mysql+pymysql://db/x?unix_socket=/run/mysqld.sock", {"mysqld.sock"}),
        ("firebird://db/x", {0}),
    ],
)
def test_where_an_engines_connections_lead(url: str, places: set[int | str]) -> None:
    class Pool:
        def checkedin(self) -> int:
            return 2

    class Engine:
        pool = Pool()

        def __init__(self) -> None:
            self.url = sqlalchemy.make_url(url)
            name = self.url.get_backend_name()
            self.dialect = types.SimpleNamespace(name=name)

    renewed = fork_checks._renewed_of(t.cast(t.Any, Engine()))
    assert renewed.places == places
    assert renewed.most == 2


# Random numbers and the log


def test_numpys_random_numbers(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    numpy_random = types.ModuleType("numpy.random")
    numpy_random.seed = lambda: calls.append("seed")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "numpy.random", numpy_random)
    renew(app)
    assert calls == ["seed"]


def in_child(run: Callable[[], bytes]) -> bytes:
    """What a forked process answers; nothing if it hangs."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, run())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        ready, _, _ = select.select([file], [], [], DEADLINE)
        if not ready:
            os.kill(pid, 9)
        answer = file.read()
    os.waitpid(pid, 0)
    return answer


def test_message_queues_of_socketio_get_an_id(app: Flask) -> None:
    """They ignore what comes from their own one."""
    manager = socketio.PubSubManager()
    SocketIO(app, client_manager=manager, async_mode="threading")
    loaded = manager.host_id
    renew(app)
    first = manager.host_id
    renew(app)
    assert len({loaded, first, manager.host_id}) == 3


def test_socketio_without_a_message_queue(app: Flask) -> None:
    extension = SocketIO(app, async_mode="threading")
    renew(app)
    assert not hasattr(extension.server.manager, "host_id")
    # One that has no server yet.
    app.extensions["socketio"] = SocketIO()
    renew(app)


def test_python_itself_seeds_random_again() -> None:
    def draw() -> bytes:
        return str(random.random()).encode()

    drawn = {in_child(draw), in_child(draw), draw()}
    assert len(drawn) == 3


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_python_itself_renews_the_locks_of_logging() -> None:
    handler = logging.FileHandler(os.devnull)
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        with handler.lock:
            held.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def emit() -> bytes:
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "x", (), None))
        return b"done"

    try:
        assert in_child(emit) == b"done"
    finally:
        end.set()
        thread.join()
        handler.close()
