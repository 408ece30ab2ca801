"""Let nobody in any more, and lose nobody who is on the way in.

A client believes that it is connected as soon as the kernel has greeted it, and
sends its request; the server sees the connection only later. Whoever closes a
listening socket in between resets the connection, and the request is lost. So a
server that stops first turns clients away before they are greeted, then serves
those that were, and then closes.
"""

from __future__ import annotations

import array
import socket
import struct
import sys

#: ``asm-generic/socket.h``; Python has no name for it.
_SO_ATTACH_FILTER = 26
#: ``struct sock_filter`` (linux/filter.h): code, jt, jf, k.
_INSTRUCTION = struct.Struct("=HBBI")
#: Drops the segments that ask for a connection (RFC 9293, section 3.1: the flags are
#: in octet 13 of the header, SYN is 2), and lets all others pass.
_NO_SYN = array.array(
    "B",
    b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (0x30, 0, 0, 13),  # load the flags
            (0x45, 0, 1, 2),  # skip one if there is no SYN
            (0x06, 0, 0, 0),  # drop
            (0x06, 0, 0, 0xFFFFFFFF),  # pass
        )
    ),
)
#: The state of a connection that the kernel has greeted, but that nobody could
#: accept yet (include/net/tcp_states.h).
_SYN_RECEIVED = "03"


def turn_away(sock: socket.socket) -> bool:
    """Let nobody begin to connect to a listening TCP socket any more.

    Who tries will try again after a second (RFC 6298, section 2), and be refused
    if nobody listens then; or be served by the next server.

    :return: Whether the system does so: only Linux does.
    """
    if sys.platform != "linux":
        return False
    address, _ = _NO_SYN.buffer_info()
    program = struct.pack("@HP", len(_NO_SYN) // _INSTRUCTION.size, address)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True


def is_awaited(port: int) -> bool:
    """Whether somebody is on the way in: greeted, but nobody could accept it.

    With ``TCP_DEFER_ACCEPT`` that lasts until the request comes (``tcp(7)``).

    :param port: The port on which a TCP socket listens.
    """
    local = f":{port:04X}"
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, encoding="utf-8") as file:
                for line in file:
                    fields = line.split(None, 4)
                    if fields[3] == _SYN_RECEIVED and fields[1].endswith(local):
                        return True
        except OSError:
            pass  # without IPv6 there is no such file
    return False
