"""A TLS session without a socket: bytes in, bytes out.

:mod:`.connection` gives it what the client has sent, and sends the client what this has
to say. Nothing here waits.
"""

from __future__ import annotations

import ssl

from .records import RecordBoundary

#: Bytes of the longest record's content (RFC 8446, 5.1).
RECORD = 16384
#: Bytes of a record's head and of the first handshake message's, of which the last
#: three are its length (RFC 8446, 4 and 5.1).
_HELLO_HEAD = 9
#: The record type of a handshake.
_HANDSHAKE = b"\x16"
#: The most bytes that a client needs for a handshake, a chain of certificates included.
MOST_HANDSHAKE = 32768


class HandshakeTooLong(Exception):
    """A client's handshake has too many bytes; says how many."""


class Session:
    """One client's TLS.

    :param context: With the certificate.

    :ivar is_open: Whether the handshake is over.
    :ivar has_more: Whether more may be decrypted of what has come.
    :ivar is_ended: Whether the client has said that it sends nothing more
        (``close_notify``).
    """

    __slots__ = (
        "_boundary",
        "_first",
        "_in",
        "_out",
        "_size",
        "_tls",
        "has_more",
        "is_ended",
        "is_open",
    )

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._boundary = RecordBoundary()
        #: The handshake's first bytes, and how many there were.
        self._first, self._size = b"", 0
        self.is_open = self.is_ended = self.has_more = False

    @property
    def is_within_record(self) -> bool:
        """Whether the client has sent a part of a record only."""
        return self._boundary.is_within

    @property
    def has_unread(self) -> bool:
        """Whether something has come that isn't decrypted yet."""
        return bool(self._in.pending or self._tls.pending())

    @property
    def is_resumed(self) -> bool:
        """Whether the handshake was a short one, by a ticket."""
        return bool(self._tls.session_reused)

    def certificate(self) -> bytes | None:
        """The client's certificate as DER, if it has given one."""
        return self._tls.getpeercert(binary_form=True)

    def feed(self, data: memoryview) -> bool:
        """Take in what the client has sent, and do what there is of the handshake.

        :return: Whether the handshake is over.
        :raises ssl.SSLError: It is no TLS, or none that is spoken here; what
            :meth:`pending` returns tells the client so.
        :raises HandshakeTooLong: It would take more memory than a handshake needs.
        """
        boundary = self._boundary
        size = len(data)
        # Most often it is one whole record.
        if boundary.is_within or size < 5 or size != 5 + (data[3] << 8 | data[4]):
            boundary.feed(data)
        self._in.write(data)
        if not self.is_open:
            self._check_size(data)
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            self.is_open = True
        return True

    def _check_size(self, data: memoryview) -> None:
        """Before OpenSSL takes memory for a handshake message of the length that it
        begins with, up to 128 KiB (``ossl_statem_server_max_message_size``)."""
        # With the handshake's end, much else may come.
        before, self._size = self._size, self._size + len(data)
        if len(self._first) < _HELLO_HEAD:
            self._first += data[: _HELLO_HEAD - len(self._first)]
        size = max(before, int.from_bytes(self._first[6:_HELLO_HEAD], "big"))
        if self._first[:1] == _HANDSHAKE and size > MOST_HANDSHAKE:
            raise HandshakeTooLong(f"a handshake of {size} bytes")

    def decrypt_into(self, buffer: memoryview) -> int:
        """Decrypt what has come.

        :return: How many bytes; 0 if there is nothing more for now.
        :raises ssl.SSLError: A record is no good.
        """
        count = 0
        self.has_more = False
        read, size = self._tls.read, len(buffer)
        while not self.is_ended:
            if size - count < RECORD:
                self.has_more = True
                break
            try:
                got = int(read(size - count, buffer[count:] if count else buffer))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                got = 0
            if not got:
                self.is_ended = True
                break
            count += got
            if not self._in.pending and not self._tls.pending():
                break
        return count

    def encrypt(self, data: memoryview) -> bytes:
        """What to send to the client for some bytes.

        :raises ssl.SSLError: The session is broken.
        """
        sent = 0
        while sent < len(data):
            sent += self._tls.write(data[sent:] if sent else data)
        return self._out.read()

    def pending(self) -> bytes:
        """What else there is to be sent to the client: of the handshake, or alerts."""
        return self._out.read() if self._out.pending else b""

    def end(self) -> bytes:
        """What to send to the client as the end: ``close_notify`` (RFC 8446, 6.1)."""
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            # It wants the client's too; ours is made.
            pass
        return self._out.read()
