"""Clients and generators that are made when the app is loaded."""

from __future__ import annotations

import typing as t

from integration.server import wait_for

from .base import APPS
from .base import Ordeal
from .base import ordeal
from .base import SERVER
from .base import Trial
from .base import warnings
from .base import World
from .services import Collector


def http_clients(world: World) -> None:
    """No connection is used by two workers, if none was opened before the fork."""
    service = world.stack.enter_context(Collector())
    env = {"SERVICE": service.url}
    early = world.serve("clients_app", env={**env, "USED": "1"})
    assert any(
        "a connection to" in one and "is open; all workers" in one
        for one in warnings(early)
    )
    early.stop()
    server = world.serve("clients_app", env=env)
    assert not warnings(server), warnings(server)
    result = ordeal(server)
    for name in ("requests", "httpx", "boto3"):
        _check_unshared(result, name)


def _check_unshared(result: Ordeal, name: str) -> None:
    """Check that each of what the app tells under a name is told by one worker."""
    users: dict[t.Any, set[t.Any]] = {}
    for one in result.report.answered:
        users.setdefault(one.told[name], set()).add(one.told["pid"])
    shared = {port: pids for port, pids in users.items() if len(pids) > 1}
    assert not shared, f"{name}: several workers have used the same: {shared}"


def grpc(world: World) -> None:
    """Calls by a channel that each worker opens."""
    arrived = world.folder / "arrived"
    arrived.touch()
    script = str(APPS / "otlp_collector.py")
    world.beside("python", script, str(arrived), log="port")
    port = wait_for((world.folder / "port").read_text).strip()
    env = {"SERVICE": f"127.0.0.1:{port}"}
    early = world.serve("grpc_app", env={**env, "OPEN": "1"})
    assert any("a gRPC channel is open" in one for one in warnings(early))
    early.stop()
    server = world.serve("grpc_app", env=env)
    assert not warnings(server), warnings(server)
    sent = ordeal(server).seen("id")
    missing = {f"call-{one}" for one in sent} - set(arrived.read_text().split())
    assert not missing, f"{len(missing)} of {len(sent)} calls have not arrived"


def numpy(world: World) -> None:
    """No two workers draw the same numbers."""
    early = world.serve("numpy_app", env={"SHARED": "1"})
    assert any("a numpy random generator" in one for one in warnings(early))
    early.stop()
    server = world.serve("numpy_app")
    assert not warnings(server), warnings(server)
    answered = ordeal(server).report.answered
    for name in ("global", "generator"):
        drawn = [one.told[name] for one in answered]
        assert len(drawn) == len(set(drawn)), f"{name}: numbers were drawn twice"


TRIALS = [
    Trial(
        "http-clients",
        "requests, httpx, boto3",
        ("requests", "httpx", "boto3"),
        http_clients,
        [SERVER],
        advice="Nothing, if they are first used in a view.",
    ),
    Trial(
        "grpc",
        "gRPC",
        ("grpcio",),
        grpc,
        [SERVER],
        "Works with a hook.",
        "Open channels in ``Prefork.after_fork``.",
    ),
    Trial(
        "numpy",
        "numpy",
        ("numpy",),
        numpy,
        [SERVER],
        advice="Nothing for its functions. Make generators in ``Prefork.after_fork``.",
    ),
]
