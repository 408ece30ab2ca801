"""The chunked transfer coding (RFC 9112, 7.1), strictly. No sockets."""

from __future__ import annotations

import re
import typing as t

from .errors import BodyError
from .head import TOKEN
from .limits import Limits

#: A chunk's size; 15 digits are below 2**60, and zeros before them are good however
#: many they are (7.1), as long as the line is short enough. An extension has a name and
#: may have a value, and its blanks are "bad" ones (7.1.1): only what is harmless.
_SIZE = re.compile(
    rb"0*([0-9A-Fa-f]{1,15})"
    rb"((?:[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|"
    rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\"))?)*)\r\n"
)
#: What nearly all chunks but the last one begin with.
_PLAIN_SIZE = re.compile(rb"0{0,1000}([1-9A-Fa-f][0-9A-Fa-f]{0,14})\r\n")
_TRAILER = re.compile(TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n")
_ILLEGAL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n")

#: Bytes of a line with a chunk's size and extensions.
_LINE_LIMIT = 1024
#: Bytes of all lines with sizes for each chunk that a body may have: chunks that
#: are mostly extension are nobody's need.
_EXTENSION_LIMIT = 16384

#: What frames the chunks may take as many bytes as the content, so many bytes more, and
#: so many more each second: whoever sends a line at a time is never stopped if it has
#: five bytes, nor whoever sends a byte at a time as it comes; but a million of those at
#: once cost more to decode than they are worth.
_OVERHEAD_GRACE = 262144
_OVERHEAD_RATE = 65536

_AT_SIZE, _IN_DATA, _AT_DATA_END, _AT_TRAILER, _DONE = range(5)

#: What a decoder knows besides its limits and the line that has begun.
_NUMBERS = (
    "_state",
    "_left",
    "_size",
    "_extensions",
    "_trailers",
    "_trailer_size",
    "_overhead",
    "_now",
)


class Decoder:
    """Takes a body's bytes as they come and gives those that they carry.

    :param limits: For the trailers and the body's size.
    :ivar done: Whether the body and its trailers are complete.
    """

    __slots__ = ("_limits", "_line", *_NUMBERS)

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._state = _AT_SIZE
        self._line = b""
        self._left = 0
        self._size = 0
        self._extensions = 0
        self._trailers = 0
        self._trailer_size = 0
        #: Bytes of framing above those that the content and the time have paid for.
        self._overhead = 0.0
        self._now = 0.0

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def dump(self) -> list[t.Any]:
        """What another decoder needs to go on from here. To be kept as JSON."""
        numbers = [getattr(self, name) for name in _NUMBERS]
        return [self._line.decode("latin-1"), *numbers]

    def load(self, state: list[t.Any]) -> None:
        """Go on from what :meth:`dump` returned."""
        line, *numbers = state
        self._line = line.encode("latin-1")
        for name, number in zip(_NUMBERS, numbers, strict=True):
            setattr(self, name, number)

    def feed(self, data: bytes, now: float) -> tuple[bytes, int]:
        """Take more of the body.

        :param data: What came; may go beyond the body's end.
        :param now: When, in monotonic seconds.
        :return: The content, and how many bytes of the data belong to the body:
            all, unless the body is done.
        :raises BodyError: 400 for bad framing, 413 for more than the limit.
        """
        self._overhead = max(0, self._overhead - (now - self._now) * _OVERHEAD_RATE)
        self._now = now
        pieces: list[bytes] = []
        position = 0
        size = len(data)
        while position < size and self._state != _DONE:
            if self._state == _AT_SIZE and not self._line:
                position = self._take_whole(data, position, pieces)
                if position == size:
                    break
            if self._state == _IN_DATA:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _AT_DATA_END
            else:
                position = self._take_line(data, position)
        return b"".join(pieces), position

    def _take_whole(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        """Take chunks that are there as a whole, and as plain as most are.

        :return: Where the first begins that isn't.
        """
        while found := _PLAIN_SIZE.match(data, position):
            start = found.end()
            length = int(found[1], 16)
            end = start + length
            if not data.startswith(b"\r\n", end):
                break
            self._account(start - position, length)
            pieces.append(data[start:end])
            position = end + 2
        return position

    def _account(self, line: int, length: int) -> None:
        """Account for a chunk.

        :param line: Bytes of the line with its size,
        :param length: and of its content.
        """
        self._size += length
        if self._limits.body and self._size > self._limits.body:
            raise BodyError(413, "body too large")
        overhead = self._overhead + line + 2 - length
        if overhead > _OVERHEAD_GRACE:
            raise BodyError(400, "chunks too small")
        self._overhead = overhead if overhead > 0 else 0

    def _take_line(self, data: bytes, position: int) -> int:
        limit = 2 if self._state == _AT_DATA_END else _LINE_LIMIT
        if self._state == _AT_TRAILER:
            limit = self._limits.field_size + 2
        end = data.find(b"\n", position, position + limit) + 1
        self._line += data[position : end or position + limit]
        line = self._line
        if _ILLEGAL.search(line):
            raise BodyError(400, "illegal byte between chunks")
        if len(line) > limit or (not end and len(line) == limit):
            raise BodyError(400, "line between chunks too long")
        if self._state == _AT_DATA_END and not b"\r\n".startswith(line):
            raise BodyError(400, "chunk without its end")
        if not end:
            return len(data)
        self._line = b""
        if self._state == _AT_SIZE:
            self._start_chunk(line)
        elif self._state == _AT_DATA_END:
            self._state = _AT_SIZE
        else:
            self._end_trailer(line)
        return end

    def _start_chunk(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise BodyError(400, "malformed chunk size")
        self._extensions += len(found[2])
        if self._extensions > _EXTENSION_LIMIT:
            raise BodyError(400, "too many chunk extensions")
        self._left = int(found[1], 16)
        self._account(len(line), self._left)
        self._state = _IN_DATA if self._left else _AT_TRAILER

    def _end_trailer(self, line: bytes) -> None:
        """Check a trailer's form and drop it: merging it into the header fields
        could change what they mean (RFC 9110, 6.5.1)."""
        if line == b"\r\n":
            self._state = _DONE
            return
        if not _TRAILER.fullmatch(line):
            raise BodyError(400, "malformed trailer")
        self._trailer_size += len(line)
        if self._trailer_size > self._limits.head:
            raise BodyError(400, "trailers too large")
        self._trailers += 1
        if self._trailers > self._limits.fields:
            raise BodyError(400, "too many trailers")
