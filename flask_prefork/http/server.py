"""The server: what a worker calls for each connection, one for each listening socket.

The zygote makes it before the workers are forked, from the settings and the app. In
each worker :meth:`PreforkServer.watch` is called once, before anything is served. Then
the worker calls :meth:`PreforkServer.accept` and :meth:`PreforkServer.serve`, and parks
what that returns; a parked connection comes back by ``serve`` with what was returned.

``serve`` reads the PROXY header, does the TLS handshake, and then makes the handler,
which serves the connection (``connection.py``).

Never done here: fork, poll the listening socket, accept unasked, or start a thread.
``serve`` returns for whatever the client does. It raises only what ends the process.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
import traceback
import typing as t

from werkzeug.serving import generate_adhoc_ssl_context
from werkzeug.serving import load_ssl_context
from werkzeug.serving import WSGIRequestHandler

from ..system.parked import Parked
from ..system.parked import Wait
from ..system.peers import LOCAL
from ..system.socket_state import bytes_unread
from ..system.spool import Spool
from .access_log import date_time
from .access_log import escape
from .access_log import escape_lines
from .connection import ConnectionHandler
from .context import HandlerContext
from .context import HandlerServer
from .environ import REQUEST_KEYS
from .fields import SOFTWARE
from .file_wrapper import FileWrapper
from .handback import Collecting
from .handback import Delivery
from .handback import with_tag
from .handler import PreforkRequestHandler
from .limits import Limits
from .monitor import Monitor
from .monitor import NullMonitor
from .monitored_socket import MonitoredSSLSocket
from .proxy_header import ProxiedClient
from .proxy_header import read_proxy_header
from .proxy_header import restore
from .proxy_protocol import MalformedHeader
from .request_id import RequestIds
from .tls import do_tls_handshake
from .werkzeug_handler import MonitoredApp
from .werkzeug_handler import serve_monitored
from .werkzeug_handler import without_version
from .wire import Wire

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from _typeshed.wsgi import WSGIEnvironment

    from ..system.peers import Peers
    from .access_logger import AccessLogger
    from .context import Streams
    from .route_limits import RouteLimits

__all__ = [
    "Limits",
    "Monitor",
    "NullMonitor",
    "Parked",
    "PreforkRequestHandler",
    "PreforkServer",
]


class PreforkServer(HandlerServer):
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
    :param streams: Whether the app reads the body of a request while it comes, by the
        request's method, target and host; asked only if the body isn't there.
    :param limited: The limits of the app's routes, if any has one.
    :param request_start: Whether the app gets the time of each request's arrival in
        ``X-Request-Start``.

    :ivar context: What its handlers are handed.
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
        streams: Streams | None = None,
        request_start: bool = False,
        limited: RouteLimits | None = None,
    ) -> None:
        local = listener.family == socket.AF_UNIX
        name = listener.getsockname()
        host, port = (f"unix://{os.fsdecode(name)}", 0) if local else name[:2]
        super().__init__(host, port, app, handler, fd=listener.fileno())
        # werkzeug has made a duplicate, and connections are accepted elsewhere.
        self.socket.close()
        self.socket = listener
        self._server_version = SOFTWARE
        self.proxies = proxies
        if forwarders is not None and proxies is not None:
            # A PROXY header may name a unix socket: the proxy's, not ours.
            forwarders = forwarders.without_local()
        asked = access_log and access_logger is not None and access_logger.asks_for_id
        self._is_own_handler = issubclass(handler, ConnectionHandler)
        if not self._is_own_handler:
            handler = without_version(handler)
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
        self._can_resume_body = self._is_own_handler and ssl_context is None
        if ssl_context is not None and not self._is_own_handler:
            ssl_context.sslsocket_class = MonitoredSSLSocket
        self._accept = listener._accept  # type: ignore[attr-defined]
        self._kind = int(listener.family), int(listener.type), listener.proto
        self.context = HandlerContext(
            limits or Limits(),
            can_park,
            local,
            ssl_context is not None,
            access_log,
            access_logger,
            forwarders,
            RequestIds() if asked else None,
            self._make_base_environ(local),
            streams,
            limited,
            request_start,
        )
        if not self._is_own_handler:
            self.app = MonitoredApp(app, self.context, self.handle_error)
        self.watch(NullMonitor())

    def watch(self, monitor: Monitor) -> None:
        """Set who is called for each request, and name its slot to the app.

        Called in each worker, after the fork.
        """
        context = self.context
        context.monitor = monitor
        context.base_environ["flask_prefork.slot"] = monitor.slot
        context.base_environ["flask_prefork.generation"] = monitor.generation

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

    def _make_base_environ(self, local: bool) -> WSGIEnvironment:
        """What all environs of this server have in common."""
        scheme = "http" if self.ssl_context is None else "https"
        if local:
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

    def serve(
        self,
        connection: socket.socket,
        address: t.Any,
        resumed: Parked | None = None,
        spool: int = -1,
        queue_time: float = 0.0,
    ) -> Parked | Collecting | Delivery | None:
        """Serve requests on an accepted connection.

        :param connection: Blocking or not; it is closed unless parked.
        :param address: As ``accept`` returned it; empty for unix sockets.
        :param resumed: What this returned last for the connection, if it was parked.
        :param spool: The descriptor of its spool, if it has one; owned from now on.
        :param queue_time: How long its data has waited for this worker, in seconds.
        :return: ``None`` when the connection is over, or what is to become of it: then
            it is for the caller to close, and so are the files that go with it.
        """
        if not address:
            address = (LOCAL, 0)
        if queue_time and spool < 0 and not bytes_unread(connection.fileno()):
            # The client has only connected, and its request is yet to come.
            queue_time = 0.0
        self.context.queue_time = queue_time
        tag = b""
        # Who goes on with it takes the descriptor out of this.
        spooled = None
        if spool >= 0:
            spooled = Spool.adopt(spool, resumed.spooled if resumed is not None else 0)
        try:
            if self.proxies is not None or (resumed is not None and resumed.tag):
                client = self._read_proxy_header(connection, address, resumed)
                if client is None:
                    connection.close()
                if not isinstance(client, ProxiedClient):
                    return client
                address, resumed = client
                tag = resumed.tag
            if spooled is not None and not self._can_resume_body:
                # It was parked before a reload, and its head is in the spool.
                connection.close()
                return None
            if self.ssl_context is not None:
                wrapped = self._do_handshake(connection, address, resumed)
                if wrapped is None:
                    return None
                connection = wrapped
            if not self._is_own_handler:
                serve_monitored(connection, address, self, self._handler, resumed)
                return None
            if spooled is None:
                handler = self._handler(connection, address, self, resumed)
            else:
                handler = self._handler(connection, address, self, resumed, spooled)
            found: Parked | Collecting | Delivery | None = handler.outcome
        except Exception:
            self.handle_error(connection, address)
            found = None
        except BaseException:
            connection.close()
            raise
        finally:
            if spooled is not None:
                spooled.close()
        if found is None:
            connection.close()
        elif tag:
            found = with_tag(found, tag)
        return found

    def _read_proxy_header(
        self, connection: socket.socket, address: t.Any, resumed: Parked | None
    ) -> ProxiedClient | Parked | None:
        """Learn from a proxy whose connection it is."""
        if resumed is None:
            deadline = time.monotonic() + self.context.limits.header_timeout
            resumed = Parked(Wait.HEAD, deadline)
        elif resumed.tag:
            return restore(resumed, address)
        if self.proxies is None or resumed.wait is not Wait.HEAD:
            # It was served before a reload, without a proxy.
            return ProxiedClient(address, resumed)
        context = self.context
        may_park = context.can_park and self._is_own_handler and not context.is_tls
        wire = Wire(connection, context.is_local)
        try:
            return read_proxy_header(wire, address, self.proxies, resumed, may_park)
        except MalformedHeader as e:
            self._log_end(address, f"closed, {e}")
        return None

    def _log_end(self, address: t.Any, reason: str) -> None:
        """Log why a connection is closed that has brought no request."""
        line = f"{escape(str(address[0]))} - - [{date_time()}] {escape(reason)}"
        # As an argument: what it holds is no format.
        self.log("info", "%s", line)

    def _do_handshake(
        self, connection: socket.socket, address: t.Any, resumed: Parked | None
    ) -> ssl.SSLSocket | None:
        """Do the TLS handshake; ``None`` if there was none.

        :param resumed: With a deadline, if the connection has one already.
        """
        assert self.ssl_context is not None
        deadline = time.monotonic() + self.context.limits.header_timeout
        if resumed is not None:
            deadline = resumed.deadline
        try:
            return do_tls_handshake(connection, self.ssl_context, deadline)
        except OSError as e:
            reason = str(getattr(e, "reason", None) or e)
            self._log_end(address, f"no TLS handshake: {reason}")
        return None

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """Log an exception that no handler has caught."""
        self.log("error", escape_lines(traceback.format_exc()))
