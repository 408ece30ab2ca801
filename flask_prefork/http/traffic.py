"""What the kernel has counted on a TCP connection (``tcp(7)``, TCP_INFO).

It tells of what is done by a descriptor that we have given away. Linux only.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios

#: ``struct tcp_info`` of linux/tcp.h: tcpi_bytes_acked and tcpi_bytes_received.
_BYTES = struct.Struct("=QQ")
_BYTES_START = 120
_TRIES = 100


def written(sock: socket.socket) -> int | None:
    """How many bytes were given to the kernel to be sent, by whomever; from where it
    counts is another matter.

    :return: ``None`` where it doesn't tell.
    """
    counts = _counts(sock)
    for _ in range(_TRIES):
        if counts is None:
            return None
        left = queued(sock)
        if left is None:
            return None
        again = _counts(sock)
        if again is not None and again[0] == counts[0]:
            return counts[0] + left
        # What was acknowledged meanwhile would count twice.
        counts = again
    return None


def queued(sock: socket.socket) -> int | None:
    """How many bytes of the send queue the peer hasn't acknowledged (``tcp(7)``,
    SIOCOUTQ). Of a unix socket, the memory of what the peer hasn't received.

    :return: ``None`` where the kernel doesn't tell.
    """
    try:
        found = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except (OSError, ValueError):
        return None
    return int(struct.unpack("=i", found)[0])


def total(sock: socket.socket) -> int | None:
    """Another number after anything went to and fro.

    :return: ``None`` where the kernel doesn't tell.
    """
    counts = _counts(sock)
    return None if counts is None else sum(counts)


def _counts(sock: socket.socket) -> tuple[int, int] | None:
    """Bytes acknowledged by the peer, and received from it."""
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return None
    try:
        info = sock.getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_START + _BYTES.size
        )
    except OSError:
        return None
    if len(info) < _BYTES_START + _BYTES.size:
        return None
    acknowledged, received = _BYTES.unpack_from(info, _BYTES_START)
    return acknowledged, received
