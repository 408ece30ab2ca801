"""Databases, and stores that all workers share."""

from __future__ import annotations

from .base import kill_worker
from .base import NotHere
from .base import Ordeal
from .base import ordeal
from .base import RECYCLED
from .base import SERVER
from .base import Trial
from .base import warnings
from .base import World
from .services import connected
from .services import open_postgres
from .services import open_redis


def psycopg_pool(world: World) -> None:
    """A pool for each worker; no connection is used by two of them."""
    database = open_postgres(world)
    with connected(database) as connection:
        connection.run("create table orders (number text primary key)")
    env = {"DATABASE_URL": database}
    early = world.serve("psycopg_app", env={**env, "OPEN": "1"})
    assert any("psycopg_pool is open" in one for one in warnings(early))
    early.stop()
    server = world.serve("psycopg_app", *RECYCLED, env=env)
    assert not warnings(server), warnings(server)
    _check_orders(database, ordeal(server))


def flask_sqlalchemy(world: World) -> None:
    """Connections that the app has opened while it was loaded are replaced."""
    database = open_postgres(world)
    url = database.replace("postgresql:", "postgresql+psycopg:")
    server = world.serve("sqlalchemy_app", *RECYCLED, env={"DATABASE_URL": url})
    assert not warnings(server), warnings(server)
    _check_orders(database, ordeal(server), '"order"')


def _check_orders(database: str, result: Ordeal, table: str = "orders") -> None:
    """Check that each order is there, and no connection was used by two workers."""
    with connected(database) as connection:
        rows = connection.run(f"select number from {table}")
    # That of the request whose worker was killed may be there, too.
    assert set(result.seen("id")) <= {number for (number,) in rows}
    users: dict[str, set[str]] = {}
    for one in result.report.answered:
        users.setdefault(str(one.told["backend"]), set()).add(str(one.told["pid"]))
    shared = {backend: pids for backend, pids in users.items() if len(pids) > 1}
    assert not shared, f"connections of several workers: {shared}"


def flask_limiter(world: World) -> None:
    """A limit is that of all workers."""
    redis = open_redis(world)
    if redis is None:
        raise NotHere(world.remarks.pop().partition(": ")[2])
    env = {"RATELIMIT_STORAGE_URI": redis}
    server = world.serve("limiter_app", "--min-idle", "4", env=env)
    assert not warnings(server), warnings(server)
    statuses = [server.get("/limited").status for _ in range(10)]
    assert statuses == [200] * 7 + [429] * 3
    # Other workers know of it.
    kill_worker(server)
    assert server.get("/limited").status == 429
    ordeal(server)


def flask_caching(world: World) -> None:
    """What one worker has stored is found by others, and after a reload."""
    stores = {
        "filesystem": {
            "SHOP_CACHE_TYPE": "FileSystemCache",
            "SHOP_CACHE_DIR": str(world.folder / "cache"),
        }
    }
    redis = open_redis(world)
    if redis is not None:
        stores["redis"] = {
            "SHOP_CACHE_TYPE": "RedisCache",
            "SHOP_CACHE_REDIS_URL": redis,
        }
    for env in stores.values():
        server = world.serve("caching_app", *RECYCLED, env=env)
        assert not warnings(server), warnings(server)
        first = server.get("/").json["id"]
        report = ordeal(server).report
        assert report.seen("id") == {first}


TRIALS = [
    Trial(
        "psycopg-pool",
        "psycopg_pool",
        ("psycopg[binary,pool]",),
        psycopg_pool,
        [SERVER],
        "Works with a hook.",
        "Make the pool with ``open=False``, and open it in ``Prefork.after_fork``.",
    ),
    Trial(
        "flask-sqlalchemy",
        "Flask-SQLAlchemy",
        ("flask-sqlalchemy", "psycopg[binary]"),
        flask_sqlalchemy,
        [SERVER],
    ),
    Trial(
        "flask-limiter",
        "Flask-Limiter",
        ("flask-limiter", "redis"),
        flask_limiter,
        [SERVER],
        "Works with a shared store.",
        "Set ``RATELIMIT_STORAGE_URI`` to one that all workers share, such as Redis.",
    ),
    Trial(
        "flask-caching",
        "Flask-Caching",
        ("flask-caching", "redis"),
        flask_caching,
        [SERVER],
        "Works with a shared store.",
        "Use ``FileSystemCache``, ``RedisCache`` or another that all workers share.",
    ),
]
