"""What the kernel knows of sockets and no socket option returns (``sock_diag(7)``).

A question is answered by the time it is asked, so nothing here waits; and only the
kernel looks at all the sockets that there are. They are those of the process's own
network namespace.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from . import socket_modes

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
#: ``netlink(7)``: length, type, flags, sequence, port.
_HEADER = struct.Struct("=IHHII")
_REQUEST = 1
_DUMP = 0x300
_ERROR = 2
_DONE = 3
#: ``struct unix_diag_req``: family, protocol, padding, states, inode, what to show, and
#: a cookie that stands for any.
_UNIX_REQUEST = struct.Struct("=BBHIIIQ")
_SHOW_QUEUE = 0x10
#: ``struct unix_diag_msg``, behind which the attributes are: length and type
#: (``struct nlattr``), then of the one that is looked for the queue and its limit.
_UNIX_REPLY_SIZE = 16
_ATTRIBUTE = struct.Struct("=HH")
_QUEUE = struct.Struct("=II")
_QUEUE_TYPE = 4
#: ``struct inet_diag_req_v2``: family, protocol, extensions, padding, states, then a
#: port in network order and what else would name one socket.
_TCP_REQUEST = struct.Struct("=BBBBI2s46x")
#: A bit for TCP_SYN_RECV (include/net/tcp_states.h): the kernel has greeted the client,
#: and nobody could accept the connection yet.
_GREETED = 1 << 3
_ANY = 2**64 - 1
#: More than one message of an answer has, and so many messages are looked at.
_SIZE = 32768
_MOST = 4


class SockDiag:
    """Asks, by a netlink socket that is opened for the first question and then kept.

    Where that is forbidden (``seccomp(2)``, systemd's ``RestrictAddressFamilies=``), or
    the system knows no such thing, there are no answers.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0
        #: Whether it is of a use to ask once more.
        self.answers = hasattr(socket, "AF_NETLINK")

    def unix_queue(self, inode: int) -> tuple[int, int] | None:
        """The length of a listening unix socket's accept queue, and its limit.

        :param inode: The socket's, as fstat(2) returns it.
        :return: ``None`` if that can't be known.
        """
        request = _UNIX_REQUEST.pack(
            socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, _SHOW_QUEUE, _ANY
        )
        for kind, data in self._ask(request, 0):
            if kind == _SOCK_DIAG_BY_FAMILY:
                return _queue(data)
        return None

    def greets(self, family: int, port: int) -> bool | None:
        """Whether a client of a TCP port is greeted but couldn't be accepted yet.

        The kernel goes through all TCP sockets for it.

        :param family: The listening socket's; one for IPv6 may serve IPv4, too.
        :param port: Its port.
        :return: ``None`` if that can't be known.
        """
        number = port.to_bytes(2, "big")
        request = _TCP_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _GREETED, number)
        for kind, _ in self._ask(request, _DUMP):
            if kind == _SOCK_DIAG_BY_FAMILY:
                # The rest of the answer isn't wanted, and no other is given before.
                self.close()
                return True
            if kind == _DONE:
                return False
        return None

    def _ask(self, request: bytes, flags: int) -> Iterator[tuple[int, bytes]]:
        """Ask, and take the answer apart: messages with their types."""
        if not self.answers:
            return
        try:
            if self._socket is None:
                self._socket = _open()
        except OSError:
            self.answers = False
            return
        self._sequence += 1
        size = _HEADER.size + len(request)
        header = _HEADER.pack(
            size, _SOCK_DIAG_BY_FAMILY, _REQUEST | flags, self._sequence, 0
        )
        try:
            self._socket.send(header + request)
            for _ in range(_MOST):
                for number, kind, data in _messages(self._socket.recv(_SIZE)):
                    if number != self._sequence:
                        continue  # of a question whose answer wasn't read to its end
                    if kind == _ERROR:
                        self.answers = False
                        return
                    yield kind, data
                    if kind == _DONE or self._socket is None or not flags:
                        return
        except OSError:
            # ENOBUFS, ENOMEM: the next one may be answered. So may it if this answer
            # wasn't there at once.
            self.close()

    def close(self) -> None:
        """Close the netlink socket; another question would open one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _open() -> socket.socket:
    return socket_modes.make(
        socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG, blocking=False
    )


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages in what was received: sequence, type and content of each."""
    place = 0
    while place + _HEADER.size <= len(data):
        size, kind, _, number, _ = _HEADER.unpack_from(data, place)
        if size < _HEADER.size:
            return
        yield number, kind, data[place + _HEADER.size : place + size]
        place += -(-size // 4) * 4


def _queue(message: bytes) -> tuple[int, int] | None:
    """The queue's length and limit among a unix socket's attributes."""
    place = _UNIX_REPLY_SIZE
    while place + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, place)
        if kind == _QUEUE_TYPE and size == _ATTRIBUTE.size + _QUEUE.size:
            length, limit = _QUEUE.unpack_from(message, place + _ATTRIBUTE.size)
            return length, limit
        place += max(-(-size // 4) * 4, _ATTRIBUTE.size)
    return None
