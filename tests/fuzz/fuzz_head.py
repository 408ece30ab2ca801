"""Feed atheris' inventions to the readers of heads and chunked bodies.

By hand, for a bounded time::

    pip install atheris
    python tests/fuzz/fuzz_head.py -max_total_time=60

What it looks for: an exception that isn't ours, and a result that depends on how
the bytes were split.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from flask_prefork.http.chunked import Decoder
from flask_prefork.http.errors import BodyError
from flask_prefork.http.errors import Refused
from flask_prefork.http.head import read
from flask_prefork.http.limits import Limits

LIMITS = Limits(request_line=256, fields=16, field_size=256, body=4096)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """The data in pieces of a size, the last one may be smaller."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def read_head(data: bytes, size: int) -> object:
    """What a reader finds that looks whenever a piece has come."""
    for end in [*range(size, len(data), size), len(data)]:
        try:
            found = read(data[:end], LIMITS)
        except Refused as e:
            return e.status
        if found is not None:
            return found[0].raw, found[0].fields, found[0].length, found[1]
    return None


def decode(data: bytes, size: int) -> object:
    """What a body's reader finds."""
    decoder = Decoder(LIMITS)
    content = b""
    for piece in pieces(data, size):
        try:
            content += decoder.feed(piece, 0.0)[0]
        except BodyError as e:
            return e.status
        if decoder.done:
            return content
    return content, "unfinished"


def one_input(data: bytes) -> None:
    """One invention; its first byte says how it is split."""
    if len(data) < 2:
        return
    size, data = data[0] % 16 + 1, data[1:]
    for reader in (read_head, decode):
        whole = reader(data, len(data))
        if reader(data, size) != whole:
            raise AssertionError(f"{reader.__name__} depends on the split: {data!r}")


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
