"""The request handler: one request's way from its head to the app and back.

Runs in a worker. ``connection.py``, its base, calls for each request
:meth:`~PreforkRequestHandler.begin_request` with its head, then
:meth:`~PreforkRequestHandler.handle_one_request`, and before the next one
:meth:`~PreforkRequestHandler.reset_request`. What can't be served goes to
:meth:`~PreforkRequestHandler.refuse` instead.

``handle_one_request`` tells the monitor that the request begins, calls ``run_wsgi`` or
a subclass's ``do_*``, and tells the monitor that it has ended. ``run_wsgi`` makes the
environ and a ``Response``, calls the app with both, and sends what it returns. What the
handler needs of its server it is handed (``context.py``).

Never done here: send to the client but by ``Response`` and ``error_response``; decide
whether the connection goes on before the response's head is made, or otherwise than
that said.
"""

from __future__ import annotations

import io
import sys
import time
import typing as t
from http.client import HTTPMessage

from werkzeug.exceptions import InternalServerError

from ..system.parked_state import Parked
from ..system.parked_state import Wait
from .body import Body
from .body import ChunkedBody
from .body import Input
from .body import LengthBody
from .collecting import Collector
from .environ import add_certificate
from .environ import add_fields
from .environ import add_target
from .error_response import error_response
from .errors import BodyError
from .errors import BodyRefused
from .errors import ClientDisconnected
from .errors import Refused
from .errors import RequestTimeout
from .fields import SOFTWARE
from .handback import Collecting
from .head import Head
from .lazy_attribute import lazy_attribute
from .monitor import NullMonitor
from .request_log import LoggingHandler
from .response import Response
from .route_limits import RETRY_AFTER
from .takeover import ENDS
from .wire import CHUNK
from .wire import PARK_DELAY
from .writer import Writer

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .monitor import Monitor
    from .route_limits import RouteLimits


class PreforkRequestHandler(LoggingHandler):
    """Serves the requests of a connection, with strict checks and with timeouts.

    Subclasses can override the same methods as with werkzeug's handler:
    ``make_environ``, ``run_wsgi``, ``log_request``, ``log``, ``address_string``,
    ``connection_dropped``, ``version_string``, ``setup``, ``handle``,
    ``handle_one_request``, ``finish`` and ``do_*``.

    ``headers``, ``rfile`` and ``wfile`` are created when they are first used. ``rfile``
    ends with the request's body, and the timeouts for clients apply to both files. If
    something is written to ``wfile`` besides the WSGI response, the connection is
    closed after it.
    """

    protocol_version = "HTTP/1.1"
    server_version = SOFTWARE
    _dispatches = False
    #: Whether nothing is overridden, and so nobody else looks at the connection.
    _is_plain = True
    #: What was made on demand for this request.
    lazy_values: dict[str, t.Any]
    #: What werkzeug's address_string() looks into.
    environ: WSGIEnvironment | None = None  # type: ignore[assignment]
    #: The request's body, unless all of it is there.
    _body: Body | None = None
    _input: t.Any = None
    #: ``wfile``, once somebody has asked for it.
    _file: t.Any = None
    _response: Response | None = None
    #: The number of the limit that bounds how many requests of its route run, and the
    #: timeout of that route.
    _limit = 0
    _timeout: float | None = None
    _longest: tuple[float, int] | None = None
    #: Whether the client has sent more than this request already.
    _excess = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._is_plain = False
        cls._dispatches = any(name.startswith("do_") for name in dir(cls))

    # What others read.

    @lazy_attribute
    def headers(self) -> HTTPMessage:
        """The header fields as :mod:`http.client` has them."""
        message = HTTPMessage()
        if self.head is not None:
            for name, value in self.head.fields:
                message[name.decode("ascii")] = value.decode("latin-1")
        return message

    @property
    def rfile(self) -> t.Any:
        """The request's body, the same stream as ``wsgi.input``."""
        if self._input is None:
            body = self._body
            self._input = io.BytesIO() if body is None else Input(body)
        return self._input

    @rfile.setter
    def rfile(self, stream: t.Any) -> None:
        self._input = stream

    @property
    def wfile(self) -> t.Any:
        """The connection, for who writes to it past the WSGI response."""
        if self._file is None:
            self.wfile = Writer(self.wire, self.context.limits.min_data_rate)
        return self._file

    @wfile.setter
    def wfile(self, stream: t.Any) -> None:
        self._file = stream
        self.wire.shared = True

    @lazy_attribute
    def raw_requestline(self) -> bytes:
        """The request line with its CRLF."""
        return self.head.raw.partition(b"\n")[0] + b"\n" if self.head else b""

    @lazy_attribute
    def requestline(self) -> str:
        """The request line as text."""
        line: bytes = self.raw_requestline
        return line.decode("latin-1").rstrip("\r\n")

    def version_string(self) -> str:
        """For the Server field."""
        return self.server_version

    # One request.

    def reset_request(self) -> None:
        if self._collected is not None:
            self._collected.close()
            self._collected = None
        # Only the first request was parked.
        self._resumed = None
        self.head = self.environ = self._body = self._input = self._file = None
        self._linger = self._excess = self.wire.shared = False
        self.queue_time = 0.0

    def begin_request(
        self, head: Head, size: int, data: bytes
    ) -> Parked | Collecting | t.Literal[True] | None:
        """Take the request, and its body too if all of it is there."""
        self.lazy_values = {}
        self.head = head
        self.command = head.method
        self.path = head.target
        self.request_version = head.version
        length = head.length
        if self.context.limited is not None:
            self._find_limit(head, self.context.limited)
        if length:
            return self._begin_body(head, size, data)
        if self._limit and (waiting := self._wait_for_permit(len(data))):
            return waiting
        self.wire.consume(size)
        self._excess = len(data) > size
        return True

    def _find_limit(self, head: Head, limited: RouteLimits) -> None:
        """Find the limit of the request's route."""
        self._limit = limited.find(head.method, head.target, head.fields, head.minor)
        bounds = limited[self._limit] if self._limit else None
        self._timeout = bounds.timeout if bounds is not None else None
        longest = bounds.queue_timeout if bounds is not None else None
        self._longest = (longest, self._limit) if longest else None
        if bounds is None or bounds.concurrency is None:
            self._limit = 0
        if self._permit and self._permit != self._limit:
            # The app was reloaded while it waited.
            self._release_permit()

    def _release_permit(self) -> None:
        self._permit = 0
        self.context.monitor.release_permit()

    def _wait_for_permit(self, have: int) -> Parked | None:
        """Wait parked for a permit of the route's limit, if the request has none yet.

        :param have: Bytes of it that are left in the kernel.
        :raises Refused: It can't wait, and there is none.
        """
        if self._permit == self._limit:
            return None
        if self.persistence.can_park():
            now = time.monotonic()
            return Parked(
                Wait.PERMIT,
                now + self.context.limits.header_timeout,
                have,
                arrived=now - self.queue_time,
                limit=self._limit,
            )
        if not self.context.monitor.ask_for_permit(self._limit):
            raise Refused(
                503, "too many requests for this route", retry_after=RETRY_AFTER
            )
        self._permit = self._limit
        return None

    def _begin_body(
        self, head: Head, size: int, data: bytes
    ) -> Parked | Collecting | t.Literal[True] | None:
        limits = self.context.limits
        wire = self.wire
        length = head.length
        if self._suspended is not None:
            before, self._suspended = self._suspended, None
            return self._collect(Collector.resume(self.context, wire, head, before))
        if length < 0:
            keeps = bool(self._limit) and self._collects(head)
            needs_permit = self._limit and not keeps
            if needs_permit and (waiting := self._wait_for_permit(len(data))):
                return waiting
            wire.consume(size)
            body = ChunkedBody(wire, limits, head.expects)
            if keeps:
                # Whole or not: what has been taken from the wire has to be kept.
                body.send_continue()
                return self._collect(Collector(self.context, wire, head, body=body))
            content = body.prefetch(data[size:])
            if content is None:
                if self._collects(head):
                    body.send_continue()
                    return self._collect(Collector(self.context, wire, head, body=body))
                self._body = body
            else:
                self._input = io.BytesIO(content)
        elif limits.body and length > limits.body:
            raise Refused(413, "body too large")
        elif len(data) - size >= length:
            if self._limit and (waiting := self._wait_for_permit(len(data))):
                return waiting
            size += length
            wire.consume(size)
            self._excess = len(data) > size
            self._input = io.BytesIO(data[size - length : size])
        elif self._collects(head):
            return self._collect_length(head, size, data)
        else:
            if self._limit and (waiting := self._wait_for_permit(len(data))):
                return waiting
            wire.consume(size)
            expects = head.expects and len(data) == size
            self._body = LengthBody(wire, limits, expects, length)
        return True

    def _collects(self, head: Head) -> bool:
        """Whether the body is to be whole when the app is called."""
        context = self.context
        if not context.limits.buffer_body or not self.persistence.can_park():
            return False
        if context.streams is None:
            return True
        host = next((v for n, v in head.fields if n.lower() == b"host"), b"")
        return not context.streams(head.method, head.target, host.decode("latin-1"))

    def _collect_length(
        self, head: Head, size: int, data: bytes
    ) -> Parked | Collecting | t.Literal[True] | None:
        """Collect a body with a Content-Length. If it is small, it is left in the
        kernel, as a head is."""
        context, wire = self.context, self.wire
        limits = context.limits
        need = size + head.length
        is_small = need <= CHUNK and head.length <= limits.buffer_body
        parked = self._resumed
        if parked is not None and parked.wait is Wait.BODY:
            # The kernel may hold no more of it.
            have = max(parked.have - size, 0)
            collector = Collector(context, wire, head, parked._replace(have=have))
            wire.consume(size)
            return self._collect(collector)
        body = LengthBody(wire, limits, head.expects and len(data) == size, head.length)
        body.send_continue()
        if wire.local or not is_small:
            wire.consume(size)
            return self._collect(Collector(context, wire, head, body=body))
        data = wire.peek() or b""
        if len(data) < need:
            # Most send it right after the head.
            wire.wait_more(need - 1, PARK_DELAY)
            data = wire.peek() or b""
        if len(data) >= need:
            return self._begin_body(head, size, data)
        if wire.has_left(len(data)):
            raise BodyError(400, "the body ended early")
        deadline = time.monotonic() + body.budget.seconds_left()
        rate = limits.min_data_rate
        return Parked(Wait.BODY, deadline, len(data), need=need, rate=rate)

    def _collect(self, collector: Collector) -> Collecting | t.Literal[True]:
        try:
            waiting = collector.run()
            if waiting is not None:
                return waiting
            if self._limit and (parked := self._wait_for_permit(0)):
                suspended = collector.suspend(parked)
                if suspended is not None:
                    return suspended
                raise Refused(503, "no room for the body", retry_after=RETRY_AFTER)
            self._collected, self._body = collector.finish()
        except BaseException:
            collector.close()
            raise
        self._input = self._collected
        # Nobody has looked.
        self._excess = True
        return True

    def refuse(self, error: Refused | BodyError, data: bytes) -> None:
        """Answer what can't be served with a small response."""
        if self.head is None:
            line = data.lstrip(b"\r\n").partition(b"\n")[0]
            self.lazy_values = {"raw_requestline": line[:1024]}
            self.command = self.path = self.request_version = ""
        self._start_clock()
        context = self.context
        monitor = context.monitor
        address = self.client_address[0]
        monitor.begin(self.command or "-", self.path or "-", address)
        before = self.wire.sent
        try:
            self._send_simple(error, data.lstrip(b"\r\n").startswith(b"HEAD "))
        finally:
            monitor.end(error.status, self.wire.sent - before)
        if context.access_log:
            self._log_response(error.status, None)

    def _send_simple(self, error: Refused | BodyRefused, is_head: bool) -> None:
        self.close_connection = True
        self._simple = error_response(
            error.status,
            error.reason,
            self.version_string(),
            not is_head,
            error.retry_after,
        )
        self.wire.write(self._simple, None, self.context.limits.min_data_rate)

    def handle_one_request(self) -> None:
        """Serve the request that was read, and settle how the connection goes on."""
        context, wire, head = self.context, self.wire, self.head
        assert head is not None
        monitor: Monitor = context.monitor
        if context.access_logger is not None:
            self._start_clock()
        monitor.begin(self.command, self.path, self.client_address[0])
        if self._timeout is not None:
            monitor.set_timeout(self._timeout)
        if self._is_plain and not (head.keep_alive or self._excess or self._body):
            wire.is_last = True
        before = wire.sent
        self.close_connection = True
        try:
            if self.path == "*":
                self._answer_options()
            elif self._dispatches:
                getattr(self, f"do_{self.command}")()
            else:
                self.run_wsgi()
        except SystemExit:
            # The process ends, and who tells of it looks for this request.
            monitor = NullMonitor()
            raise
        finally:
            response = self._response
            status = response.status if response is not None else 0
            if self._app_socket is not None:
                self._app_socket.stop_watchdog()
            if wire.taken and wire.sent == before:
                # What the app has sent nobody knows.
                status = 101
            self._response = None
            monitor.end(status, wire.sent - before)
            if self._permit:
                self._release_permit()
        if status and context.access_log:
            self._log_response(status, response)
        self._settle()

    def _answer_options(self) -> None:
        """``OPTIONS *`` is about the server as a whole, no resource of the app
        (RFC 9110, 9.3.7)."""
        response = self._respond()
        response.start("200 OK", [("Content-Length", "0")])
        response.send([])
        self.close_connection = not response.persists

    def _respond(self) -> Response:
        assert self.head is not None
        self._response = response = Response(
            self.context,
            self.wire,
            self.head,
            self._body,
            self.persistence,
            self.version_string(),
        )
        return response

    def _settle(self) -> None:
        """Close where the next request's place isn't known."""
        assert self.head is not None
        if self.wire.taken:
            self.close_connection = True
            return
        if self._app_socket is not None:
            self._app_socket.release()
            self._app_socket = None
        if self.wire.closed:
            return
        if self._file is not None and getattr(self._file, "used", True):
            self.close_connection = True
        body = self._body
        if body is not None and not body.arrived:
            self.close_connection = self._linger = True
        elif self.close_connection and (self.head.keep_alive or self._excess):
            # The client didn't ask for the end: the next request may be there.
            self._linger = bool(self.wire.peek())

    def run_wsgi(self) -> None:
        """Call the app and send what it gives."""
        response = self._respond()
        try:
            environ = self.make_environ()
            if self._longest is not None:
                self._check_queue_time(*self._longest)
        except Refused as e:
            self._send_simple(e, self.command == "HEAD")
            response.status = e.status
            return
        self.environ = environ
        if self.queue_time > 0:
            self.context.monitor.add_queue_time(self.queue_time)
        try:
            self._execute(self.server.app, environ, response)
        except ClientDisconnected as e:
            self.connection_dropped(e, environ)
            return
        except BodyRefused as e:
            if not response.status:
                self._send_simple(e, self.command == "HEAD")
                response.status = e.status
            return
        except RequestTimeout as e:
            self._time_out(e, response)
            return
        except Exception as e:
            self._fail(e, environ, response)
            return
        if self.wire.taken:
            return
        if response.overlong:
            self.log_error("The response is longer than its Content-Length.")
        elif response.missing:
            self.log_error("The response is shorter than its Content-Length.")
        self.close_connection = not response.persists

    def _execute(
        self, app: t.Any, environ: WSGIEnvironment, response: Response
    ) -> None:
        monitor = self.context.monitor
        try:
            monitor.abortable = True
            iterable = app(environ, response.start)
            try:
                if not self.wire.taken:
                    response.send(iterable)
            finally:
                if hasattr(iterable, "close"):
                    iterable.close()
        except (Exception, RequestTimeout) as e:
            if self._app_socket is None or not self._app_socket.is_taken():
                raise
            if not isinstance(e, ENDS):
                self._log_exception(e)
        finally:
            monitor.abortable = False

    def _fail(
        self, error: Exception, environ: WSGIEnvironment, response: Response
    ) -> None:
        """Answer 500 if there is no answer yet, and log, as werkzeug does."""
        if not response.status:
            response.reset()
            try:
                self._execute(InternalServerError(), environ, response)
            except ClientDisconnected as e:
                self.connection_dropped(e, environ)
            except RequestTimeout as e:
                # The app's error came a moment before it.
                self._time_out(e, response)
        self.close_connection = not response.persists
        self._log_exception(error)

    def _time_out(self, error: RequestTimeout, response: Response) -> None:
        """Answer if there is no answer yet: 408 if it is the client that makes no
        progress (RFC 9110, 15.5.9), 503 if it is the app."""
        if not response.status:
            refused = Refused(503, str(error))
            if self.wire.awaits_body:
                refused = Refused(408, "body too slow")
            self._send_simple(refused, self.command == "HEAD")
            response.status = refused.status
        self.close_connection = not response.persists

    def _check_queue_time(self, longest: float, number: int) -> None:
        """See that the request hasn't waited longer than its route's limit lets it.

        :param longest: In seconds.
        :param number: The limit's.
        :raises Refused: It has.
        """
        if self.queue_time > longest:
            self.context.monitor.refused(number)
            raise Refused(503, "waited too long", retry_after=RETRY_AFTER)

    # The environ.

    def make_environ(self) -> WSGIEnvironment:
        """The WSGI environ for the request that was read.

        :raises Refused: What a listed proxy has sent of its client is malformed.
        """
        head = self.head
        assert head is not None
        context = self.context
        # Not a display with ** in it: that grows, and takes longer.
        environ: WSGIEnvironment = context.base_environ.copy()
        environ["wsgi.input"] = self.rfile
        environ["wsgi.errors"] = sys.stderr
        environ["werkzeug.socket"] = self._app_socket = context.make_app_socket(
            self.wire, head.fields
        )
        environ["SERVER_SOFTWARE"] = self.server_version
        environ["REQUEST_METHOD"] = self.command
        environ["REMOTE_ADDR"] = self.address_string()
        # A number in werkzeug's environ, but CGI's variables are strings (PEP 3333).
        environ["REMOTE_PORT"] = str(self.client_address[1])
        environ["SERVER_PROTOCOL"] = self.request_version
        environ["flask_prefork.queue_time"] = self.queue_time
        add_fields(environ, head.fields)
        if not head.minor:
            # HTTP/1.0 has no such thing (RFC 9110, 7.8).
            environ.pop("HTTP_UPGRADE", None)
        add_target(environ, self.path)
        if head.length < 0:
            environ["wsgi.input_terminated"] = True
        if context.certificate is not None:
            add_certificate(environ, context.certificate)
        if context.changes_environ:
            peer = str(self.client_address[0])
            self.queue_time = context.add_forwarded(environ, peer, self.queue_time)
            if environ["REMOTE_ADDR"] != peer:
                context.monitor.set_client(environ["REMOTE_ADDR"])
            environ["flask_prefork.queue_time"] = self.queue_time
        return environ
