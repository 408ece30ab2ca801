"""Every figure reaches /status.json and /metrics of a running server.

Each test makes some of them move, by what they count. A figure that none of these
tests names is found: add it where it moves, or write the test that moves it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import typing as t
from collections.abc import Iterator
from dataclasses import fields
from dataclasses import replace
from http.client import HTTPConnection

from observe.snapshots import SAMPLE
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flask_prefork.observe import openmetrics
from flask_prefork.observe.openmetrics import families
from flask_prefork.observe.snapshot import GenerationView
from flask_prefork.observe.snapshot import PoolSample
from flask_prefork.observe.snapshot import Quantiles
from flask_prefork.observe.snapshot import Snapshot
from flask_prefork.observe.snapshot import Totals
from flask_prefork.observe.snapshot import WorkerView

from .admin import Admin
from .admin import needs_proc
from .conftest import Serve
from .gate import DEADLINE
from .gate import Gate
from .server import wait_for
from .slow_client import SlowClient
from .websockets import websocket

KINDS = (Snapshot, Totals, GenerationView, WorkerView, PoolSample, Quantiles)
#: What the tests here make move: fields of the status's parts, and metrics.
NAMES: set[tuple[type, str]] = set()
METRICS: set[str] = set()


class Moved:
    """What a test makes move.

    :param metrics: Names of metrics, without the prefix.
    :param status: Names of the status's own fields, separated by blanks; the others
        are those of its parts.
    """

    def __init__(
        self,
        *metrics: str,
        status: str = "",
        totals: str = "",
        generation: str = "",
        worker: str = "",
        sample: str = "",
        quantiles: str = "",
    ) -> None:
        words = (status, totals, generation, worker, sample, quantiles)
        self.metrics = set(metrics)
        self.names = {
            (kind, name)
            for kind, line in zip(KINDS, words, strict=True)
            for name in line.split()
        }
        METRICS.update(self.metrics)
        NAMES.update(self.names)

    def wait(self, admin: Admin) -> None:
        """Wait until each has been seen with another value than nothing."""
        missing: set[t.Any] = self.metrics | self.names

        def all_have_moved() -> bool:
            missing.difference_update(_of_status(admin.status()))
            missing.difference_update(_of_metrics(admin.get("/metrics").text))
            return not missing

        try:
            wait_for(all_have_moved)
        except AssertionError:
            raise AssertionError(f"these have never moved: {missing}") from None


def _moves(value: t.Any) -> bool:
    """Whether it is anything but nothing."""
    if isinstance(value, dict):
        return any(value.values())
    return any(value) if isinstance(value, list) else bool(value)


def _of_status(status: t.Any) -> Iterator[tuple[type, str]]:
    """The fields of a status that are not nothing."""
    generations = status["generations"]
    parts = {
        Snapshot: [status],
        Totals: [status["totals"]],
        GenerationView: generations,
        WorkerView: [worker for one in generations for worker in one["workers"]],
        PoolSample: status["history"],
        Quantiles: [status["latency"], status["queue_time"]],
    }
    for kind, found in parts.items():
        for part in found:
            yield from ((kind, name) for name, value in part.items() if _moves(value))


def _of_metrics(text: str) -> Iterator[str]:
    """The metrics that are not nothing."""
    for family in text_string_to_metric_families(text):
        if any(sample.value for sample in family.samples):
            yield family.name.removeprefix(openmetrics.PREFIX)


def test_every_figure_moves_in_one_of_these_tests() -> None:
    assert {(kind, field.name) for kind in KINDS for field in fields(kind)} == NAMES
    known = families(replace(SAMPLE, memory=1, memory_budget=1))
    assert {family.name for family in known} == METRICS


REQUESTS = Moved(
    "build",
    "phase",
    "uptime_seconds",
    "ready",
    "dispatcher_responsive",
    "generation",
    "workers",
    "min_idle_workers",
    "max_idle_workers",
    "max_workers",
    "worker_spawns",
    "orders",
    "connections_accepted",
    "requests",
    "responses",
    "sent_bytes",
    "request_duration_seconds",
    "recent_request_duration_seconds",
    "longest_request_seconds",
    status="pid version uptime phase responsive ready staffed addresses generations"
    " min_idle max_idle max_workers totals history latency",
    totals="requests connections sent classes spent buckets orders spawned",
    generation="number role letters workers",
    worker="slot state pid age requests connections method target busy_for silent_for",
    sample="age workers busy requests latency",
    quantiles="window requests p50 p90 p99",
)


def test_requests(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--admin", "0")
    assert server.get().status == 200
    server.send(gate.path)
    gate.wait_for_one()
    REQUESTS.wait(Admin(server))


PARKED = Moved(
    "parked_connections",
    "connections_parked",
    "connections_resumed",
    status="parked parked_by_state",
    totals="parked resumed",
)


def test_parked_connections(serve: Serve) -> None:
    server = serve("held", "--admin", "0")
    admin = Admin(server)
    address = server.url.removeprefix("http://")
    with contextlib.closing(HTTPConnection(address, timeout=DEADLINE)) as connection:
        for turn in (1, 2):
            connection.request("GET", "/")
            connection.getresponse().read()
            # Else the worker that still has it may take the next request as well.
            admin.wait_until(lambda s, n=turn: s["totals"]["parked"] >= n)
        PARKED.wait(admin)


SPOOLED = Moved("spooled_bytes", status="spooled")


def test_spools(serve: Serve) -> None:
    server = serve("fronted", "--admin", "0")
    with SlowClient(server) as client:
        client.begin_body("/digest", 1_000_000)
        client.send(500_000)
        SPOOLED.wait(Admin(server))


DELIVERED = Moved(
    "delivering_connections", "deliveries", status="delivering", totals="deliveries"
)


def test_deliveries(serve: Serve) -> None:
    server = serve("fronted", "--admin", "0")
    admin = Admin(server)
    with SlowClient(server) as client:
        client.ask("/whole/16777216")
        admin.wait_until(lambda s: s["delivering"])
    admin.wait_until(lambda s: s["totals"]["deliveries"]["incomplete"])
    with SlowClient(server) as client:
        client.ask("/whole/16777216")
        DELIVERED.wait(admin)


SATURATED = Moved(
    "saturated",
    "saturated_seconds",
    "queue_connections",
    "queue_limit_connections",
    "waiting_connections",
    status="saturated queue queue_limit waiting",
    totals="saturated",
    sample="queue waiting",
)


@needs_proc
def test_a_saturated_server(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "1", "--max-workers", "1", "--admin", "0")
    server.send(gate.path)
    gate.wait_for_one()
    for _ in range(2):
        server.send("/")
    SATURATED.wait(Admin(server))


QUEUED = Moved(
    "request_queue_seconds",
    "recent_request_queue_seconds",
    status="queue_time",
    totals="queued queue_buckets",
    sample="queue_time",
)


@needs_proc
def test_requests_that_have_waited(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--min-idle", "1", "--max-workers", "1", "--admin", "0")
    admin = Admin(server)
    server.send(gate.path)
    held = gate.wait_for_one()
    waiting = server.send("/")
    # Until then the kernel may not have it (tcp(7), TCP_DEFER_ACCEPT).
    admin.wait_until(lambda s: s["waiting"])
    held.release()
    assert waiting.answer().status == 200
    QUEUED.wait(admin)


LIMITED = Moved(
    "limit_concurrency",
    "limit_running",
    "limit_waiting",
    "limit_refused",
    "shed_requests",
    status="limits",
    totals="shed",
)


def test_limits(serve: Serve, gate: Gate) -> None:
    server = serve("limited", "--max-workers", "4", "--admin", "0")
    admin = Admin(server)
    path = f"/impatient?gate={gate.port}"
    server.send(path)
    gate.wait_for_one()
    assert server.get(path).status == 503
    server.send(gate.path)
    server.send(gate.path)
    gate.wait_for(2)
    server.send(gate.path)
    LIMITED.wait(admin)


SECURED = Moved(
    "tls_connections",
    "tls_handshakes",
    "tls_aborted_connections",
    status="tls_connections",
    totals="tls_handshakes tls_aborted",
)


def test_tls(serve: Serve) -> None:
    server = serve("held", "--cert", "adhoc", "--admin", "0")
    host, port = server.url.rpartition("/")[2].split(":")
    context = ssl._create_unverified_context()
    with context.wrap_socket(socket.create_connection((host, int(port)))) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    with context.wrap_socket(socket.create_connection((host, int(port)))) as client:
        raw = socket.socket(fileno=os.dup(client.fileno()))
        with raw:
            # A part of a record, and the end.
            raw.sendall(b"\x17\x03\x03\x01")
            raw.shutdown(socket.SHUT_WR)
            with context.wrap_socket(
                socket.create_connection((host, int(port)))
            ) as stays:
                assert stays.version()
                SECURED.wait(Admin(server))


EXITED = Moved(
    "reloads",
    "worker_retirements",
    "worker_deaths",
    "requests_unanswered",
    totals="reloads retired deaths",
)


def test_workers_that_exit(serve: Serve, gate: Gate) -> None:
    server = serve("held", "--admin", "0")
    server.send(gate.path)
    os.kill(gate.wait_for_one().pid, signal.SIGKILL)
    server.signal(signal.SIGHUP)
    EXITED.wait(Admin(server))


MEMORY = Moved(
    "memory_bytes",
    "memory_budget_bytes",
    "workers_pss_bytes",
    status="memory memory_budget",
    worker="pss grown grown_by",
)
SHORTAGE = Moved("memory_shortages", totals="shortages")


@needs_proc
def test_memory(serve: Serve) -> None:
    pool = ("--min-idle", "1", "--max-workers", "3", "--memory-budget", "120M")
    server = serve("heavy", *pool, "--admin", "0")
    admin = Admin(server)
    assert server.get("/leak/10").status == 200
    MEMORY.wait(admin)
    assert server.get("/keep/130").status == 200
    SHORTAGE.wait(admin)


UPGRADED = Moved("upgraded_connections", worker="upgraded")


def test_upgraded_connections(serve: Serve) -> None:
    server = serve("sockets", "--admin", "0")
    with websocket(server, "/echo"):
        UPGRADED.wait(Admin(server))
