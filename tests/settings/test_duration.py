"""Times, as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.settings import duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        ("30", 30.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-1", -1.0),
        (" 30\n", 30.0),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("30 s", 30.0),
        ("30S", 30.0),
        ("5m", 300.0),
        ("1.5m", 90.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
    ],
)
def test_times(text: str, expected: float) -> None:
    assert duration.parse(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    ["", "s", "soon", "5 minutes", "5min", "1h30m", "1:30", "nan", "inf", "0x10", "٣s"],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="such as 500ms, 30s, 5m or 1h"):
        duration.parse(text)


@given(st.floats(0, 1e9))
def test_plain_numbers_stay_seconds(number: float) -> None:
    assert duration.parse(str(number)) == number
