"""Sizes of memory as text, such as 200M. Pure.

The settings are checked and read by it, and what the log says of memory is written.
"""

from __future__ import annotations

import re

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"([0-9]{1,18})([KMGT]?)", re.IGNORECASE)
#: A smaller one was meant in another unit.
LEAST = 2**20


def parse(text: str | None) -> int:
    """Read a size of memory.

    :param text: A whole number of bytes, or of K, M, G or T, powers of 1024;
        ``None`` is 0.
    :return: Bytes.
    :raises ValueError: It is no size, or one that can't have been meant.
    """
    if text is None:
        return 0
    size = parse_bytes(text)
    if 0 < size < LEAST:
        raise ValueError("must be 0 or at least 1M")
    return size


def parse_bytes(text: str) -> int:
    """Read a number of bytes, however small.

    :param text: See :func:`parse`.
    :return: Bytes.
    :raises ValueError: It is no size.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError("must be a size such as 200M or 1G, or a number of bytes")
    return int(found[1]) * _UNITS[found[2].upper()]


def show(size: float) -> str:
    """Write a number of bytes, in MiB."""
    return f"{size / 2**20:,.1f} MiB"
