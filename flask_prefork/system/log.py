"""The server's log: the standard logging module, by default on standard error.

Each kind of process has a logger of its own below ``flask_prefork``, such as
``flask_prefork.dispatcher``; :data:`logger` is that of this process. A process that
dispatches must not wait for whoever reads its log. httpd's parent once hung in writing
to a pipe that nobody read (its 928aff8a02). All processes write whole records, one
after the other (:mod:`.output`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import typing as t
from collections import deque
from types import TracebackType

from . import log_config
from . import log_files
from . import output
from . import output_locks
from . import streams
from .log_config import LogError as LogError
from .log_line import is_journal
from .log_line import LineFormatter
from .output import LockedWrite
from .output import Output
from .privileges import Identity

#: The parent of all loggers of the server.
base = logging.getLogger("flask_prefork")
#: Of each of these kinds of processes there is a logger below it.
KINDS = ("dispatcher", "zygote", "worker", "observer", "sender", "tlsproxy")
#: Where :data:`LogOptions.path` is standard error.
STANDARD_ERROR = "-"
#: Tells a process that another one starts how it is to log.
VARIABLE = "FLASK_PREFORK_LOG"

#: Bytes that are kept for a reader that is slow.
_MOST_KEPT = 1 << 20
#: Seconds until it is tried again: first, and at most.
_PAUSES = 0.01, 0.5
#: Seconds that a process may take to get rid of what is kept when it ends.
_LAST_WAIT = 1.0

if t.TYPE_CHECKING:
    from .log_queue import HandlerThread

    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class ProcessLogger(_Adapter):
    """Logs as this process.

    :ivar process_name: What records have for ``%(processName)s``, such as ``worker 3``.
    """

    def __init__(self) -> None:
        super().__init__(base, {})
        self.process_name = ""

    def identify(self, name: str) -> None:
        """Be the log of a process.

        :param name: One of :data:`KINDS`, and a number if there are several.
        """
        self.process_name = name
        self.logger = logging.getLogger(f"{base.name}.{name.partition(' ')[0]}")
        if self._fill_in not in self.logger.filters:
            self.logger.addFilter(self._fill_in)

    def process(
        self, msg: t.Any, kwargs: t.MutableMapping[str, t.Any]
    ) -> tuple[t.Any, t.MutableMapping[str, t.Any]]:
        """Leave a message as it is."""
        return msg, kwargs

    def _fill_in(self, record: logging.LogRecord) -> bool:
        record.processName = self.process_name
        return True

    def lost(self, count: int) -> logging.LogRecord:
        """The record that some lines are missing."""
        text = f"({count} lines of the log were lost)"
        name, level = self.logger.name, logging.WARNING
        record = logging.LogRecord(name, level, __file__, 0, text, (), None)
        self._fill_in(record)
        return record


#: The log of this process.
logger = ProcessLogger()


class OutputHandler(logging.Handler):
    """Writes records whole, and waits for the reader as long as others do.

    :param fd: Where to, standard error by default.
    :param path: A file instead. It may be moved away at any time.
    :raises OSError: It can't be opened.
    """

    def __init__(self, fd: int = 2, path: str | None = None) -> None:
        super().__init__()
        self.path = path
        self.output = Output(
            fd if path is None else log_files.open_to_append(path),
            notice=lambda lost: self._encode(logger.lost(lost)),
        )
        self._file = self._find()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        self.follow()
        self.output.write(self._encode(record))

    def follow(self) -> None:
        """Open the file again if it was moved away."""
        if self.path is None:
            return
        found = self._find()
        # If it can't be opened, it is written to where it is now.
        if (found is None or found != self._file) and log_files.replace(
            self.output.fd, self.path
        ):
            self.output.inspect()
            self._file = self._find()

    def _find(self) -> tuple[int, int] | None:
        """What the path leads to: device and inode."""
        if self.path is None:
            return None
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _encode(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("utf-8", "backslashreplace") + b"\n"


class NonBlockingHandler(OutputHandler):
    """Writes records whole, and never waits: it keeps what can't be written yet.

    Its owner calls :meth:`step` at :meth:`deadline`.

    :ivar dropped: How many lines were lost since one was kept.
    """

    def __init__(self, fd: int = 2, path: str | None = None) -> None:
        super().__init__(fd, path)
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._pending: LockedWrite | None = None
        self._pause = 0.0
        #: When it is tried again; and since when an unfinished text hasn't moved.
        self._next = 0.0
        self._moved = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or keep it."""
        if self._pending is None:
            self.follow()
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


class LogOptions(t.NamedTuple):
    """Where the log goes.

    :param level: The lowest level that is logged, as :mod:`logging` names it but in
        lower case.
    :param path: A file; ``-``, as ``None``, is standard error.
    :param config_path: A file with a configuration of logging, see
        :mod:`.log_config`.
    :param config: What is in that; it is read if this is ``None``.
    :param user: As whom root opens files, if not as itself.
    """

    level: str | None = None
    path: str | None = None
    config_path: str | None = None
    config: str | None = None
    user: Identity | None = None


#: What this process was set up with.
_options = LogOptions()


def set_up(name: str, options: LogOptions = _options) -> None:
    """Let the log go where it is to, unless somebody configured it.

    :param name: This process's, see :meth:`ProcessLogger.identify`.
    :raises LogError: It can't.
    """
    global _options
    open_standard_streams()
    output_locks.share()
    logger.identify(name)
    log_files.open_as(options.user)
    if options.config_path is not None:
        config = options.config
        if config is None:
            config = log_config.read(options.config_path)
        with log_files.handlers_open_as_user():
            log_config.apply(config, options.config_path, lambda: logger.process_name)
        enable()
        options = options._replace(config=config)
    elif options.level is not None:
        base.setLevel(options.level.upper())
    if base.level == logging.NOTSET and not (
        options.config is not None and log_config.has_level(options.config)
    ):
        base.setLevel(logging.INFO)
    if not (base.handlers if options.config is None else base.hasHandlers()):
        path = None if options.path == STANDARD_ERROR else options.path
        try:
            # Whatever directory this process goes to.
            handler = OutputHandler(
                path=None if path is None else os.path.abspath(path)
            )
        except OSError as e:
            raise LogError(f"can't write to {path}: {e.strerror or e}.") from None
        handler.setFormatter(LineFormatter(is_journal(handler.output.fd)))
        base.addHandler(handler)
        base.propagate = False
        options = options._replace(path=handler.path)
    _options = options


def told() -> dict[str, str]:
    """What the environment of a process needs for :func:`set_up_as_told`."""
    return {VARIABLE: json.dumps(_options)}


def set_up_as_told(name: str) -> None:
    """Set up the log of a process that another one has started.

    :param name: This process's, see :meth:`ProcessLogger.identify`.
    """
    # Popped, lest others take it for theirs.
    value = os.environ.pop(VARIABLE, None)
    options = LogOptions() if value is None else LogOptions(*json.loads(value))
    if options.user is not None:
        options = options._replace(user=Identity(*options.user))
    sys.excepthook = _log_uncaught
    try:
        set_up(name, options)
    except LogError as e:
        # The rights may be others than at the start. What it has to say is said.
        set_up(name)
        logger.error("The log can't be set up as configured: %s", e)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Log what ends this process."""
    logger.critical("It has failed:", exc_info=(kind, error, trace))


def enable() -> None:
    """Undo what configuring an app's logging does to loggers that are there.

    They are disabled, unless it is asked not to (:mod:`logging.config`).
    """
    base.disabled = False
    for kind in KINDS:
        logging.getLogger(f"{base.name}.{kind}").disabled = False


def reopen() -> None:
    """Open the files of the log again, and those of all handlers of logging.

    It waits for no lock, so a signal's handler may call it.
    """
    for handler in base.handlers:
        if isinstance(handler, OutputHandler) and handler.path is not None:
            # The app may have closed it.
            with contextlib.suppress(OSError):
                log_files.replace(handler.output.fd, handler.path)
    log_files.reopen_handlers()


class DispatcherLog:
    """What keeps the dispatcher from waiting for its log.

    :ivar handler: Writes to standard error, or to the log's file.
    """

    def __init__(self) -> None:
        path = _options.path if _options.path != STANDARD_ERROR else None
        self._thread: HandlerThread | None = None
        self._must_reopen = False
        mine = [one for one in base.handlers if type(one) is OutputHandler]
        self.handler = NonBlockingHandler(path=path if mine else None)
        for other in mine:
            self.handler.setFormatter(other.formatter)
            base.removeHandler(other)
            if other.path is not None:
                os.close(other.output.fd)
            base.addHandler(self.handler)
        if _options.config is not None:
            self._start_thread()

    def _start_thread(self) -> None:
        """Let a thread call the handlers of the file, which may wait."""
        from .log_queue import GuardedFilter
        from .log_queue import HandlerThread
        from .log_queue import ThreadedHandler

        self._thread = HandlerThread()
        for one in log_files.loggers():
            one.filters[:] = map(GuardedFilter, one.filters)
            if self.handler in one.handlers:
                continue
            if handlers := list(one.handlers):
                for handler in handlers:
                    one.removeHandler(handler)
                one.addHandler(ThreadedHandler(self._thread, handlers))

    def deadline(self) -> float | None:
        """When to call :meth:`step` next, in monotonic seconds."""
        return self.handler.deadline()

    def step(self) -> None:
        """Write of what is kept whatever can be written now."""
        self.handler.step()
        thread = self._thread
        if thread is None or thread.is_full():
            return
        if self._must_reopen:
            self._must_reopen = not thread.put(reopen)
        if thread.lost:
            lost, thread.lost = thread.lost, 0
            logger.logger.handle(logger.lost(lost))

    def reopen(self) -> None:
        """Open the files again."""
        if self._thread is None:
            reopen()
        else:
            # If too many lines wait, as soon as there is room.
            self._must_reopen = True
            self.step()

    def finish(self) -> None:
        """Before the process ends: wait a moment for what is kept."""
        self.handler.finish()
        if self._thread is not None and not self._thread.finish(_LAST_WAIT):
            # One of them hangs, and would be waited for (logging.shutdown).
            logging._handlerList.clear()  # type: ignore[attr-defined]


def install_streams() -> None:
    """Let standard output and error be given whole lines, in what the app runs in."""
    formatter = LineFormatter(is_journal(2))
    streams.install(
        lambda lost: log_lost("standard output", lost),
        lambda lost: f"{formatter.format(logger.lost(lost))}\n".encode(),
    )


def log_lost(where: str, lost: int) -> None:
    """Log that lines were lost that don't go to standard error."""
    logger.warning("%d lines for %s were lost.", lost, where)
