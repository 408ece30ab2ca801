"""What a server hands to the handlers of its connections.

The server makes one before the fork; ``watch()`` sets the monitor in each worker. A
handler reads it and asks nobody above for more.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass
from dataclasses import field

from werkzeug.serving import BaseWSGIServer

from .app_socket import AppSocket
from .forwarded import apply
from .monitor import NullMonitor
from .request_start import find
from .request_start import render
from .request_start import REQUEST_START
from .wire import Wire

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from ..system.peers import Peers
    from .access_logger import AccessLogger
    from .limits import Limits
    from .monitor import Monitor
    from .request_id import RequestIds
    from .route_limits import RouteLimits
    from .takeover import Fields
    from .takeover import TakeoverSocket

    #: By a request's method, target and host.
    Streams = t.Callable[[str, str, str], bool]


@dataclass
class HandlerContext:
    """What all connections of a server have in common."""

    limits: Limits
    #: Whether connections can be handed back to wait.
    can_park: bool
    #: Whether connections are unix sockets.
    is_local: bool
    #: Whether requests are logged.
    access_log: bool
    #: Logs them in a format of its own, if any.
    access_logger: AccessLogger | None
    #: Whose ``X-Forwarded-*`` are believed, if anybody's.
    forwarders: Peers | None
    #: Gives requests their ids, if somebody wants them.
    request_ids: RequestIds | None
    #: What all environs have in common.
    base_environ: WSGIEnvironment
    #: Whether the app reads the body of a request while it comes, by the request's
    #: method, target and host; ``None`` if it never asks for that.
    streams: Streams | None = None
    #: The limits of the app's routes, if any has one.
    limited: RouteLimits | None = None
    #: Whether the app gets the time of each request's arrival in X-Request-Start.
    request_start: bool = False
    #: Who watches the requests: the worker.
    monitor: Monitor = field(default_factory=NullMonitor)
    #: How long the first request of the connection that is served has waited for the
    #: worker, in seconds.
    queue_time: float = 0.0
    #: The certificate of its client, as DER, if it has given one.
    certificate: bytes | None = None
    #: For bodies that are collected, see ``collecting.py``; ``None`` while one has it.
    memory: bytearray | None = None
    #: The last line of the access log could not be written.
    log_fails: bool = False

    def make_wire(self, connection: t.Any) -> Wire:
        """The wire of a connection."""
        monitor = self.monitor
        return Wire(connection, self.is_local, monitor.progress, monitor.contended)

    def make_app_socket(self, wire: Wire, fields: Fields = ()) -> TakeoverSocket:
        """The socket of a request, by which the app may take its connection over.

        :param fields: The request's header fields.
        """
        return AppSocket(wire, self.monitor, self.limits, fields)

    #: Whether :meth:`add_forwarded` has anything to do.
    changes_environ: bool = field(init=False)

    def __post_init__(self) -> None:
        self.changes_environ = (
            self.forwarders is not None
            or self.request_ids is not None
            or self.request_start
        )

    def add_forwarded(
        self, environ: WSGIEnvironment, peer: str, queue_time: float = 0.0
    ) -> float:
        """Add what a proxy says of the request, and the request's id.

        :param peer: The address of who has sent it here.
        :param queue_time: How long the request has waited here, in seconds.
        :return: How long it has waited since the proxy has received it, if that says
            so; otherwise as before.
        :raises Refused: What the proxy says is malformed.
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
        if listed or self.request_start:
            return self._add_request_start(environ, listed, queue_time)
        return queue_time

    def _add_request_start(
        self, environ: WSGIEnvironment, listed: bool, queue_time: float
    ) -> float:
        now = time.time()
        start, is_kept = find(environ, now) if listed else (None, False)
        if start is not None:
            queue_time = now - start
        if self.request_start and not is_kept:
            environ[REQUEST_START] = render(now - queue_time)
        return queue_time


class HandlerServer(BaseWSGIServer):
    """Werkzeug's server as its handlers see it, and what they are handed."""

    context: HandlerContext
