"""Who comes to the admin address, and who is served next.

As with the app's clients, a connection that waits for its client costs no thread: it
waits in a lobby (:mod:`..parking`). So clients that say nothing, or a byte a second,
keep nobody out, and a probe of ``/livez`` is answered before its patience ends.
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
from ..ipc.parked import Connection
from ..ipc.parked import ParkedConnections
from ..system import socket_modes
from ..system.parked import Parked
from ..system.parked import Wait
from ..system.poller import Poller
from .background import in_background

if t.TYPE_CHECKING:
    from .site import Site

#: Connections that are served at once.
CROWD = 32
#: Connections that wait for their client. Above it those go that have waited for the
#: longest time. And as many may wait for a thread with their first request, above
#: which nobody is let in; and as many with a further one.
LOBBY = 300
#: Seconds that a client may hold a thread while others wait for one; an answer is
#: there in milliseconds, so it is the client that doesn't take it.
STAY = 1.0
#: Connections to accept before others are looked at.
_BATCH = 64
#: How long to wait when no descriptor is left, in seconds: others will leave.
_PAUSE = 0.1
_LIMITS = Limits(body=1, header_timeout=5.0, keep_alive=5.0)


class AdminClient:
    """A connection.

    :ivar waits: As the lobby holds it.
    :ivar parked: How the server has parked it last.
    :ivar since: Since when a thread serves it.
    """

    __slots__ = ("address", "parked", "since", "sock", "waits")

    def __init__(self, sock: socket.socket, address: t.Any, parked: Parked) -> None:
        self.sock = sock
        self.address = address
        self.parked: Parked | None = parked
        self.since = 0.0
        self.waits = Connection(sock.fileno(), 0, parked)


class AdminServer(NullMonitor):
    """Accepts connections and serves each request in a thread of its own.

    All but :meth:`_serve` runs in one thread.

    :param site: The WSGI app.
    :param listener: The admin socket, non-blocking; several processes may hold it.
    """

    def __init__(self, site: Site, listener: socket.socket) -> None:
        self._listener = listener
        self._poller = Poller()
        self._lot = ParkedConnections()
        #: Those in the lobby, by descriptor.
        self._lobby: dict[int, AdminClient] = {}
        #: Those who were served for a while and want more at once: others first.
        self._eager: deque[AdminClient] = deque()
        #: Those that are served, by when that began; and how many threads there are,
        #: of which some serve guests that were shown out.
        self._inside: dict[AdminClient, None] = {}
        self._threads = 0
        #: Those that were served, and the bell that tells of it.
        self._back: deque[AdminClient] = deque()
        self._ear, self._bell = socket_modes.pair(blocking=False)
        self._open_at = 0.0
        self._server = PreforkServer(site, listener, limits=_LIMITS, access_log=False)
        self._server.watch(self)

    def contended(self) -> bool:
        """Whether others wait for a thread."""
        return bool(self._lot.ready or self._eager)

    def run(self) -> t.NoReturn:
        """Let them in, for ever."""
        self._poller.watch(self._ear.fileno(), self._hear)
        while True:
            self._arm()
            deadline = self._deadline()
            left = None if deadline is None else deadline - time.monotonic()
            for callback in self._poller.wait(left):
                callback()
            self._expire()
            self._serve_ready()

    def _arm(self) -> None:
        """Accept while there is room."""
        fd, now = self._listener.fileno(), time.monotonic()
        wanted = len(self._lot.ready) < LOBBY and now >= self._open_at
        if wanted and not self._poller.is_watched(fd):
            self._poller.watch(fd, self._accept)
        elif not wanted:
            self._poller.forget(fd)

    def _deadline(self) -> float | None:
        """When to look again if nothing happens before."""
        times = [self._lot.deadline()]
        if self._open_at > time.monotonic():
            times.append(self._open_at)
        if self._unplaced() and self._inside:
            times.append(next(iter(self._inside)).since + STAY)
        return min((one for one in times if one is not None), default=None)

    # The lobby

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return  # that was all
            except ConnectionError:
                continue  # it left
            except OSError:
                self._open_at = time.monotonic() + _PAUSE
                self._give_up_longest()
                return
            sock.setblocking(False)
            deadline = time.monotonic() + _LIMITS.header_timeout
            self._park(AdminClient(sock, address, Parked(Wait.HEAD, deadline)))

    def _park(self, guest: AdminClient) -> None:
        if len(self._lot) - len(self._lot.ready) >= LOBBY:
            self._give_up_longest()
        self._lobby[guest.waits.fd] = guest
        if self._lot.park(guest.waits, time.monotonic()):
            self._watch(guest.waits)

    def _watch(self, waits: Connection) -> None:
        self._poller.watch(waits.fd, lambda: self._wake(waits))

    def _wake(self, waits: Connection) -> None:
        if waits in self._lot:
            self._poller.forget(waits.fd)
            self._lot.wake(waits)

    def _give_up_longest(self) -> None:
        longest = self._lot.longest_idle()
        if longest is not None:
            self._close(longest)

    def _close(self, waits: Connection) -> None:
        self._lot.remove(waits)
        self._poller.forget(waits.fd)
        self._lobby.pop(waits.fd).sock.close()

    def _expire(self) -> None:
        expired = self._lot.expire(time.monotonic())
        for waits in expired.close:
            self._close(waits)
        for waits in expired.late:
            self._poller.forget(waits.fd)
        for waits in expired.watch:
            self._watch(waits)

    # Inside

    def _serve_ready(self) -> None:
        """Serve those who wait, and show those out that stay for too long."""
        now = time.monotonic()
        while self._threads < CROWD and self.contended():
            guest = self._next()
            guest.since = now
            self._inside[guest] = None
            self._threads += 1
            in_background(self._serve, guest)
        for guest in [*self._inside][: self._unplaced()]:
            if now < guest.since + STAY:
                break
            del self._inside[guest]
            with contextlib.suppress(OSError):
                # Its thread sees that, and is over with it.
                guest.sock.shutdown(socket.SHUT_RDWR)

    def _unplaced(self) -> int:
        """How many wait for whom nobody was shown out."""
        leaving = self._threads - len(self._inside)
        return max(0, len(self._lot.ready) + len(self._eager) - leaving)

    def _next(self) -> AdminClient:
        if self._lot.ready:
            return self._lobby.pop(self._lot.ready.popleft().fd)
        return self._eager.popleft()

    def _serve(self, guest: AdminClient) -> None:
        """Serve as far as it goes without waiting for the client's next word."""
        guest.parked = self._server.serve(guest.sock, guest.address, guest.parked)
        self._back.append(guest)
        with contextlib.suppress(BlockingIOError):
            self._bell.send(b"!")  # if there's no room, it rings anyway

    def _hear(self) -> None:
        self._ear.recv(4096)
        while self._back:
            guest = self._back.popleft()
            self._threads -= 1
            self._inside.pop(guest, None)
            if guest.parked is not None:
                self._take_back(guest, guest.parked)

    def _take_back(self, guest: AdminClient, parked: Parked) -> None:
        """It has more to say, or waits for its turn."""
        if parked.wait is Wait.WORKER:
            self._eager.append(guest)
            if len(self._eager) > LOBBY:
                self._eager.popleft().sock.close()
            return
        waits = guest.waits
        waits.state = parked.after(waits.state if waits.state.have else None)
        if parked.have:
            with contextlib.suppress(OSError):
                # Quiet until there is one more byte, or the end (socket(7)).
                guest.sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVLOWAT, parked.have + 1
                )
        self._park(guest)
