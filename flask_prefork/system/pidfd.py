"""A process as a descriptor (``pidfd_open(2)``), where the system has that.

A pid may be another process's by the time that it is used. Linux has pidfds since 5.3,
and a container's filter of system calls may refuse them.
"""

from __future__ import annotations

import os


def open_pidfd(pid: int) -> int:
    """Open a process's descriptor.

    :param pid: This process's, its parent's, or that of a child that isn't reaped:
        others may have ended.
    :return: The descriptor, which no child inherits; -1 if there is none to be had.
    """
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def are_available() -> bool:
    """Whether this process can open them now."""
    fd = open_pidfd(os.getpid())
    if fd >= 0:
        os.close(fd)
    return fd >= 0
