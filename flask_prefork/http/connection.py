"""One connection: its requests one after another, and when to park it.

Runs in a worker. ``PreforkServer.serve`` makes a handler for each connection that the
worker has accepted or that the dispatcher has handed back, after the PROXY header and
the TLS handshake. Making it serves the connection; it is never used again.

Called in this order::

    setup()                      once, a subclass's
    handle()                     until the connection ends or is to be parked
      _wait_idle()               if it was parked between two requests
      _read_head()               peeks until there is a whole head, or refuses
        begin_request()          handler.py takes the head, and the body if it is there;
                                 collecting.py collects it if it isn't
        refuse()                 or answers what is malformed, too large or too late
      handle_one_request()       handler.py calls the app and sends the response
      _yield_worker()            if others wait and its time is over
      _wait_idle()               else for the next request
      reset_request()            before that is read
      _end()                     if the connection is over: end, or linger parked
    finish()                     once, a subclass's

``outcome`` then says whether the caller closes the connection, parks it, or lets the
rest of its response be delivered by another process.

Never done here: accept; wait without a deadline; read what belongs to the next request
from a plain socket, which may be another worker's to serve; wait at once for longer
than ``PARK_DELAY`` for a client that can wait parked.
"""

from __future__ import annotations

import socket
import time
import typing as t

from werkzeug.serving import WSGIRequestHandler

from ..system.parked_state import Parked
from ..system.parked_state import Wait
from ..system.peers import LOCAL
from ..system.socket_state import is_receive_buffer_full
from ..system.spool import Spool
from .collecting import restore
from .collecting import Suspended
from .errors import BodyError
from .errors import ClientDisconnected
from .errors import Refused
from .handback import Collecting
from .handback import Delivery
from .head import Head
from .head import read
from .persistence import Persistence
from .takeover import shut
from .takeover import TakeoverSocket
from .wire import CHECK_INTERVAL
from .wire import HANG_UP
from .wire import PARK_DELAY

if t.TYPE_CHECKING:
    from .context import HandlerContext
    from .context import HandlerServer
    from .wire import UnsentData
    from .wire import Wire

#: The same while the client was promised that it may ask for more.
_IDLE_STEP = 0.02
#: A head above this many bytes, or one that is left in a full buffer, is kept by the
#: worker: the kernel may hold no more, and then there would never be news to wake for.
_BULK = 32768
#: Seconds for the rest of such a head.
_BULK_TIMEOUT = 1.0
#: Seconds a connection that can't be parked may wait for its next request.
_HELD_KEEP_ALIVE = 1.0
#: What is to be read first from a connection that was parked.
_WAITS_FOR_REQUEST = (Wait.HEAD, Wait.BODY, Wait.PERMIT)
#: Seconds to look for what still comes after the last response, also while others wait,
#: and bytes of it.
_LINGER = 1.0
#: Seconds for the same, parked.
PARKED_LINGER = 2.0
_LINGER_CONTENDED = 0.1
_LINGER_BYTES = 1 << 20


def linger(wire: Wire, contended: t.Callable[[], bool]) -> None:
    """End a connection whose client may still be sending.

    :param contended: Tells whether others wait.
    """
    wire.linger(_LINGER, _LINGER_BYTES, _LINGER_CONTENDED, contended)


def end_taken_over(
    taken: TakeoverSocket, wire: Wire, contended: t.Callable[[], bool]
) -> None:
    """End a connection that the app has taken over, and now left.

    :param contended: See :func:`linger`.
    """
    taken.wait_for_threads(_LINGER_CONTENDED if contended() else _LINGER)
    if wire.sock.gettimeout() is not None:
        # With a timeout each look is a wait of its own.
        wire.sock.settimeout(None)
    linger(wire, contended)
    # Threads of the app may wait for what will never come.
    shut(wire.sock, socket.SHUT_RDWR)
    taken.release()


class ConnectionHandler(WSGIRequestHandler):
    """Reads heads, and decides whether the connection goes on, waits or ends.

    What a request means is for :class:`~.handler.PreforkRequestHandler`.

    :param request: The connection.
    :param resumed: As it was parked, if it was.
    :param spool: What it was parked with; it is taken out of this, or left there.

    :ivar outcome: Set if the connection is not to be closed: what becomes of it.
    :ivar close_connection: Whether it ends with this request.
    :ivar queue_time: 0 for all requests that come while a worker has the connection.
    """

    server: HandlerServer
    #: What the server hands to all its handlers.
    context: HandlerContext
    wire: Wire
    persistence: Persistence
    #: The request that is served, if its head was good.
    head: Head | None = None
    close_connection = True
    outcome: Parked | Collecting | Delivery | None = None
    #: How long the request has waited until a worker took its connection, in seconds.
    queue_time = 0.0
    #: As the connection was parked, while its first request is served.
    _resumed: Parked | None = None
    #: The number of the limit of which the request has a permit; 0 is none.
    _permit = 0
    #: The request whose body was being collected when the connection was parked.
    _suspended: Suspended | None = None
    #: The body that was collected, to be closed after the request.
    _collected: t.Any = None
    #: Whether the client may still be sending when the connection ends.
    _linger = False
    #: The socket that the app may take over, or has taken.
    _app_socket: TakeoverSocket | None = None

    def __init__(
        self,
        request: t.Any,
        client_address: t.Any,
        server: HandlerServer,
        resumed: Parked | None = None,
        spool: Spool | None = None,
    ) -> None:
        # socketserver and http.server would set up more than is needed here, so
        # nothing of theirs is called.
        self.request = self.connection = request
        self.client_address = client_address or (LOCAL, 0)
        self.server = server
        self.context = context = server.context
        self.wire = context.make_wire(request)
        self.persistence = Persistence(context, self.wire)
        self.queue_time = context.queue_time
        self.setup()
        if resumed is not None:
            self._resume(resumed, spool)
        try:
            self.handle()
        finally:
            if self._suspended is not None or self._collected is not None:
                self._close_files()
            self.finish()

    def _resume(self, resumed: Parked, spool: Spool | None) -> None:
        """Be as the connection was when it was parked."""
        if resumed.wait is Wait.PERMIT:
            # It was the server that has let it wait.
            deadline = time.monotonic() + self.context.limits.header_timeout
            resumed = resumed._replace(deadline=deadline)
            self._permit = resumed.limit
        self._resumed = resumed
        if spool is not None:
            self._suspended = restore(spool, resumed)

    def setup(self) -> None:
        """Called before the first request."""

    def finish(self) -> None:
        """Called after the last one, or when the connection is parked."""

    def handle(self) -> None:
        """Serve requests until the connection ends or has to wait."""
        try:
            self.outcome = self._serve()
            if self.outcome is None and not self.wire.closed:
                self._end()
        except ClientDisconnected as e:
            self.connection_dropped(e)
        finally:
            if self.wire.outbox is not None:
                self.wire.outbox.close()
            if self._permit:
                # Its request has never begun, and the worker goes on with others.
                self.context.monitor.release_permit()

    def _close_files(self) -> None:
        if self._suspended is not None:
            self._suspended.spool.close()
        if self._collected is not None:
            self._collected.close()

    def reset_request(self) -> None:
        """Be as new: the last request is over, and another one comes."""
        raise NotImplementedError

    def begin_request(
        self, head: Head, size: int, data: bytes
    ) -> Parked | Collecting | t.Literal[True] | None:
        """Take a request that has begun.

        :param size: Bytes of the head and what was before it.
        :param data: All that is there, to be taken from the wire as far as it is
            of this request.
        :return: As the methods below: ``True`` if it is to be served now.
        :raises Refused: The head is good, but its body isn't.
        :raises BodyError: The same.
        """
        raise NotImplementedError

    def refuse(self, error: Refused | BodyError, data: bytes) -> None:
        """Answer what can't be served. The connection ends with it.

        :param data: What there is of it.
        """
        raise NotImplementedError

    def _end(self) -> None:
        """End the connection in a way that lets the client see all of it."""
        if self._app_socket is not None and self.wire.taken:
            end_taken_over(self._app_socket, self.wire, self.context.monitor.contended)
        elif self._linger:
            self._end_lingering()
        elif not self.wire.finished:
            self.wire.finish()

    def _end_lingering(self) -> None:
        """End it when the client has seen the end, or has had the time for that.

        What it still sends is of no use, and so is none of a worker's time.
        """
        context, wire = self.context, self.wire
        monitor = context.monitor
        contended = monitor.contended
        # Who stops doesn't wait for those that are parked so.
        if context.can_park and not monitor.draining():
            wire.finish()
            if not wire.wait(0 if contended() else PARK_DELAY, HANG_UP):
                deadline = time.monotonic() + PARKED_LINGER
                self.outcome = Parked(Wait.LINGER, deadline)
                return
        # It has sent all that it will, if there is such an event.
        linger(wire, contended)

    def _serve(self) -> Parked | Collecting | Delivery | None:
        limits, monitor = self.context.limits, self.context.monitor
        persistence, resumed = self.persistence, self._resumed
        start = time.monotonic()
        slice_end = persistence.slice_end = start + limits.slice
        deadline: float | None = start + limits.header_timeout
        waiting: Parked | Collecting | t.Literal[True] | None
        data = None
        if resumed is not None:
            if resumed.wait in _WAITS_FOR_REQUEST:
                if resumed.mark > 1:
                    self.wire.low_water(1)
                deadline = resumed.deadline
            else:
                # It was handed over because something has come.
                data = self.wire.peek()
                if data is None:
                    waiting = self._wait_idle(resumed.deadline)
                    if waiting is not True:
                        return waiting
        while True:
            waiting = self._read_head(deadline, data)
            data = None
            if waiting is not True:
                return waiting
            self.handle_one_request()
            if self.wire.outbox is not None:
                return self._deliver(self.wire.outbox)
            if self.close_connection:
                return None
            now = time.monotonic()
            is_over = now > slice_end
            # The accept queues are looked at once only: that is a system call.
            if persistence.can_park() and (
                monitor.others_ready() or (is_over and monitor.contended())
            ):
                data = self.wire.peek()
                if not data or is_over:
                    return self._yield_worker(now, data)
            else:
                waiting = self._wait_idle(now + limits.keep_alive)
                if waiting is not True:
                    return waiting
            self.reset_request()
            deadline = None

    def _deliver(self, outbox: UnsentData) -> Delivery:
        """Let the sender go on, because the client is slow to take its response."""
        if self.close_connection:
            return outbox.deliver(Wait.LINGER, PARKED_LINGER)
        return outbox.deliver(Wait.KEEP_ALIVE, self.context.limits.keep_alive)

    # Each of these returns what _serve() returns, or True to go on.

    def _yield_worker(self, now: float, data: bytes | None) -> Parked | None:
        """Hand the connection back, because others wait. It had its slice, or its next
        request isn't there.

        :param data: What is there.
        """
        limits = self.context.limits
        if data == b"":
            return None
        if data is None:
            return Parked(Wait.KEEP_ALIVE, now + limits.keep_alive)
        deadline = now + limits.header_timeout
        return Parked(Wait.WORKER, deadline, len(data), arrived=now)

    def _wait_idle(self, deadline: float) -> Parked | t.Literal[True] | None:
        """Wait for the first byte of the next request.

        The client has a response that lets the connection go on. So it does when the
        server stops, until the client has had the time to send another request, whose
        response says that the connection ends.
        """
        wire, monitor = self.wire, self.context.monitor
        if wire.buffered or wire.wait(PARK_DELAY):
            return True
        now = time.monotonic()
        held_until = min(deadline, now + _HELD_KEEP_ALIVE)
        while now < held_until:
            # While the server stops, the dispatcher doesn't wait for what comes from
            # workers that are on their last connection.
            can_park = self.persistence.can_park()
            if can_park and (not monitor.draining() or monitor.contended()):
                return Parked(Wait.KEEP_ALIVE, deadline)
            if wire.wait(min(held_until - now, _IDLE_STEP)):
                return True
            now = time.monotonic()
        return None

    def _read_head(
        self, deadline: float | None, data: bytes | None
    ) -> Parked | Collecting | t.Literal[True] | None:
        """Read the next request's head, all of it before the deadline.

        :param deadline: ``None`` if its first byte has only just come.
        :param data: What is there of it, if somebody has looked.
        """
        wire = self.wire
        waited = False
        while True:
            suspended = self._suspended
            if suspended is not None:
                data = suspended.head
            elif data is None:
                data = wire.peek()
            if data:
                try:
                    found = read(data, self.context.limits)
                    if found is not None:
                        return self.begin_request(found[0], found[1], data)
                except (Refused, BodyError) as e:
                    self._linger = True
                    self.refuse(e, data)
                    return None
            elif data is not None:
                return None
            if deadline is None:
                deadline = time.monotonic() + self.context.limits.header_timeout
            have = len(data or b"")
            left_there = have - len(wire.buffered or b"")
            # A moment for each is long for those behind a burst of beginnings.
            waited = waited or self.context.monitor.contended()
            if left_there and (
                left_there > _BULK or (waited and is_receive_buffer_full(wire.sock))
            ):
                wire.buffer(have)
                deadline = min(deadline, time.monotonic() + _BULK_TIMEOUT)
            waiting = self._wait_head(data or b"", deadline, waited)
            if waiting is not True:
                return waiting
            waited, data = True, None
            # Its data comes only now.
            self.queue_time = 0.0

    def _wait_head(
        self, data: bytes, deadline: float, waited: bool
    ) -> Parked | t.Literal[True] | None:
        """Wait for more of a head than this."""
        wire = self.wire
        left = deadline - time.monotonic()
        if left <= 0 or (data and wire.ended(len(data))):
            # Empty lines are no request that could be answered.
            if data.strip(b"\r\n"):
                self._linger = True
                self.refuse(
                    Refused(408, "the head took too long")
                    if left <= 0
                    else Refused(400, "the head ended early"),
                    data,
                )
            return None
        if self.persistence.can_park():
            if waited:
                return Parked(Wait.HEAD, deadline, len(data))
            wire.wait_more(len(data), min(PARK_DELAY, left))
        else:
            if wire.local:
                wire.buffer(len(data))
            wire.wait_more(len(data), min(left, CHECK_INTERVAL))
        return True
