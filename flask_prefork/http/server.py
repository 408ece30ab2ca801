"""The server: what a worker calls for each connection, one for each listening socket.

The zygote makes it before the workers are forked, from the settings and the app. In
each worker :meth:`PreforkServer.watch` is called once, before anything is served. Then
the worker calls :meth:`PreforkServer.accept` and :meth:`PreforkServer.serve`, and parks
what that returns; a parked connection comes back by ``serve`` with what was returned.

``serve`` reads the PROXY header, and then makes the handler, which serves the
connection (``connection.py``).

Never done here: fork, poll the listening socket, accept unasked, or start a thread.
``serve`` returns for whatever the client does. It raises only what ends the process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback
import typing as t

from werkzeug.serving import WSGIRequestHandler

from ..system.parked_state import Parked
from ..system.parked_state import Wait
from ..system.peers import LOCAL
from ..system.proxy_protocol import MalformedHeader
from ..system.socket_state import bytes_unread
from ..system.spool import Spool
from ..system.unix_peer import is_from_user
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
from .proxy_header import ProxiedClient
from .proxy_header import read_proxy_header
from .proxy_header import restore
from .request_id import RequestIds
from .tls_header import read_tls_header
from .unnamed import without_name
from .werkzeug_handler import MonitoredApp
from .werkzeug_handler import serve_monitored
from .werkzeug_handler import without_version
from .wire import Wire

_IS_LINUX = sys.platform == "linux"

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
    :param public_name: The name of the listener that clients know, as ``getsockname``
        returns it, if the TLS proxy accepts from that and connects to this one.
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
    :param server_header: Whether responses name the server in the Server field.

    :ivar context: What its handlers are handed.
    """

    multithread = False
    multiprocess = True

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        handler: type[WSGIRequestHandler] = PreforkRequestHandler,
        limits: Limits | None = None,
        *,
        public_name: t.Any = None,
        access_log: bool = True,
        access_logger: AccessLogger | None = None,
        forwarders: Peers | None = None,
        proxies: Peers | None = None,
        can_park: bool = True,
        streams: Streams | None = None,
        request_start: bool = False,
        limited: RouteLimits | None = None,
        server_header: bool = True,
    ) -> None:
        self.is_tls = public_name is not None
        name = public_name if self.is_tls else listener.getsockname()
        local = isinstance(name, (str, bytes))
        host, port = (f"unix://{os.fsdecode(name)}", 0) if local else name[:2]
        super().__init__(host, port, app, handler, fd=listener.fileno())
        # werkzeug has made a duplicate, and connections are accepted elsewhere.
        self.socket.close()
        self.socket = listener
        self.server_address = name
        self._server_version = SOFTWARE
        self.proxies = proxies
        if forwarders is not None and proxies is not None:
            # A PROXY header may name a unix socket: the proxy's, not ours.
            forwarders = forwarders.without_local()
        asked = access_log and access_logger is not None and access_logger.asks_for_id
        self._is_own_handler = issubclass(handler, ConnectionHandler)
        if not self._is_own_handler:
            handler = without_version(handler)
        if not server_header:
            handler = without_name(handler)
        # The signatures of ours and werkzeug's differ.
        self._handler: t.Any = handler
        self._accept = listener._accept  # type: ignore[attr-defined]
        #: Whether a connection's first bytes are a head for a handler of ours.
        self._is_plain = self._is_own_handler and proxies is None and not self.is_tls
        self._kind = int(listener.family), int(listener.type), listener.proto
        self.context = HandlerContext(
            limits or Limits(),
            can_park,
            local or self.is_tls,
            access_log,
            access_logger,
            forwarders,
            RequestIds() if asked else None,
            self._make_base_environ(local, "https" if self.is_tls else "http"),
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
        return self.adopt(fd), address

    def adopt(self, fd: int) -> socket.socket:
        """Own a connection that was accepted from this listener: now, or before it was
        parked. Who has parked it has left it blocking.

        :raises OSError: If it is no socket.
        """
        connection = socket.socket(*self._kind, fd)
        if socket.getdefaulttimeout() is not None or not _IS_LINUX:
            # The app's default, by which each read without a wait would wait; or the
            # listener's own mode, which others than Linux pass on (accept(2)).
            connection.setblocking(True)
        return connection

    def _make_base_environ(self, local: bool, scheme: str) -> WSGIEnvironment:
        """What all environs of this server have in common."""
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
        certificate: bytes | None = None,
    ) -> Parked | Collecting | Delivery | None:
        """Serve requests on an accepted connection.

        :param connection: Blocking or not; it is closed unless parked.
        :param address: As ``accept`` returned it; empty for unix sockets.
        :param resumed: What this returned last for the connection, if it was parked.
        :param spool: The descriptor of its spool, if it has one; owned from now on.
        :param queue_time: How long its data has waited for this worker, in seconds.
        :param certificate: The client's, as DER, if it has given one.
        :return: ``None`` when the connection is over, or what is to become of it: then
            it is for the caller to close, and so are the files that go with it.
        """
        self.context.queue_time = queue_time
        self.context.certificate = certificate
        found: Parked | Collecting | Delivery | None
        try:
            if resumed is None and spool < 0 and self._is_plain:
                found = self._handler(connection, address, self).outcome
            else:
                found = self._serve_other(connection, address, resumed, spool)
        except Exception:
            self.handle_error(connection, address)
            found = None
        except BaseException:
            connection.close()
            raise
        if found is None and connection.fileno() >= 0:
            connection.close()
        return found

    def _serve_other(
        self,
        connection: socket.socket,
        address: t.Any,
        resumed: Parked | None,
        spool: int,
    ) -> Parked | Collecting | Delivery | None:
        """Serve one that was parked, or whose first bytes are no head for a handler of
        ours."""
        if spool < 0:
            return self._read_headers_and_serve(connection, address, resumed, None)
        # Who goes on with it takes the descriptor out of this.
        before = resumed.spooled if resumed is not None else 0
        with contextlib.closing(Spool.adopt(spool, before)) as spooled:
            return self._read_headers_and_serve(connection, address, resumed, spooled)

    def _read_headers_and_serve(
        self,
        connection: socket.socket,
        address: t.Any,
        resumed: Parked | None,
        spooled: Spool | None,
    ) -> Parked | Collecting | Delivery | None:
        """Read what comes before the first head, if anything does."""
        address = address or (LOCAL, 0)
        context = self.context
        # A parked one is handed over when its data is there.
        is_new = resumed is None and spooled is None
        if is_new and context.queue_time and not bytes_unread(connection.fileno()):
            # The client has only connected, and its request is yet to come.
            context.queue_time = 0.0
        if self.is_tls and not (resumed is not None and resumed.tag):
            resumed = self._read_tls_header(connection, resumed)
            if resumed is None:
                return None
        tag = b""
        if self.proxies is not None or (resumed is not None and resumed.tag):
            client = self._read_proxy_header(connection, address, resumed)
            if not isinstance(client, ProxiedClient):
                return client
            address, resumed = client
            tag = resumed.tag
        if not self._is_own_handler:
            # With a spool it was parked before a reload, and its head is in there.
            if spooled is None:
                serve_monitored(connection, address, self, self._handler, resumed)
            return None
        more = (resumed,) if spooled is None else (resumed, spooled)
        found: Parked | Collecting | Delivery | None
        found = self._handler(connection, address, self, *more).outcome
        return with_tag(found, tag) if tag and found is not None else found

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
        may_park = context.can_park and self._is_own_handler
        wire = Wire(connection, context.is_local)
        try:
            return read_proxy_header(wire, address, self.proxies, resumed, may_park)
        except MalformedHeader as e:
            self._log_end(address, f"closed, {e}")
        return None

    def _read_tls_header(
        self, connection: socket.socket, resumed: Parked | None
    ) -> Parked | None:
        """Learn from the TLS proxy whose connection it is.

        :return: How the connection goes on; ``None`` if it isn't from there.
        """
        secured = None
        if is_from_user(connection, os.getuid()):
            secured = read_tls_header(connection)
        if secured is None:
            return None
        now = time.monotonic()
        self.context.queue_time = max(now - secured.arrived, 0.0)
        self.context.certificate = secured.certificate
        if resumed is None:
            resumed = Parked(Wait.HEAD, now + self.context.limits.header_timeout)
        return resumed._replace(tag=secured.source.tag())

    def _log_end(self, address: t.Any, reason: str) -> None:
        """Log why a connection is closed that has brought no request."""
        line = f"{escape(str(address[0]))} - - [{date_time()}] {escape(reason)}"
        # As an argument: what it holds is no format.
        self.log("info", "%s", line)

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """Log an exception that no handler has caught."""
        self.log("error", escape_lines(traceback.format_exc()))
