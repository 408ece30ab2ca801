"""Writes that are never mixed, to a descriptor that many processes share.

A write of up to ``PIPE_BUF`` bytes to a pipe isn't mixed with others (``pipe(7)``). A
longer one is as soon as the pipe is full, and so are those to sockets and terminals;
and whoever is killed in the middle leaves a piece of a line behind. So a long text is
written under an exclusive lock, a short one under a shared one. To a file, a short
text needs none, for it is one write.

A flag beside each lock (:mod:`.output_locks`) is set while a text is unfinished. A
process that takes the lock and finds the flag set begins a new line.

No process waits for ever. One that doesn't get the lock, or whose reader takes nothing,
for :data:`TIMEOUT` gives up; later texts don't wait until something was written again.
Lost lines are counted, and a line before the next text has their number.

A process that holds the lock but doesn't write for :data:`LOCK_TIMEOUT`, although it
could, may be stopped: another process steals the lock. Then the line of the first one
is cut, and it writes the line again when it continues.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import threading
import time
import typing as t

from .output_locks import LOCKS
from .output_locks import share
from .output_locks import Shared

#: Seconds without any progress after which a text is given up.
TIMEOUT = 10.0
#: Seconds without a write after which the lock is stolen from its holder, if the
#: descriptor was writable all the time.
LOCK_TIMEOUT = 1.0
#: Seconds after which it is given up although there is some.
_LONGEST = 30.0
#: Seconds between two looks at a lock that another process has: the first, the longest.
_PAUSES = 0.0001, 0.01
#: What a terminal is given at once, in bytes. It may have less room than a pipe that
#: can be written to, and then it would be waited for.
_TERMINAL_PIECE = 256

#: Let a write fail instead of waiting, whoever else has opened the pipe or socket.
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0) if hasattr(os, "pwritev") else 0

#: One thread writes at a time. A signal handler may write amid a text, so it is
#: reentrant.
_threads = threading.RLock()
#: What came while a text was written, from a signal's handler: by the lock's number.
_postponed: dict[int, list[tuple[Output, bytes]]] = {}


def _renew() -> None:
    """In a forked process: a thread that was left behind may have had the lock."""
    global _threads
    _threads = threading.RLock()
    _postponed.clear()


os.register_at_fork(after_in_child=_renew)


def _notice(lost: int) -> bytes:
    return f"({lost} lines of the log were lost)\n".encode()


class Output:
    """A descriptor to which whole texts are written.

    :param fd: The descriptor.
    :param shared: The locks; by default those of this server's processes.
    :param report_lost: Called with the number of lost lines when the reader takes
        lines again. By default the number is in a line before the next text.
    :param notice: Makes that line.
    :ivar lost: How many lines were lost since one was written.
    """

    def __init__(
        self,
        fd: int,
        shared: Shared | None = None,
        report_lost: t.Callable[[int], None] | None = None,
        notice: t.Callable[[int], bytes] | None = None,
    ) -> None:
        self.fd = fd
        self.lost = 0
        self.shared = share() if shared is None else shared
        self._report_lost = report_lost
        self._notice = notice if notice is not None else _notice
        #: What :meth:`Shared.pieces` was when it was given up; -1 is not.
        self._gave_up = -1
        #: Its lock's number; below 0 if it is to be looked at what it is.
        self.index = -1
        self._is_file = False
        self._nowait = _NOWAIT
        self._piece = select.PIPE_BUF

    def write(self, data: bytes) -> bool:
        """Write a text, which should end with its line.

        :return: ``False`` if it is lost.
        """
        if (
            self._is_file
            and self.index >= 0
            and not self.lost
            and not _postponed
            and len(data) <= select.PIPE_BUF
            and not self.shared.is_cut(self.index)
        ):
            # By far the most are such: one write, which nothing has to be locked for.
            try:
                sent = os.write(self.fd, data)
            except OSError:
                sent = 0
            if sent == len(data):
                return True
            if sent:
                # A disk that is full now.
                self.shared.set_cut(self.index, True)
        with _threads:
            if self.index < 0 and not self.inspect():
                return self.count_lost(data)
            index = self.index
            if index in _postponed:
                _postponed[index].append((self, data))
                return True
            mine = _postponed[index] = []
            try:
                written = self._write(data)
            finally:
                del _postponed[index]
            for other, text in mine:
                other.write(text)
            return written

    def inspect(self) -> bool:
        """Find out what the descriptor is now.

        :return: ``False`` if it is closed.
        """
        try:
            found = os.fstat(self.fd)
        except OSError:
            self.index = -1
            return False
        kind = stat.S_IFMT(found.st_mode)
        is_terminal = kind == stat.S_IFCHR and os.isatty(self.fd)
        self._is_file = kind not in (stat.S_IFIFO, stat.S_IFSOCK) and not is_terminal
        self._nowait = 0 if is_terminal or self._is_file else _NOWAIT
        self._piece = _TERMINAL_PIECE if is_terminal else select.PIPE_BUF
        self.index = (found.st_dev * 31 + found.st_ino) % LOCKS
        return True

    def with_notice(self, data: bytes) -> bytes:
        """A text, after a line with the number of lost lines if there are any."""
        if not self.lost or self._report_lost is not None:
            return data
        return self._notice(self.lost) + data

    def count_lost(self, data: bytes) -> bool:
        """Count a text that nobody takes."""
        self.lost += max(1, data.count(b"\n"))
        return False

    def reset_lost(self) -> bool:
        """A text was written: report lost lines, and count anew."""
        self._gave_up = -1
        if self.lost:
            lost, self.lost = self.lost, 0
            if self._report_lost is not None:
                self._report_lost(lost)
        return True

    def _write(self, data: bytes) -> bool:
        text = self.with_notice(data)
        if len(text) <= select.PIPE_BUF and self._write_at_once(text):
            return self.reset_lost()
        pending = LockedWrite(self, text)
        try:
            self._finish(pending)
        except OSError:
            # EPIPE, ENOSPC, EIO. Whoever reads may have been replaced.
            self.index = -1
        finally:
            pending.end()
        return self.reset_lost() if pending.is_over else self.count_lost(data)

    def _write_at_once(self, text: bytes) -> bool:
        """Write a short text if nobody is in the middle of a long one.

        :return: Whether it was written.
        """
        shared, index = self.shared, self.index
        if not self._is_file and not self._nowait:
            return False
        if not self._is_file and not shared.lock(index, fcntl.LOCK_SH):
            return False
        try:
            if shared.is_cut(index):
                return False
            sent = self.write_available(text)
            if 0 < sent < len(text):
                # A disk that is full now, or a socket.
                shared.set_cut(index, True)
            if sent and not self._is_file:
                shared.count_piece(index)
            return sent == len(text)
        except OSError:
            return False
        finally:
            if not self._is_file:
                shared.unlock(index)

    def write_available(self, text: bytes | memoryview) -> int:
        """Let the descriptor take as much as it can without a wait.

        :return: How many bytes; 0 if it would wait.
        :raises OSError: It takes nothing any more.
        """
        try:
            if self._is_file:
                return os.write(self.fd, text)
            if self._nowait:
                try:
                    return os.pwritev(self.fd, [text], -1, self._nowait)
                except OSError as e:
                    if e.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                        raise
                # An older kernel, or another file by now.
                self.inspect()
                self._nowait = 0
            if not self._is_ready(0):
                return 0
            return os.write(self.fd, text[: self._piece])
        except BlockingIOError:
            return 0

    def _is_ready(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        # At a hang-up too, which the next write fails with.
        return bool(poll.poll(max(seconds, 0) * 1000))

    def _finish(self, pending: LockedWrite) -> None:
        """Wait for the lock, and for the reader, as long as there is progress."""
        now = begun = time.monotonic()
        pause, longest = _PAUSES
        pieces = -1
        quiet_since = idle_since = now
        epoch = -1
        while not pending.advance():
            now = time.monotonic()
            seen = self.shared.pieces(self.index)
            before, epoch = epoch, self.shared.epoch(self.index)
            is_idle = not pending.holds and self._is_ready(0)
            if not is_idle or (seen, epoch) != (pieces, before):
                idle_since = now
            elif now >= idle_since + LOCK_TIMEOUT and pending.steal(epoch):
                continue
            if seen != pieces:
                pieces, quiet_since = seen, now
            left = min(quiet_since + TIMEOUT, begun + _LONGEST) - now
            if (seen == self._gave_up and not is_idle) or left <= 0:
                self._gave_up = seen
                return
            # A descriptor that is ready and takes nothing is looked at now and then.
            if not pending.holds or self._is_ready(left):
                time.sleep(min(pause, left))
                pause = min(2 * pause, longest)


class LockedWrite:
    """One text on its way, under the exclusive lock.

    :param output: Where to.
    :param text: The text.
    :ivar holds: Whether it has the lock.
    :ivar sent: Bytes that are written.
    """

    def __init__(self, output: Output, text: bytes) -> None:
        self.holds = False
        self._output = output
        self._index = output.index
        self._whole = self._text = text
        self.sent = 0
        self._was_cut = False
        self._epoch = 0

    @property
    def is_over(self) -> bool:
        """Whether all is written."""
        return self.sent == len(self._text)

    def advance(self) -> bool:
        """Write what can be written without a wait.

        :return: Whether all is written.
        :raises OSError: No more will be taken.
        """
        shared, index = self._output.shared, self._index
        if self._was_stolen():
            self.end()
        if not self.holds:
            if not shared.lock(index, fcntl.LOCK_EX):
                return False
            self._begin()
        shared.set_cut(index, True)
        rest = memoryview(self._text)
        while self.sent < len(rest):
            if self._was_stolen():
                self.end()
                return False
            sent = self._output.write_available(rest[self.sent :])
            if not sent:
                return False
            self.sent += sent
            shared.count_piece(index)
        return True

    def steal(self, epoch: int) -> bool:
        """Steal the lock from its holder.

        :param epoch: The lock's (:meth:`Shared.epoch`), while its holder wrote nothing.
        :return: ``False`` if another process has done so.
        """
        if not self._output.shared.steal(self._index, epoch):
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        shared, index = self._output.shared, self._index
        self.holds = True
        self._epoch = shared.epoch(index)
        self._was_cut = shared.is_cut(index)
        self._text = b"\n" + self._whole if self._was_cut else self._whole

    def _was_stolen(self) -> bool:
        return self.holds and self._output.shared.epoch(self._index) != self._epoch

    def end(self) -> None:
        """Give the lock back, whether all is written or not."""
        if self.holds:
            shared, index = self._output.shared, self._index
            if not self._was_stolen():
                cut = self._was_cut if not self.sent else not self.is_over
                shared.set_cut(index, cut)
            elif not self.is_over:
                # The mark is the new holder's. What is written is a line of its own.
                self.sent = 0
            shared.unlock(index)
            self.holds = False
