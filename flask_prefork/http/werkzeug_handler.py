"""Werkzeug's own handler, and what derives from that only, in this server.

Such a handler knows no monitor and no deadlines, and ends its connection with the
request. ``server.py`` calls :func:`serve_monitored` for each connection. The handler
calls the app, which is a :class:`MonitoredApp` here.
"""

from __future__ import annotations

import time
import typing as t
from collections.abc import Callable

from werkzeug.exceptions import BadRequest
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.serving import WSGIRequestHandler

from ..system.parked_state import Wait
from .connection import end_taken_over
from .environ import add_certificate
from .errors import Refused
from .errors import TakenOver
from .monitored_socket import MonitoredSocket
from .route_limits import RETRY_AFTER
from .takeover import ENDS

if t.TYPE_CHECKING:
    import socket

    from _typeshed.wsgi import StartResponse
    from _typeshed.wsgi import WSGIApplication
    from _typeshed.wsgi import WSGIEnvironment

    from ..system.parked_state import Parked
    from .context import HandlerContext
    from .context import HandlerServer
    from .route_limits import Limit
    from .route_limits import RouteLimits


class VersionlessHandler(WSGIRequestHandler):
    """Tells nobody the version of Python."""

    def version_string(self) -> str:
        """For the Server field: :mod:`http.server` adds :attr:`sys_version`, which is
        Python's unless a subclass sets another."""
        if self.sys_version != WSGIRequestHandler.sys_version:
            return super().version_string()
        return self.server_version


def without_version(handler: type[WSGIRequestHandler]) -> type[WSGIRequestHandler]:
    """The handler as it is, but for Python's version in the Server field.

    :param handler: Not changed. What it overrides itself stays, and its ``super()`` has
        no version either.
    """
    if handler is WSGIRequestHandler:
        return VersionlessHandler
    names = {
        "__module__": handler.__module__,
        "__qualname__": handler.__qualname__,
        "__doc__": handler.__doc__,
    }
    return type(handler.__name__, (handler, VersionlessHandler), names)


def serve_monitored(
    connection: socket.socket,
    address: t.Any,
    server: HandlerServer,
    handler: Callable[[t.Any, t.Any, HandlerServer], object],
    resumed: Parked | None,
) -> None:
    """Serve a request and close the connection, as :mod:`socketserver` would.

    :param resumed: With the deadline of the head, if it has one already.
    """
    context = server.context
    monitored = MonitoredSocket.of(connection)
    monitored.progress = context.monitor.progress
    monitored.contended = context.monitor.contended
    monitored.rate = context.limits.min_data_rate
    deadline = time.monotonic() + context.limits.header_timeout
    if resumed is not None and resumed.wait in (Wait.HEAD, Wait.BODY):
        context.make_wire(monitored).low_water(1)
    if resumed is not None and resumed.wait is Wait.HEAD:
        deadline = resumed.deadline
    monitored.expect_request(deadline)
    try:
        handler(monitored, address, server)
    except Exception:
        server.handle_error(monitored, address)
    finally:
        # The two refer to each other.
        monitored.wire = None
        server.shutdown_request(monitored)


class MonitoredApp:
    """The app for handlers that know no monitor: it is called in their place.

    :param app: The app.
    :param context: With the monitor.
    :param log_error: Logs the exception that is handled.
    """

    def __init__(
        self,
        app: WSGIApplication,
        context: HandlerContext,
        log_error: Callable[[t.Any, t.Any], None],
    ) -> None:
        self._app = app
        self._context = context
        self._log_error = log_error
        self._has_permit = False

    def _limit(
        self,
        environ: WSGIEnvironment,
        app: WSGIApplication,
        queue_time: float,
        limited: RouteLimits,
    ) -> tuple[Limit | None, WSGIApplication]:
        """The limit of a request's route, and the app that answers it.

        :param limited: The limits of the app's routes.
        """
        method, target = environ["REQUEST_METHOD"], environ["REQUEST_URI"]
        fields = [
            (name.encode(), environ.get(f"HTTP_{name}", "").encode("latin-1"))
            for name in ("HOST", "UPGRADE", "CONNECTION")
        ]
        number = limited.find(method, target, fields)
        if not number:
            return None, app
        limit = limited[number]
        if limit.queue_timeout and queue_time > limit.queue_timeout:
            self._context.monitor.refused(number)
            return None, ServiceUnavailable("waited too long", retry_after=RETRY_AFTER)
        if limit.concurrency is None:
            return limit, app
        if not self._context.monitor.ask_for_permit(number):
            reason = "too many requests for this route"
            return None, ServiceUnavailable(reason, retry_after=RETRY_AFTER)
        self._has_permit = True
        return limit, app

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> t.Iterator[bytes]:
        context = self._context
        monitor = context.monitor
        environ["flask_prefork.slot"] = monitor.slot
        environ["flask_prefork.generation"] = monitor.generation
        # Werkzeug asks for an SSL context of its server's.
        environ["wsgi.url_scheme"] = context.base_environ["wsgi.url_scheme"]
        if context.certificate is not None:
            add_certificate(environ, context.certificate)
        # Only the first request of a connection has waited.
        queue_time, context.queue_time = context.queue_time, 0.0
        app = self._app
        try:
            queue_time = context.add_forwarded(
                environ, environ["REMOTE_ADDR"], queue_time
            )
        except Refused as e:
            app = BadRequest(e.reason)
        limit = None
        if context.limited is not None:
            limit, app = self._limit(environ, app, queue_time, context.limited)
        environ["flask_prefork.queue_time"] = queue_time
        monitor.begin(
            environ["REQUEST_METHOD"], environ["REQUEST_URI"], environ["REMOTE_ADDR"]
        )
        if limit is not None and limit.timeout is not None:
            monitor.set_timeout(limit.timeout)
        if queue_time > 0:
            monitor.add_queue_time(queue_time)
        # What the handler makes of an exception.
        status = 500
        sent = 0
        wire = context.make_wire(environ.get("werkzeug.socket"))
        limits = context.limits
        options = environ.get("HTTP_CONNECTION", "").encode("latin-1")
        offered = context.make_app_socket(wire, [(b"connection", options)])
        monitored: t.Any = wire.sock
        if monitored is not None:
            environ["werkzeug.socket"] = offered
        is_ours = isinstance(monitored, MonitoredSocket)
        if is_ours:
            monitored.begin_request(wire, limits.min_data_rate)

        def start(line: str, *args: t.Any) -> t.Any:
            nonlocal status
            status = int(line[:3])
            write = start_response(line, *args)

            def guarded(data: bytes) -> None:
                if offered.is_taken():
                    raise TakenOver
                write(data)

            return guarded

        iterable: t.Any = None
        try:
            iterable = app(environ, start)
            for data in iterable if not offered.is_taken() else ():
                if offered.is_taken():
                    break
                yield data
                sent += len(data)
        except Exception as e:
            if not offered.is_taken():
                raise
            if not isinstance(e, ENDS):
                self._log_error(wire.sock, None)
        finally:
            offered.stop_watchdog()
            offered.is_taken()
            monitor.end(101 if wire.taken else status, sent)
            if hasattr(iterable, "close"):
                iterable.close()
            if self._has_permit:
                self._has_permit = False
                monitor.release_permit()
            if not wire.taken:
                offered.release()
            else:
                end_taken_over(offered, wire, monitor.contended)
            if is_ours:
                monitored.end_request(time.monotonic() + limits.header_timeout)
        if wire.taken:
            # The handler ends without a response.
            raise TakenOver
