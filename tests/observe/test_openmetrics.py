"""What ``/metrics`` says, as Prometheus' own parser understands it."""

from __future__ import annotations

import typing as t
from dataclasses import replace
from itertools import accumulate

from hypothesis import given
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flask_prefork.ipc.figures import BOUNDS
from flask_prefork.ipc.states import State
from flask_prefork.observe.openmetrics import PHASES
from flask_prefork.observe.openmetrics import render
from flask_prefork.observe.openmetrics import ROLES
from flask_prefork.observe.snapshot import GenerationView
from flask_prefork.observe.snapshot import Snapshot
from flask_prefork.observe.snapshot import STATES
from flask_prefork.observe.snapshot import Totals
from flask_prefork.observe.snapshot import WorkerView

from .snapshots import SAMPLE
from .snapshots import snapshots

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(snapshot: Snapshot) -> dict[str, Metric]:
    text = render(snapshot).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def series(snapshot: Snapshot) -> Series:
    """All numbers by name, without the prefix, and labels."""
    return {
        (
            sample.name.removeprefix("flask_prefork_"),
            frozenset(sample.labels.items()),
        ): (sample.value)
        for family in parse(snapshot).values()
        for sample in family.samples
    }


def value(found: Series, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@given(snapshots)
def test_any_snapshot_can_be_parsed(snapshot: Snapshot) -> None:
    found = series(snapshot)
    totals = snapshot.totals
    for name, counter in [
        ("requests_total", totals.requests),
        ("connections_accepted_total", totals.connections),
        ("connections_parked_total", totals.parked),
        ("connections_resumed_total", totals.resumed),
        ("sent_bytes_total", totals.sent),
        ("orders_total", totals.orders),
        ("worker_spawns_total", totals.spawned),
        ("worker_retirements_total", totals.retired),
        ("reloads_total", totals.reloads),
        ("saturated_seconds_total", totals.saturated),
        ("memory_shortages_total", totals.shortages),
        ("request_duration_seconds_sum", totals.spent),
        ("requests_unanswered_total", totals.classes[0]),
    ]:
        assert value(found, name) == counter, name
    for reason, count in totals.deaths.items():
        assert value(found, "worker_deaths_total", reason=reason) == count
    for hundreds in range(1, 6):
        count = value(found, "responses_total", **{"class": f"{hundreds}xx"})
        assert count == totals.classes[hundreds]
    assert value(found, "build_info", version=snapshot.version) == 1


def test_memory_is_shown_with_a_budget_for_it() -> None:
    names = ("memory_bytes", "memory_budget_bytes")
    found = series(SAMPLE)
    assert not any((name, frozenset()) in found for name in names)
    found = series(replace(SAMPLE, memory=5, memory_budget=7))
    assert [value(found, name) for name in names] == [5, 7]


@given(snapshots)
def test_buckets_are_cumulative(snapshot: Snapshot) -> None:
    found = series(snapshot)
    bounds = [*(str(float(bound)) for bound in BOUNDS), "+Inf"]
    name = "request_duration_seconds"
    shown = [value(found, f"{name}_bucket", le=bound) for bound in bounds]
    assert shown == list(map(float, accumulate(snapshot.totals.buckets)))
    assert value(found, f"{name}_count") == shown[-1]


@given(snapshots)
def test_quantiles_are_those_of_the_snapshot(snapshot: Snapshot) -> None:
    families = parse(snapshot)
    for name, quantiles in (
        ("request_duration_seconds", snapshot.latency),
        ("request_queue_seconds", snapshot.queue_time),
    ):
        family = families[f"flask_prefork_recent_{name}"]
        shown = {one.labels["quantile"]: one.value for one in family.samples}
        known = {"0.5": quantiles.p50, "0.9": quantiles.p90, "0.99": quantiles.p99}
        assert shown == {q: value for q, value in known.items() if value is not None}


@given(snapshots)
def test_every_worker_is_counted_once(snapshot: Snapshot) -> None:
    family = parse(snapshot)["flask_prefork_workers"]
    assert sum(sample.value for sample in family.samples) == len(snapshot.workers)
    # All the series that there can be are there, whatever workers there are.
    assert len(family.samples) == len(ROLES) * len(STATES)


@given(snapshots)
def test_labels_are_bounded(snapshot: Snapshot) -> None:
    names = {name for _, labels in series(snapshot) for name, _ in labels}
    # By the server's code, all of them.
    assert names <= {
        "class",
        "flask_prefork_phase",
        "le",
        "limit",
        "quantile",
        "reason",
        "result",
        "role",
        "state",
        "version",
    }


def test_one_snapshot() -> None:
    found = series(SAMPLE)
    assert value(found, "workers", role="current", state="busy") == 2
    assert value(found, "workers", role="current", state="idle") == 1
    assert value(found, "workers", role="current", state="starting") == 1
    assert value(found, "workers", role="retiring", state="retiring") == 1
    assert value(found, "workers", role="next", state="idle") == 0
    assert value(found, "workers_pss_bytes") == 18 * 2**20
    assert value(found, "generation") == 2
    assert value(found, "longest_request_seconds") == 95
    assert value(found, "queue_connections") == 3
    assert value(found, "queue_limit_connections") == 128
    assert value(found, "parked_connections", state="idle") == 11
    assert value(found, "parked_connections", state="body") == 4
    assert value(found, "parked_connections", state="lingering") == 0
    assert value(found, "spooled_bytes") == 5 * 2**20
    assert value(found, "delivering_connections") == 2
    assert value(found, "deliveries_total", result="incomplete") == 4
    assert value(found, "min_idle_workers") == 2
    assert value(found, "max_idle_workers") == 4
    assert value(found, "max_workers") == 40
    assert value(found, "uptime_seconds") == 7384.5
    assert value(found, "saturated") == 0
    assert value(found, "ready") == 1
    assert value(found, "dispatcher_responsive") == 1
    phases = {
        phase: value(found, "phase", flask_prefork_phase=phase) for phase in PHASES
    }
    assert phases == {phase: float(phase == "serving") for phase in PHASES}


def test_upgraded_connections() -> None:
    """They are no long requests."""
    assert value(series(SAMPLE), "upgraded_connections") == 0
    chat = WorkerView(0, "B", 7, 1.0, 0, 1, "GET", "/chat", 5000.0, upgraded=True)
    page = WorkerView(1, "B", 8, 1.0, 0, 1, "GET", "/", 2.0)
    generation = GenerationView(1, "current", "BB", (chat, page))
    found = series(replace(SAMPLE, generations=(generation,)))
    assert value(found, "upgraded_connections") == 1
    assert value(found, "longest_request_seconds") == 2


def test_what_is_not_known_is_not_shown() -> None:
    idle = WorkerView(0, "I", 7, 1.0, 0, 0)
    snapshot = replace(
        SAMPLE,
        queue_limit=0,
        generations=(GenerationView(1, "next", "I", (idle,)),),
    )
    names = {name for name, _ in series(snapshot)}
    assert not names & {"queue_limit_connections", "workers_pss_bytes", "generation"}
    assert value(series(snapshot), "longest_request_seconds") == 0


def test_labels_are_escaped() -> None:
    reason = 'a "quoted" \\ word\nin two lines'
    found = series(replace(SAMPLE, totals=Totals(deaths={reason: 3})))
    assert value(found, "worker_deaths_total", reason=reason) == 3


def test_names_follow_the_conventions() -> None:
    for name, family in parse(SAMPLE).items():
        assert name.startswith("flask_prefork_")
        assert family.documentation.endswith(".")
        unit = name.rpartition("_")[2]
        assert family.unit == (unit if unit in ("seconds", "bytes") else "")


def test_words_are_those_of_the_server() -> None:
    assert set(STATES) | {State.FREE.value} == {state.value for state in State}
    roles = t.get_type_hints(GenerationView)["role"]
    assert set(t.get_args(roles)) == set(ROLES)


def test_the_text_ends_as_it_has_to() -> None:
    assert render(SAMPLE).endswith(b"\n# EOF\n")
