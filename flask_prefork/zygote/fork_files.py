"""Files whose offset a fork would share.

Called by :func:`.fork_checks.check` in the zygote. A forked process has the same open
file description, and with it the same offset (``fork(2)``): if one worker seeks, all
read from there. That hurts who reads, or reads and writes. Logs are only written, one
line after the other whoever writes it, and that is as it should be.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import typing as t

from .fork_holders import Holder
from .fork_libraries import HOOK

#: SQLite reads and writes by ``pread`` and ``pwrite``, and so have these no offset that
#: matters: its databases, and what it has beside them.
_SQLITE = b"SQLite format 3\0"
_BESIDE = ("-journal", "-wal", "-shm")
#: What is in memory or in the kernel isn't read on from where it was left.
_KERNELS = ("/proc/", "/sys/", "/dev/", "/memfd:")


class File(t.NamedTuple):
    """A file that is open for reading.

    :param fd: Its descriptor.
    :param path: Where it is.
    :param is_unread: Whether nothing was read yet.
    :param is_read: Whether it was read to its end, and can't be written.
    """

    fd: int
    path: str
    is_unread: bool
    is_read: bool


def find(own: t.Collection[int]) -> list[File]:
    """Look for files that somebody may seek in.

    :param own: Descriptors of the server's.
    """
    try:
        fds = sorted(map(int, os.listdir("/proc/self/fd")))
        known = {_identity(fd) for fd in range(3) if fd in fds}
    except OSError:
        return []
    found = []
    for fd in fds:
        if fd <= 2 or fd in own:
            continue
        try:
            file = _file(fd)
            if file is not None and _identity(fd) not in known:
                found.append(file)
        except OSError:
            continue  # the listing's own descriptor
    mapped = _mapped() if found else ""
    return [file for file in found if f" {file.path}\n" not in mapped]


def describe(file: File, holder: Holder) -> str:
    """What is reported of one, and what to do."""
    return (
        f"the file {file.path}{holder.shown} is open; all workers would share its"
        f" offset, and read where another one has left it. Open it {HOOK}, or read it"
        " by os.pread."
    )


def is_harmless(file: File, is_python: bool, holder: Holder) -> bool:
    """Whether it is nobody's who would read it on.

    A module that reads a file to its end and doesn't close it has no more use for it;
    an object that has it, as an archive does, may seek in it. What was never read and
    is no file of Python's is mapped, or read at positions of its own, or a lock.

    :param is_python: Whether a file object of Python's stands for it.
    """
    if file.is_unread and not is_python:
        return True
    return file.is_read and (holder.is_variable or not holder.name)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _file(fd: int) -> File | None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return None
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_APPEND or flags & os.O_ACCMODE == os.O_WRONLY:
        return None
    path = os.readlink(f"/proc/self/fd/{fd}")
    place = os.lseek(fd, 0, os.SEEK_CUR)
    is_readonly = flags & os.O_ACCMODE == os.O_RDONLY
    if is_readonly and not status.st_size:
        return None
    if path.startswith(_KERNELS) or path.endswith(_BESIDE) or path in sys.path:
        return None
    if os.pread(fd, len(_SQLITE), 0) == _SQLITE or _is_locked(fd):
        return None
    return File(fd, path, not place, is_readonly and place >= status.st_size)


def _is_locked(fd: int) -> bool:
    """Whether it is open for the sake of a lock."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as file:
        return "\nlock:" in file.read()


def _mapped() -> str:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        return file.read()
