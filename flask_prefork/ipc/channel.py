"""The back channel: fixed-size frames (:mod:`.frames`) over a socketpair.

The dispatcher has one with each worker, zygote, observer, sender and TLS proxy. A
message is one frame, read with one ``recv`` and without a buffering layer: a buffered
reader once hid the second message from ``select`` (SpamAssassin bug 4258). Descriptors
ride along (``unix(7)``, SCM_RIGHTS), and so do documents that don't fit into a frame,
as the descriptor of an unnamed file.
"""

from __future__ import annotations

import array
import json
import os
import socket
import typing as t

from ..system import memory_file
from ..system import socket_modes
from .frames import decode
from .frames import encode
from .frames import Frame
from .frames import FRAME_SIZE
from .frames import MalformedFrame

#: How many frames one look at a channel takes in.
BATCH = 32
#: A dead peer's child may hold its end, and write on. A socket's buffer has less than
#: so many batches (``net.core.wmem_default``).
_LOOKS = 200
#: Enough for the most descriptors that ride along with one frame.
_ANCILLARY_SIZE = socket.CMSG_SPACE(64 * array.array("i").itemsize)
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_LOST = int(socket.MSG_CTRUNC)


def receive(
    sock: socket.socket, size: int, flags: int = 0
) -> tuple[bytes, list[int], bool]:
    """Read bytes and the descriptors that ride along, which no child inherits.

    :func:`socket.recv_fds` takes flags, but doesn't pass them on.

    :param flags: Others than that (``recvmsg(2)``).
    :return: Both, and whether descriptors were lost: this process has no room for more.
    """
    flags |= _CLOSE_ON_EXEC
    data, ancillary, found, _ = sock.recvmsg(size, _ANCILLARY_SIZE, flags)
    are_lost = bool(found & _LOST)
    if not ancillary:
        return data, [], are_lost
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
    if not _CLOSE_ON_EXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return data, list(fds), are_lost


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
                sent = socket.send_fds(self.sock, [encode(frame)], fds)
            else:
                sent = self.sock.send(encode(frame))
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
        :raises MalformedFrame: If the peer sent something else than frames.
        """
        try:
            data, fds, _ = receive(self.sock, FRAME_SIZE * BATCH)
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

        :raises MalformedFrame: See :meth:`receive`.
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
    :return: The frame and its descriptors, or ``None`` at the end. There are none if
        this process has no room for all of them: by the others nobody could tell which
        ones they are.
    :raises MalformedFrame: If the dispatcher sent something else than a frame.
    """
    try:
        data, fds, are_lost = receive(sock, FRAME_SIZE)
    except ConnectionError:
        return None
    if not data:
        return None
    if are_lost:
        close_all(fds)
        fds = []
    return decode(data)[0], fds


def send_one(sock: socket.socket, frame: Frame, fds: t.Sequence[int] = ()) -> bool:
    """Send one frame and wait until it's taken: the zygote's and workers' side.

    :return: ``False`` if the dispatcher is gone.
    """
    return send_fds(sock, [frame], fds)


def send_fds(
    sock: socket.socket, frames: t.Sequence[Frame], fds: t.Sequence[int]
) -> bool:
    """Send frames by one call, and wait until they are taken.

    :param fds: Descriptors of the first one.
    :return: ``False`` if the dispatcher is gone.
    """
    try:
        socket.send_fds(sock, [encode(frame) for frame in frames], fds)
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
    """Close descriptors that rode along, now or before. It never waits."""
    for fd in fds:
        socket_modes.close(fd)
