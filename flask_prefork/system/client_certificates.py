"""The clients' certificates of a TLS proxy, in a file that others may read.

The TLS proxy writes each in a slot for as long as the connection lasts. A worker gets
the file's descriptor with a connection, and reads the slot that the connection's tag
names (:class:`.proxy_protocol.CertificatePlace`).
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import mmap
import os
import struct

from . import memory_file

_LENGTH = struct.Struct("=H")
#: Bytes of a slot. The pages of those that were never used are never made.
_SLOT = 8192
_SLOTS = 16384
#: ``linux/fcntl.h``: nobody can write from now on but by the mapping that there is.
_SEAL_FUTURE_WRITE = 0x10


class ClientCertificates:
    """The TLS proxy's side.

    Several processes can share the file, each with slots of its own.

    :param parts: Among how many processes the slots are divided.

    :ivar fd: The file's descriptor.

    :raises OSError: There are no descriptors left, or there is no memory.
    """

    def __init__(self, parts: int = 1) -> None:
        self.fd = memory_file.create("flask_prefork_client_certificates")
        os.ftruncate(self.fd, _SLOTS * _SLOT)
        self._map = mmap.mmap(self.fd, _SLOTS * _SLOT)
        with contextlib.suppress(OSError, AttributeError):
            seals = _SEAL_FUTURE_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        self._parts, self._part = parts, 0
        self._free: list[int] = []
        self._used = 0

    def take_part(self, index: int) -> None:
        """Use one part of the slots: in a process that was forked.

        :param index: Which, counted from 0.
        """
        self._part = index

    def add(self, certificate: bytes) -> int:
        """Keep a certificate.

        :param certificate: As DER.
        :return: Its slot.
        :raises ValueError: It is too long, or there is no slot left.
        """
        if len(certificate) > _SLOT - _LENGTH.size:
            raise ValueError(f"the client's certificate has {len(certificate)} bytes")
        if not self._free and self._used == _SLOTS // self._parts:
            raise ValueError(f"there are {_SLOTS} clients with certificates already")
        # The lowest one, so that the same few pages are used.
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot = self._used * self._parts + self._part
            self._used += 1
        start = slot * _SLOT
        data = _LENGTH.pack(len(certificate)) + certificate
        self._map[start : start + len(data)] = data
        return slot

    def remove(self, slot: int) -> None:
        """Its connection is over, and closed: a worker that has read the slot, and then
        sees the connection open, has read the certificate of that client."""
        heapq.heappush(self._free, slot)


def read(fd: int, slot: int) -> bytes | None:
    """Read a certificate: the worker's side.

    :param fd: The file's descriptor, which is closed.
    :return: As DER; ``None`` if there is none.
    """
    try:
        data = os.pread(fd, _SLOT, slot * _SLOT)
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(data) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(data)
    return data[_LENGTH.size : _LENGTH.size + length]
