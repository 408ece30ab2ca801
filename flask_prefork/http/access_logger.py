"""Where the access log's lines go: the logger ``flask_prefork.access``.

For the formats of ``--access-log-format``. The lines that are ``flask run``'s go where
they go there, to werkzeug's logger. The zygote sets it up once the app is loaded, so
that whatever the app has configured holds.
"""

from __future__ import annotations

import logging
import sys
import typing as t
from logging.handlers import WatchedFileHandler

from .direct_log import DirectLog
from .log_format import Format
from .log_format import LogEntry

Open = t.Callable[[str], t.TextIO]

NAME = "flask_prefork.access"
#: Standard output, as a file's name.
STANDARD_OUTPUT = "-"


class AccessLogger:
    """Renders requests' lines and logs them.

    :param format: What a line says.
    """

    def __init__(self, format: Format) -> None:
        self.asks_for_id = format.asks_for_id
        self._render = format.render
        self._logger = logging.getLogger(NAME)
        self._direct = DirectLog(self._logger, _HANDLERS)

    def log(self, entry: LogEntry) -> None:
        """Log a request that is over."""
        direct = self._direct
        if direct.can_write() and direct.write(self._render(entry) + "\n"):
            return
        logger = self._logger
        if logger.isEnabledFor(logging.INFO):
            # Not info(), which would look for who has called it.
            line = self._render(entry)
            logger.handle(logger.makeRecord(NAME, logging.INFO, "", 0, line, (), None))


class _FileHandler(WatchedFileHandler):
    """Writes to a file, which may be moved away at any time.

    :param path: The file.
    :param open_: Opens it.
    """

    def __init__(self, path: str, open_: Open) -> None:
        self._open_ = open_
        super().__init__(path)

    def _open(self) -> t.Any:
        return self._open_(self.baseFilename)


#: Handlers that write the mere lines.
_HANDLERS = frozenset({logging.StreamHandler, _FileHandler})


def has_handlers() -> bool:
    """Whether somebody has given the logger handlers of its own."""
    return bool(logging.getLogger(NAME).handlers)


def set_up(path: str | None, open_: Open) -> None:
    """Give the logger a handler, unless it has one.

    :param path: A file, which may be moved away at any time; ``-`` is standard
        output, ``None`` standard error.
    :param open_: Opens a file to append text to it.
    :raises OSError: The file can't be written.
    """
    logger = logging.getLogger(NAME)
    # Configuring the app's logging disables the loggers that were there, unless it is
    # asked not to (logging.config).
    logger.disabled = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if path is None and logger.handlers:
        return
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(sys.stderr)
    elif path == STANDARD_OUTPUT:
        handler = logging.StreamHandler(sys.stdout)
    else:
        handler = _FileHandler(path, open_)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
