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
import sys
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
)
_of_stream = attrgetter("__dict__", "line_buffering")
#: What others put something in place of: Sentry, OpenTelemetry, New Relic, for example.
_of_module = attrgetter("_logRecordFactory", "_defaultFormatter")
_of_logger_class = attrgetter("info", "_log", "handle", "makeRecord", "callHandlers")
_of_handler_class = attrgetter("handle", "format", "emit")
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
        #: The stream, and whether escape sequences are removed on the way to it.
        self._stream: t.Any = None
        self._strips = False
        #: What a file's handler looks after.
        self._path: str | None = None

    def can_write(self) -> bool:
        """Whether the logger would write the mere line, and nothing else happen."""
        logger, handler = self._logger, self._handler
        if not logger.isEnabledFor(logging.INFO):
            return False
        try:
            if handler is not None and self._expected == self._look(handler):
                return True
            return self._examine()
        except AttributeError:
            return False  # the handler was closed, or taken apart

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
            elif self._strips and "\x1b" in line:
                return False
            self._write(line)
        except (OSError, ValueError):
            # Moved away; closed, or another encoding that lacks a character.
            return False
        return True

    def _look(self, handler: t.Any) -> tuple[t.Any, ...]:
        logger = self._logger
        return (
            _of_logger(logger),
            len(logger.__dict__),
            _of_handler(handler),
            len(handler.__dict__),
            _of_stream(self._stream),
            logging.root.handlers,
            _of_module(logging),
            _of_logger_class(logging.Logger),
            _of_handler_class(logging.StreamHandler),
        )

    def _examine(self) -> bool:
        """Look at everything, after something was changed."""
        self._handler = None
        logger = self._logger
        if len(logger.handlers) != 1 or (logger.propagate and logging.root.handlers):
            return False
        handler: t.Any = logger.handlers[0]
        if type(handler) not in self._types or not _is_plain(handler.formatter):
            return False
        outer = stream = handler.stream
        self._strips = False
        if _is_colorama(outer):
            stream = outer.wrapped
            self._strips = outer.strip
            if outer.convert or outer.autoreset:
                return False
        if type(stream) is not TextIOWrapper:
            return False
        if not isinstance(stream.buffer, WholeLines):
            return False
        self._stream = stream
        parent = logging.root if logger.propagate else logger.parent
        expected: tuple[t.Any, ...] = (
            (logging.Logger, False, [], [handler], logger.propagate, parent),
            len(logger.__dict__),
            (
                type(handler),
                min(handler.level, logging.INFO),
                [],
                handler.formatter,
                "\n",
                outer,
                dict(vars(outer)),
            ),
            len(handler.__dict__),
            (dict(vars(stream)), stream.line_buffering),
            [] if logger.propagate else logging.root.handlers,
            _of_module(logging),
            _of_logger_class(logging.Logger),
            _of_handler_class(logging.StreamHandler),
        )
        if expected != self._look(handler) or not _is_original(expected[-3:]):
            return False
        # A method may have been replaced in one object.
        for one in (logger, handler, outer, stream):
            if any(callable(getattr(type(one), name, None)) for name in vars(one)):
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


def _is_colorama(stream: object) -> bool:
    """Whether it is what werkzeug gives its handler where colorama is installed."""
    module = sys.modules.get("colorama.ansitowin32")
    return module is not None and type(stream) is module.AnsiToWin32


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
    return seen[0][0] is logging.LogRecord and all(
        value.__code__.co_filename in _FILES
        if isinstance(value, types.FunctionType)
        else type(value).__module__ in ("builtins", "re", "logging")
        for kind in _CLASSES
        for value in vars(kind).values()
    )
