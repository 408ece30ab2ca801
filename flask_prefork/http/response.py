"""The response: start_response, its rules, and framing (PEP 3333, RFC 9112, 6)."""

from __future__ import annotations

import io
import os
import re
import stat
import time
import typing as t
from email.utils import formatdate

from .file_wrapper import FileWrapper
from .wire import Pace
from .wire import Wire

if t.TYPE_CHECKING:
    from types import TracebackType

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS = re.compile(r"([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_CONTROL = bytes([*range(9), *range(10, 32), 127])

_PLAIN, _LENGTH, _DATE, _SERVER, _HOP = range(5)
#: What a field means to the server, by its name in lower case. The hop-by-hop ones
#: are those of wsgiref: the server owns the connection.
_MEANINGS = {
    "content-length": _LENGTH,
    "date": _DATE,
    "server": _SERVER,
    "connection": _HOP,
    "keep-alive": _HOP,
    "proxy-authenticate": _HOP,
    "proxy-authorization": _HOP,
    "te": _HOP,
    "trailers": _HOP,
    "transfer-encoding": _HOP,
    "upgrade": _HOP,
}
# Caches of what was checked; bounded, because an app could make up names.
_names: dict[str, int] = {}
_statuses: dict[str, tuple[int, bytes]] = {}
_now: tuple[int, bytes] = (0, b"")

#: Up to this size a chunk is joined with what goes before it, to be sent at once.
_JOIN = 65536


def date_line() -> bytes:
    """The Date field, made once a second."""
    global _now
    second = int(time.time())
    if _now[0] != second:
        _now = second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
    return _now[1]


class Response:
    """One response to one request.

    :param wire: Where to.
    :param method: The request's method.
    :param minor: The minor version of the request's HTTP/1.
    :param server: For the Server field.
    :param rate: Bytes per second that the client must take; 0 for any.
    :param ask: Asked when the head is made: may the connection persist?
    :param last: Called when the response's last byte is about to be sent; tells
        whether the connection ends with it.

    :ivar status: The status sent, 0 before.
    :ivar keep_alive: Whether the connection persists, so far.
    :ivar head: The head as it was sent, empty before.
    """

    __slots__ = (
        "_ask",
        "_before",
        "_bodyless",
        "_chunked",
        "_code",
        "_fields",
        "_framing",
        "_left",
        "_length",
        "_line",
        "_is_head",
        "_last",
        "_minor",
        "_pace",
        "_rate",
        "_server",
        "_wire",
        "head",
        "keep_alive",
        "overlong",
        "status",
    )

    def __init__(
        self,
        wire: Wire,
        method: str,
        minor: int,
        server: str,
        rate: float,
        ask: t.Callable[[], bool],
        last: t.Callable[[], bool],
    ) -> None:
        self._wire = wire
        self._is_head = method == "HEAD"
        self._minor = minor
        self._server = server
        self._rate = rate
        self._ask = ask
        self._last = last
        self._pace: Pace | None = None
        self._line: bytes | None = None
        self._chunked = False
        self._framing = 0
        self._left: int | None = None
        self.head = b""
        self.keep_alive = True
        self.overlong = False
        self.status = 0

    # What the app calls.

    def start(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: ExcInfo | None = None,
    ) -> t.Callable[[bytes], None]:
        """PEP 3333's ``start_response``.

        :raises AssertionError: It was called before, without ``exc_info``.
        :raises ValueError: For what can't be sent, or isn't the app's to send.
        """
        if exc_info:
            try:
                if self.status:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._line is not None:
            raise AssertionError("start_response() was called before")
        line = _statuses.get(status)
        if line is None:
            line = _check_status(status)
        self._set_fields(headers)
        self._code, self._line = line
        return self.write

    def _set_fields(self, headers: list[tuple[str, str]]) -> None:
        lines = []
        length = None
        date = server = False
        for name, value in headers:
            meaning = _names.get(name)
            if meaning is None:
                meaning = _check_name(name)
            if meaning:
                if meaning == _LENGTH:
                    if length is not None:
                        raise ValueError("more than one Content-Length")
                    if not (value.isascii() and value.isdigit()):
                        raise ValueError(f"malformed Content-Length: {value!r}")
                    length = int(value)
                    continue
                if meaning == _DATE:
                    if date:
                        raise ValueError("more than one Date")
                    date = True
                elif meaning == _SERVER:
                    if server:
                        raise ValueError("more than one Server")
                    server = True
                else:
                    raise ValueError(
                        f"{name} is about the connection, which is the server's"
                        " (PEP 3333)"
                    )
            # Not an f-string: what isn't a str must not pass.
            lines.append(name + ": " + value)
        if not server:
            lines.append(f"Server: {self._server}")
        lines.append("")
        fields = "\r\n".join(lines).encode("latin-1")
        # The line ends are the only control characters, if all is well.
        if len(fields) - len(fields.translate(None, _CONTROL)) != 2 * len(lines) - 2:
            raise ValueError("control character in a header's value")
        self._fields = fields if date else date_line() + fields
        self._length = length

    def write(self, data: bytes) -> None:
        """PEP 3333's ``write``, and what sends each piece that the app yields.

        :raises ClientDisconnected: The client left, or doesn't take it in time.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"the app must yield bytes, not {type(data).__name__}")
        if not data:
            return
        head = b"" if self.status else self._start_body(None)
        last = False
        if self._bodyless:
            data = b""
        elif self._left is not None:
            if len(data) > self._left:
                self.overlong = True
                data = data[: self._left]
            self._left -= len(data)
            if not self._left:
                last = self._last()
        elif self._chunked:
            size = b"%x\r\n" % len(data)
            self._framing += len(size) + 2
            head += size
            if len(data) > _JOIN:
                self._send(head)
                self._send(data)
                head, data = b"", b"\r\n"
            else:
                data += b"\r\n"
        if len(data) > _JOIN:
            if head:
                self._send(head)
            self._send(data, last)
        elif head or data:
            self._send(head + data if head else data, last)

    # What the handler calls.

    @property
    def started(self) -> bool:
        """Whether start_response was called."""
        return self._line is not None

    @property
    def missing(self) -> int:
        """Bytes that the Content-Length has promised and nobody gave."""
        return 0 if self._bodyless else (self._left or 0)

    @property
    def body_sent(self) -> int:
        """Bytes of the body that were sent, without what frames them."""
        if not self.head:
            return 0
        around = self._before + len(self.head) + self._framing
        return max(self._wire.sent - around, 0)

    def send(self, iterable: t.Iterable[bytes]) -> None:
        """Send what the app returned, to its end.

        :raises AssertionError: start_response was not called.
        """
        if type(iterable) is FileWrapper and self._send_file(iterable.file):
            return
        if isinstance(iterable, (list, tuple)) and not self.status:
            # Of a sequence the length is known before the head goes out. For HEAD
            # only the app can know what GET's would be.
            iterable = (b"".join(iterable),)
            if self._line is not None and self._length is None and not self._is_head:
                self._length = len(iterable[0])
        for data in iterable:
            self.write(data)
            if self.overlong or (self.status and self._bodyless):
                break
        self._finish()

    def reset(self) -> None:
        """Forget what start_response set, for an error's response in its place."""
        self._line = None

    def _finish(self) -> None:
        if not self.status:
            head = self._start_body(0)
            self._send(head, self._last())
        elif self._chunked:
            self._framing += 5
            self._send(b"0\r\n\r\n", self._last())
        if self.missing:
            self.keep_alive = False

    def _start_body(self, length: int | None) -> bytes:
        """Decide on the framing, and make the head.

        :param length: The body's length, if it is known though the app didn't
            tell.
        """
        if self._line is None:
            raise AssertionError("write() before start_response()")
        code = self._code
        if self._length is None and not self._is_head:
            self._length = length
        framing = b""
        # RFC 9110, 8.6 and 15.4.5; and 15.3.6 for 205.
        self._bodyless = self._is_head or code < 200 or code in (204, 205, 304)
        if code < 200:
            # No final response, so nobody would know what comes next.
            self.keep_alive = False
        elif code in (204, 304):
            pass
        elif code == 205:
            framing = b"Content-Length: 0\r\n"
        elif self._length is not None:
            framing = b"Content-Length: %d\r\n" % self._length
            self._left = self._length
        elif self._bodyless:
            pass
        elif self._minor:
            self._chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        else:
            self.keep_alive = False
        if self.keep_alive:
            self.keep_alive = self._ask()
        if not self.keep_alive:
            connection = b"Connection: close\r\n\r\n"
        elif self._minor:
            connection = b"\r\n"
        else:
            connection = b"Connection: keep-alive\r\n\r\n"
        self.status = code
        self._before = self._wire.sent
        self.head = b"%b%b%b%b" % (self._line, self._fields, framing, connection)
        return self.head

    def _send(self, data: bytes, last: bool = False) -> None:
        self._pace = self._wire.write(data, self._pace, self._rate, last)

    def _send_file(self, file: t.Any) -> bool:
        """Let the kernel send a file.

        :return: Whether it did; if not, it is to be read.
        """
        if self.status or not self._wire.plain or self._is_head:
            return False
        try:
            fd = file.fileno()
            info = os.fstat(fd)
            # Of a buffered file the descriptor's own offset is further on.
            offset = file.tell()
        except (AttributeError, OSError, ValueError):
            return False
        if not stat.S_ISREG(info.st_mode) or isinstance(file, io.TextIOBase):
            return False
        there = max(info.st_size - offset, 0)
        self._send(self._start_body(there))
        if not self._bodyless:
            assert self._left is not None
            if self._pace is None:
                self._pace = Pace(self._rate)
            sent = self._wire.send_file(fd, offset, min(there, self._left), self._pace)
            if sent is None:
                return False
            self._left -= sent
        self._finish()
        return True


def _check_status(status: str) -> tuple[int, bytes]:
    if not isinstance(status, str):
        raise TypeError(f"the status must be a str, not {type(status).__name__}")
    found = _STATUS.fullmatch(status)
    if found is None:
        raise ValueError(f"malformed status: {status!r}")
    # The space is there even without a phrase (RFC 9112, 4).
    line = f"HTTP/1.1 {found[1]} {found[2] or ''}\r\n".encode("latin-1")
    if len(_statuses) < 256:
        _statuses[status] = int(found[1]), line
    return int(found[1]), line


def _check_name(name: str) -> int:
    if not isinstance(name, str):
        raise TypeError(f"a header's name must be a str, not {type(name).__name__}")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"malformed header name: {name!r}")
    meaning = _MEANINGS.get(name.lower(), _PLAIN)
    if len(_names) < 1024:
        _names[name] = meaning
    return meaning
