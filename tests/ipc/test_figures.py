"""The table of figures, and what follows from it."""

from __future__ import annotations

import struct
import typing as t

import pytest

from flask_prefork.ipc.figures import add
from flask_prefork.ipc.figures import Counters
from flask_prefork.ipc.figures import FigureSpec
from flask_prefork.ipc.figures import GAUGES
from flask_prefork.ipc.figures import Gauges
from flask_prefork.ipc.figures import Histograms
from flask_prefork.ipc.figures import Layout
from flask_prefork.ipc.figures import MOST
from flask_prefork.ipc.figures import SERVED
from flask_prefork.ipc.figures import Served
from flask_prefork.ipc.figures import specs
from flask_prefork.ipc.records import Record
from flask_prefork.observe.snapshot import Snapshot
from flask_prefork.observe.snapshot import Totals

KINDS = [Served, Counters, Gauges]


def filled(kind: type[t.Any]) -> t.Any:
    """Figures of which no two numbers are the same."""
    made, number = kind(), 0
    for name in specs(kind):
        zero = getattr(made, name)
        if isinstance(zero, tuple):
            value: t.Any = tuple(range(number + 1, number + 1 + len(zero)))
            number += len(zero)
        elif isinstance(zero, dict):
            value = {key: number + 1 + n for n, key in enumerate(zero)}
            number += len(zero)
        else:
            number += 1
            value = number + 0.5 if isinstance(zero, float) else number
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_packed_is_unpacked(kind: type[t.Any]) -> None:
    layout, figures = Layout(kind), filled(kind)
    packed = struct.Struct(f"={layout.format}")
    data = packed.pack(*layout.numbers(figures))
    # Words that nobody sees half of.
    assert len(data) == 8 * len(layout.numbers(figures))
    numbers = iter((*packed.unpack(data), "more"))
    assert layout.figures(numbers) == figures
    assert next(numbers) == "more"


def test_sums_of_every_figure() -> None:
    one = filled(Served)
    assert add(Served(), one) == one
    twice = add(one, one)
    for name in SERVED:
        value = getattr(one, name)
        double = tuple(2 * n for n in value) if isinstance(value, tuple) else 2 * value
        assert getattr(twice, name) == double
    assert add(Served(requests=MOST), one).requests == MOST


def test_what_workers_count_is_in_their_records() -> None:
    zeros = Record._field_defaults
    assert {name: zeros[name] for name in SERVED} == vars(Served())


def test_gauges_with_a_metric_are_in_the_snapshot() -> None:
    shown = {name for name, spec in GAUGES.items() if spec.metric}
    kinds, there = t.get_type_hints(Gauges), t.get_type_hints(Snapshot)
    assert {name: kinds[name] for name in shown} == {n: there.get(n) for n in shown}


def test_counters_are_in_the_snapshot_with_what_they_mean() -> None:
    for kind in (Served, Histograms, Counters):
        for name, spec in specs(kind).items():
            assert specs(Totals)[name] is spec
            assert f":param {name}: {spec.help}" in str(Totals.__doc__)


@pytest.mark.parametrize("kind", [*KINDS, Histograms])
def test_what_is_said_of_figures(kind: type) -> None:
    for name, spec in specs(kind).items():
        assert spec.kind == ("gauge" if kind is Gauges else "counter")
        assert spec.help.endswith("."), name
        assert not spec.absent_without or spec.absent_without in GAUGES


def test_no_metric_is_there_twice() -> None:
    found: list[FigureSpec] = [s for kind in KINDS for s in specs(kind).values()]
    names = [spec.metric for spec in found if spec.metric]
    assert len(names) == len(set(names))
