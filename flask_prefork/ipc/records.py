"""A worker's record on the scoreboard: what it serves, and what it has served.

The worker writes it by an :class:`RecordWriter`, the dispatcher and the observer read
it by :func:`read`. Nobody locks: each number is written at once, and a record that is
read while it is written is a moment old in parts, no more.
"""

from __future__ import annotations

import mmap
import struct
import typing as t
from bisect import bisect_left

from .growth import Grown

#: Upper bounds of the latency histogram, in seconds; above the last there is one
#: bucket more.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
#: Status classes: index 0 counts requests that got no response, 1 to 5 are 1xx to 5xx.
CLASSES = 6
#: Bytes of the request line that are kept.
LINE = 208

# The record in words of eight bytes, and after them the request line, and the line of
# the requests that have grown the worker most.
_PID, _GENERATION, _SINCE, _REQUESTS, _CONNECTIONS, _SENT = range(6)
_CLASSES = 6
_BEGAN, _MOVED, _UPGRADED, _SPENT, _LENGTH = range(12, 17)
_BUCKETS = 17
_GROWN = _BUCKETS + len(BOUNDS) + 1
_TEXT = 8 * (_GROWN + 2)
_RECORD = struct.Struct(f"=QQdQQQ{CLASSES}QddddQ{len(BOUNDS) + 1}QQQ{LINE}s{1 + LINE}p")
#: More is no time: a worker may write anything here. In seconds; it is 34,865 years.
_LATEST = 2.0**40
#: Bytes of a record: a multiple of the processor's cache lines.
SIZE = 704
assert _RECORD.size <= SIZE


class Record(t.NamedTuple):
    """What a worker tells of itself. Times are monotonic seconds.

    :param pid: Its process; 0 if there is none.
    :param generation: The generation it is of.
    :param since: When it began its life.
    :param requests: Requests served.
    :param connections: Connections accepted.
    :param sent: Bytes sent in responses, their heads included.
    :param classes: Requests by status class: none, 1xx to 5xx.
    :param began: When its current request began; 0 is none.
    :param moved: When something of it was last read or written; 0 is never.
    :param upgraded: When the app took the current request's connection over; 0 if it
        hasn't.
    :param spent: Seconds of all requests together, from head to last byte, or until
        the connection was taken over.
    :param buckets: Requests by their seconds, see :data:`BOUNDS`; not cumulative.
    :param method: The current request's method.
    :param target: The current request's target, cut.
    :param grown: Which requests have left it with more memory than others.
    """

    pid: int = 0
    generation: int = 0
    since: float = 0.0
    requests: int = 0
    connections: int = 0
    sent: int = 0
    classes: tuple[int, ...] = (0,) * CLASSES
    began: float = 0.0
    moved: float = 0.0
    upgraded: float = 0.0
    spent: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    method: str = ""
    target: str = ""
    grown: Grown = Grown()


class RecordWriter:
    """A worker's own record, for writing.

    :param board: The scoreboard.
    :param start: Where the record is.
    :param mark: Where the byte is that tells that the worker is about to accept.
    """

    def __init__(self, board: mmap.mmap, start: int, mark: int) -> None:
        self._mark = memoryview(board)[mark : mark + 1]
        self._turns = 0
        self._view = memoryview(board)[start : start + SIZE]
        # Assigning to a word costs a third of packing it.
        self._counts = self._view.cast("Q")
        self._times = self._view.cast("d")
        self._text = self._view[_TEXT : _TEXT + LINE]
        self._grown = self._view[_TEXT + LINE : _TEXT + LINE + 1 + LINE]

    def release(self) -> None:
        """Let the mapping be closed."""
        lines = (self._text, self._grown)
        for view in (self._counts, self._times, *lines, self._view, self._mark):
            view.release()

    def enter(self, pid: int, generation: int, moment: float) -> None:
        """Begin the record of a new worker."""
        self._view[:] = bytes(SIZE)
        self._counts[_PID] = pid
        self._counts[_GENERATION] = generation
        self._times[_SINCE] = moment

    def take(self) -> None:
        """Note that the worker isn't about to accept."""
        self._mark[0] = 0

    def turn(self) -> None:
        """Note that the worker is about to accept: by another number each time."""
        self._turns = self._mark[0] = self._turns % 255 + 1

    def accept(self) -> None:
        """Count a connection, whether it brings a request or not."""
        self._counts[_CONNECTIONS] += 1

    def begin(self, moment: float, method: str, target: str) -> None:
        """Note the request that begins. The worker isn't about to accept."""
        line = f"{method} {target}".encode("latin-1", "replace")[:LINE]
        counts, times = self._counts, self._times
        self._mark[0] = 0
        counts[_LENGTH] = length = len(line)
        self._text[:length] = line
        times[_MOVED] = 0.0
        times[_BEGAN] = moment

    def move(self, moment: float) -> None:
        """Note that the request makes progress."""
        self._times[_MOVED] = moment

    def grow(self, grown: Grown) -> None:
        """Note which requests have grown the worker most."""
        counts = self._counts
        counts[_GROWN], counts[_GROWN + 1] = grown.size, grown.requests
        line = grown.line.encode("latin-1", "replace")
        struct.pack_into(f"{1 + LINE}p", self._grown, 0, line)

    def upgrade(self, moment: float) -> None:
        """Note that the app takes the request's connection over."""
        self._times[_UPGRADED] = moment

    def end(self, moment: float, status: int, sent: int) -> None:
        """Note that the request is over, and how it went.

        :param status: The status sent, 0 if nothing could be sent.
        :param sent: Bytes sent.
        """
        counts, times = self._counts, self._times
        if times[_UPGRADED]:
            moment = times[_UPGRADED]
            times[_UPGRADED] = 0.0
        spent = moment - times[_BEGAN]
        times[_BEGAN] = 0.0
        times[_SPENT] += spent
        counts[_REQUESTS] += 1
        counts[_SENT] += sent
        counts[_CLASSES + status // 100] += 1
        counts[_BUCKETS + bisect_left(BOUNDS, spent)] += 1


def _seconds(number: float) -> float:
    """A time as the readers can reckon with; 0 for what is none."""
    return number if 0.0 < number <= _LATEST else 0.0


def read(board: mmap.mmap, start: int) -> Record:
    """Read a record, whatever a worker has made of it.

    :param start: Where it is on the scoreboard.
    """
    fields = _RECORD.unpack_from(board, start)
    numbers, buckets = fields[:_BUCKETS], fields[_BUCKETS:_GROWN]
    grown, by, line, grown_line = fields[_GROWN:]
    began, moved, upgraded, spent = map(_seconds, numbers[_BEGAN:_LENGTH])
    length = numbers[_LENGTH]
    method = target = ""
    if began:
        method, _, target = line[:length].decode("latin-1").partition(" ")
    pid, generation, since, requests, connections, sent = numbers[:_CLASSES]
    return Record(
        pid,
        generation,
        _seconds(since),
        requests,
        connections,
        sent,
        numbers[_CLASSES:_BEGAN],
        began,
        moved,
        upgraded,
        spent,
        buckets,
        method,
        target,
        Grown(grown, by, grown_line.decode("latin-1")) if grown else Grown(),
    )
