"""The dispatcher's log: the standard logging module, on standard error.

A process that dispatches must not wait for whoever reads its log. httpd's
parent once hung in writing to a pipe that nobody read (its 928aff8a02). All
processes write whole records, one after the other (:mod:`.output`).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque

from . import output
from . import output_locks
from . import streams
from .output import LockedWrite
from .output import Output

#: The log of the dispatcher and the zygote.
logger = logging.getLogger("flask_prefork")

#: Bytes that are kept for a reader that is slow.
_MOST_KEPT = 1 << 20
#: Seconds until it is tried again: first, and at most.
_PAUSES = 0.01, 0.5
#: Seconds that a process may take to get rid of what is kept when it ends.
_LAST_WAIT = 1.0


class OutputHandler(logging.Handler):
    """Writes records whole, and waits for the reader as long as others do.

    :param fd: Where to, standard error by default.
    """

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self.output = Output(fd)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        self.output.write(self._encode(record))

    def _encode(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("utf-8", "backslashreplace") + b"\n"


class NonBlockingHandler(OutputHandler):
    """Writes records whole, and never waits: it keeps what can't be written yet.

    Its owner calls :meth:`step` at :meth:`deadline`.

    :ivar dropped: How many lines were lost since one was kept.
    """

    def __init__(self, fd: int = 2) -> None:
        super().__init__(fd)
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._pending: LockedWrite | None = None
        self._pause = 0.0
        #: When it is tried again; and since when an unfinished text hasn't moved.
        self._next = 0.0
        self._moved = 0.0

    @property
    def dropped(self) -> int:
        return self.output.lost

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or keep it."""
        text = self._encode(record)
        data = self.output.with_notice(text)
        if self._size + len(data) > _MOST_KEPT:
            self.output.count_lost(text)
        else:
            self.output.reset_lost()
            self._kept.append(data)
            self._size += len(data)
        self.step()

    def deadline(self) -> float | None:
        """When to call :meth:`step` next, in monotonic seconds."""
        return self._next if self._kept else None

    def step(self) -> None:
        """Write of what is kept whatever can be written now."""
        now = time.monotonic()
        if self._pause and now < self._next:
            return
        while self._kept:
            pending = self._pending
            if pending is None:
                if not self.output.inspect():
                    self._remove_first(lost=True)
                    continue
                pending = LockedWrite(self.output, self._kept[0])
            before = pending.sent
            try:
                if pending.advance():
                    pending.end()
                    self._remove_first(lost=False)
                    continue
            except OSError:
                pending.end()
                self._remove_first(lost=True)
                continue
            if pending.sent > before:
                self._moved, self._pause = now, 0.0
            if not pending.sent:
                # Other processes may write before.
                pending.end()
            elif now >= self._moved + output.TIMEOUT:
                pending.end()
                self._remove_first(lost=True)
                continue
            else:
                self._pending = pending
            shortest, longest = _PAUSES
            self._pause = min(max(2 * self._pause, shortest), longest)
            self._next = now + self._pause
            return

    def _remove_first(self, lost: bool) -> None:
        self._pending = None
        self._pause = 0.0
        data = self._kept.popleft()
        self._size -= len(data)
        if lost:
            self.output.count_lost(data)

    def finish(self) -> None:
        """Before the process ends: wait a moment for what is kept."""
        end = time.monotonic() + _LAST_WAIT
        while self._kept and time.monotonic() < end:
            time.sleep(_PAUSES[0])
            self._pause = 0.0
            self.step()


def open_standard_streams() -> None:
    """Put ``/dev/null`` where a standard stream is closed.

    Else the next socket would get its number, and what is printed.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest number that is free (open(2)).
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def discard_output() -> None:
    """Put ``/dev/null`` in place of a standard output that takes nothing.

    What it has not taken is in a buffer, and each flush would fail anew.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def set_up() -> None:
    """Let the log go to standard error, unless somebody configured it."""
    open_standard_streams()
    output_locks.share()
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(OutputHandler())
        logger.propagate = False


def never_wait() -> NonBlockingHandler:
    """Let this process never wait for whoever reads its log.

    :return: What is to be called for that. Handlers of the app are not replaced.
    """
    handler = NonBlockingHandler()
    for other in list(logger.handlers):
        if type(other) is OutputHandler:
            logger.removeHandler(other)
            logger.addHandler(handler)
    return handler


def install_streams() -> None:
    """Let standard output and error be given whole lines, in what the app runs in."""
    streams.install(lambda lost: log_lost("standard output", lost))


def log_lost(where: str, lost: int) -> None:
    """Log that lines were lost that don't go to standard error."""
    logger.warning("%d lines for %s were lost.", lost, where)
