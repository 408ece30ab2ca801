"""The dispatcher's log: the standard logging module, on standard error.

A process that dispatches must not wait for whoever reads its log. httpd's
parent once hung in writing to a pipe that nobody read (its 928aff8a02).
"""

from __future__ import annotations

import logging
import os
import select
import sys

#: What the dispatcher and the zygote have to say.
logger = logging.getLogger("flask_prefork")


class NonBlockingHandler(logging.Handler):
    """Writes whole lines to a descriptor, or drops them if that would wait.

    A pipe that polls writable takes PIPE_BUF bytes at once (``pipe(7)``).

    :param fd: Where to, standard error by default.
    :ivar dropped: How many lines were lost since one was written.
    """

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self.fd = fd
        self.dropped = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, as one write."""
        line = self.format(record)
        if self.dropped:
            line = f"({self.dropped} lines of the log were lost)\n{line}"
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            for start in range(0, len(data), select.PIPE_BUF):
                ready = self._poll.poll(0)
                if not ready or not ready[0][1] & select.POLLOUT:
                    self.dropped += 1
                    return
                os.write(self.fd, data[start : start + select.PIPE_BUF])
        except OSError:
            self.dropped += 1
        else:
            self.dropped = 0


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
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(NonBlockingHandler())
        logger.propagate = False
