"""What the kernel knows of a connection: its buffers, and what it has counted.

``http/wire.py`` asks what a client has taken and acknowledged, ``http/connection.py``
whether the receive buffer is full, and ``http/takeover.py`` what is done by a
descriptor that the app has. Most of it is ``TCP_INFO`` (``tcp(7)``), and Linux's only.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import sys
import termios
import typing as t

#: ``struct tcp_info`` of linux/tcp.h: tcpi_bytes_acked and tcpi_bytes_received.
_BYTES = struct.Struct("=QQ")
_BYTES_START = 120
_TRIES = 100


def bytes_written(sock: socket.socket) -> int | None:
    """How many bytes were given to the kernel to be sent, by whomever; from where it
    counts is another matter.

    :return: ``None`` where it doesn't tell.
    """
    counts = _counts(sock)
    for _ in range(_TRIES):
        if counts is None:
            return None
        left = bytes_queued(sock)
        if left is None:
            return None
        again = _counts(sock)
        if again is not None and again[0] == counts[0]:
            return counts[0] + left
        # What was acknowledged meanwhile would count twice.
        counts = again
    return None


def bytes_queued(sock: socket.socket) -> int | None:
    """How many bytes of the send queue the peer hasn't acknowledged (``tcp(7)``,
    SIOCOUTQ). Of a unix socket, the memory of what the peer hasn't received.

    :return: ``None`` where the kernel doesn't tell.
    """
    try:
        found = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except (OSError, ValueError):
        return None
    return int(struct.unpack("=i", found)[0])


def bytes_unread(fd: int) -> int:
    """How many bytes have come that nobody has read (``tcp(7)``, SIOCINQ; ``unix(7)``).

    :param fd: A socket's descriptor.
    :return: 0 where the kernel doesn't tell.
    """
    try:
        found = fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4)
    except (OSError, ValueError):
        return 0
    return max(int(struct.unpack("=i", found)[0]), 0)


def bytes_moved(sock: socket.socket) -> int | None:
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


#: ``struct tcp_info``: tcpi_state, tcpi_last_data_sent and tcpi_last_data_recv in
#: milliseconds, and tcpi_data_segs_in.
_ARRIVAL = struct.Struct("=B43xI4xI96xI")
_unpack_arrival, _ARRIVAL_SIZE = _ARRIVAL.unpack, _ARRIVAL.size
# Not looked up anew for each connection.
_TCP, _TCP_INFO = socket.IPPROTO_TCP, getattr(socket, "TCP_INFO", 0)
#: ``TCP_CLOSE`` (``tcp_states.h`` of Linux).
_CLOSED = 7


class Arrival(t.NamedTuple):
    """How a connection was when it was accepted.

    :param is_gone: Nobody is there any more: the client has reset the connection, or
        has closed both directions where that shows. One that only sends no more is
        there.
    :param age: Seconds since its data came, to the kernel's tick; since it was
        established, if none did, or more than a segment: a client that is slow to send
        a body has not just arrived. 0 where the kernel doesn't tell.
    """

    is_gone: bool
    age: float


#: Of one that has just arrived, too.
NOTHING_KNOWN = Arrival(False, 0.0)


def arrival(sock: socket.socket) -> Arrival:
    """What the kernel knows of a connection that was just accepted."""
    if sock.family == socket.AF_UNIX:
        return Arrival(has_hung_up(sock), 0.0)
    return tcp_arrival(sock)


def tcp_arrival(sock: socket.socket) -> Arrival:
    """The same of a connection that is known to be TCP: asking a socket object for its
    family takes as long as asking the kernel."""
    if sys.platform != "linux":
        return NOTHING_KNOWN
    try:
        info = sock.getsockopt(_TCP, _TCP_INFO, _ARRIVAL_SIZE)
        # Nothing was sent by it yet, so the first of these is its own age.
        state, established, age, segments = _unpack_arrival(info)
    except (OSError, struct.error):
        return NOTHING_KNOWN
    if segments > 1:
        age = established
    if not age and state != _CLOSED:
        return NOTHING_KNOWN
    return Arrival(state == _CLOSED, age / 1000)


def has_hung_up(sock: socket.socket) -> bool:
    """Whether both directions of a connection are closed (POLLHUP in ``poll(2)``)."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


#: SO_MEMINFO, which the socket module doesn't name: numbers of 32 bits, the first two
#: are the memory that the receive buffer takes and that it may take.
_MEMINFO = 55
_MEMINFO_SIZE = 36


def is_receive_buffer_full(sock: socket.socket) -> bool:
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
_UNSURE = (4, 9, 11)


def has_acknowledged_all(sock: socket.socket) -> bool:
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
