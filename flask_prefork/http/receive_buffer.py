"""The room in the kernel's buffer for what a client sends.

``connection.py`` asks when the rest of a head that it has looked at doesn't come.
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
