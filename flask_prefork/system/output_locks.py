"""The locks by which one process of a server writes at a time.

They are those of ``fcntl(2)``, at bytes of a file without a name: the kernel gives them
back when their owner dies, and who is forked doesn't have them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator

from . import memory_file

#: Names the descriptor of the locks, to processes that are started.
VARIABLE = "FLASK_PREFORK_OUTPUT"
#: How many locks there are.
# The shared file has for each a flag, the pieces that were written, modulo 256, and its
# epoch: how often it was stolen, modulo 256. Each epoch has another byte to lock.
LOCKS = 1024
_PIECES = LOCKS
_EPOCHS = 2 * LOCKS
_SIZE = 3 * LOCKS
#: Where the locks are: far from all that is locked in other files, should the app have
#: closed this one and have got its number for another.
_PLACE = 1 << 60


class Shared:
    """The locks and marks, which all processes of a server have in common.

    :param fd: What :func:`create` has made, perhaps in another process.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, _SIZE)

    def lock(self, index: int, kind: int) -> bool:
        """Take a lock, or exchange the one that is held.

        :param kind: ``fcntl.LOCK_SH`` or ``LOCK_EX``.
        :return: ``False`` if another process has it.
        """
        epoch = self.epoch(index)
        if not self._lock(index, epoch, kind):
            return False
        if self.epoch(index) == epoch:
            return True
        self.unlock(index)
        return False

    def steal(self, index: int, epoch: int) -> bool:
        """Lock exclusively although another process holds the lock.

        That process must check :meth:`epoch` before each write, and lock again.

        :param epoch: The epoch in which it holds the lock.
        :return: ``False`` if a third process steals it.
        """
        following = (epoch + 1) % 256
        # Only the process that holds an epoch's lock begins it, so none begins twice.
        if not self._lock(index, following, fcntl.LOCK_EX):
            return False
        if self.epoch(index) != epoch:
            self.unlock(index)
            return False
        self._map[_EPOCHS + index] = following
        return True

    def epoch(self, index: int) -> int:
        """Another number after a lock was stolen."""
        return self._map[_EPOCHS + index]

    def _lock(self, index: int, epoch: int, kind: int) -> bool:
        place = _PLACE + 256 * index + epoch
        try:
            fcntl.lockf(self.fd, kind | fcntl.LOCK_NB, 1, place)
        except OSError as e:
            # The app has closed it, or there is no memory: better mixed than lost.
            return e.errno not in (errno.EACCES, errno.EAGAIN)
        return True

    def unlock(self, index: int) -> None:
        """Give a lock back, of whatever epoch it is."""
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 256, _PLACE + 256 * index)
        except OSError:
            pass

    def is_cut(self, index: int) -> bool:
        """Whether a text is being written, or was cut off."""
        return self._map[index] != 0

    def set_cut(self, index: int, cut: bool) -> None:
        """Set or clear the flag."""
        self._map[index] = cut

    def pieces(self, index: int) -> int:
        """Another number whenever something was written that might have to wait."""
        return self._map[_PIECES + index]

    def count_piece(self, index: int) -> None:
        """Let waiting processes see progress."""
        self._map[_PIECES + index] = (self._map[_PIECES + index] + 1) % 256

    def close(self) -> None:
        """Unmap and close it."""
        self._map.close()
        os.close(self.fd)


def create() -> int:
    """Make the file for :class:`Shared`.

    :return: Its descriptor.
    """
    fd = memory_file.create("flask_prefork_output")
    os.ftruncate(fd, _SIZE)
    return fd


#: This server's, see :func:`share`.
_shared: Shared | None = None


def share() -> Shared:
    """The locks of this process, and of those that it forks or starts.

    They are those of who has started it, if that was :func:`inherited`.
    """
    global _shared
    if _shared is None:
        # Popped, lest the app's own children take it for theirs.
        value = os.environ.pop(VARIABLE, None)
        if value is not None:
            os.set_inheritable(int(value), False)
        _shared = Shared(create() if value is None else int(value))
    return _shared


@contextlib.contextmanager
def inherited() -> Iterator[dict[str, str]]:
    """Let a process that is started have the same locks.

    :return: What its environment needs for that.
    """
    fd = share().fd
    os.set_inheritable(fd, True)
    try:
        yield {VARIABLE: str(fd)}
    finally:
        os.set_inheritable(fd, False)
