"""Sizes of memory, as people write them."""

from __future__ import annotations

import pytest

from flask_prefork.settings import size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, 0),
        ("0", 0),
        ("1048576", 2**20),
        ("2048K", 2 * 2**20),
        ("200M", 200 * 2**20),
        ("200m", 200 * 2**20),
        ("3G", 3 * 2**30),
        ("1T", 2**40),
    ],
)
def test_sizes(text: str | None, expected: int) -> None:
    assert size.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "M", "1.5G", "-1", "200MB", "200 M", "0x10", "9" * 19, "٣M", "1M\n"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size such as 200M or 1G"):
        size.parse(text)


@pytest.mark.parametrize("text", ["1", "200", "1023K"])
def test_a_size_that_was_meant_in_another_unit(text: str) -> None:
    with pytest.raises(ValueError, match="must be 0 or at least 1M"):
        size.parse(text)


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("8K", 8192), ("0", 0)])
def test_a_number_of_bytes_may_be_small(text: str, expected: int) -> None:
    assert size.parse_bytes(text) == expected


def test_how_it_is_shown() -> None:
    assert size.show(1536 * 2**20 + 2**19) == "1,536.5 MiB"
