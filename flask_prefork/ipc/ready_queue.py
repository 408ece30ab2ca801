"""The ready queue: parked connections with a request, for whoever is free first.

While no worker is idle, the dispatcher puts the connections here that are ready for
one, and each worker takes the next as soon as it is done with the last: nobody is asked
or woken for it. A worker that has served a connection for its time, and has seen its
next request, puts it here itself.

It is a socketpair of messages: a :class:`.Resume` each, with the connection's
descriptor (``unix(7)``, SCM_RIGHTS). The kernel gives a message to one reader. So a
connection is a worker's as soon as that has received it, like one that it has accepted.
Until then it is nobody's, and the dispatcher can take it back at any time, whatever the
workers are at.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
import sys
import termios

from ..system import socket_modes
from ..system.parked_state import Parked
from .channel import close_all
from .channel import receive
from .frames import decode
from .frames import encode
from .frames import Frame
from .frames import FRAME_SIZE
from .frames import MalformedFrame
from .frames import Resume

_IS_LINUX = sys.platform == "linux"
#: Messages keep their bounds and their order. Others than Linux may not have the first
#: for unix sockets, and Linux keeps ten of the second at most.
_KIND = socket.SOCK_SEQPACKET if _IS_LINUX else socket.SOCK_DGRAM
#: Bytes of its buffer: room for some hundred connections. The dispatcher keeps the
#: others until there is room.
_BUFFER = 1 << 18
_COUNT = struct.Struct("=i")
#: The mode is the open file's, which an app in any process may change.
_NOW = socket.MSG_DONTWAIT


class ReadyQueue:
    """Both ends of it.

    :param receiver: The end that is read, non-blocking; owned from now on.
    :param sender: The other one.
    """

    def __init__(self, receiver: socket.socket, sender: socket.socket) -> None:
        self._receiver = receiver
        self._sender = sender
        self.fds = receiver.fileno(), sender.fileno()

    def put(self, fd: int, listener: int, state: Parked) -> bool:
        """Append a connection. The caller's descriptor of it isn't needed any more.

        :param fd: The connection.
        :param listener: The index of the listener that it came by.
        :param state: How to go on with it.
        :return: ``False`` if there is no room.
        """
        frame = Resume(0, 0, listener, state)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        try:
            self._sender.sendmsg([encode(frame)], [rights], _NOW)
        except OSError:
            return False  # EAGAIN, ENOBUFS, ETOOMANYREFS (unix(7))
        return True

    def take(self) -> tuple[Resume, int] | None:
        """Take the first connection.

        What isn't one is left out: the app may write to any descriptor.

        :return: How to go on with it, and its descriptor; ``None`` if there is none.
        :raises OSError: ``EMFILE``: no descriptors are left for it here, and it is
            lost.
        """
        while True:
            try:
                data, fds, are_lost = receive(self._receiver, FRAME_SIZE, _NOW)
            except OSError:
                return None
            if not data:
                return None  # the end, or nothing that was sent
            frame = _decode(data)
            if isinstance(frame, Resume) and len(fds) == 1:
                return frame, fds[0]
            close_all(fds)
            if are_lost:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def close(self) -> None:
        """Close both ends."""
        self._receiver.close()
        self._sender.close()


class ReadyQueueOwner(ReadyQueue):
    """The dispatcher's.

    :raises OSError: There are no descriptors left.

    :ivar count: How many were in it when it was last asked, and with what the
        dispatcher has put in or taken since.
    """

    def __init__(self) -> None:
        sender, receiver = socket_modes.pair(blocking=False, kind=_KIND)
        super().__init__(receiver, sender)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.count = 0

    def __len__(self) -> int:
        """How many connections are in it."""
        # Bytes of all its messages together (unix(7), SIOCINQ); others than Linux tell
        # of the first.
        try:
            there = fcntl.ioctl(self._receiver, termios.FIONREAD, _COUNT.pack(0))
            self.count = int(_COUNT.unpack(there)[0]) // FRAME_SIZE
        except (OSError, ValueError):
            self.count = 0  # it is closed
        return self.count

    def oldest(self) -> float | None:
        """When the request of the first one arrived, in seconds; ``None`` if there is
        none."""
        try:
            # Its descriptor stays there.
            data = self._receiver.recv(FRAME_SIZE, socket.MSG_PEEK | _NOW)
        except OSError:
            return None
        frame = _decode(data)
        return frame.parked.arrived if isinstance(frame, Resume) else None

    def put(self, fd: int, listener: int, state: Parked) -> bool:
        """See :meth:`ReadyQueue.put`."""
        has_room = super().put(fd, listener, state)
        self.count += has_room
        return has_room

    def take(self) -> tuple[Resume, int] | None:
        """See :meth:`ReadyQueue.take`."""
        taken = super().take()
        self.count = max(self.count - 1, 0) if taken is not None else 0
        return taken

    def close(self) -> None:
        """Close it, and all connections in it: a process that an app has left behind
        may hold its ends."""
        while True:
            try:
                taken = self.take()
            except OSError:
                continue  # it is closed all the same
            if taken is None:
                break
            socket_modes.close(taken[1])
        super().close()


def _decode(data: bytes) -> Frame | None:
    try:
        (frame,) = decode(data)
    except (MalformedFrame, ValueError):
        return None
    return frame
