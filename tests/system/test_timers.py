"""Deadlines, against the naive way: a dictionary that is searched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.system.timers import Deadlines

#: How late an item may be told, in seconds, and what floats may add to it.
GRAIN = 0.05 + 1e-6

items = st.integers(0, 7)
times = st.floats(0, 20)
steps = st.one_of(
    st.tuples(st.just("set"), items, times),
    st.tuples(st.just("discard"), items, st.just(0.0)),
    st.tuples(st.just("pop"), st.just(0), times),
)


@given(st.lists(steps, max_size=60))
def test_like_a_dictionary(script: list[tuple[str, int, float]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    naive: dict[int, float] = {}
    for what, item, when in script:
        if what == "set":
            deadlines.set(item, when)
            naive[item] = when
        elif what == "discard":
            deadlines.discard(item)
            naive.pop(item, None)
        else:
            popped = deadlines.pop(when)
            assert len(popped) == len(set(popped))
            for one in popped:
                assert naive.pop(one) <= when + 1e-6, "early"
            assert all(left > when - GRAIN for left in naive.values()), "late"
        assert len(deadlines) == len(naive)
        following = deadlines.next()
        if naive:
            assert following is not None
            assert min(naive.values()) - 1e-6 <= following
            assert following <= min(naive.values()) + GRAIN
        else:
            assert following is None


@given(st.lists(times, min_size=1, max_size=30))
def test_asking_at_the_next_one_always_brings_some(moments: list[float]) -> None:
    """Whoever sleeps until then neither spins nor sleeps for ever."""
    deadlines: Deadlines[int] = Deadlines()
    for item, when in enumerate(moments):
        deadlines.set(item, when)
    told: list[int] = []
    while (following := deadlines.next()) is not None:
        popped = deadlines.pop(following)
        assert popped
        told += popped
    assert sorted(told) == list(range(len(moments)))
    # To the precision in which they are kept, they come in order.
    ordered = [moments[item] for item in told]
    assert all(
        later > sooner - GRAIN
        for sooner, later in zip(ordered, ordered[1:], strict=False)
    )


@given(st.lists(times, max_size=30))
def test_what_is_taken_back_leaves_nothing_behind(moments: list[float]) -> None:
    deadlines: Deadlines[str] = Deadlines()
    for when in moments:
        deadlines.set("item", when)
    deadlines.discard("item")
    deadlines.discard("item")
    assert len(deadlines) == 0
    assert deadlines.next() is None
    assert deadlines.pop(100.0) == []
