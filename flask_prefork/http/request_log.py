"""Logs the requests of a handler in the access log.

The handler derives from it, and calls it when a response is over.
"""

from __future__ import annotations

import functools
import logging
import time
import typing as t

from werkzeug._internal import _ColorStreamHandler
from werkzeug._internal import _log
from werkzeug.debug.tbtools import DebugTraceback

from ..system.log import logger
from . import access_log
from .connection import ConnectionHandler
from .direct_log import DirectLog
from .log_format import LogEntry
from .log_format import make_entry

if t.TYPE_CHECKING:
    from .response import Response


@functools.cache
def _direct() -> DirectLog:
    """Where werkzeug's lines go, as long as nobody has configured its logger.

    It is made when it is wanted first, as werkzeug does: configuring an app's logging
    disables the loggers that are there (:mod:`logging.config`).
    """
    handlers = frozenset({logging.StreamHandler, _ColorStreamHandler})
    return DirectLog(logging.getLogger("werkzeug"), handlers)


class LoggingHandler(ConnectionHandler):
    """Logs requests: as ``flask run`` does, or in the format that was asked for.

    Subclasses may override ``log_request``, which is called for each line in either
    case, and ``log``.
    """

    #: When the request's head was read, if that is to be logged.
    _began = 0.0
    #: What was sent in place of the app's response; it ends the connection.
    _simple = b""
    #: Of the response that is logged: its head, the bytes of its body, the seconds.
    _outcome: tuple[bytes, int, float] = (b"", 0, 0.0)

    def _start_clock(self) -> None:
        self._began = time.monotonic()

    def _log_response(self, status: int, response: Response | None) -> None:
        """Let a request be logged.

        :param response: What was sent, if it wasn't a small answer of our own.
        """
        context = self.context
        if context.access_logger is not None:
            if response is not None and response.head:
                head, sent = response.head, response.body_sent
            else:
                head, _, body = self._simple.partition(b"\r\n\r\n")
                sent = len(body)
            self._outcome = head, sent, time.monotonic() - self._began
        try:
            self.log_request(status)
        except OSError as e:
            # A handler of the logging module opens its file anew, say, whose directory
            # is gone or can't be written to any more. No matter of the client's.
            if not context.log_fails:
                logger.error("Can't log requests: %s.", e)
            context.log_fails = True
        else:
            context.log_fails = False

    def _log_exception(self, error: BaseException) -> None:
        """Log an exception of the app, as werkzeug does."""
        text = access_log.escape_lines(DebugTraceback(error).render_traceback_text())
        self.server.log("error", f"Error on request:\n{text}")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log a line about the request."""
        access_logger = self.context.access_logger
        if access_logger is not None:
            access_logger.log(self._entry(int(code)))
            return
        status = str(int(code)) if isinstance(code, int) else code
        if self.path:
            text = access_log.request_text(
                self.command, self.path, self.request_version
            )
        else:
            text = access_log.quotable(self.requestline)
        if status != "200":
            text = access_log.color(text, status)
        own = type(self)
        if (
            own.log is _log_method
            and own.log_date_time_string is _date_method
            and _direct().can_write()
        ):
            address = access_log.escape(self.address_string())
            time = self.log_date_time_string()
            if _direct().write(f'{address} - - [{time}] "{text}" {status} {size}\n'):
                return
        self.log("info", '"%s" %s %s', text, status, size)

    def _entry(self, status: int) -> LogEntry:
        monitor = self.context.monitor
        method, target, version = self.command, self.path, self.request_version
        head, sent, seconds = self._outcome
        return make_entry(
            (
                self.environ or {},
                self.address_string(),
                f"{method} {target} {version}" if target else self.requestline,
                method,
                target,
                version,
                status,
                sent,
                head,
                seconds,
                monitor.slot,
                monitor.generation,
                self.queue_time,
            )
        )

    def address_string(self) -> str:
        """The client's address; if the app has changed it, the app's."""
        environ = self.environ
        return str(environ["REMOTE_ADDR"] if environ else self.client_address[0])

    def log_date_time_string(self) -> str:
        """The local time for the log."""
        return access_log.date_time()

    def log(self, type: str, message: str, *args: t.Any) -> None:
        """Log something about this connection."""
        # A proxy's header may have set the address: escape it too.
        address = access_log.escape(self.address_string()).replace("%", "%%")
        time = self.log_date_time_string()
        _log(type, f"{address} - - [{time}] {message}\n", *args)


#: What makes the line of a request, unless a subclass does.
_log_method = LoggingHandler.log
_date_method = LoggingHandler.log_date_time_string
