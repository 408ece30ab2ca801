"""The TLS proxy's loop: it accepts, and moves bytes for all connections.

One loop that polls. What a connection does is :mod:`.connection`'s; what the dispatcher
is sent, and what it asks for, is here.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
import typing as t
from collections.abc import Callable
from collections.abc import Sequence
from itertools import islice

from ..ipc.channel import Channel
from ..ipc.channel import close_all
from ..ipc.frames import Closed
from ..ipc.frames import MakeRoom
from ..ipc.frames import NOTHING_COUNTED
from ..ipc.frames import Ping
from ..ipc.frames import TLSCounts
from ..system import polling
from ..system import socket_modes
from ..system.client_certificates import ClientCertificates
from ..system.log import logger
from ..system.peers import LOCAL
from ..system.peers import Peers
from ..system.polling import EXCLUSIVE
from ..system.polling import IN
from ..system.proxy_protocol import CertificatePlace
from ..system.proxy_protocol import Secured
from ..system.proxy_protocol import Source
from ..system.timers import Deadlines
from .connection import CHUNK
from .connection import Outcome
from .connection import TLSConnection
from .session import RECORD
from .session import Session

#: Seconds between two pings.
_TICK = 1.0
#: How many sockets have their turn between two looks at the clock.
_TURN = 64
#: How many connections are accepted in a row.
_MOST_ACCEPTED = 16
#: Descriptors that are left for all else.
_RESERVE = 32
#: What a connection takes of them: one for each side.
_DESCRIPTORS = 2
#: Of a failed handshake's reason so much is logged at most, once in so many seconds.
_LOG_INTERVAL = 10.0
#: When accepting fails for want of descriptors or memory, the next try is after this,
#: in seconds.
_PAUSE = 0.1
#: For how many connections room is made at a time.
_ROOM = 16
#: Of those that have asked for nothing, so many times more stay.
_PART = 4


class Proxy:
    """The process.

    :param channel: Our end of the dispatcher's channel.
    :param context: The certificate, and how TLS is spoken.
    :param listeners: The listening sockets, non-blocking.
    :param names: Of each, the name of the socket from which workers accept.
    :param timeout: Seconds that a client has for the handshake and its first byte.
    :param proxies: Whose connections begin with a header of the PROXY protocol;
        ``None`` if nobody's do.
    :param descriptors: How many this process may have.
    :param number: Its number, for tags.
    :param certificates: Where those of clients are put, if they are asked for some.
    :param processes: How many accept from the same listeners.
    :param clock: The machine's monotonic seconds.
    """

    def __init__(
        self,
        channel: Channel,
        context: ssl.SSLContext,
        listeners: Sequence[socket.socket],
        names: Sequence[bytes | str],
        timeout: float,
        proxies: Peers | None,
        descriptors: int,
        number: int = 0,
        certificates: ClientCertificates | None = None,
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.buffer = memoryview(bytearray(CHUNK + 2 * RECORD))
        self.plain_buffer = memoryview(bytearray(CHUNK))
        self._certificates = certificates
        self._number = number
        #: One that takes many at once would have nearly all connections at quiet times.
        self._accept_count = max(_MOST_ACCEPTED // processes, 1)
        # A connection wakes one of them up, not all (epoll_ctl(2)).
        self._accept_events = IN | (EXCLUSIVE if processes > 1 else 0)
        self._channel = channel
        self._context = context
        self._listeners = list(listeners)
        self._names = names
        self._timeout = timeout
        self._proxies = proxies
        self._most = descriptors - _RESERVE
        self._clock = clock
        self._poll = polling.make()
        #: epoll forgets what is closed.
        self._must_unregister = isinstance(self._poll, polling.SystemPoll)
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._connections: set[TLSConnection] = set()
        self._deadlines: Deadlines[TLSConnection] = Deadlines()
        #: Connections without a plain side, the oldest first.
        self._opening: dict[TLSConnection, None] = {}
        #: Sockets to close when nobody can have events of them any more.
        self._closing: list[socket.socket] = []
        #: Slots of their clients' certificates.
        self._free_slots: list[int] = []
        self._used = 0
        self._full = self._resumed = self._failed = self._cut = 0
        self._sent_counts = NOTHING_COUNTED
        self._is_accepting = self._is_full = False
        self._accept_at: float | None = None
        #: Whether to accept no more, and whether the dispatcher knows that all are
        #: opened that were accepted.
        self._is_closed = self._has_reported = False
        self._has_dispatcher = True
        self._now = self._ping_at = clock()
        self._unlogged, self._log_at = 0, 0.0
        self._poll.register(channel.fd, IN)
        self._handlers[channel.fd] = self._exchange
        for index, sock in enumerate(listeners):
            self._handlers[sock.fileno()] = self._acceptor(index, sock)
        self._listen()

    def run(self) -> None:
        """Serve until all connections have ended after the dispatcher said so, or is
        gone."""
        while not (self._is_closed and not self._connections):
            self.step(self._wait_time())

    def _wait_time(self) -> float:
        first = self._ping_at
        for moment in (self._deadlines.next(), self._accept_at):
            if moment is not None and moment < first:
                first = moment
        return max(first - self._clock(), 0.0)

    def step(self, timeout: float) -> None:
        """Do what is due.

        :param timeout: How long to wait for it, in seconds.
        """
        events = self._poll.poll(timeout, _TURN)
        self._now = self._clock()
        handlers = self._handlers
        for fd, mask in events:
            handler = handlers.get(fd)
            if handler is not None:
                try:
                    handler(mask)
                except Exception as e:
                    self._end_failed(handler, e)
        due = self._deadlines.next()
        if due is not None and due <= self._now:
            for connection in self._deadlines.pop(self._now):
                try:
                    connection.expired()
                except Exception as e:
                    self._end_failed(connection.on_client, e)
        if self._closing:
            # Not before: a new socket of the same number would get the old one's
            # events.
            for sock in self._closing:
                sock.close()
            self._closing.clear()
        if self._free_slots and self._certificates is not None:
            for slot in self._free_slots:
                self._certificates.remove(slot)
            self._free_slots.clear()
        if self._accept_at is not None and self._now >= self._accept_at:
            self._accept_at = None
            self._listen()
        if self._is_closed and not self._has_reported:
            self._report_closed()
        if self._now >= self._ping_at:
            self._tick()

    def _end_failed(self, handler: Callable[[int], None], error: Exception) -> None:
        """End a connection that nobody has foreseen. Others go on."""
        connection = getattr(handler, "__self__", None)
        if not isinstance(connection, TLSConnection):
            raise error
        logger.exception("A connection of the TLS proxy has failed:")
        self.ended(connection, Outcome.CUT)

    def _tick(self) -> None:
        self._ping_at = self._now + _TICK
        if not self._has_dispatcher:
            return
        # One that can't be sent is no news: the dispatcher reads nothing.
        self._channel.send(Ping())
        counts = TLSCounts(
            0,
            len(self._connections),
            self._full,
            self._resumed,
            self._failed,
            self._cut,
            0,
        )
        if counts != self._sent_counts and self._channel.send(counts):
            self._sent_counts = counts

    # The dispatcher

    def _exchange(self, events: int) -> None:
        received = self._channel.receive()
        if received is None:
            self._lose_dispatcher()
            return
        frames, fds = received
        close_all(fds)
        for frame in frames:
            if isinstance(frame, Closed):
                self._close_listeners()

    def _lose_dispatcher(self) -> None:
        """It ends, or is dead. Who is served still gets the rest."""
        self._has_dispatcher = False
        self._poll.unregister(self._channel.fd)
        del self._handlers[self._channel.fd]
        self._close_listeners()
        for connection in list(self._opening):
            self.ended(connection, Outcome.CUT)

    def _close_listeners(self) -> None:
        """Accept no more, but who waits already."""
        if self._is_closed:
            return
        self._is_closed = True
        self._accept_at = None
        for index, sock in enumerate(self._listeners):
            if self._has_dispatcher:
                while self._has_room() and self._accept(index, sock):
                    pass
            if self._is_accepting:
                self._poll.unregister(sock.fileno())
            del self._handlers[sock.fileno()]
            sock.close()
        self._listeners.clear()
        self._is_accepting = False

    def _report_closed(self) -> None:
        """Everybody who was accepted is the dispatcher's, or gone."""
        if not self._opening and self._has_dispatcher:
            self._has_reported = self._channel.send(Closed())

    def connect(self, connection: TLSConnection) -> socket.socket:
        """See :class:`.connection.Loop`."""
        sock = socket_modes.make(socket.AF_UNIX, socket.SOCK_STREAM, blocking=False)
        try:
            sock.connect(self._names[connection.listener])
        except BaseException:
            sock.close()
            raise
        self._opening.pop(connection, None)
        return sock

    def header(self, connection: TLSConnection) -> bytes:
        """See :class:`.connection.Loop`."""
        source, certificate = connection.source, None
        if connection.slot is not None:
            place = CertificatePlace(self._number, connection.slot)
            source = source._replace(certificate=place)
            certificate = connection.session.certificate()
        return Secured(source, self._now, certificate).header()

    # Accepting

    def _acceptor(self, index: int, sock: socket.socket) -> Callable[[int], None]:
        def accept(events: int) -> None:
            if not self._has_room():
                self._make_room()
            for _ in range(self._accept_count):
                # If there are others, a poll tells so again.
                if not self._has_room():
                    return
                if not self._accept(index, sock):
                    return

        return accept

    def _has_room(self) -> bool:
        return self._used + _DESCRIPTORS <= self._most

    def _listen(self) -> None:
        if self._is_accepting or self._is_closed:
            return
        self._is_accepting = True
        for sock in self._listeners:
            try:
                self._poll.register(sock.fileno(), self._accept_events)
            except OSError:
                # ENOMEM, ENOSPC (epoll_ctl(2)).
                self._stop_listening()
                return

    def _stop_listening(self) -> None:
        """Accept nobody until there is room."""
        if self._is_accepting:
            self._is_accepting = False
            for sock in self._listeners:
                with contextlib.suppress(OSError, KeyError):  # it wasn't registered
                    self._poll.unregister(sock.fileno())
        self._accept_at = self._now + _PAUSE

    def _make_room(self) -> None:
        """Let connections be closed of which no client expects anything: which those
        are the dispatcher knows."""
        if not self._is_full:
            self._is_full = True
            logger.warning(
                "All %d descriptors of the TLS proxy are in use; the connections that"
                " are idle for the longest time are closed.",
                self._most,
            )
        self._channel.send(MakeRoom(0, _ROOM))
        if len(self._opening) > len(self._connections) // 2:
            # Nearly all are silent, so there is nobody to be closed elsewhere.
            count = min(_ROOM, len(self._opening) // _PART + 1)
            for connection in [*islice(self._opening, count)]:
                self.ended(connection, Outcome.LATE, "others need its descriptors")
        self._stop_listening()

    def _accept(self, index: int, listener: socket.socket) -> bool:
        """Accept a connection.

        :return: Whether there was one.
        """
        try:
            accepted, address = socket_modes.accept(listener)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        except OSError:
            # ENFILE, ENOBUFS, ENOMEM (accept(2)).
            self._stop_listening()
            return False
        try:
            self._begin(index, accepted, address)
        except Exception as e:
            # There may be no memory (epoll_ctl(2)).
            accepted.close()
            self.log_failure(Source(False), f"{type(e).__name__}: {e}")
        return True

    def _begin(self, index: int, accepted: socket.socket, address: t.Any) -> None:
        """Begin with a connection that was accepted."""
        # A client of a unix socket may have a path of its own.
        is_local = not isinstance(address, tuple)
        host, port = (LOCAL, 0) if is_local else address[:2]
        source = Source(True, "" if is_local else host, port)
        awaits_header = False
        if self._proxies is not None:
            if not self._proxies.lists(str(host)):
                accepted.close()
                self.log_failure(source, "not from a proxy of --proxy-allow-from")
                return
            awaits_header = True
        session = Session(self._context)
        connection = TLSConnection(
            self, accepted, session, index, source, awaits_header
        )
        fd = accepted.fileno()
        self._poll.register(fd, IN)
        self._handlers[fd] = connection.on_client
        self._connections.add(connection)
        self._opening[connection] = None
        # For the plain side as well.
        self._used += _DESCRIPTORS
        self._deadlines.set(connection, self._now + self._timeout)

    # For connections (connection.Loop)

    def watch(self, fd: int, events: int) -> None:
        """See :class:`.connection.Loop`."""
        self._poll.modify(fd, events)

    def watch_plain(self, connection: TLSConnection) -> None:
        """See :class:`.connection.Loop`."""
        assert connection.plain is not None
        fd = connection.plain.fileno()
        self._poll.register(fd, IN)
        self._handlers[fd] = connection.on_plain

    def forget_plain(self, connection: TLSConnection) -> None:
        """See :class:`.connection.Loop`."""
        assert connection.plain is not None
        fd = connection.plain.fileno()
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def set_deadline(self, connection: TLSConnection, seconds: float | None) -> None:
        """See :class:`.connection.Loop`."""
        if seconds is None:
            self._deadlines.discard(connection)
        else:
            self._deadlines.set(connection, self._now + seconds)

    def opened(self, connection: TLSConnection) -> None:
        """See :class:`.connection.Loop`."""
        if self._certificates is not None:
            certificate = connection.session.certificate()
            if certificate is not None:
                connection.slot = self._certificates.add(certificate)
        if connection.session.is_resumed:
            self._resumed += 1
        else:
            self._full += 1

    def ended(
        self, connection: TLSConnection, outcome: Outcome, reason: str = ""
    ) -> None:
        """See :class:`.connection.Loop`."""
        if connection not in self._connections:
            return
        if outcome is Outcome.UNUSED:
            pass
        elif not connection.session.is_open:
            self._failed += 1
            self.log_failure(connection.source, reason or outcome.value)
        elif outcome is Outcome.CUT:
            self._cut += 1
            if reason:
                self._log_some(f"A TLS connection was closed: {reason}.")
        if connection.slot is not None:
            self._free_slots.append(connection.slot)
        self._connections.discard(connection)
        self._opening.pop(connection, None)
        self._deadlines.discard(connection)
        fd = connection.sock.fileno()
        self._handlers.pop(fd, None)
        if self._must_unregister:
            self._poll.unregister(fd)
        self._closing.append(connection.sock)
        self._used -= _DESCRIPTORS
        if connection.plain is not None:
            fd = connection.plain.fileno()
            if self._handlers.pop(fd, None) is not None and self._must_unregister:
                self._poll.unregister(fd)
            self._closing.append(connection.plain)

    def log_failure(self, source: Source, reason: str) -> None:
        """Log that a client has got no TLS."""
        self._log_some(f"No TLS handshake with {source.host or LOCAL}: {reason}.")

    def _log_some(self, line: str) -> None:
        """Log a line about a connection; one in ten seconds, and how many others there
        were."""
        if self._now < self._log_at:
            self._unlogged += 1
            return
        if self._unlogged:
            logger.info("%d more TLS connections have failed.", self._unlogged)
        logger.info("%s", line)
        self._unlogged, self._log_at = 0, self._now + _LOG_INTERVAL
