"""Frames: the messages of the back channels (:mod:`.channel`).

Each kind is a class with a number and named fields; its layout follows from the fields'
types. A frame on the wire is :data:`FRAME_SIZE` bytes, whatever its kind: the magic
number, the kind's number, the fields, and zeros.

All begin with the generation that they are of. The dispatcher ignores those of another
one, and a worker ends at one. Nothing else is checked here than that the bytes are a
frame: what a worker or a zygote says is checked by the dispatcher
(``dispatcher/vetting.py``).
"""

from __future__ import annotations

import struct
import typing as t
from collections.abc import Callable
from functools import partial

from ..system.parked_state import Parked
from ..system.parked_state import Size
from ..system.parked_state import Wait

#: Bytes of the longest tag.
TAG_SIZE = 24

#: An exit code, or the signal's number below 0; or ``exits.UNKNOWN_STATUS``.
Status = t.NewType("Status", int)
#: A counter of events. A process may live longer than 32 bits last.
Count = t.Annotated[int, "counter"]

#: How a field of a type travels (:mod:`struct`).
_WIRE: dict[t.Any, str] = {
    int: "I",
    Status: "i",
    Size: "Q",
    Count: "Q",
    float: "d",
    bool: "?",
    bytes: f"{1 + TAG_SIZE}p",
    Wait: "B",
}
_MAGIC = 0xF9
#: Faster than a call of the class.
_WAITS = {int(wait): wait for wait in Wait}
#: The classes, by their numbers.
KINDS: dict[int, type[Frame]] = {}

_T = t.TypeVar("_T", bound=type)


def _kind(number: int) -> Callable[[_T], _T]:
    """Declare a frame.

    :param number: What it is known by on the wire.
    """

    def declare(cls: _T) -> _T:
        assert number not in KINDS, "a number means one kind"
        KINDS[number] = cls
        return cls

    return declare


# Dispatcher to worker


@_kind(1)
class Order(t.NamedTuple):
    """Accept from a listener, up to so many times."""

    generation: int
    slot: int
    listener: int
    run_length: int


@_kind(2)
class Retire(t.NamedTuple):
    """Finish and exit until the deadline."""

    generation: int
    slot: int
    deadline: float = 0.0


@_kind(12)
class Resume(t.NamedTuple):
    """Serve the connection that rides along, with its spool if it has one, and the file
    with its client's certificate if its tag tells of one; it is as its :class:`Park`
    said."""

    generation: int
    slot: int
    listener: int
    parked: Parked


@_kind(30)
class PermitAnswer(t.NamedTuple):
    """Whether it has the permit that it asked for."""

    generation: int
    slot: int
    granted: bool


@_kind(22)
class Promote(t.NamedTuple):
    """Finish, and leave the zygote of the next generation behind; its end of the
    control socket rides along. Exit until the deadline."""

    generation: int
    slot: int
    next_generation: int
    deadline: float = 0.0


# Worker to dispatcher


@_kind(3)
class Idle(t.NamedTuple):
    """It waits for orders, and has served so many requests since it last was."""

    generation: int
    slot: int
    served: int = 0


@_kind(4)
class Busy(t.NamedTuple):
    """It has accepted; or it has what :class:`Resume` handed to it."""

    generation: int
    slot: int
    resumed: bool = False


@_kind(13)
class Park(t.NamedTuple):
    """Wait for the connection that rides along, with its spool if it has one; it came
    by this listener."""

    generation: int
    slot: int
    listener: int
    parked: Parked


@_kind(26)
class Deliver(t.NamedTuple):
    """Send the rest of a response on the connection that rides along.

    It is in the files behind that: first the spool, if there is anything of it, then
    the app's own file, if there is anything of that. Sent by a worker, and with a
    number from the dispatcher on to the sender.
    """

    generation: int
    slot: int
    listener: int
    #: The dispatcher's, for the answer.
    number: int
    #: Bytes per second that the client must take, 0 for any.
    rate: float
    #: Bytes of the spool, and of those the ones that were sent already.
    spooled: Size
    sent: Size
    #: Where in the app's file, and how many bytes.
    offset: Size
    length: Size
    #: How the connection waits afterwards, and for how many seconds from then: its
    #: deadline isn't known yet.
    seconds: float
    parked: Parked

    @property
    def descriptors(self) -> int:
        """How many ride along."""
        return 1 + bool(self.spooled) + bool(self.length)


@_kind(28)
class PermitRequest(t.NamedTuple):
    """It needs a permit of a limit, by its number as in :class:`Parked`, for a request
    whose connection can't be parked. Answered at once."""

    generation: int
    slot: int
    limit: int


@_kind(29)
class PermitRelease(t.NamedTuple):
    """The request is over that had a permit."""

    generation: int
    slot: int


@_kind(33)
class LimitRefused(t.NamedTuple):
    """It has refused a request that had waited longer than the limit lets it."""

    generation: int
    slot: int
    limit: int


@_kind(24)
class Finishing(t.NamedTuple):
    """It serves no more, and waits for what the app's threads and processes do."""

    generation: int
    slot: int


@_kind(21)
class MemoryUse(t.NamedTuple):
    """It has so many KiB for itself."""

    generation: int
    slot: int
    size: int
    has_served: bool


# Dispatcher to zygote


@_kind(5)
class Listen(t.NamedTuple):
    """The listening sockets ride along, and for a zygote the scoreboard; the document
    lists them."""

    generation: int


@_kind(6)
class Spawn(t.NamedTuple):
    """Fork a worker; its end of the channel rides along, and the file for its dumps."""

    generation: int
    slot: int


@_kind(7)
class Signal(t.NamedTuple):
    """Send a signal to the worker in a slot, if it still is this process."""

    generation: int
    slot: int
    pid: int
    number: int


@_kind(15)
class Release(t.NamedTuple):
    """The end of the control socket is meant: the server serves on without it."""

    generation: int


@_kind(16)
class Serving(t.NamedTuple):
    """The generation serves; it may have taken over from another. Sent back when that
    was told to the app."""

    generation: int
    follows: bool = False


@_kind(25)
class HandedOn(t.NamedTuple):
    """What the app has registered here for its end is another generation's now."""

    generation: int


@_kind(17)
class Resized(t.NamedTuple):
    """The generation has so many workers. Sent back when that was told to the app;
    until then no other is sent."""

    generation: int
    workers: int


@_kind(36)
class Ended(t.NamedTuple):
    """Workers have ended; the document that rides along lists them. Sent back when that
    was told to the app; until then no other is sent, but for the last."""

    generation: int


# Zygote to dispatcher


@_kind(23)
class Promoted(t.NamedTuple):
    """A worker has left it behind; it is this process."""

    generation: int
    pid: int


@_kind(8)
class Loaded(t.NamedTuple):
    """The app is loaded, and takes so many KiB, if that matters; its settings ride
    along. Or it can't be loaded, and what is served shows why."""

    generation: int
    size: int = 0
    is_failure: bool = False


@_kind(9)
class Spawned(t.NamedTuple):
    """The worker in a slot is this process; its pidfd may ride along."""

    generation: int
    slot: int
    pid: int


@_kind(10)
class Failed(t.NamedTuple):
    """The fork for a slot failed."""

    generation: int
    slot: int
    errno: int


@_kind(11)
class Exited(t.NamedTuple):
    """The worker in a slot, this process, ended."""

    generation: int
    slot: int
    pid: int
    status: Status


@_kind(14)
class Changed(t.NamedTuple):
    """A file of the app has changed."""

    generation: int


# Dispatcher to observer, which is of no generation


@_kind(18)
class Observe(t.NamedTuple):
    """The scoreboard, the sockets that it serves on and the listening sockets ride
    along behind a document, which tells the rest."""

    generation: int = 0


@_kind(19)
class Closed(t.NamedTuple):
    """The listening sockets are closed now. The TLS proxy sends it back when all are
    handed over that it has accepted."""

    generation: int = 0


@_kind(20)
class Ping(t.NamedTuple):
    """It still listens; sent by the observer, and back. The first asks for
    :class:`Observe`."""

    generation: int = 0


# Sender to dispatcher, of no generation


@_kind(27)
class Delivered(t.NamedTuple):
    """The response was sent, and its connection rides along to wait as the frame says.
    Without one it was cut short: the client left, or was too slow."""

    generation: int
    number: int
    #: Bytes that the client's system was given.
    sent: Size
    parked: Parked


# TLS proxy and dispatcher, of no generation


@_kind(32)
class TLSCounts(t.NamedTuple):
    """What the TLS proxy has now, and what it has counted since it was started."""

    generation: int
    #: Connections of clients.
    connections: int
    #: Handshakes, whole ones and by a ticket; those that failed.
    full: Count
    resumed: Count
    failed: Count
    #: Connections that were cut off: within a record, by a broken one, or reset.
    cut: Count
    #: Those that a process of several has taken with it when it died.
    lost: Count


@_kind(37)
class Accepting(t.NamedTuple):
    """The TLS proxy accepts connections. The file with its clients' certificates rides
    along, if they may give some."""

    generation: int


@_kind(34)
class MakeRoom(t.NamedTuple):
    """The TLS proxy has no descriptors for other clients: close idle connections."""

    generation: int
    connections: int


#: What a zygote is asked that may run code of the app, and by what it answers each. The
#: dispatcher waits for the answer as long as a zygote may take.
TASKS: dict[type[Frame], tuple[type[Frame], ...]] = {
    Spawn: (Spawned, Failed),
    Serving: (Serving,),
    Resized: (Resized,),
    Ended: (Ended,),
}

NOTHING_COUNTED = TLSCounts(0, 0, 0, 0, 0, 0, 0)


#: Any of them.
Frame = (
    TLSCounts
    | Accepting
    | MakeRoom
    | Order
    | Retire
    | Resume
    | Promote
    | Idle
    | Busy
    | Park
    | Deliver
    | Delivered
    | Finishing
    | PermitRequest
    | PermitRelease
    | LimitRefused
    | PermitAnswer
    | MemoryUse
    | Listen
    | Spawn
    | Signal
    | Release
    | Serving
    | HandedOn
    | Resized
    | Ended
    | Promoted
    | Loaded
    | Spawned
    | Failed
    | Exited
    | Changed
    | Observe
    | Closed
    | Ping
)


# The wire


class MalformedFrame(ValueError):
    """Bytes that are no frame."""


def _layout(cls: t.Any) -> str:
    """The wire's fields of a class, those of a state in it included."""
    types = t.get_type_hints(cls, include_extras=True).values()
    return "".join(_WIRE.get(one) or _layout(one) for one in types)


def _with_state(cls: t.Any, header: bytes, wire: struct.Struct) -> tuple[t.Any, t.Any]:
    """Encoder and decoder of a frame whose last field is a :class:`Parked`."""
    count = len(cls._fields) - 1

    pack, make = wire.pack, Parked._make

    def encode(*fields: t.Any) -> bytes:
        return pack(header, *fields[:count], *fields[count])

    def decode(values: t.Sequence[t.Any]) -> Frame:
        wait = _WAITS.get(values[count])
        if wait is None:
            raise MalformedFrame(f"{values[count]} is not a valid Wait")
        state = make((wait, *values[count + 1 :]))
        return cls(*values[:count], state)  # type: ignore[no-any-return]

    return encode, decode


_LAYOUTS = {cls: _layout(cls) for cls in KINDS.values()}
#: Magic and kind, and room for the longest.
FRAME_SIZE = 2 + max(struct.calcsize("=" + one) for one in _LAYOUTS.values())
_encoders: dict[type[Frame], Callable[..., bytes]] = {}
_decoders: dict[int, tuple[Callable[..., t.Any], Callable[..., Frame]]] = {}


def _prepare() -> None:
    for number, cls in KINDS.items():
        layout = _LAYOUTS[cls]
        padding = FRAME_SIZE - 2 - struct.calcsize("=" + layout)
        header = bytes((_MAGIC, number))
        wire = struct.Struct(f"=2s{layout}{padding}x")
        if t.get_type_hints(cls).get("parked") is Parked:
            encoder, decoder = _with_state(cls, header, wire)
        else:
            encoder, decoder = partial(wire.pack, header), cls._make
        _encoders[cls] = encoder
        # The header was looked at.
        unpack = struct.Struct(f"=2x{layout}{padding}x").unpack_from
        _decoders[number] = unpack, decoder


_prepare()


def encode(frame: Frame) -> bytes:
    """The frame's :data:`FRAME_SIZE` bytes.

    :raises struct.error: A number doesn't fit.
    """
    return _encoders[type(frame)](*frame)


def decode(data: bytes) -> list[Frame]:
    """Take frames apart.

    :raises MalformedFrame: The bytes aren't whole, known frames.
    """
    if len(data) % FRAME_SIZE:
        raise MalformedFrame(f"{len(data)} bytes are no whole number of frames")
    frames = []
    for offset in range(0, len(data), FRAME_SIZE):
        if data[offset] != _MAGIC:
            raise MalformedFrame(f"a frame begins with {data[offset]:#x}")
        known = _decoders.get(data[offset + 1])
        if known is None:
            raise MalformedFrame(f"unknown kind {data[offset + 1]}")
        unpack, make = known
        frames.append(make(unpack(data, offset)))
    return frames
