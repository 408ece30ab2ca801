"""Refuses new TCP connections on a listening socket, and loses no pending one.

A client believes that it is connected as soon as the kernel has greeted it, and
sends its request; the server sees the connection only later. Whoever closes a
listening socket in between resets the connection, and the request is lost. So a
server that stops first turns clients away before they are greeted, then serves
those that were, and then closes.
"""

from __future__ import annotations

import array
import re
import socket
import struct
import sys
import typing as t
from collections.abc import Iterator

from .sock_diag import SockDiag

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
#: How often to look who is on the way in, in seconds; and at most this part of the time
#: is spent on it, for on a machine with many connections a look takes long.
_EVERY = 0.02
_PART = 0.2
#: Bytes of ``proc(5)``'s tables that one look reads; 4 KiB take about 0.1 ms.
_BYTES = 256 * 1024
_READ = 4096
#: Longer than a row of these tables.
_ROW = 256


def stop_accepting(sock: socket.socket) -> bool:
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


class Handshakes:
    """Who is on the way in: greeted, but nobody could accept it yet.

    With ``TCP_DEFER_ACCEPT`` that lasts until the request comes (``tcp(7)``). Nobody
    may begin to connect any more (:func:`stop_accepting`): once there are none, that is
    for good.

    :param sock: A listening TCP socket.
    :param clock: Monotonic seconds.
    """

    def __init__(self, sock: socket.socket, clock: t.Callable[[], float]) -> None:
        self._family = sock.family
        self._port = int(sock.getsockname()[1])
        self._clock = clock
        self._diag = SockDiag()
        self._look_at = 0.0
        self._are_left = True
        self._table: Iterator[bool] | None = None

    def are_left(self) -> bool:
        """Whether there are any, as far as is known: it looks only now and then.

        It takes a few milliseconds at most but where the kernel has very many TCP
        sockets to go through.
        """
        now = self._clock()
        if not self._are_left or now < self._look_at:
            return self._are_left
        found = self._diag.greets(self._family, self._port)
        if found is None:
            found = self._read_on()
        self._are_left = found
        self._look_at = now + max(_EVERY, (self._clock() - now) / _PART)
        return found

    def _read_on(self) -> bool:
        """Read on in ``proc(5)``'s tables.

        :return: ``False`` once they were read to their end without finding any.
        """
        if self._table is None:
            self._table = _rows(self._port)
        for found in self._table:
            if found:
                # From the beginning, the next time.
                self._table = None
            return True
        return False

    def close(self) -> None:
        """Close what it looks by."""
        self._diag.close()
        self._table = None


def _rows(port: int) -> Iterator[bool]:
    """Read the tables of TCP sockets, a part at a time.

    :return: For each part, whether somebody is on the way in to the port.
    """
    # State 3 is TCP_SYN_RECV (include/net/tcp_states.h).
    pattern = re.compile(rb":%04X [0-9A-F]+:[0-9A-F]{4} 03 " % port)
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, "rb", buffering=0) as file:
                yield from _parts(file, pattern)
        except OSError:
            pass  # without IPv6 there is no such file


def _parts(file: t.BinaryIO, pattern: re.Pattern[bytes]) -> Iterator[bool]:
    seen, before = 0, b""
    while data := file.read(_READ):
        if pattern.search(before + data):
            yield True
        before = data[-_ROW:]
        seen += len(data)
        if seen >= _BYTES:
            seen = 0
            yield False
