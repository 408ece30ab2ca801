"""What the kernel tells of a connection's buffers.

``connection.py`` asks for the room when the rest of a head that it has looked at
doesn't come, and ``wire.py`` whether a client has its last response.
"""

from __future__ import annotations

import socket
import struct
import sys

#: SO_MEMINFO, which the socket module doesn't name: numbers of 32 bits, the first two
#: are the memory that the receive buffer takes and that it may take.
_MEMINFO = 55
_MEMINFO_SIZE = 36


def is_crammed(sock: socket.socket) -> bool:
    """Whether there may be no room for more, however little is left unread.

    A segment takes its room until all of it is read. On the loopback interface it
    has up to 64 KiB, and the client waits for as much room before it sends more: of
    requests that it sends in a row one may lie across the border, and then looking
    at its beginning without taking it would be waiting for ever.

    :param sock: TCP, its buffer is looked into on Linux only.
    """
    if sock.family == socket.AF_UNIX or sys.platform != "linux":
        return False
    try:
        info = sock.getsockopt(socket.SOL_SOCKET, _MEMINFO, _MEMINFO_SIZE)
    except OSError:
        # Not every kernel that calls itself Linux has it.
        return False
    taken, size = struct.unpack_from("=II", info)
    return bool(taken > size // 4)


#: States of a connection (``tcp_states.h`` of Linux) in which the other side has not
#: yet acknowledged our end, and so perhaps not all that went before it.
_UNSURE = (4, 11)


def has_all(sock: socket.socket) -> bool:
    """Whether the other side's system has all that was sent, the end included.

    That is what a server has to wait for before it closes a connection on which more
    may come (RFC 9112, 9.6).

    :param sock: Shut down for sending; where its system doesn't tell, it is believed.
    """
    if sock.family == socket.AF_UNIX or sys.platform != "linux":
        return True
    try:
        # The first byte of struct tcp_info (tcp(7)).
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] not in _UNSURE
    except OSError:
        return True
