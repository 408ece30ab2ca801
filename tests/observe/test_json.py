"""What ``/status.json`` says, and how it is read."""

from __future__ import annotations

import json
import typing as t
from dataclasses import asdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.observe.json import parse
from flask_prefork.observe.json import render
from flask_prefork.observe.snapshot import Snapshot

from .snapshots import SAMPLE
from .snapshots import snapshots


@given(snapshots)
def test_what_is_rendered_can_be_parsed(snapshot: Snapshot) -> None:
    assert parse(render(snapshot)) == snapshot


@given(snapshots)
def test_nothing_is_renamed(snapshot: Snapshot) -> None:
    assert json.loads(render(snapshot)) == json.loads(json.dumps(asdict(snapshot)))


def test_it_is_one_line_of_ascii() -> None:
    data = render(replace(SAMPLE, version="é\n\x1b\u2028"))
    assert data.isascii() and data.decode().isprintable()


def changed(path: tuple[str | int, ...], value: object) -> bytes:
    """The sample with one value replaced."""
    data = json.loads(render(SAMPLE))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(data).encode()


def test_what_another_version_has_more_is_passed_over() -> None:
    assert parse(changed(("hotness",), 11)) == SAMPLE
    assert parse(changed(("totals", "dreams"), [1])) == SAMPLE


def test_what_another_version_has_less_takes_its_default() -> None:
    data: dict[str, t.Any] = json.loads(render(SAMPLE))
    del data["history"]
    del data["totals"]["reloads"]
    read = parse(json.dumps(data).encode())
    assert read == replace(SAMPLE, history=(), totals=replace(SAMPLE.totals, reloads=0))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("pid",), "3003"),
        (("pid",), True),
        (("pid",), 3003.0),
        (("uptime",), float("nan")),
        (("uptime",), "1"),
        (("ready",), 1),
        (("version",), None),
        (("addresses",), "http://127.0.0.1:5000"),
        (("generations",), {}),
        (("generations", 0, "role"), "retired"),
        (("generations", 0, "role"), ["current"]),
        (("generations", 0, "workers", 0, "pss"), "9 MiB"),
        (("totals",), []),
        (("totals", "classes"), [1, 2.5]),
        (("totals", "deaths"), {"exit": None}),
    ],
)
def test_a_wrong_value(path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(ValueError):
        parse(changed(path, value))


@given(st.binary())
@pytest.mark.parametrize("prefix", [b"", b"{", b'{"pid":'])
def test_something_else(prefix: bytes, data: bytes) -> None:
    with pytest.raises(ValueError):
        parse(prefix + data)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"<html>", b"[" * 100_000, b'{"pid":' * 100_000],
)
def test_something_else_that_is_near(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse(data)
