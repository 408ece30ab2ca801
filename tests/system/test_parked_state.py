"""How a connection's state changes when it is parked again."""

from __future__ import annotations

import pytest

from flask_prefork.ipc.parked_connections import FIRST_DELAY
from flask_prefork.ipc.parked_connections import LAST_DELAY
from flask_prefork.system.parked_state import MAX_WAKES
from flask_prefork.system.parked_state import Parked
from flask_prefork.system.parked_state import Size
from flask_prefork.system.parked_state import Wait


def test_wakes_for_no_whole_head_are_counted() -> None:
    state = Parked(Wait.HEAD, 60.0, 1)
    for wakes in range(1, MAX_WAKES + 1):
        state = Parked(Wait.HEAD, 60.0, 2, tag=b"x").after(state)
        assert state == Parked(Wait.HEAD, 60.0, 2, wakes, b"x")


@pytest.mark.parametrize("wakes", [MAX_WAKES, 2**32 - 1])
def test_the_count_of_wakes_saturates(wakes: int) -> None:
    before = Parked(Wait.HEAD, 60.0, 1, wakes)
    assert Parked(Wait.HEAD, 60.0, 2).after(before).wakes == MAX_WAKES
    # No count that is kept is told from a higher one by its delay.
    assert FIRST_DELAY * 2 ** (MAX_WAKES - 1) >= LAST_DELAY


@pytest.mark.parametrize("wait", [Wait.KEEP_ALIVE, Wait.WORKER])
def test_wakes_for_a_whole_head_are_not_counted(wait: Wait) -> None:
    head, other = Parked(Wait.HEAD, 60.0, 1, 5), Parked(wait, 60.0, 1, 5)
    assert head.after(None).wakes == 0
    assert head.after(other).wakes == 0
    assert other.after(head).wakes == 0


def test_a_body_that_comes_in_large_pieces_has_its_wakes_forgotten() -> None:
    state = Parked(Wait.BODY, 10.0, 100, need=4196)
    assert state.after(None).wakes == 0
    little = state._replace(have=101)
    assert little.after(state).wakes == 1
    assert little.after(state._replace(wakes=3)).wakes == 4
    assert state._replace(have=4196).after(state._replace(wakes=3)).wakes == 0
    # What a spool has taken has come too.
    begun = Parked(Wait.BODY, 10.0, spooled=Size(1000), wakes=5)
    more = begun._replace(spooled=Size(1000 + 65535))
    assert more.after(begun).wakes == 6
    assert more._replace(spooled=Size(1000 + 65536)).after(begun).wakes == 0
