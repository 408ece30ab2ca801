"""How a record of the server's log becomes text: its line, and its continuation.

``[2026-11-29 18:30:20 +0000] [4711] [INFO] [worker 3] message``: the local time with
its offset, the process ID, the level, and the process. A record of several lines, such
as a traceback, continues in lines that don't begin with ``[``. The systemd journal has
the time, so it gets a priority instead, in each line (``sd-daemon(3)``).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

#: Set by systemd for a process whose output is a stream of the journal: its device and
#: inode, with a colon in between (``systemd.exec(5)``).
JOURNAL_VARIABLE = "JOURNAL_STREAM"
#: Priorities of ``syslog(3)`` for levels, the highest first.
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG = 7


def is_journal(fd: int, environ: Mapping[str, str] | None = None) -> bool:
    """Whether a descriptor is a stream of the systemd journal.

    :param environ: The variables; this process's by default.
    """
    told = (os.environ if environ is None else environ).get(JOURNAL_VARIABLE, "")
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return told == f"{found.st_dev}:{found.st_ino}"


def allows_colour(fd: int, environ: Mapping[str, str] | None = None) -> bool:
    """Whether escape sequences may be written: to a terminal, and nobody minds.

    :param environ: The variables; this process's by default. A ``NO_COLOR`` that isn't
        empty forbids colours (https://no-color.org).
    """
    if (os.environ if environ is None else environ).get("NO_COLOR"):
        return False
    try:
        return os.isatty(fd)
    except (OSError, ValueError):
        return False


def log_time(seconds: float) -> str:
    """The local time with its offset, as a line begins with it.

    :param seconds: Since the epoch.
    """
    return time.strftime("[%Y-%m-%d %H:%M:%S %z] ", time.localtime(seconds))


def priority(level: int) -> int:
    """The priority of ``syslog(3)`` for a level of :mod:`logging`."""
    return next((found for least, found in _PRIORITIES if level >= least), _DEBUG)


class LineFormatter(logging.Formatter):
    """See the module.

    :param journal: Whether it is the journal that reads.
    """

    def __init__(self, journal: bool = False) -> None:
        super().__init__()
        self.journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The record's text, without the end of its last line."""
        head = f"[{record.process}] [{record.levelname}] [{record.processName}] "
        # What continues must not look like another record.
        text = head + super().format(record).rstrip("\n").replace("\n[", "\n [")
        if self.journal:
            mark = f"<{priority(record.levelno)}>"
            return mark + text.replace("\n", f"\n{mark}")
        return log_time(record.created) + text
