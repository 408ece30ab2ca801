"""Files in memory, for what processes hand to each other by descriptor.

They have no name and need no directory that can be written to: a container's root may
be read-only, and a disk full.
"""

from __future__ import annotations

import errno
import os
import tempfile


def create(name: str) -> int:
    """Make an empty file (``memfd_create(2)``).

    Where there is none of that, or it is forbidden, a temporary file without a name
    has to do.

    :param name: What ``/proc`` shows.
    :return: Its descriptor, which no child inherits. Only one of the first kind can be
        sealed (``fcntl(2)``).
    :raises OSError: If neither can be had.
    """
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise  # and no other kind of file could be had either
            # Forbidden by seccomp(2), or by vm.memfd_noexec.
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
