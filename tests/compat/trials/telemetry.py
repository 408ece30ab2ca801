"""Telemetry that is collected in a worker, and sent in batches or at its exit."""

from __future__ import annotations

import re
import urllib.parse
from collections import Counter
from pathlib import Path

from integration.server import Server
from integration.server import wait_for

from .base import APPS
from .base import ordeal
from .base import RECYCLED
from .base import SERVER
from .base import Trial
from .base import warnings
from .base import World
from .services import assert_none_lost
from .services import Collector

#: Nothing is sent but at a worker's exit, or if a batch is full.
_SELDOM = {
    "OTEL_BSP_SCHEDULE_DELAY": "600000",
    "OTEL_BLRP_SCHEDULE_DELAY": "600000",
    "OTEL_METRIC_EXPORT_INTERVAL": "600000",
}
#: The tag of a transaction: the head of an item of an envelope, and a line of JSON.
_TRANSACTION = r'"transaction"[^\n]*\n[^\n]*"number": ?"(tag-[0-9a-f]{32})"'
_KINDS = ("span", "metric", "log")


def opentelemetry(world: World) -> None:
    """Spans, measurements and log records, set up while the app is loaded."""
    collector = world.stack.enter_context(Collector())
    env = {**_SELDOM, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "PROTOCOL": "http"}
    server = world.serve("otel_app", *RECYCLED, env=env)
    assert not warnings(server), warnings(server)
    sent = ordeal(server).seen("id")
    for kind in _KINDS:
        # A batch that is resent has come twice; and metrics are cumulative.
        assert_none_lost(collector, kind, sent, once=kind != "metric")


class _Arrived:
    """What a collector in another process has written to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def found(self, pattern: str) -> Counter[str]:
        return Counter(re.findall(pattern, self._path.read_text()))


def opentelemetry_grpc(world: World) -> None:
    """The same by gRPC, set up in each worker."""
    arrived = world.folder / "arrived"
    arrived.touch()
    script = str(APPS / "otlp_collector.py")
    world.beside("python", script, str(arrived), log="port")
    port = wait_for((world.folder / "port").read_text).strip()
    env = {
        **_SELDOM,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
    }
    early = world.serve("otel_app", env={**env, "PROTOCOL": "grpc-at-import"})
    assert any("a gRPC channel is open" in one for one in warnings(early))
    early.stop()
    server = world.serve("otel_app", *RECYCLED, env={**env, "PROTOCOL": "grpc"})
    assert not warnings(server), warnings(server)
    sent = ordeal(server).seen("id")
    for kind in _KINDS:
        assert_none_lost(_Arrived(arrived), kind, sent, once=kind != "metric")


def sentry(world: World) -> None:
    """Messages, log lines, transactions and errors."""
    collector = world.stack.enter_context(Collector())
    address = urllib.parse.urlsplit(collector.url)
    env = {"SENTRY_DSN": f"http://key@{address.netloc}/1"}
    server = world.serve("sentry_app", *RECYCLED, env=env)
    assert not warnings(server), warnings(server)
    _fail(server)
    sent = ordeal(server, tracebacks=3).seen("id")
    assert_none_lost(collector, "message", sent)
    assert_none_lost(collector, "log", sent)
    # Those of the message and of the transaction.
    assert_none_lost(collector, "tag", sent, once=False)
    tags = collector.found(
        r'"transaction"[^\n]*\n[^\n]*"number": ?"(tag-[0-9a-f]{32})"'
    )
    assert {f"tag-{one}" for one in sent} <= tags.keys(), "transactions have been lost"
    for number in range(3):
        assert collector.found(rf'"ZeroDivisionError", ?"value": ?"(error{number})"')


def _fail(server: Server) -> None:
    for number in range(3):
        assert server.get(f"/fail/error{number}").status == 500


#: For both trials.
_OPENTELEMETRY = (
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-instrumentation-flask",
)
TRIALS = [
    Trial(
        "opentelemetry",
        "OpenTelemetry",
        _OPENTELEMETRY,
        opentelemetry,
        [SERVER],
        advice="Nothing, if the exporters use HTTP.",
        shown=("opentelemetry-sdk", "opentelemetry-instrumentation-flask"),
    ),
    Trial(
        "opentelemetry-grpc",
        "OpenTelemetry by gRPC",
        _OPENTELEMETRY,
        opentelemetry_grpc,
        [SERVER],
        "Works with a hook.",
        "Set it up in ``Prefork.after_fork``.",
        shown=("opentelemetry-exporter-otlp-proto-grpc",),
        environment="opentelemetry",
    ),
    Trial(
        "sentry",
        "Sentry",
        ("sentry-sdk[flask]",),
        sentry,
        [SERVER],
    ),
]
