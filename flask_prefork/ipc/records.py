"""A worker's record on the scoreboard: what it serves, and what it has served.

The worker writes it by an :class:`RecordWriter`, the dispatcher and the observer read
it by :func:`read`, and its histograms by :func:`durations`. Nobody locks: each number
is written at once, and a record that is read while it is written is a moment old in
parts, no more.
"""

from __future__ import annotations

import mmap
import struct
import typing as t
from bisect import bisect_left
from itertools import accumulate

from .durations import BUCKETS
from .durations import Durations
from .durations import FINE_BOUNDS
from .figures import code
from .figures import Served
from .figures import width
from .growth import Grown

#: Bytes of the request line that are kept.
LINE = 208
#: And of the client's address: the longest one of IPv6 with an interface's name.
_CLIENT = 64

#: A timeout that doesn't end: 100 years, in seconds.
NEVER = 86400.0 * 365 * 100
#: More is no time: a worker may write anything here. In seconds; it is 34,865 years.
_LATEST = 2.0**40


class Record(t.NamedTuple):
    """What a worker tells of itself. Times are monotonic seconds.

    Its counters have the names of :class:`.figures.Served`.

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
    :param queued: Seconds that requests have waited for it, or for another worker that
        wasn't free.
    :param timeout: Seconds without progress after which the current request is aborted,
        instead of the setting; 0 if the setting counts, :data:`NEVER` is never.
    :param method: The current request's method.
    :param target: The current request's target, cut.
    :param client: The address of its client, without the port.
    :param grown: Which requests have left it with more memory than others.
    """

    pid: int = 0
    generation: int = 0
    since: float = 0.0
    requests: int = 0
    connections: int = 0
    sent: int = 0
    classes: tuple[int, ...] = Served.classes
    began: float = 0.0
    moved: float = 0.0
    upgraded: float = 0.0
    spent: float = 0.0
    queued: float = 0.0
    timeout: float = 0.0
    method: str = ""
    target: str = ""
    client: str = ""
    grown: Grown = Grown()


# How it lies in memory: the numbers in words of eight bytes, in the order of the
# fields; after them the client and the request line, and the line of the requests that
# have grown the worker most; at last the two histograms, a word for each bucket.

_ZEROS: dict[str, t.Any] = {
    name: zero
    for name, zero in Record._field_defaults.items()
    if type(zero) in (int, float, tuple)
}
_ZEROS.update(length=0, grown_size=0, grown_requests=0)
_ENDS = accumulate(map(width, _ZEROS.values()))
_FIRST = {
    name: end - width(zero)
    for (name, zero), end in zip(_ZEROS.items(), _ENDS, strict=True)
}
#: Where each number is among the words: tuples are slices.
_WHERE = [
    slice(_FIRST[name], _FIRST[name] + len(zero))
    if isinstance(zero, tuple)
    else _FIRST[name]
    for name, zero in _ZEROS.items()
]
_BEGAN_AT = list(_ZEROS).index("began")
_TIMES = [n for n, zero in enumerate(_ZEROS.values()) if isinstance(zero, float)]
# The writer is on every request's way, where a global's name costs less than a look-up.
_PID = _FIRST["pid"]
_GENERATION = _FIRST["generation"]
_SINCE = _FIRST["since"]
_REQUESTS = _FIRST["requests"]
_CONNECTIONS = _FIRST["connections"]
_SENT = _FIRST["sent"]
_CLASSES = _FIRST["classes"]
_BEGAN = _FIRST["began"]
_MOVED = _FIRST["moved"]
_UPGRADED = _FIRST["upgraded"]
_SPENT = _FIRST["spent"]
_QUEUED = _FIRST["queued"]
_TIMEOUT = _FIRST["timeout"]
_LENGTH = _FIRST["length"]
_GROWN_SIZE = _FIRST["grown_size"]
_GROWN_REQUESTS = _FIRST["grown_requests"]
_WORDS = struct.Struct("=" + "".join(map(code, _ZEROS.values())))
_TEXT = _WORDS.size
#: Bytes of the client's address, a space, and the request line.
_REQUEST = _CLIENT + 1 + LINE
_RECORD = struct.Struct(f"{_WORDS.format}{_REQUEST}s{1 + LINE}p")
_DURATIONS = struct.Struct(f"={BUCKETS}Q{BUCKETS}Q")
_LATENCIES = -(-_RECORD.size // 8)
_QUEUE_TIMES = _LATENCIES + BUCKETS
#: Bytes of a record: a multiple of the processor's cache lines. Most of it are the
#: histograms.
SIZE = -(-(8 * _LATENCIES + _DURATIONS.size) // 64) * 64


class RecordWriter:
    """A worker's own record, for writing.

    :param board: The scoreboard.
    :param start: Where the record is.
    :param mark: Where the byte is that tells that the worker is about to accept.
    """

    #: When the current request began.
    _began = 0.0
    #: Whether it has a timeout of its own, or its connection was taken over.
    _is_special = False

    def __init__(self, board: mmap.mmap, start: int, mark: int) -> None:
        self._mark = memoryview(board)[mark : mark + 1]
        self._last_mark = 0
        self._view = memoryview(board)[start : start + SIZE]
        # Assigning to a word costs a third of packing it.
        self._counts = self._view.cast("Q")
        self._times = self._view.cast("d")
        self._text = self._view[_TEXT : _TEXT + _REQUEST]
        grown = _TEXT + _REQUEST
        self._grown = self._view[grown : grown + 1 + LINE]

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

    def clear_about_to_accept(self) -> None:
        """Note that the worker isn't about to accept."""
        self._mark[0] = 0

    def set_about_to_accept(self) -> None:
        """Note that the worker is about to accept: by another number each time."""
        self._last_mark = self._mark[0] = self._last_mark % 255 + 1

    def accept(self) -> None:
        """Count a connection, whether it brings a request or not."""
        self._counts[_CONNECTIONS] += 1

    def begin(self, moment: float, method: str, target: str, client: str = "") -> None:
        """Note the request that begins. The worker isn't about to accept."""
        line = f"{client} {method} {target}".encode("latin-1", "replace")[:_REQUEST]
        counts, times = self._counts, self._times
        self._mark[0] = 0
        counts[_LENGTH] = length = len(line)
        self._text[:length] = line
        times[_MOVED] = 0.0
        times[_BEGAN] = self._began = moment

    def set_client(self, client: str) -> None:
        """Note that the current request is of another client than its peer."""
        old = bytes(self._text[: self._counts[_LENGTH]])
        rest = old.partition(b" ")[2]
        line = b"%b %b" % (client.encode("latin-1", "replace"), rest)
        self._counts[_LENGTH] = length = min(len(line), _REQUEST)
        self._text[:length] = line[:length]

    def move(self, moment: float) -> None:
        """Note that the request makes progress."""
        self._times[_MOVED] = moment

    def wait(self, seconds: float) -> None:
        """Count a request that has waited so long for a worker."""
        self._times[_QUEUED] += seconds
        self._counts[_QUEUE_TIMES + bisect_left(FINE_BOUNDS, seconds)] += 1

    def set_timeout(self, seconds: float) -> None:
        """Note the timeout of the current request's route, see :class:`Record`."""
        self._is_special = True
        self._times[_TIMEOUT] = seconds

    def grow(self, grown: Grown) -> None:
        """Note which requests have grown the worker most."""
        counts = self._counts
        counts[_GROWN_SIZE], counts[_GROWN_REQUESTS] = grown.size, grown.requests
        line = grown.line.encode("latin-1", "replace")
        struct.pack_into(f"{1 + LINE}p", self._grown, 0, line)

    def upgrade(self, moment: float) -> None:
        """Note that the app takes the request's connection over."""
        self._is_special = True
        self._times[_UPGRADED] = moment

    def end(self, moment: float, status: int, sent: int) -> None:
        """Note that the request is over, and how it went.

        :param status: The status sent, 0 if nothing could be sent.
        :param sent: Bytes sent.
        """
        counts, times = self._counts, self._times
        if self._is_special:
            moment = times[_UPGRADED] or moment
            times[_UPGRADED] = times[_TIMEOUT] = 0.0
            self._is_special = False
        spent = moment - self._began
        times[_BEGAN] = 0.0
        times[_SPENT] += spent
        counts[_REQUESTS] += 1
        counts[_SENT] += sent
        counts[_CLASSES + status // 100] += 1
        counts[_LATENCIES + bisect_left(FINE_BOUNDS, spent)] += 1


def _seconds(number: float) -> float:
    """A time as the readers can reckon with; 0 for what is none."""
    return number if 0.0 < number <= _LATEST else 0.0


def read(board: mmap.mmap, start: int) -> Record:
    """Read a record, whatever a worker has made of it.

    :param start: Where it is on the scoreboard.
    """
    fields = _RECORD.unpack_from(board, start)
    line, grown_line = fields[-2:]
    numbers: list[t.Any] = [fields[where] for where in _WHERE]
    for index in _TIMES:
        numbers[index] = _seconds(numbers[index])
    *numbers, length, size, requests = numbers
    method = target = client = ""
    if numbers[_BEGAN_AT]:
        client, _, request = line[:length].decode("latin-1").partition(" ")
        method, _, target = request.partition(" ")
    grown = Grown(size, requests, grown_line.decode("latin-1")) if size else Grown()
    return Record._make([*numbers, method, target, client, grown])


def durations(board: mmap.mmap, start: int) -> Durations:
    """Read a record's histograms, which are much longer than the rest.

    :param start: Where the record is on the scoreboard.
    """
    counts = _DURATIONS.unpack_from(board, start + 8 * _LATENCIES)
    return Durations(counts[:BUCKETS], counts[BUCKETS:])
