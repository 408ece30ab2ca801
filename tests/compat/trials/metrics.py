"""Metrics that all workers count together."""

from __future__ import annotations

import re

from integration.server import Server

from .base import kill_worker
from .base import Ordeal
from .base import ordeal
from .base import RECYCLED
from .base import Trial
from .base import warnings
from .base import World


def _serve(world: World, app: str) -> Server:
    folder = world.folder / "metrics"
    folder.mkdir()
    env = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    server = world.serve(app, *RECYCLED, env=env)
    assert not warnings(server), warnings(server)
    return server


def _value(server: Server, sample: str) -> float:
    """What ``/metrics`` has for a sample, 0 if it has none.

    :param sample: A pattern: name and labels.
    """
    answer = server.get("/metrics")
    assert answer.status == 200, answer.body
    found = re.findall(rf"^{sample} (\S+)$", answer.body.decode(), re.MULTILINE)
    return sum(map(float, found))


def _try(world: World, app: str, sample: str, before: int = 0) -> None:
    server = _serve(world, app)
    for _ in range(5):
        server.get("/")
    # Each scrape sees all workers' figures, whoever answers it, and those of the dead.
    kill_worker(server)
    assert _value(server, sample) == 5 + before
    shown: list[float] = []
    result = ordeal(server, more=lambda: shown.append(_value(server, sample)))
    # The last that was shown is no more than what was answered in the end.
    assert 5 < shown[0] <= 5 + before + len(result.report.answered)
    _check_files(world, app, sample, result)


def _check_files(world: World, app: str, sample: str, result: Ordeal) -> None:
    """Check that nothing is missing in what the workers have left behind."""
    env = {"PROMETHEUS_MULTIPROC_DIR": str(world.folder / "metrics")}
    code = (
        "import sys\n"
        "from prometheus_client import CollectorRegistry, generate_latest\n"
        "from prometheus_client.multiprocess import MultiProcessCollector\n"
        "registry = CollectorRegistry()\n"
        "MultiProcessCollector(registry)\n"
        "sys.stdout.write(generate_latest(registry).decode())\n"
    )
    text = world.run("python", "-c", code, env=env)
    (value,) = map(float, re.findall(rf"^{sample} (\S+)$", text, re.MULTILINE))
    # The request of the worker that was killed may be counted, or not.
    answered = 5 + len(result.report.answered)
    assert answered <= value <= answered + 1, f"{value} of {answered} were counted"


def prometheus_client(world: World) -> None:
    """Counters sum up over all workers, also those that have exited."""
    early = world.serve("prometheus_app")
    assert any("PROMETHEUS_MULTIPROC_DIR" in one for one in warnings(early))
    early.stop()
    _try(world, "prometheus_app", "orders_total")


def prometheus_flask_exporter(world: World) -> None:
    """The same, counted by an extension for each request."""
    sample = r'flask_http_request_total\{[^}]*method="GET"[^}]*status="200"[^}]*\}'
    _try(world, "exporter_app", sample)


_ADVICE = "Set ``PROMETHEUS_MULTIPROC_DIR`` before the command starts."
TRIALS = [
    Trial(
        "prometheus-client",
        "prometheus_client",
        ("prometheus_client",),
        prometheus_client,
        ["PROMETHEUS_MULTIPROC_DIR=metrics flask --app shop prefork-run"],
        "Works in multiprocess mode.",
        _ADVICE,
    ),
    Trial(
        "prometheus-flask-exporter",
        "prometheus-flask-exporter",
        ("prometheus-flask-exporter",),
        prometheus_flask_exporter,
        ["PROMETHEUS_MULTIPROC_DIR=metrics flask --app shop prefork-run"],
        "Works in multiprocess mode.",
        f"{_ADVICE} Use ``GunicornInternalPrometheusMetrics``.",
    ),
]
