"""The server that request handlers see, one for each listening socket.

It is made before the workers are forked, and :meth:`PreforkServer.serve` is used in
them: it never accepts, polls the listener or starts anything itself.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
import traceback
import typing as t

from werkzeug.exceptions import BadRequest
from werkzeug.serving import BaseWSGIServer
from werkzeug.serving import generate_adhoc_ssl_context
from werkzeug.serving import load_ssl_context
from werkzeug.serving import WSGIRequestHandler

from ..system.parked import Parked
from ..system.parked import Wait
from ..system.peers import LOCAL
from .access_log import date_time
from .access_log import escape
from .access_log import escape_lines
from .app_socket import AppSocket
from .connection import ConnectionHandler
from .connection import end_taken
from .contract import Limits
from .contract import Monitor
from .contract import NullMonitor
from .contract import SOFTWARE
from .environ import REQUEST_KEYS
from .errors import Refused
from .errors import TakenOver
from .file_wrapper import FileWrapper
from .forwarded import apply
from .handler import PreforkRequestHandler
from .introduction import introduce
from .introduction import ProxiedClient
from .introduction import remember
from .proxy_protocol import MalformedHeader
from .request_id import RequestIds
from .takeover import ENDS
from .takeover import Offer
from .telling import TellingSocket
from .telling import TellingSSLSocket
from .tls import shake_hands
from .tls import TLSWire
from .tls_app_socket import TLSAppSocket
from .werkzeug_handler import without_version
from .wire import Wire

if t.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse
    from _typeshed.wsgi import WSGIApplication
    from _typeshed.wsgi import WSGIEnvironment

    from ..system.peers import Peers
    from .access_logger import AccessLogger
    from .takeover import Fields

__all__ = [
    "Limits",
    "Monitor",
    "NullMonitor",
    "Parked",
    "PreforkRequestHandler",
    "PreforkServer",
]


class PreforkServer(BaseWSGIServer):
    """Serves connections that somebody else accepted.

    :param app: The WSGI app.
    :param listener: Bound and listening, TCP or unix. It becomes this object's
        :attr:`socket`, it is not duplicated.
    :param handler: The class of request handlers. Werkzeug's own, and what is
        derived from it only, work as under werkzeug's server: a request for each
        connection, never parked.
    :param limits: See :class:`Limits`.
    :param ssl_context: As ``run_simple`` takes it; the handshake is done in
        :meth:`serve`.
    :param access_log: Whether requests are logged.
    :param access_logger: Logs them in a format of its own; without it they are logged
        as ``flask run`` does.
    :param forwarders: Whose ``X-Forwarded-*`` are believed, if anybody's.
    :param proxies: Whose connections there are, each with a header of the PROXY
        protocol; ``None`` if that isn't spoken.
    :param can_park: Whether the caller of :meth:`serve` can take connections back.

    :ivar monitor: Whom it tells; see :meth:`watch`.
    """

    multithread = False
    multiprocess = True
    #: werkzeug would wrap the listener.
    ssl_context: ssl.SSLContext | None

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        handler: type[WSGIRequestHandler] = PreforkRequestHandler,
        limits: Limits | None = None,
        *,
        ssl_context: t.Any = None,
        access_log: bool = True,
        access_logger: AccessLogger | None = None,
        forwarders: Peers | None = None,
        proxies: Peers | None = None,
        can_park: bool = True,
    ) -> None:
        self._local = listener.family == socket.AF_UNIX
        name = listener.getsockname()
        host, port = (f"unix://{os.fsdecode(name)}", 0) if self._local else name[:2]
        super().__init__(host, port, app, handler, fd=listener.fileno())
        # werkzeug has made a duplicate, and connections are accepted elsewhere.
        self.socket.close()
        self.socket = listener
        self._server_version = SOFTWARE
        self.limits = limits or Limits()
        self.access_log = access_log
        self.access_logger = access_logger
        #: The last line could not be logged.
        self.log_fails = False
        self.proxies = proxies
        if forwarders is not None and proxies is not None:
            # A PROXY header may name a unix socket: the proxy's, not ours.
            forwarders = forwarders.without_local()
        self.forwarders = forwarders
        asked = access_log and access_logger is not None and access_logger.asks_for_id
        self.request_ids = RequestIds() if asked else None
        self.can_park = can_park
        self._ours = issubclass(handler, ConnectionHandler)
        if not self._ours:
            handler = without_version(handler)
            self.app = _Watched(app, self)
        # The signatures of ours and werkzeug's differ.
        self._handler: t.Any = handler
        if isinstance(ssl_context, tuple):
            ssl_context = load_ssl_context(*ssl_context)
        elif ssl_context == "adhoc":
            ssl_context = generate_adhoc_ssl_context()
        if ssl_context is not None:
            # Else OpenSSL ends both directions when one does. HTTP has its framing to
            # tell an end from a cut.
            ssl_context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        self.ssl_context = ssl_context
        if ssl_context is not None and not self._ours:
            ssl_context.sslsocket_class = TellingSSLSocket
        self._accept = listener._accept  # type: ignore[attr-defined]
        self._kind = int(listener.family), int(listener.type), listener.proto
        self.base_environ = self._make_base_environ()
        self.watch(NullMonitor())

    def watch(self, monitor: Monitor) -> None:
        """Have somebody told of the requests, and name them to the app."""
        self.monitor = monitor
        self.base_environ["flask_prefork.slot"] = monitor.slot
        self.base_environ["flask_prefork.generation"] = monitor.generation

    def accept(self) -> tuple[socket.socket, t.Any]:
        """Take a connection as the listener's own ``accept`` does, which looks anew
        each time for the kind of socket that it is.

        :raises OSError: As ``accept(2)``.
        """
        fd, address = self._accept()
        connection = socket.socket(*self._kind, fd)
        if socket.getdefaulttimeout() is not None:
            # The app's default, by which each read without a wait would wait.
            connection.setblocking(True)
        return connection, address

    def _make_base_environ(self) -> WSGIEnvironment:
        """What all environs of this server have in common."""
        scheme = "http" if self.ssl_context is None else "https"
        if self._local:
            # A path is no host and has no port, but PEP 3333 wants both.
            name, port = "localhost", "80" if scheme == "http" else "443"
        else:
            name, port = str(self.server_address[0]), str(self.server_address[1])
        environ: WSGIEnvironment = {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scheme,
            "wsgi.multithread": self.multithread,
            "wsgi.multiprocess": self.multiprocess,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "SCRIPT_NAME": "",
            "SERVER_NAME": name,
            "SERVER_PORT": port,
        }
        # A copy that has all keys already needn't grow.
        return environ | dict.fromkeys(REQUEST_KEYS)

    def make_wire(self, connection: t.Any) -> Wire:
        """The wire of a connection."""
        if self.ssl_context is not None:
            return TLSWire(connection, False, self.monitor.progress)
        return Wire(connection, self._local, self.monitor.progress)

    def offer(self, wire: Wire, fields: Fields = ()) -> Offer:
        """The socket of a request, by which the app may take its connection over.

        :param fields: The request's header fields.
        """
        kind = AppSocket if wire.plain else TLSAppSocket
        return kind(wire, self.monitor, self.limits, fields)

    def serve(
        self,
        connection: socket.socket,
        address: t.Any,
        resumed: Parked | None = None,
    ) -> Parked | None:
        """Serve requests on an accepted connection.

        :param connection: Blocking or not; it is closed unless parked.
        :param address: As ``accept`` returned it; empty for unix sockets.
        :param resumed: What this returned last for the connection, if it was parked.
        :return: ``None`` when the connection is over, or how to park it: then
            it is for the caller to close.
        """
        if not address:
            address = (LOCAL, 0)
        tag = b""
        try:
            if self.proxies is not None or (resumed is not None and resumed.tag):
                met = self._meet(connection, address, resumed)
                if met is None:
                    connection.close()
                if not isinstance(met, ProxiedClient):
                    return met
                address, resumed = met
                tag = resumed.tag
            if self.ssl_context is not None:
                shaken = self._shake_hands(connection, address, resumed)
                if shaken is None:
                    return None
                connection = shaken
            if not self._ours:
                self._serve_otherwise(connection, address, resumed)
                return None
            handler = self._handler(connection, address, self, resumed)
            parked: Parked | None = handler.parked
        except Exception:
            self.handle_error(connection, address)
            parked = None
        except BaseException:
            connection.close()
            raise
        if parked is None:
            connection.close()
        elif tag:
            parked = parked._replace(tag=tag)
        return parked

    def _meet(
        self, connection: socket.socket, address: t.Any, resumed: Parked | None
    ) -> ProxiedClient | Parked | None:
        """Learn from a proxy whose connection it is."""
        if resumed is None:
            deadline = time.monotonic() + self.limits.header_timeout
            resumed = Parked(Wait.HEAD, deadline)
        elif resumed.tag:
            return remember(resumed, address)
        if self.proxies is None or resumed.wait is not Wait.HEAD:
            # It was served before a reload, without a proxy.
            return ProxiedClient(address, resumed)
        may_park = self.can_park and self._ours and self.ssl_context is None
        wire = Wire(connection, self._local)
        try:
            return introduce(wire, address, self.proxies, resumed, may_park)
        except MalformedHeader as e:
            self._log_end(address, f"closed, {e}")
        return None

    def _log_end(self, address: t.Any, reason: str) -> None:
        """Log why a connection is closed that has brought no request."""
        line = f"{escape(str(address[0]))} - - [{date_time()}] {escape(reason)}"
        # As an argument: what it holds is no format.
        self.log("info", "%s", line)

    def _shake_hands(
        self, connection: socket.socket, address: t.Any, resumed: Parked | None
    ) -> ssl.SSLSocket | None:
        """Do the TLS handshake; ``None`` if there was none.

        :param resumed: With a deadline, if the connection has one already.
        """
        assert self.ssl_context is not None
        deadline = time.monotonic() + self.limits.header_timeout
        if resumed is not None:
            deadline = resumed.deadline
        try:
            return shake_hands(connection, self.ssl_context, deadline)
        except OSError as e:
            reason = str(getattr(e, "reason", None) or e)
            self._log_end(address, f"no TLS handshake: {reason}")
        return None

    def add_told(self, environ: WSGIEnvironment, peer: str) -> None:
        """Add what a proxy tells of the request, and the request's id.

        :param peer: The address of who has sent it here.
        :raises Refused: The proxy tells nonsense.
        """
        listed = self.forwarders is not None and self.forwarders.lists(peer)
        if listed:
            assert self.forwarders is not None
            apply(environ, self.forwarders)
        if self.request_ids is not None:
            offered = environ.get("HTTP_X_REQUEST_ID") if listed else None
            number = self.request_ids.choose(offered)
            environ["flask_prefork.request_id"] = number
            environ["HTTP_X_REQUEST_ID"] = number

    def _serve_otherwise(
        self, connection: socket.socket, address: t.Any, resumed: Parked | None
    ) -> None:
        """Serve with a handler that is werkzeug's, as socketserver would."""
        told: TellingSocket | TellingSSLSocket
        if isinstance(connection, TellingSSLSocket):
            told = connection
        else:
            told = TellingSocket.of(connection)
        told.progress = self.monitor.progress
        told.rate = self.limits.min_data_rate
        deadline = time.monotonic() + self.limits.header_timeout
        if resumed is not None and resumed.wait is Wait.HEAD:
            self.make_wire(told).low_water(1)
            deadline = resumed.deadline
        told.expect(deadline)
        connection = told
        try:
            self._handler(connection, address, self)
        except Exception:
            self.handle_error(connection, address)
        finally:
            # The two refer to each other.
            told.wire = None
            self.shutdown_request(connection)

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """Log an exception that no handler has caught."""
        self.log("error", escape_lines(traceback.format_exc()))


class _Watched:
    """The app for handlers that don't know of monitors: tells it in their place."""

    def __init__(self, app: WSGIApplication, server: PreforkServer) -> None:
        self._app = app
        self._server = server

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> t.Iterator[bytes]:
        monitor = self._server.monitor
        environ["flask_prefork.slot"] = monitor.slot
        environ["flask_prefork.generation"] = monitor.generation
        app = self._app
        try:
            self._server.add_told(environ, environ["REMOTE_ADDR"])
        except Refused as e:
            app = BadRequest(e.reason)
        monitor.begin(environ["REQUEST_METHOD"], environ["REQUEST_URI"])
        # What the handler makes of an exception.
        status = 500
        sent = 0
        wire = self._server.make_wire(environ.get("werkzeug.socket"))
        limits = self._server.limits
        options = environ.get("HTTP_CONNECTION", "").encode("latin-1")
        offered = self._server.offer(wire, [(b"connection", options)])
        told: t.Any = wire.sock
        if told is not None:
            environ["werkzeug.socket"] = offered
        is_ours = isinstance(told, (TellingSocket, TellingSSLSocket))
        if is_ours:
            told.begin(wire, limits.min_data_rate)

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
                self._server.handle_error(wire.sock, None)
        finally:
            offered.stop_watch()
            offered.is_taken()
            monitor.end(101 if wire.taken else status, sent)
            if hasattr(iterable, "close"):
                iterable.close()
            if not wire.taken:
                offered.release()
            else:
                end_taken(offered, wire, monitor.crowded)
            if is_ours:
                told.end(time.monotonic() + limits.header_timeout)
        if wire.taken:
            # The handler ends without a response.
            raise TakenOver
