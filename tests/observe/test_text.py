"""What ``prefork-status`` shows."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.observe.snapshot import GenerationView
from flask_prefork.observe.snapshot import Quantiles
from flask_prefork.observe.snapshot import Snapshot
from flask_prefork.observe.snapshot import Totals
from flask_prefork.observe.snapshot import WorkerView
from flask_prefork.observe.text import brief
from flask_prefork.observe.text import duration
from flask_prefork.observe.text import render
from flask_prefork.observe.text import size

from .snapshots import SAMPLE
from .snapshots import snapshots

LOOK = """\
flask_prefork 0.1.0 serving, ready, pid 3003, up 2h3m
http://127.0.0.1:5000  unix:///run/shop.sock

generation 2  current   BBI.S
generation 1  retiring  .R

workers    5 (1 starting, 1 idle, 2 busy, 1 retiring), at most 40, 2 to 4 idle
waiting    4 for a worker, 3 of 128 in the queue, 17 parked (11 idle, 1 head, 4
           body, 1 ready), 2 at the sender, 5.0 MiB spooled
requests   120.0/s over 10s, 100.0/s over 1m, 100.0/s over 5m
latency    p50 1.95ms, p90 6.77ms, p99 1.05s over 1m
queue time p50 0s, p90 452us, p99 26.2ms over 1m
saturated  not now, 31.5s in all
served     100,000 requests (2 without a response, 99,000 2xx, 500 3xx, 398 4xx,
           100 5xx) on 5,000 connections, 1.0 GiB sent, 900 orders, 4,100 times
           parked
processes  12 started, 5 retired, 3 died (1 signal, 2 timeout); 1 reload
sender     64 responses (60 complete, 4 incomplete)
tls        12 connections, 91 handshakes (70 full, 20 resumed, 1 failed), 2
           aborted (2 cut)
shed       4 requests (3 queue-timeout, 1 limit)
limits     /report/<name> 2 of 2 running, 5 waiting, 1 refused; chat 3 running,
           0 waiting, 0 refused

GEN  SLOT   PID  STATE      AGE  REQUESTS      PSS    FOR  REQUEST
  2     0  3020  busy      1m2s     4,000  9.0 MiB  0.25s  GET /cart
  2     1  3021  busy      1m2s       310  8.0 MiB  12.5s  POST /pay?id=7
  2     2  3022  idle      1m1s        12  1.0 MiB      -  -
  2     4     -  starting  0.1s         0        -      -  -
  1     1  3010  retiring  2h3m    90,210        -  1m35s  GET /export"""


def test_one_look() -> None:
    assert render(SAMPLE) == LOOK


def test_memory_is_shown_with_a_budget_for_it() -> None:
    budget = replace(SAMPLE, memory=5 * 2**28, memory_budget=2**31)
    assert "\nmemory     1.2 GiB of 2.0 GiB, 0 times exhausted\n" in render(budget)


@given(snapshots, st.integers(22, 300))
def test_no_line_is_longer_than_the_terminal(snapshot: Snapshot, width: int) -> None:
    assert max(map(len, render(snapshot, width).split("\n"))) <= width


@given(snapshots)
def test_nothing_reaches_the_terminal_unescaped(snapshot: Snapshot) -> None:
    text = render(snapshot)
    assert all(" " <= character <= "~" for character in text.replace("\n", ""))


@given(snapshots, st.integers(22, 300))
def test_colours_change_nothing_else(snapshot: Snapshot, width: int) -> None:
    painted = render(snapshot, width, colour=True)
    assert click.unstyle(painted) == render(snapshot, width)


def test_colours() -> None:
    painted = render(SAMPLE, colour=True)
    assert click.style("ready", "green") in painted
    assert click.style("B", "cyan") in painted
    late = render(replace(SAMPLE, ready=False, saturated=True), colour=True)
    assert click.style("not ready", "red") in late
    assert click.style("saturated  now, 31.5s in all", "red") in late


@pytest.mark.parametrize("width", [0, 1, 10])
def test_an_absurd_width_is_no_error(width: int) -> None:
    assert render(SAMPLE, width).startswith("flask_prefork")


def busy(target: str) -> Snapshot:
    worker = WorkerView(0, "B", 7, 1.0, 0, 1, "GET", target, 1.0)
    return replace(SAMPLE, generations=(GenerationView(1, "current", "B", (worker,)),))


def test_upgraded_connections() -> None:
    one = WorkerView(0, "B", 7, 1.0, 0, 1, "GET", "/chat", 1.0, upgraded=True)
    other = replace(one, slot=1, state="R")
    generation = GenerationView(1, "current", "BR", (one, other))
    text = render(replace(SAMPLE, generations=(generation,)))
    assert "2 (1 busy, 1 retiring, of these 2 upgraded), at most 40" in text
    rows = [line.split()[3] for line in text.split("\n")[-2:]]
    assert rows == ["upgraded", "retiring"]


def test_who_is_ordered_to_accept_counts_as_busy() -> None:
    workers = tuple(
        WorkerView(slot, letter, 7, 1.0, 0, 1) for slot, letter in enumerate("BOR")
    )
    generation = GenerationView(1, "current", "BOR", workers)
    text = render(replace(SAMPLE, generations=(generation,)))
    assert "3 (2 busy, 1 retiring), at most 40" in text
    assert [line.split()[3] for line in text.split("\n")[-3:]] == [
        *("busy", "ordered", "retiring")
    ]


def test_a_long_target_is_cut() -> None:
    last = render(busy("/" + "a" * 300), 100).split("\n")[-1]
    assert len(last) == 100
    assert last.endswith("aaa...")


def test_a_target_can_not_move_the_cursor() -> None:
    last = render(busy("/\x1b[2J\r\n\x9b\xe9"), 200).split("\n")[-1]
    assert last.endswith(r"GET /\x1b[2J\r\n\x9b\xe9")


def test_many_slots_take_several_lines() -> None:
    letters = "B" * 60 + "I" * 60
    generation = GenerationView(1, "current", letters, ())
    lines = render(replace(SAMPLE, generations=(generation,)), 64).split("\n")
    assert lines[3] == "generation 1  current   " + "B" * 40
    assert lines[4] == " " * 24 + "B" * 20 + "I" * 20
    assert lines[5] == " " * 24 + "I" * 40


def figures(snapshot: Snapshot) -> dict[str, str]:
    """The lines that begin with a word, by it."""
    lines = render(snapshot, 300).split("\n")
    return {line.split()[0]: line[11:] for line in lines if line and line[0] != " "}


def test_a_server_that_loads() -> None:
    loading = replace(
        SAMPLE,
        phase="loading",
        ready=False,
        addresses=(),
        generations=(),
        queue=0,
        waiting=0,
        queue_limit=0,
        parked=0,
        parked_by_state={},
        spooled=0,
        delivering=0,
        totals=Totals(),
        history=(),
        latency=Quantiles(),
        queue_time=Quantiles(),
    )
    assert "loading, not ready" in render(loading).split("\n")[0]
    shown = figures(loading)
    assert shown["workers"] == "0 (none), at most 40, 2 to 4 idle"
    assert shown["waiting"] == "0 for a worker, 0 in the queue, 0 parked"
    assert shown["requests"] == shown["latency"] == "no history yet"
    assert shown["served"].startswith("0 requests (none) on 0 connections, 0 B sent")
    assert shown["processes"] == "0 started, 0 retired, 0 died; 0 reloads"
    assert "SLOT" not in render(loading)


def test_a_dispatcher_that_does_not_answer() -> None:
    head = render(replace(SAMPLE, responsive=False)).split("\n")[0]
    assert "the dispatcher doesn't answer" in head


def test_rates_are_over_what_history_there_is() -> None:
    young = replace(SAMPLE, history=SAMPLE.history[-1:])
    assert figures(young)["requests"] == "120.0/s over 1s"


def test_a_sample_that_is_a_little_late_counts() -> None:
    late = replace(SAMPLE.history[-2], age=10.5)
    shown = figures(replace(SAMPLE, history=(late,)))["requests"]
    assert shown == f"{1200 / 10.5:.1f}/s over 10s"


def test_latency_when_nothing_was_served() -> None:
    snapshot = replace(SAMPLE, latency=Quantiles(30.2), queue_time=Quantiles(60.4))
    assert figures(snapshot)["latency"] == "no request over 30s"
    # "time" is the second word of its title.
    assert "queue time no request over 1m\n" in render(snapshot)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0s"),
        (9.74e-06, "9.74us"),
        (0.000105, "105us"),
        (0.0009996, "1ms"),
        (0.00105, "1.05ms"),
        (0.0262, "26.2ms"),
        (0.9994, "999ms"),
        (0.9999, "1s"),
        (1.05, "1.05s"),
        (59.96, "1m"),
        (95.2, "1m35s"),
        (3600.0, "1h"),
    ],
)
def test_brief(seconds: float | None, text: str) -> None:
    assert brief(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.25, "0.25s"),
        (9.996, "10s"),
        (59.9, "59.9s"),
        (60, "1m"),
        (61.9, "1m1s"),
        (3599, "59m59s"),
        (3600, "1h"),
        (3660.5, "1h1m"),
        (86400, "1d"),
        (90000, "1d1h"),
        (86400 * 4000, "4,000d"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (2**40, "1.0 TiB"),
        (2**52, "4,096.0 TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text
