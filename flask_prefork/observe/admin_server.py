"""The HTTP server on the admin address: threads, and connections that wait for one.

As with the app's clients, a connection that waits for its client costs no thread: it is
parked (:mod:`..ipc.parked_connections`). So clients that send nothing, or a byte a
second, keep nobody out, and a probe of ``/livez`` is answered in time.
"""

from __future__ import annotations

import contextlib
import socket
import time
import typing as t
from collections import deque

from ..http.limits import Limits
from ..http.monitor import NullMonitor
from ..http.server import PreforkServer
from ..ipc.parked_connections import Connection
from ..ipc.parked_connections import ParkedConnections
from ..system import socket_modes
from ..system.parked_state import Parked
from ..system.parked_state import Wait
from ..system.poller import Poller
from .background import in_background

if t.TYPE_CHECKING:
    from .site import Site

#: Requests that are served at once, each in its thread.
MAX_THREADS = 32
#: Connections that wait for their client; above it the longest idle are closed. As many
#: may wait for a thread with their first request, above which none is accepted; and as
#: many with a further one.
MAX_WAITING = 300
#: Seconds that a client may occupy a thread while others wait for one. A response is
#: ready in milliseconds, so it is the client that doesn't read it.
THREAD_TIME = 1.0
#: Connections to accept before other events are handled.
_BATCH = 64
#: How long to wait when no descriptor is left, in seconds: others will be closed.
_PAUSE = 0.1
_LIMITS = Limits(body=1, header_timeout=5.0, keep_alive=5.0)


class AdminClient:
    """A client's connection.

    :ivar connection: As it is parked.
    :ivar parked: What the server returned last; ``None`` if it was closed.
    :ivar since: When a thread began to serve it, in monotonic seconds.
    """

    __slots__ = ("address", "connection", "parked", "since", "sock")

    def __init__(self, sock: socket.socket, address: t.Any, parked: Parked) -> None:
        self.sock = sock
        self.address = address
        self.parked: Parked | None = parked
        self.since = 0.0
        self.connection = Connection(sock.fileno(), 0, parked)


class AdminServer(NullMonitor):
    """Accepts connections and serves each request in a thread of its own.

    All but :meth:`_serve` runs in one thread.

    :param site: The WSGI app.
    :param listener: The admin socket, non-blocking; several processes may hold it.
    """

    def __init__(self, site: Site, listener: socket.socket) -> None:
        self._listener = listener
        self._poller = Poller()
        self._parked = ParkedConnections()
        #: Those that wait for their client or for a thread, by descriptor.
        self._idle: dict[int, AdminClient] = {}
        #: Those that have sent another request already: others come first.
        self._queued: deque[AdminClient] = deque()
        #: Those that are served, by when that began; and how many threads there are,
        #: of which some serve clients that were disconnected.
        self._active: dict[AdminClient, None] = {}
        self._threads = 0
        #: Those that were served, and the pipe that wakes the main thread for them.
        self._finished: deque[AdminClient] = deque()
        self._wake_up, self._wake_up_end = socket_modes.pair(blocking=False)
        self._accept_at = 0.0
        self._server = PreforkServer(site, listener, limits=_LIMITS, access_log=False)
        self._server.watch(self)

    def contended(self) -> bool:
        """Whether others wait for a thread."""
        return bool(self._parked.ready or self._queued)

    def run(self) -> t.NoReturn:
        """Accept and serve, for ever."""
        self._poller.watch(self._wake_up.fileno(), self._read_wake_up)
        while True:
            self._watch_listener()
            deadline = self._deadline()
            left = None if deadline is None else deadline - time.monotonic()
            for callback in self._poller.wait(left):
                callback()
            self._expire()
            self._serve_ready()

    def _watch_listener(self) -> None:
        """Accept while there is room."""
        fd, now = self._listener.fileno(), time.monotonic()
        wanted = len(self._parked.ready) < MAX_WAITING and now >= self._accept_at
        if wanted and not self._poller.is_watched(fd):
            self._poller.watch(fd, self._accept)
        elif not wanted:
            self._poller.forget(fd)

    def _deadline(self) -> float | None:
        """When to look again if nothing happens before."""
        times = [self._parked.deadline()]
        if self._accept_at > time.monotonic():
            times.append(self._accept_at)
        if self._without_thread() and self._active:
            times.append(next(iter(self._active)).since + THREAD_TIME)
        return min((one for one in times if one is not None), default=None)

    # Connections that wait

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return  # none is left
            except ConnectionError:
                continue  # it was closed already
            except OSError:
                self._accept_at = time.monotonic() + _PAUSE
                self._close_longest_idle()
                return
            sock.setblocking(False)
            deadline = time.monotonic() + _LIMITS.header_timeout
            self._park(AdminClient(sock, address, Parked(Wait.HEAD, deadline)))

    def _park(self, client: AdminClient) -> None:
        if len(self._parked) - len(self._parked.ready) >= MAX_WAITING:
            self._close_longest_idle()
        self._idle[client.connection.fd] = client
        if self._parked.park(client.connection, time.monotonic()):
            self._watch(client.connection)

    def _watch(self, connection: Connection) -> None:
        fd = connection.fd
        try:
            if connection.state.wait is Wait.LINGER:
                self._poller.watch_hang_up(fd, lambda: self._on_hang_up(connection))
            else:
                self._poller.try_watch(fd, lambda: self._on_readable(connection))
        except OSError:
            self._close(connection)

    def _on_hang_up(self, connection: Connection) -> None:
        """One that has had its last response sends no more."""
        if connection in self._parked:
            self._close(connection)

    def _on_readable(self, connection: Connection) -> None:
        if connection in self._parked:
            self._poller.forget(connection.fd)
            self._parked.wake(connection, time.monotonic())

    def _close_longest_idle(self) -> None:
        longest = self._parked.longest_idle()
        if longest is not None:
            self._close(longest)

    def _close(self, connection: Connection) -> None:
        self._parked.remove(connection)
        self._poller.forget(connection.fd)
        self._idle.pop(connection.fd).sock.close()

    def _expire(self) -> None:
        expired = self._parked.expire(time.monotonic())
        for connection in expired.close:
            self._close(connection)
        for connection in expired.late:
            self._poller.forget(connection.fd)
        for connection in expired.watch:
            self._watch(connection)

    # Requests that are served

    def _serve_ready(self) -> None:
        """Serve those that wait, and disconnect those that take too long."""
        now = time.monotonic()
        while self._threads < MAX_THREADS and self.contended():
            client = self._next()
            client.since = now
            self._active[client] = None
            self._threads += 1
            in_background(self._serve, client)
        for client in [*self._active][: self._without_thread()]:
            if now < client.since + THREAD_TIME:
                break
            del self._active[client]
            with contextlib.suppress(OSError):
                # Its thread gets an error, and ends.
                client.sock.shutdown(socket.SHUT_RDWR)

    def _without_thread(self) -> int:
        """How many wait for a thread beyond those that will be free soon."""
        freed = self._threads - len(self._active)
        return max(0, len(self._parked.ready) + len(self._queued) - freed)

    def _next(self) -> AdminClient:
        if self._parked.ready:
            return self._idle.pop(self._parked.ready.popleft().fd)
        return self._queued.popleft()

    def _serve(self, client: AdminClient) -> None:
        """Serve as far as possible without waiting for the client."""
        found = self._server.serve(client.sock, client.address, client.parked)
        # Nothing is buffered here.
        client.parked = found if isinstance(found, Parked) else None
        self._finished.append(client)
        with contextlib.suppress(BlockingIOError):
            self._wake_up_end.send(b"!")  # full: it wakes up anyway

    def _read_wake_up(self) -> None:
        self._wake_up.recv(4096)
        while self._finished:
            client = self._finished.popleft()
            self._threads -= 1
            self._active.pop(client, None)
            if client.parked is not None:
                self._park_or_queue(client, client.parked)

    def _park_or_queue(self, client: AdminClient, parked: Parked) -> None:
        """Park it until its client sends more, or queue its next request."""
        if parked.wait is Wait.WORKER:
            self._queued.append(client)
            if len(self._queued) > MAX_WAITING:
                self._queued.popleft().sock.close()
            return
        connection = client.connection
        before = connection.state if connection.state.have else None
        connection.state = parked.after(before)
        if parked.have:
            with contextlib.suppress(OSError):
                # Readable only when there is one more byte, or the end (socket(7)).
                client.sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVLOWAT, parked.have + 1
                )
        self._park(client)
