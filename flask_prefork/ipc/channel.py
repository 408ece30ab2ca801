"""The back channel: fixed-size frames over a socketpair.

The dispatcher has one with each worker, each zygote and the observer. A message is
one frame, read with one ``recv`` and without a buffering layer: a buffered reader
once hid the second message from ``select`` (SpamAssassin bug 4258). Descriptors
ride along (``unix(7)``, SCM_RIGHTS), and so do documents that don't fit into a
frame, as the descriptor of an unnamed file.
"""

from __future__ import annotations

import array
import enum
import json
import os
import socket
import struct
import typing as t

from ..system import memory_file

#: Bytes of the longest tag.
TAG_SIZE = 19
#: magic, kind, place, flags, generation, slot, argument, moment, length and tag
_LAYOUT = struct.Struct(f"=BBHHxxIIId{1 + TAG_SIZE}p")
_MAGIC = 0xF9
FRAME_SIZE = _LAYOUT.size
#: How many frames one look at a channel takes in.
BATCH = 32
#: A dead peer's child may hold its end, and write on. A socket's buffer has less than
#: so many batches (``net.core.wmem_default``).
_LOOKS = 200
#: Enough for the most descriptors that ride along with one frame.
_ANCILLARY_SIZE = socket.CMSG_SPACE(16 * array.array("i").itemsize)
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Kind(enum.IntEnum):
    """What a frame says."""

    # Dispatcher to worker.
    #: Accept from the listener ``place``, up to ``argument`` times.
    ORDER = 1
    #: Finish and exit until ``moment``.
    RETIRE = 2
    #: Serve the connection that rides along; it is as its PARK said.
    RESUME = 12
    #: Finish, and leave the zygote of generation ``argument`` behind; its end of the
    #: control socket rides along. Exit until ``moment``.
    PROMOTE = 22
    # Worker to dispatcher.
    #: It waits for orders, and has served ``argument`` requests since it last was.
    IDLE = 3
    #: It has accepted; or, if ``flags`` is 1, has what RESUME handed to it.
    BUSY = 4
    #: Wait for the connection that rides along: it came by the listener
    #: ``place``, has ``argument`` bytes, and may wait until ``moment``. The
    #: ``flags`` say what for, see ``parked.py``. The ``tag`` is for who resumes it.
    PARK = 13
    #: It serves no more, and waits for what the app's threads and processes do.
    FINISHING = 24
    #: It has ``argument`` KiB for itself; ``flags`` is 1 if it has served.
    WEIGHED = 21
    # Dispatcher to zygote.
    #: The listening sockets and the scoreboard ride along; the document lists them.
    LISTEN = 5
    #: Fork a worker for ``slot``; its end of the channel rides along, and the file for
    #: its dumps.
    SPAWN = 6
    #: Send the signal ``place`` to the worker in ``slot``, process ``argument``.
    SIGNAL = 7
    #: The end of the control socket is meant: the server serves on without it.
    RELEASE = 15
    #: The generation serves; ``argument`` is 1 if it has taken over from another. Sent
    #: back when that was told to the app.
    READY = 16
    #: What the app has registered here for its end is another generation's now.
    HANDED_ON = 25
    #: The generation has ``argument`` workers. Sent back when that was told to
    #: the app; until then no other is sent.
    RESIZED = 17
    # Zygote to dispatcher.
    #: A worker has left it behind; it is process ``argument``.
    PROMOTED = 23
    #: The app is loaded, and takes ``argument`` KiB, if that matters; its settings
    #: ride along.
    LOADED = 8
    #: The worker in ``slot`` is process ``argument``; its pidfd may ride along.
    SPAWNED = 9
    #: The fork for ``slot`` failed with the errno ``argument``.
    FAILED = 10
    #: The worker in ``slot``, process ``argument``, ended; ``moment`` is its exit
    #: code, or the signal's number below 0.
    EXITED = 11
    #: A file of the app has changed.
    CHANGED = 14
    # Dispatcher to observer.
    #: The scoreboard, the sockets that it serves on and the listening sockets ride
    #: along behind a document, which tells the rest.
    OBSERVE = 18
    #: The listening sockets are closed now.
    CLOSED = 19
    # Observer to dispatcher, and back.
    #: It still listens. The first asks for OBSERVE.
    PING = 20


class MalformedFrame(ValueError):
    """Bytes that are no frame."""


class Frame(t.NamedTuple):
    """One message.

    :param kind: What it says.
    :param generation: Whose it is; a stale one is ignored.
    :param slot: The worker it speaks of.
    :param argument: A number, see :class:`Kind`.
    :param place: A listening socket, see :class:`Kind`.
    :param flags: More numbers, see :class:`Kind`.
    :param moment: A float, see :class:`Kind`.
    :param tag: Up to :data:`TAG_SIZE` bytes, see :class:`Kind`.
    """

    kind: Kind
    generation: int
    slot: int = 0
    argument: int = 0
    place: int = 0
    flags: int = 0
    moment: float = 0.0
    tag: bytes = b""

    def encode(self) -> bytes:
        """The frame's :data:`FRAME_SIZE` bytes."""
        kind, generation, slot, argument, place, flags, moment, tag = self
        return _LAYOUT.pack(
            _MAGIC, kind, place, flags, generation, slot, argument, moment, tag
        )


def decode(data: bytes) -> list[Frame]:
    """Take frames apart.

    :raises Malformed: If the bytes aren't whole, known frames.
    """
    if len(data) % FRAME_SIZE:
        raise MalformedFrame(f"{len(data)} bytes are no whole number of frames")
    frames = []
    for fields in _LAYOUT.iter_unpack(data):
        magic, kind, place, flags, generation, slot, argument, moment, tag = fields
        if magic != _MAGIC:
            raise MalformedFrame(f"a frame begins with {magic:#x}")
        try:
            known = Kind(kind)
        except ValueError:
            raise MalformedFrame(f"unknown kind {kind}") from None
        frames.append(
            Frame(known, generation, slot, argument, place, flags, moment, tag)
        )
    return frames


def _receive(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Read bytes and the descriptors that ride along, which no child inherits.

    :func:`socket.recv_fds` takes flags, but doesn't pass them on.
    """
    data, ancillary, _, _ = sock.recvmsg(size, _ANCILLARY_SIZE, _CLOSE_ON_EXEC)
    if not ancillary:
        return data, []
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
    if not _CLOSE_ON_EXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return data, list(fds)


class Channel:
    """The dispatcher's end of a socketpair: it never blocks.

    :param sock: The end, owned from now on.
    :ivar ended: A frame could not be sent because the peer is gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.ended = False
        self.sock = sock
        self.fd = sock.fileno()

    def send(self, frame: Frame, fds: t.Sequence[int] = ()) -> bool:
        """Send a frame.

        :return: ``False`` if the peer doesn't read, or is gone.
        """
        try:
            if fds:
                sent = socket.send_fds(self.sock, [frame.encode()], fds)
            else:
                sent = self.sock.send(frame.encode())
        except ConnectionError:
            self.ended = True
            return False
        except OSError:
            return False
        # A part of a frame would make all that follows garbage.
        return sent == FRAME_SIZE

    def receive(self) -> tuple[list[Frame], list[int]] | None:
        """Take in what is there.

        :return: Frames, none if there was nothing, with the descriptors that
            rode along; or ``None`` at the end.
        :raises Malformed: If the peer sent something else than frames.
        """
        try:
            data, fds = _receive(self.sock, FRAME_SIZE * BATCH)
        except BlockingIOError:
            return [], []
        except OSError:
            return None
        if not data:
            return None
        try:
            return decode(data), fds
        except MalformedFrame:
            close_all(fds)
            raise

    def rest(self) -> t.Iterator[tuple[list[Frame], list[int]]]:
        """What a dead peer has left; no more of it than its socket holds.

        :raises Malformed: See :meth:`receive`.
        """
        for _ in range(_LOOKS):
            received = self.receive()
            if received is None or not received[0]:
                return
            yield received

    def close(self) -> None:
        """Close the end. A peer that waits for frames sees it at once."""
        self.sock.close()


def receive_one(sock: socket.socket) -> tuple[Frame, list[int]] | None:
    """Wait for exactly one frame: the zygote's and the workers' side.

    :param sock: A blocking socket. Reading one frame at a time keeps the
        descriptors of the next out of this process until it asks for them.
    :return: The frame and its descriptors, or ``None`` at the end.
    :raises Malformed: If the dispatcher sent something else than a frame.
    """
    try:
        data, fds = _receive(sock, FRAME_SIZE)
    except ConnectionError:
        return None
    if not data:
        return None
    return decode(data)[0], fds


def send_one(sock: socket.socket, frame: Frame, fds: t.Sequence[int] = ()) -> bool:
    """Send one frame and wait until it's taken: the zygote's and workers' side.

    :return: ``False`` if the dispatcher is gone.
    """
    try:
        socket.send_fds(sock, [frame.encode()], fds)
    except OSError:
        return False
    return True


def write_document(value: t.Any) -> int:
    """Put a JSON document into an unnamed file, to ride along with a frame.

    :return: The file's descriptor.
    :raises OSError: If there are no descriptors left, or no memory.
    """
    fd = memory_file.create("flask_prefork_document")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(json.dumps(value).encode())
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_document(fd: int) -> t.Any:
    """Read the dispatcher's document that rode along, and close it."""
    with open(fd, "rb") as file:
        file.seek(0)
        return json.load(file)


def close_all(fds: t.Iterable[int]) -> None:
    """Close descriptors that rode along and that nobody wants."""
    for fd in fds:
        os.close(fd)
