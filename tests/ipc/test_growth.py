"""Which requests have grown a worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.ipc.growth import _MOST
from flask_prefork.ipc.growth import Grown
from flask_prefork.ipc.growth import Growth

MIB = 2**20


def test_nobody_has() -> None:
    growth = Growth()
    assert growth.most() == Grown()
    growth.note("GET", "/", -MIB)
    assert growth.most() == Grown()


def test_queries_are_one_kind_and_methods_are_not() -> None:
    growth = Growth()
    growth.note("GET", "/page?n=1", 2 * MIB)
    growth.note("GET", "/page?n=2", 2 * MIB)
    growth.note("POST", "/page", 3 * MIB)
    assert growth.most() == Grown(4 * MIB, 2, "GET /page")


def test_a_little_each_time_is_more_than_once_a_lot() -> None:
    growth = Growth()
    growth.note("GET", "/imports", 9 * MIB)
    for _ in range(100):
        growth.note("GET", "/leak", MIB // 10)
        growth.note("GET", "/buffers", 5 * MIB)
        growth.note("GET", "/buffers", -5 * MIB)
    most = growth.most()
    assert (most.line, most.requests) == ("GET /leak", 100)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(-9, 9)), max_size=900))
def test_however_many_paths_there_are_few_are_kept(
    requests: list[tuple[int, int]],
) -> None:
    growth = Growth()
    growth.note("GET", "/leak", 10**6)
    for number, size in requests:
        growth.note("GET", f"/{number}", size)
        assert len(growth._sizes) == len(growth._counts) <= _MOST
    assert growth.most() == Grown(10**6, 1, "GET /leak")


@pytest.mark.parametrize(
    ("grown", "sentence"),
    [
        (Grown(), ""),
        (Grown(MIB, 1, "GET /"), " GET / grew it most: by 1.0 MiB in 1 request."),
        (Grown(MIB, 9, "GET /"), " GET / grew it most: by 1.0 MiB in 9 requests."),
    ],
)
def test_what_the_log_says(grown: Grown, sentence: str) -> None:
    assert grown.describe() == sentence
