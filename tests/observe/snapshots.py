"""Snapshots of servers that there are not: one that is looked at, and any."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from flask_prefork.ipc.figures import BOUNDS
from flask_prefork.ipc.figures import CLASSES
from flask_prefork.observe.snapshot import GenerationView
from flask_prefork.observe.snapshot import LimitView
from flask_prefork.observe.snapshot import PoolSample
from flask_prefork.observe.snapshot import Quantiles
from flask_prefork.observe.snapshot import Snapshot
from flask_prefork.observe.snapshot import Totals
from flask_prefork.observe.snapshot import WorkerView

MIB = 2**20
#: In the middle of a reload, under some load.
SAMPLE = Snapshot(
    pid=3003,
    version="0.1.0",
    uptime=7384.5,
    phase="serving",
    responsive=True,
    ready=True,
    addresses=("http://127.0.0.1:5000", "unix:///run/shop.sock"),
    generations=(
        GenerationView(
            2,
            "current",
            "BBI.S",
            (
                WorkerView(
                    0, "B", 3020, 62.0, 4000, 400, "GET", "/cart", 0.25, 0.01, 9 * MIB
                ),
                WorkerView(
                    1, "B", 3021, 62.0, 310, 300, "POST", "/pay?id=7", 12.5, 4, 8 * MIB
                ),
                WorkerView(2, "I", 3022, 61.0, 12, 12, pss=MIB),
                WorkerView(4, "S", 0, 0.1, 0, 0),
            ),
        ),
        GenerationView(
            1,
            "retiring",
            ".R",
            (
                WorkerView(
                    1, "R", 3010, 7380.0, 90_210, 3000, "GET", "/export", 95.0, 0.0
                ),
            ),
        ),
    ),
    min_idle=2,
    max_idle=4,
    max_workers=40,
    saturated=False,
    queue=3,
    queue_limit=128,
    parked=17,
    parked_by_state={"idle": 11, "head": 1, "body": 4, "lingering": 0, "ready": 1},
    spooled=5 * MIB,
    delivering=2,
    tls_connections=12,
    waiting=4,
    limits=(LimitView("/report/<name>", 2, 2, 5, 1), LimitView("chat", 0, 3, 0, 0)),
    totals=Totals(
        requests=100_000,
        connections=5000,
        sent=2**30,
        classes=(2, 0, 99_000, 500, 398, 100),
        spent=812.25,
        buckets=(10_000, 50_000, 30_000, 9000, 900, 50, 30, 10, 5, 2, 1, 1, 0, 1),
        orders=900,
        resumed=4000,
        parked=4100,
        spawned=12,
        retired=5,
        deaths={"exit": 0, "signal": 1, "timeout": 2},
        reloads=1,
        saturated=31.5,
        deliveries={"complete": 60, "incomplete": 4, "lost": 0},
        queued=120.5,
        queue_buckets=(100, 50, 300, 900, 500, 50, 30, 10, 5, 2, 1, 0, 0, 0),
        shed={"queue-timeout": 3, "max-queue": 0, "limit": 1},
        tls_handshakes={"full": 70, "resumed": 20, "failed": 1},
        tls_aborted={"cut": 2, "lost": 0},
    ),
    history=(
        PoolSample(300.0, 3, 1, 0, 70_000),
        PoolSample(60.0, 4, 1, 0, 94_000),
        PoolSample(
            10.0,
            5,
            3,
            2,
            98_800,
            latency=Quantiles(10.0, 900, 0.00205, 0.0067, 0.0181),
            queue_time=Quantiles(10.0, 900, 0.0, 0.00452, 0.0111),
        ),
        PoolSample(
            1.0,
            5,
            3,
            3,
            99_880,
            latency=Quantiles(10.0, 1100, 0.00215, 0.00725, 0.0367),
            queue_time=Quantiles(10.0, 1100, 0.0, 0.00476, 0.0238),
        ),
    ),
    latency=Quantiles(60.0, 6000, 0.00195, 0.00677, 1.05),
    queue_time=Quantiles(60.0, 6000, 0.0, 0.000452, 0.0262),
)


def crowd(count: int) -> Snapshot:
    """Many workers in all states, with long targets."""
    letters = ("BIOSRK." * count)[:count]
    workers = tuple(
        WorkerView(
            slot, letter, 4000 + slot, 60.0, 10**6, 10**6, "OPTIONS", "/long" * 40, slot
        )
        for slot, letter in enumerate(letters)
        if letter != "."
    )
    generations = (GenerationView(2, "current", letters, workers),)
    return replace(SAMPLE, generations=generations, saturated=True, queue=128)


#: Their sums too are exact as floats.
counts = st.integers(0, 2**48)
seconds = st.floats(0, 1e12)
_buckets = st.tuples(*[counts] * (len(BOUNDS) + 1))

workers = st.builds(
    WorkerView,
    slot=counts,
    state=st.sampled_from("SIOBRK"),
    pid=counts,
    age=seconds,
    requests=counts,
    connections=counts,
    method=st.text(),
    target=st.text(),
    busy_for=st.none() | seconds,
    silent_for=st.none() | seconds,
    pss=st.none() | counts,
    grown=counts,
    grown_by=st.text(),
    upgraded=st.booleans(),
)
generations = st.builds(
    GenerationView,
    number=counts,
    role=st.sampled_from(["current", "next", "retiring"]),
    letters=st.text("SIOBRK."),
    workers=st.lists(workers, max_size=5).map(tuple),
)
totals = st.builds(
    Totals,
    requests=counts,
    connections=counts,
    sent=counts,
    classes=st.tuples(*[counts] * CLASSES),
    spent=seconds,
    buckets=_buckets,
    orders=counts,
    resumed=counts,
    parked=counts,
    spawned=counts,
    retired=counts,
    deaths=st.dictionaries(st.text(), counts, max_size=5),
    reloads=counts,
    saturated=seconds,
    shortages=counts,
    deliveries=st.dictionaries(st.text(), counts, max_size=3),
    queued=seconds,
    queue_buckets=_buckets,
    shed=st.dictionaries(st.text(), counts, max_size=3),
    tls_handshakes=st.dictionaries(st.text(), counts, max_size=3),
    tls_aborted=st.dictionaries(st.text(), counts, max_size=2),
)
limits = st.builds(
    LimitView,
    name=st.text(),
    concurrency=counts,
    running=counts,
    waiting=counts,
    refused=counts,
)
quantiles = st.builds(
    Quantiles,
    window=seconds,
    requests=counts,
    p50=st.none() | seconds,
    p90=st.none() | seconds,
    p99=st.none() | seconds,
)
samples = st.builds(
    PoolSample,
    age=seconds,
    workers=counts,
    busy=counts,
    queue=counts,
    requests=counts,
    waiting=counts,
    latency=quantiles,
    queue_time=quantiles,
)
snapshots = st.builds(
    Snapshot,
    pid=counts,
    version=st.text(),
    uptime=seconds,
    phase=st.sampled_from(
        ["loading", "serving", "draining", "closing", "leaving", "stopped", "gone"]
    ),
    responsive=st.booleans(),
    ready=st.booleans(),
    addresses=st.lists(st.text(), max_size=3).map(tuple),
    generations=st.lists(generations, max_size=3).map(tuple),
    min_idle=counts,
    max_idle=counts,
    max_workers=counts,
    saturated=st.booleans(),
    memory=counts,
    memory_budget=counts,
    queue=counts,
    queue_limit=counts,
    parked=counts,
    parked_by_state=st.dictionaries(st.text(), counts, max_size=5),
    spooled=counts,
    delivering=counts,
    waiting=counts,
    limits=st.lists(limits, max_size=3, unique_by=lambda one: one.name).map(tuple),
    totals=totals,
    history=st.lists(samples, max_size=3).map(tuple),
    latency=quantiles,
    queue_time=quantiles,
)
