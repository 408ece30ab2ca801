"""What a process has in memory, from ``/proc/PID/smaps_rollup``.

See ``proc_pid_smaps(5)``. PSS, the proportional set size, divides what is shared
among who shares it, so that the sum over processes is what they take together. It
changes with each fork and end of others. What a process has for itself changes only
by what it does, and is what the system gets back when it ends.

The kernel adds a process's pages up when it is asked: 0.3 ms for a bare Flask app,
and 1.2 ms more for each 100 MB (measured). What it counts anyway takes 1.2 µs to read
(``/proc/PID/statm``), and tells how much a process has grown since: pages that are new
are its own.
"""

from __future__ import annotations

import mmap
import os
import re
import typing as t

_LINE = re.compile(
    rb"^(Pss|SwapPss|Private_Clean|Private_Dirty|Shared_Dirty):\s+(\d+) kB$", re.M
)


class Smaps(t.NamedTuple):
    """A process's memory, in bytes.

    :param pss: Its share of what is shared, and what it has for itself.
    :param own: What it has for itself, also if that is swapped out.
    :param written: That, and what it has written or inherited: all but pages of files
        that others have too.
    """

    pss: int
    own: int
    written: int


def read(pid: int | t.Literal["self"] = "self") -> Smaps | None:
    """A process's memory; this one's, if no other is named.

    :return: ``None`` if the system doesn't tell, or not us.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            lines = _LINE.findall(file.read())
    except OSError:
        return None
    sizes = {name: int(size) * 1024 for name, size in lines}
    if b"Pss" not in sizes:
        # A process that is about to end has no memory any more, and no lines.
        return None
    swapped = sizes.get(b"SwapPss", 0)
    own = sizes.get(b"Private_Clean", 0) + sizes.get(b"Private_Dirty", 0)
    written = own + sizes.get(b"Shared_Dirty", 0)
    return Smaps(sizes[b"Pss"], own + swapped, written + swapped)


class AnonymousMemory:
    """This process's resident anonymous memory, told in a microsecond.

    The file is kept open, and is that of the process that has opened it
    (``proc_pid_statm(5)``): make one after the fork.
    """

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def read(self) -> int:
        """What it has, in bytes; 0 where the system doesn't tell."""
        try:
            _, resident, shared, _ = os.pread(self._fd, 64, 0).split(None, 3)
            return (int(resident) - int(shared)) * mmap.PAGESIZE
        except (OSError, ValueError):
            # None is there, or the app has closed it: it may be another file by now.
            self._fd = -1
            return 0

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
