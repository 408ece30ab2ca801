"""Standard output and error as text streams that write whole lines.

The zygote puts them in place of the interpreter's before the app is loaded, so that
all has them that is made from then on: handlers of logging, ``wsgi.errors``, ``print``.
What is written at once arrives at once (:mod:`.output`), and so does a traceback.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
import threading
import traceback
import typing as t
from collections import deque
from collections.abc import Callable
from collections.abc import Iterator

from . import log_files
from .output import Output

if t.TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: Bytes that are kept back until they are flushed.
_KEPT = 8192
#: Bytes of a line that is still to end, after which it is written as far as it is.
_LONGEST_LINE = 1 << 20


class WholeLines(io.BufferedIOBase):
    """What a text stream writes to: an output that is given whole lines.

    No write fails. What can't be written is counted, and reported when it can be again.

    :param output: Where to.
    :param name: The stream's name.
    :param lines: Whether the end of a line is to be seen at once.
    """

    def __init__(self, output: Output, name: str, lines: bool = True) -> None:
        self.name = name
        self.mode = "wb"
        self._output = output
        self._lines = lines
        #: Pieces, for a deque's end is added and taken at once: threads and handlers
        #: of signals may write at any moment.
        self._kept: deque[bytes] = deque()
        self._size = 0
        #: Of threads that write what belongs together: all of it.
        self._records: dict[int, bytearray] = {}

    @property
    def raw(self) -> io.FileIO:
        """The descriptor as a file."""
        return io.FileIO(self._output.fd, "wb", closefd=False)

    def fileno(self) -> int:
        return self._output.fd

    def isatty(self) -> bool:
        return os.isatty(self._output.fd)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        piece = bytes(data)
        if self._records:
            record = self._records.get(threading.get_ident())
            if record is not None:
                record += piece
                return len(piece)
        elif self._lines and not self._kept and piece[-1:] == b"\n":
            # What a line or a record nearly always is.
            self._output.write(piece)
            return len(piece)
        self._kept.append(piece)
        self._size += len(piece)
        if self._size > _KEPT:
            self._write(to_the_end=self._size > _LONGEST_LINE)
        return len(piece)

    def flush(self) -> None:
        if self._kept and threading.get_ident() not in self._records:
            self._write(to_the_end=True)

    def _write(self, to_the_end: bool) -> None:
        pieces = []
        with contextlib.suppress(IndexError):
            while True:
                pieces.append(self._kept.popleft())
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        end = len(data) if to_the_end else data.rfind(b"\n") + 1
        if end < len(data):
            self._kept.appendleft(data[end:])
        self._size = len(data) - end
        if end:
            self._output.write(data[:end])

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Let all that this thread writes arrive at once."""
        thread = threading.get_ident()
        if thread in self._records:
            yield
            return
        self._records[thread] = bytearray()
        try:
            yield
        finally:
            record = bytes(self._records.pop(thread))
            if record:
                self._output.write(record)


class _File(WholeLines):
    """A file's; it is closed with it."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self.fileno())


def append(path: str, report_lost: Callable[[int], None]) -> io.TextIOWrapper:
    """Open a file to write whole lines at its end.

    :param path: It is made if it isn't there. Of a named pipe the reader may come and
        go, and lines are lost while there is none.
    :param report_lost: Called with the number of lost lines.
    :raises OSError: It can't be opened.
    """
    fd = log_files.open_to_append(path)
    try:
        output = Output(fd, report_lost=report_lost)
    except BaseException:
        os.close(fd)
        raise
    return io.TextIOWrapper(_File(output, path), "utf-8", "backslashreplace", "\n")


def install(
    report_lost: Callable[[int], None], notice: Callable[[int], bytes] | None = None
) -> None:
    """Put such streams in place of the interpreter's, where these are still there.

    :param report_lost: Called with the number of lost lines of standard output.
    :param notice: Makes the line with the number of those of standard error.
    """
    for name, fd in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if not isinstance(old, io.TextIOWrapper) or old.name != f"<{name}>":
            continue
        with contextlib.suppress(OSError):
            old.flush()
        # Instead of each piece at once (PYTHONUNBUFFERED), each line.
        lines = old.line_buffering or old.write_through
        output = Output(fd, None, report_lost if fd == 1 else None, notice)
        buffer = WholeLines(output, old.name, lines)
        new: t.Any = io.TextIOWrapper(buffer, old.encoding, old.errors, "\n", lines)
        new.mode = "w"
        if getattr(sys, f"__{name}__") is old:
            setattr(sys, f"__{name}__", new)
        setattr(sys, name, new)
        _move_handlers(old, new)
    if sys.version_info >= (3, 11):
        exception: t.Any = traceback.TracebackException
        exception.print = _at_once(exception.print)
    else:
        module: t.Any = traceback
        module.print_exception = _recorded(traceback.print_exception)
    threading.excepthook = _recorded(threading.excepthook)
    sys.excepthook = _recorded(sys.excepthook)
    sys.unraisablehook = _recorded(sys.unraisablehook)


def _move_handlers(old: io.TextIOWrapper, new: io.TextIOWrapper) -> None:
    """Let handlers of logging that were made before write to the new stream."""
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(new)


P = t.ParamSpec("P")


def _recorded(hook: Callable[P, object]) -> Callable[P, None]:
    """A hook of the interpreter, which writes a traceback piece by piece."""

    @functools.wraps(hook)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        buffer = getattr(sys.stderr, "buffer", None)
        if not isinstance(buffer, WholeLines):
            hook(*args, **kwargs)
            return
        with buffer.record():
            hook(*args, **kwargs)

    return run


def _at_once(write: Callable[..., None]) -> Callable[..., None]:
    """``print`` of a traceback, by one write instead of one for each of its lines."""

    @functools.wraps(write)
    def run(
        self: traceback.TracebackException,
        *,
        file: t.TextIO | None = None,
        **options: t.Any,
    ) -> None:
        text = io.StringIO()
        write(self, file=text, **options)
        print(text.getvalue(), file=sys.stderr if file is None else file, end="")

    return run
