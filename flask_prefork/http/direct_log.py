"""Writes lines as a logger would, past the logging module, while that is the same.

A record costs several times what its line does. Nobody needs one if a logger has a
single handler, which writes the mere message to a stream of this server's. That is
looked at before each line, for logging may be configured at any time, and its classes
be changed by instrumentation.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import types
import typing as t
from functools import lru_cache
from io import TextIOWrapper
from operator import attrgetter

from ..system.streams import WholeLines

#: What a logger is asked for each line. Lists are compared with what they should be,
#: not with themselves.
_of_logger = attrgetter(
    "__class__", "disabled", "filters", "handlers", "propagate", "parent"
)
_of_handler = attrgetter(
    "__class__",
    "level",
    "filters",
    "formatter",
    "terminator",
    "stream",
    "stream.__dict__",
    "stream.line_buffering",
)
#: What others put something in place of: Sentry, OpenTelemetry, New Relic, for example.
_of_logging = attrgetter(
    "_logRecordFactory",
    "_defaultFormatter",
    "Logger.info",
    "Logger._log",
    "Logger.handle",
    "Logger.makeRecord",
    "Logger.callHandlers",
    "Handler.handle",
    "Handler.format",
    "StreamHandler.emit",
    "LogRecord.getMessage",
    "Formatter.format",
)
#: The classes that make a line of a record.
_CLASSES = (
    logging.Logger,
    logging.LogRecord,
    logging.Formatter,
    logging.PercentStyle,
    logging.Filterer,
    logging.Handler,
    logging.StreamHandler,
    logging.FileHandler,
    logging.handlers.WatchedFileHandler,
)
_FILES = {
    logging.Logger.manager.__class__.__init__.__code__.co_filename,
    logging.handlers.__file__,
}
_MESSAGE = "%(message)s"


class DirectLog:
    """A logger's lines of level ``INFO``, which need no record as a rule.

    :param logger: The logger.
    :param handlers: The classes of handlers that do no more than to write a record's
        message and its end, but to open a :class:`~logging.handlers.WatchedFileHandler`
        's file anew.
    """

    def __init__(
        self, logger: logging.Logger, handlers: frozenset[type[logging.Handler]]
    ) -> None:
        self._logger = logger
        self._types = handlers
        self._handler: t.Any = None
        self._expected: tuple[t.Any, ...] = ()
        self._write: t.Callable[[str], t.Any] = len
        #: What a file's handler looks after: its path, device and inode.
        self._path: str | None = None

    def can_write(self) -> bool:
        """Whether the logger would write the mere line, and nothing else happen."""
        logger, handler = self._logger, self._handler
        if not logger.isEnabledFor(logging.INFO):
            return False
        if handler is not None and self._expected == (
            _of_logger(logger),
            len(logger.__dict__),
            _of_handler(handler),
            len(handler.__dict__),
            logging.root.handlers,
            _of_logging(logging),
        ):
            return True
        return self._examine()

    def write(self, line: str) -> bool:
        """Write a line that :meth:`can_write` has allowed.

        :param line: With its end.
        :return: ``False`` if the logger has to do it. Nothing is written then.
        """
        try:
            if self._path is not None:
                found = os.stat(self._path)
                handler = self._handler
                if found.st_ino != handler.ino or found.st_dev != handler.dev:
                    return False
            self._write(line)
        except (OSError, ValueError):
            # Moved away; closed, or another encoding that lacks a character.
            return False
        return True

    def _examine(self) -> bool:
        """Look at everything, after something was changed."""
        self._handler = None
        logger = self._logger
        if len(logger.handlers) != 1:
            return False
        handler: t.Any = logger.handlers[0]
        if type(handler) not in self._types:
            return False
        stream = handler.stream
        if type(stream) is not TextIOWrapper or not _is_plain(handler.formatter):
            return False
        # A method may have been replaced in one object.
        for one in (logger, handler, stream):
            if any(callable(getattr(type(one), name, None)) for name in vars(one)):
                return False
        if not isinstance(stream.buffer, WholeLines):
            return False
        if logger.propagate and logger.parent is not logging.root:
            return False
        if not _is_original(_of_logging(logging)):
            return False
        expected = (
            (logging.Logger, False, [], [handler], logger.propagate, logger.parent),
            len(logger.__dict__),
            (
                type(handler),
                handler.level,
                [],
                handler.formatter,
                "\n",
                stream,
                dict(vars(stream)),
                stream.line_buffering,
            ),
            len(handler.__dict__),
            [] if logger.propagate else logging.root.handlers,
            _of_logging(logging),
        )
        if handler.level > logging.INFO or expected != (
            _of_logger(logger),
            expected[1],
            _of_handler(handler),
            expected[3],
            logging.root.handlers,
            expected[5],
        ):
            return False
        self._expected = expected
        self._handler = handler
        self._path = None
        self._write = stream.write
        if isinstance(handler, logging.handlers.WatchedFileHandler):
            self._path = handler.baseFilename
            self._write = _Written(stream.buffer).write
        elif not stream.line_buffering:
            self._write = _Flushed(stream).write
        return True


class _Flushed:
    """A stream that is flushed after each line."""

    def __init__(self, stream: t.TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        self._stream.write(line)
        self._stream.flush()


class _Written:
    """A stream that nobody else has, so that none of its text is on its way."""

    def __init__(self, buffer: WholeLines) -> None:
        self._write = buffer.write

    def write(self, line: str) -> None:
        self._write(line.encode("utf-8", "backslashreplace"))


def _is_plain(formatter: logging.Formatter | None) -> bool:
    """Whether it makes the mere message of a record."""
    if formatter is None:
        formatter = logging._defaultFormatter  # type: ignore[attr-defined]
    return (
        type(formatter) is logging.Formatter
        and formatter._fmt == formatter._style._fmt == _MESSAGE
        and vars(formatter).keys() == {"_style", "_fmt", "datefmt"}
        and type(formatter._style) is logging.PercentStyle
    )


@lru_cache(maxsize=4)
def _is_original(seen: tuple[t.Any, ...]) -> bool:
    """Whether the logging module is the interpreter's.

    :param seen: What of it is looked at for each line.
    """
    return seen[0] is logging.LogRecord and all(
        value.__code__.co_filename in _FILES
        if isinstance(value, types.FunctionType)
        else type(value).__module__ in ("builtins", "re")
        for kind in _CLASSES
        for value in vars(kind).values()
    )
