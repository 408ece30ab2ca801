"""One client's connection: its TLS on one side, plain bytes on the other.

The loop (:mod:`.proxy`) calls :meth:`TLSConnection.on_client` and
:meth:`TLSConnection.on_plain` when a socket is ready, and
:meth:`TLSConnection.expired` at the deadline. None of them waits.

1. *opening*: the handshake, then the client's first bytes. Only with these it connects
   to where workers accept: who is silent costs nobody else anything.
2. *relaying*: each direction has one buffer of a bounded size. While it isn't empty,
   nothing more is read for it, so a slow side slows the other one down.
3. *closing*: the plain end is closed, and what the client is still to get goes out,
   ``close_notify`` last. What the client sends meanwhile is thrown away, since closing
   a socket with unread bytes resets the connection (RFC 9112, 9.6).

An end of one direction is passed on as such. A connection that the client has reset, or
that was cut within a record, is closed at once: the request that it broke off is lost,
and whoever serves it sees that.
"""

from __future__ import annotations

import enum
import socket
import ssl
import typing as t

from ..system.polling import GONE
from ..system.polling import IN
from ..system.polling import OUT
from ..system.proxy_protocol import MalformedHeader
from ..system.proxy_protocol import read
from ..system.proxy_protocol import Source
from ..system.socket_state import bytes_queued
from .session import HandshakeTooLong
from .session import RECORD
from .session import Session

#: Bytes that are moved at a time, and so about what each direction's buffer holds.
CHUNK = 4 * RECORD
#: Bytes for a client beyond which nothing more is read from it.
_MOST = 2 * CHUNK
#: How long a client may take to send its end when it was told ours, in seconds.
LINGER = 2.0
#: While too many wait for workers, the next try to connect is after this, in seconds.
RETRY = 0.05
#: How often that is tried: for two and a half minutes, about as long as clients wait
#: for the kernel's answer (tcp(7), tcp_syn_retries).
_MOST_TRIES = 3000
#: A client that takes nothing of its last response for so long is cut off, in seconds.
STALL = 30.0
#: What a client gets that speaks HTTP without TLS, as of other servers.
_PLAIN_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: 54\r\n\r\nThis port speaks HTTPS: use an address with https://.\n"
)


class Outcome(enum.Enum):
    """How a connection ended."""

    #: Both sides have had their end.
    ENDED = "ended"
    #: The handshake failed.
    FAILED = "failed"
    #: The handshake, or the first byte after it, didn't come in time.
    LATE = "late"
    #: The client has left without a byte, as who checks whether a port is open.
    UNUSED = "unused"
    #: The client left in the middle, or a record was broken.
    CUT = "cut"


class Loop(t.Protocol):
    """What a connection needs of the loop: :class:`.proxy.Proxy`."""

    #: Where bytes are put that are on their way, :data:`CHUNK` of them and a record
    #: more; nobody keeps them there.
    buffer: memoryview
    #: The same for what is decrypted.
    plain_buffer: memoryview

    def watch(self, fd: int, events: int) -> None:
        """Poll a socket for other events (``epoll_ctl(2)``)."""

    def watch_plain(self, connection: TLSConnection) -> None:
        """Poll the plain side from now on, for what can be read."""

    def forget_plain(self, connection: TLSConnection) -> None:
        """Poll the plain side no more."""

    def connect(self, connection: TLSConnection) -> socket.socket:
        """Connect to where workers accept.

        :return: The plain side, non-blocking.
        :raises BlockingIOError: Too many wait there.
        :raises OSError: Nobody accepts any more, or there is no descriptor left.
        """

    def header(self, connection: TLSConnection) -> bytes:
        """What the plain side begins with."""

    def opened(self, connection: TLSConnection) -> None:
        """The handshake is over.

        :raises ValueError: The client's certificate can't be kept.
        """

    def set_deadline(self, connection: TLSConnection, seconds: float | None) -> None:
        """Call :meth:`TLSConnection.expired` after so many seconds; ``None`` for
        never."""

    def ended(
        self, connection: TLSConnection, outcome: Outcome, reason: str = ""
    ) -> None:
        """The connection has ended: forget it, and close its sockets."""


class TLSConnection:
    """See the module.

    :param loop: Who polls the sockets.
    :param sock: The client's, non-blocking.
    :param session: Its TLS.
    :param listener: The index of the listener it came by.
    :param source: Whom it is from.
    :param awaits_header: Whether it begins with a header of the PROXY protocol, which
        says so.
    """

    __slots__ = (
        "_client_events",
        "_failure",
        "_has_begun",
        "_has_client_ended",
        "_has_moved",
        "_has_plain_ended",
        "_header",
        "_is_finished",
        "_is_hung_up",
        "_is_over",
        "_is_told",
        "_loop",
        "_plain_events",
        "_queued",
        "_to_client",
        "_to_plain",
        "_tries",
        "listener",
        "plain",
        "session",
        "slot",
        "sock",
        "source",
    )

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        session: Session,
        listener: int,
        source: Source,
        awaits_header: bool,
    ) -> None:
        self._loop = loop
        self.sock = sock
        self.session = session
        self.listener = listener
        self.source = source
        #: Where the client's certificate is kept, if it has given one.
        self.slot: int | None = None
        #: What has come of a PROXY header, while one is to come.
        self._header: bytes | None = b"" if awaits_header else None
        #: Our end of the plain side, once there is one.
        self.plain: socket.socket | None = None
        #: What is on its way, but for what the sockets hold.
        self._to_client: bytes | memoryview = b""
        self._to_plain: bytes | memoryview = b""
        #: Whether nothing more comes from the client, or from the plain side.
        self._has_client_ended = self._has_plain_ended = False
        #: Whether nobody takes what the client sends: the plain side is closed in both
        #: directions.
        self._is_hung_up = False
        #: Whether the client was told that nothing more comes, and was sent all.
        self._is_told = self._is_finished = False
        self._is_over = False
        #: Whether the client has sent anything, and why it has got no TLS.
        self._has_begun, self._failure = False, ""
        #: How often it was tried to connect.
        self._tries = 0
        self._client_events = IN
        self._plain_events = IN
        #: Whether the client took something since the last look, and how much of what
        #: the kernel holds it hadn't taken then, in bytes.
        self._has_moved, self._queued = True, 0

    # Events

    def on_client(self, events: int) -> None:
        """The client's socket is ready."""
        if events & GONE:
            self._client_left()
            return
        if events & OUT:
            self._flush_client()
        if events & IN:
            self._read_client()
        if events != IN or not self._is_quiet():
            self._update()

    def on_plain(self, events: int) -> None:
        """The plain side's socket is ready."""
        if events & GONE:
            # Polls tell this again and again. What is left there is read as the client
            # takes it.
            self._is_hung_up = True
            self._to_plain = b""
            self._loop.forget_plain(self)
            self._loop.set_deadline(self, LINGER if self._is_finished else STALL)
        elif events & OUT:
            self._flush_plain()
        if not self._to_client:
            self._read_plain()
        if events != IN or not self._is_quiet():
            self._update()

    def _is_quiet(self) -> bool:
        """Whether all that has come is gone, as nearly always: nothing changes."""
        return not (
            self._to_client
            or self._to_plain
            or self._has_client_ended
            or self._has_plain_ended
            or self._is_over
        )

    def expired(self) -> None:
        """The deadline has come."""
        if self.plain is None and self._to_plain:
            self._connect()
            self._update()
        elif not self._is_hung_up:
            self._end(Outcome.LATE, "it took too long")
        elif self._is_finished:
            self._end(Outcome.ENDED)
        elif self._is_stalled():
            self._end(Outcome.CUT)
        else:
            self._loop.set_deadline(self, STALL)

    def _is_stalled(self) -> bool:
        """Whether the client has taken nothing since the last look."""
        before, self._queued = self._queued, bytes_queued(self.sock) or 0
        has_moved, self._has_moved = self._has_moved, False
        return not has_moved and self._queued >= before

    # From the client

    def _read_client(self) -> None:
        buffer = self._loop.buffer
        try:
            count = self.sock.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError:
            self._client_left()
            return
        session = self.session
        if not count:
            if not session.is_open:
                self._client_left()
            elif session.is_within_record and not self._is_hung_up:
                self._end(Outcome.CUT)
            else:
                # Without close_notify: many clients send none, and HTTP tells by itself
                # whether a message is whole (RFC 9112, 9.8).
                self._client_ended()
            return
        if self._is_hung_up:
            return
        data = buffer[:count]
        if self._header is not None and not (data := self._read_header(data)):
            return
        was_open = session.is_open
        self._has_begun = True
        try:
            is_open = session.feed(data)
        except ssl.SSLError as e:
            self._refuse(e)
            return
        except HandshakeTooLong as e:
            self._end(Outcome.FAILED, str(e))
            return
        if not was_open:
            self._send_client(session.pending())
            if is_open and not self._is_over:
                self._opened()
        if is_open and not self._is_over:
            self._pump()

    def _client_left(self) -> None:
        """The client is gone, in both directions."""
        if self.session.is_open:
            # Without a request nothing is broken off.
            is_idle = self.plain is None and not self._to_plain
            self._end(Outcome.ENDED if is_idle or self._is_finished else Outcome.CUT)
        elif self._has_begun:
            self._end(Outcome.FAILED, "the client has left")
        else:
            self._end(Outcome.UNUSED)

    def _opened(self) -> None:
        try:
            self._loop.opened(self)
        except ValueError as e:
            self._end(Outcome.CUT, str(e))

    def _pump(self) -> None:
        """Decrypt, and pass on, as much as the plain side takes."""
        session, buffer = self.session, self._loop.plain_buffer
        while not (self._to_plain or self._is_over or session.is_ended):
            try:
                count = session.decrypt_into(buffer)
            except ssl.SSLError as e:
                self._refuse(e)
                return
            if not count:
                break
            self._give_plain(buffer[:count])
            if not session.has_more:
                break
        # Perhaps an answer to a new key (RFC 8446, 4.6.3).
        self._send_client(session.pending())
        if session.is_ended and not self._has_client_ended:
            self._client_ended()

    def _read_header(self, data: memoryview) -> memoryview:
        """Read the PROXY header.

        :return: What comes after it; nothing if it isn't whole.
        """
        assert self._header is not None
        self._header += data
        try:
            found = read(self._header)
        except MalformedHeader as e:
            self._end(Outcome.FAILED, str(e))
            return data[:0]
        if found is None:
            return data[:0]
        source, size = found
        rest, self._header = self._header[size:], None
        if source.known:
            self.source = source
        return memoryview(rest)

    def _refuse(self, error: ssl.SSLError) -> None:
        """End the connection for what the client has sent; an alert says why."""
        if error.reason == "HTTP_REQUEST":
            # OpenSSL has recognized it, and says nothing that such a client reads.
            self._failure = "it speaks plain HTTP"
            self._send_client(_PLAIN_HTTP)
            self._is_hung_up = self._has_plain_ended = self._is_told = True
            self._to_plain = b""
            return
        self._send_client(self.session.pending())
        outcome = Outcome.CUT if self.session.is_open else Outcome.FAILED
        self._end(outcome, error.reason or str(error))

    def _client_ended(self) -> None:
        """Nothing more comes from the client."""
        self._has_client_ended = True
        if self.plain is None and not self._to_plain:
            self._send_client(self.session.end())
            self._end(Outcome.ENDED)
        elif not self._to_plain:
            self._end_plain()

    # To the plain side

    def _give_plain(self, data: memoryview) -> None:
        if self.plain is None:
            self._to_plain = memoryview(self._loop.header(self) + data)
            self._connect()
            return
        try:
            sent = self.plain.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it is closed, as a poll will tell
        if sent < len(data):
            # A copy, since the buffer is everybody's.
            self._to_plain = memoryview(bytes(data[sent:]))

    def _connect(self) -> None:
        """Make the plain side; what is to be sent there first waits."""
        try:
            self.plain = self._loop.connect(self)
        except BlockingIOError:
            # Too many wait already. No poll tells when they are fewer.
            self._tries += 1
            if self._tries > _MOST_TRIES:
                self._end(Outcome.CUT)
            else:
                self._loop.set_deadline(self, RETRY)
            return
        except OSError:
            self._end(Outcome.CUT)
            return
        self._loop.set_deadline(self, None)
        self._loop.watch_plain(self)
        self._flush_plain()

    def _flush_plain(self) -> None:
        if self.plain is None:
            return
        try:
            sent = self.plain.send(self._to_plain)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._to_plain)
        self._to_plain = self._to_plain[sent:]
        if self._to_plain:
            return
        if self._has_client_ended:
            self._end_plain()
        else:
            self._pump()

    def _end_plain(self) -> None:
        """Tell the plain side that nothing more comes from the client."""
        assert self.plain is not None
        try:
            self.plain.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    # From the plain side

    def _read_plain(self) -> None:
        if self._has_plain_ended or self.plain is None:
            return
        buffer = self._loop.buffer
        try:
            count = self.plain.recv_into(buffer, CHUNK)
        except BlockingIOError:
            if not self._is_hung_up:
                return
            count = 0
        except OSError:
            count = 0  # closed with something of the client's unread (unix(7))
        try:
            if count:
                self._send_client(self.session.encrypt(buffer[:count]))
                return
            self._has_plain_ended = True
        except ssl.SSLError:
            self._end(Outcome.CUT)

    # To the client

    def _send_client(self, data: bytes) -> None:
        """Send to the client, behind what is on its way."""
        if not data or self._is_over:
            return
        if self._to_client:
            self._to_client = bytes(self._to_client) + data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end(Outcome.CUT)
            return
        if sent < len(data):
            self._to_client = memoryview(data)[sent:]

    def _flush_client(self) -> None:
        if not self._to_client:
            return
        try:
            sent = self.sock.send(self._to_client)
        except BlockingIOError:
            return
        except OSError:
            self._end(Outcome.CUT)
            return
        self._has_moved = True
        self._to_client = self._to_client[sent:]

    def _tell_end(self) -> None:
        """Tell the client that nothing more comes.

        With records unread, the session would take them for a fault of the client's
        (``SSL_shutdown(3)``): they are passed on first.
        """
        if self._is_hung_up or not self.session.has_unread:
            self._is_told = True
            self._send_client(self.session.end())

    def _finish(self) -> None:
        """End the direction to the client, which has got all."""
        self._is_finished = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    # What is next

    def _update(self) -> None:
        """Poll for what can be done next, and end what has come to its end."""
        if self._is_hung_up:
            while not (self._to_client or self._has_plain_ended or self._is_over):
                self._read_plain()
        if self._is_over:
            return
        if self._has_plain_ended and not self._is_told:
            self._tell_end()
        if self._is_told and not self._to_client and not self._is_finished:
            self._finish()
            if self._is_hung_up:
                self._loop.set_deadline(self, LINGER)
        if self._is_finished and self._has_client_ended and not self._to_plain:
            self._end(Outcome.ENDED)
            return
        self._poll()

    def _poll(self) -> None:
        """Poll the sockets for what there is to do."""
        to_client, to_plain = len(self._to_client), bool(self._to_plain)
        wanted = OUT if to_client else 0
        # A client could ask for more and more that it doesn't take (RFC 8446, 4.6.3).
        if not (to_plain or self._has_client_ended or to_client > _MOST):
            wanted |= IN
        if wanted != self._client_events:
            self._client_events = wanted
            self._loop.watch(self.sock.fileno(), wanted)
        if self.plain is None or self._is_hung_up:
            return
        wanted = OUT if to_plain else 0
        if not (to_client or self._has_plain_ended):
            wanted |= IN
        if wanted != self._plain_events:
            self._plain_events = wanted
            self._loop.watch(self.plain.fileno(), wanted)

    def _end(self, outcome: Outcome, reason: str = "") -> None:
        if not self._is_over:
            self._is_over = True
            self._loop.ended(self, outcome, self._failure or reason)
