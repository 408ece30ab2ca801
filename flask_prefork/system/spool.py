"""Files without a name, for bodies that wait for a slow client.

A request's body is collected in one until all of it is there, and what a client hasn't
taken of its response is kept in one. They go from process to process by descriptor, and
are gone with the last of those.
"""

from __future__ import annotations

import contextlib
import os
import tempfile

from . import memory_file

#: A spool that isn't longer than this, in bytes, stays in memory.
IN_MEMORY = 1 << 20
#: Where the longer ones go if ``TMPDIR`` names nothing (``hier(7)``): ``/tmp`` is
#: memory on many systems.
_DIRECTORY = "/var/tmp"


class Spool:
    """An unnamed file that is written at its end and read from its beginning.

    It is in memory while it is small (``memfd_create(2)``), and then on disk, if there
    is a directory that can be written to (``open(2)``, O_TMPFILE).

    :param expected: How many bytes it will have, if that is known.
    :raises OSError: If no file can be had.

    :ivar fd: Its descriptor, owned by this object.
    :ivar size: How many bytes it has.
    """

    __slots__ = ("_is_small", "fd", "size")

    def __init__(self, expected: int = 0) -> None:
        self.size = 0
        self._is_small = expected <= IN_MEMORY
        self.fd = _in_memory() if self._is_small else _on_disk()

    @classmethod
    def adopt(cls, fd: int, size: int) -> Spool:
        """Go on with one that another process has begun.

        :param fd: Its descriptor, owned from now on.
        :param size: How many bytes of it count.
        """
        self = cls.__new__(cls)
        self.fd, self.size = fd, size
        self._is_small = size <= IN_MEMORY
        return self

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Write at the end.

        :raises OSError: The disk is full, or memory is (``write(2)``). Nothing of it
            counts then.
        """
        if self._is_small and self.size + len(data) > IN_MEMORY:
            self._move()
        view, offset = memoryview(data), self.size
        while view:
            count = os.pwrite(self.fd, view, offset)
            view, offset = view[count:], offset + count
        self.size = offset

    def _move(self) -> None:
        """Go on in a file on disk."""
        fd, offset = _on_disk(), 0
        try:
            while offset < self.size:
                piece = os.pread(self.fd, IN_MEMORY, offset)
                offset += os.pwrite(fd, piece, offset)
        except BaseException:
            os.close(fd)
            raise
        os.close(self.fd)
        self.fd, self._is_small = fd, False

    def close(self) -> None:
        """Give it up."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def detach(self) -> int:
        """Give the descriptor away."""
        fd, self.fd = self.fd, -1
        return fd


def _in_memory() -> int:
    return memory_file.create("flask_prefork_spool")


def _on_disk() -> int:
    """An unnamed file on disk, or else in memory."""
    for directory in (os.environ.get("TMPDIR"), _DIRECTORY, tempfile.gettempdir()):
        if directory:
            with (
                contextlib.suppress(OSError),
                tempfile.TemporaryFile(dir=directory) as file,
            ):
                return os.dup(file.fileno())
    return _in_memory()
