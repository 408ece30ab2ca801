"""The response: start_response, its rules, and framing (PEP 3333, RFC 9112, 6).

The handler makes a :class:`Response` for each request, gives its ``start`` to the app,
and then has it ``send`` what the app returned. The app calls ``start``, and may call
the ``write`` that this returns. The first byte of the body, or the end without one,
makes the head: there the framing is decided, and whether the connection goes on.

Head and first part go out in one write. Right before the last byte the monitor is told
that the worker is about to accept.

Never done here: wait for a client without its budget; ask the handler; change what the
head has promised.
"""

from __future__ import annotations

import typing as t

from ..system.slow_client import SlowClientBudget
from .fields import render
from .fields import statuses
from .file_wrapper import FileWrapper
from .file_wrapper import place
from .outbox import Outbox
from .wire import PARK_DELAY
from .wire import Wire

if t.TYPE_CHECKING:
    from types import TracebackType

    from .body import Body
    from .context import HandlerContext
    from .head import Head
    from .persistence import Persistence

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

#: Codes of responses whose framing is special: see :meth:`Response._frame`.
_SPECIAL = (204, 205, 304)

#: Bytes of an unread body that are worth reading to keep the connection.
_FETCH = 65536
#: Seconds for which a client may take nothing before another process sends the rest:
#: while others wait for this one, and while nobody does.
_MOMENT_CONTENDED = 0.005
_MOMENT = 0.02
#: Up to this size a chunk is joined with what goes before it, to be sent at once.
_JOIN = 65536


class Response:
    """One response to one request.

    :param context: Of the server.
    :param wire: Where to.
    :param head: The request's.
    :param body: The request's, unless all of it was there with the head.
    :param persistence: The connection's.
    :param server: For the Server field.

    :ivar status: The status sent, 0 before.
    :ivar keep_alive: Whether the connection persists, so far. Decided when the head is
        made; what that promises is kept.
    :ivar persists: The same, once all of it was sent; ``False`` before. If it was cut
        short, the connection's end is all that can tell the client.
    :ivar missing: Bytes that the Content-Length has promised and nobody gave yet;
        ``None`` without one.
    :ivar head: The head as it was sent, empty before.
    """

    _budget: SlowClientBudget | None = None
    _outbox: Outbox | None = None
    #: The status line, once start_response was called.
    _line: bytes | None = None
    _chunked = _bodyless = False
    #: Bytes of what frames the chunks.
    _framing = 0
    status = 0
    keep_alive = True
    persists = overlong = False
    missing: int | None = None
    head = b""

    def __init__(
        self,
        context: HandlerContext,
        wire: Wire,
        head: Head,
        body: Body | None,
        persistence: Persistence,
        server: str,
    ) -> None:
        self._context = context
        self._monitor = context.monitor
        self._rate = context.limits.min_data_rate
        self._wire = wire
        self._request = head
        self._body = body
        self._persistence = persistence
        self._server = server

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
        # Not stored before the fields are found good too.
        checked = statuses[status]
        self._fields, self._length, self._closes, self._upgrades = render(
            headers, self._server
        )
        self._code, self._line = checked
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's ``write``, and what sends each piece that the app yields.

        :raises ClientDisconnected: The client left, or doesn't take it in time.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"the app must yield bytes, not {type(data).__name__}")
        if not data:
            return
        head = b"" if self.status else self._start_body(None)
        size = len(data)
        if size == self.missing and size <= _JOIN:
            # Nearly always: the response is whole.
            self.missing = 0
            self._send_last(head + data)
        else:
            self._write_part(head, data)

    def _write_part(self, head: bytes, data: bytes) -> None:
        """Send a part of the body, with what is yet to be sent before it."""
        left = self.missing
        last = False
        if left is not None:
            if len(data) > left:
                self.overlong = True
                data = data[:left]
            self.missing = left = left - len(data)
            if not left:
                last = self._ends_connection()
                self._announce_end()
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
        elif self._bodyless:
            data = b""
        if head and len(data) > _JOIN:
            self._send(head)
        elif head:
            data = head + data
        if data:
            self._budget = self._wire.write(
                data, self._budget, self._rate, last, self._overflow
            )
        if self._bodyless or self.missing == 0:
            self.persists = self.keep_alive

    # What the handler calls.

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
            iterable = (self._join(iterable),)
        for data in iterable:
            self.write(data)
            if self.overlong or self._bodyless:
                break
        if self.missing != 0:
            self._finish()

    def _join(self, parts: t.Iterable[bytes]) -> bytes:
        """The body, where the app has given all of it before the head goes out, and
        so its length is known. To HEAD only the app can know what GET's would be,
        unless it gives it all the same."""
        body = b"".join(parts)
        is_known = body or self._request.method != "HEAD"
        if is_known and self._line is not None and self._length is None:
            self._length = len(body)
        return body

    def reset(self) -> None:
        """Forget what start_response set, for an error's response in its place."""
        self._line = None

    def _finish(self) -> None:
        """End a response whose last byte wasn't known to be that."""
        if not self.status:
            self._send_last(self._start_body(0))
        elif self._chunked:
            self._framing += 5
            self._send_last(b"0\r\n\r\n")
        if self.missing:
            self.keep_alive = self.persists = False
        else:
            self.persists = self.keep_alive

    def _send_last(self, data: bytes) -> None:
        """Send the last bytes of the response."""
        wire = self._wire
        self._monitor.about_to_accept()
        self._budget = wire.write(
            data,
            self._budget,
            self._rate,
            not self.keep_alive and not wire.shared,
            self._overflow,
        )
        self.persists = self.keep_alive

    def _start_body(self, length: int | None) -> bytes:
        """Decide on the framing, and make the head.

        :param length: The body's length, if it is known though the app didn't
            tell.
        """
        if self._wire.before_write is not None:
            self._wire.before_write()
        if self._line is None:
            raise AssertionError("write() before start_response()")
        code = self._code
        request = self._request
        if code in _SPECIAL or request.method == "HEAD":
            framing = self._frame(code)
        else:
            if self._length is not None:
                length = self._length
            if length is not None:
                self.missing = length
                framing = b"Content-Length: %d\r\n" % length
            elif request.minor:
                self._chunked = True
                framing = b"Transfer-Encoding: chunked\r\n"
            else:
                self.keep_alive = False
                framing = b""
        persists = (
            request.keep_alive
            and self.keep_alive
            and not self._closes
            and not self._wire.shared
            and self._persistence.may_persist()
        )
        if self._body is not None:
            persists = self._settle_body(self._body, persists)
        self.keep_alive = persists
        if not persists:
            connection = b"Connection: close\r\n\r\n"
        elif request.minor:
            connection = b"\r\n"
        else:
            connection = b"Connection: keep-alive\r\n\r\n"
        if self._upgrades:
            connection = _add_upgrade(connection)
        self.status = code
        self._before = self._wire.sent
        self.head = head = self._line + self._fields + framing + connection
        return head

    def _settle_body(self, body: Body, persists: bool) -> bool:
        """Take what is left of the request's body, if the connection is to persist.

        As long as some of it isn't here, nobody can tell whether the app will read it;
        or whether a client that waits for 100 will send it.

        :return: Whether the connection still persists.
        """
        if persists:
            moment = 0.0 if self._monitor.contended() else PARK_DELAY
            persists = body.fetch(_FETCH, moment)
        # What is sent from now on belongs to this response.
        body.expects = False
        return persists

    def _ends_connection(self) -> bool:
        """Whether the connection's end can be sent with the response's last byte.
        Who has asked for ``wfile`` may go on."""
        wire = self._wire
        return not self.keep_alive and not wire.shared

    def _announce_end(self) -> None:
        """Tell the monitor that the last byte is about to be sent: the worker is free
        in a moment."""
        self._monitor.about_to_accept()

    def _frame(self, code: int) -> bytes:
        """The framing of a response without a body, whatever the app yields
        (RFC 9110, 8.6, 15.3.6 and 15.4.5)."""
        self._bodyless = True
        if code == 205:
            return b"Content-Length: 0\r\n"
        if code in _SPECIAL:
            return b""
        # To HEAD, what GET would get.
        return b"" if self._length is None else b"Content-Length: %d\r\n" % self._length

    def _send(self, data: bytes, last: bool = False) -> None:
        self._budget = self._wire.write(
            data, self._budget, self._rate, last, self._overflow
        )

    # A client that is slow to take it.

    def _overflow(self, rest: memoryview, budget: SlowClientBudget) -> bool:
        """The client's socket is full: let it wait elsewhere, if it remains so.

        :return: Whether all of it was sent, or is kept.
        """
        limit = self._context.limits.buffer_response
        if len(rest) > limit or not self._may_deliver():
            return False
        wire = self._wire
        while self._is_taking():
            count = wire.send_some(rest)
            rest = rest[count:]
            if not rest:
                return True
        outbox = Outbox(wire, limit, self._monitor, self._rate, budget)
        if not outbox.append(rest):
            outbox.close()
            return False
        wire.outbox = self._outbox = outbox
        return True

    def _overflow_file(
        self, fd: int, offset: int, length: int, budget: SlowClientBudget
    ) -> bool:
        """The same with the rest of a file.

        :return: Whether it is kept.
        """
        wire = self._wire
        if wire.outbox is not None:
            return wire.outbox.append_file(fd, offset, length)
        if not self._may_deliver() or self._is_taking():
            return False
        limit = self._context.limits.buffer_response
        outbox = Outbox(wire, limit, self._monitor, self._rate, budget)
        if not outbox.append_file(fd, offset, length):
            return False
        wire.outbox = outbox
        return True

    def _may_deliver(self) -> bool:
        """Whether another process can send the rest."""
        return (
            self._context.limits.buffer_response > 0
            and self._persistence.can_park()
            and not self._wire.shared
            and not (self._outbox is not None and self._outbox.is_app_slow)
        )

    def _is_taking(self) -> bool:
        """Wait a moment for room: what hands a connection over costs more."""
        contended = self._monitor.contended()
        return self._wire.wait_writable(_MOMENT_CONTENDED if contended else _MOMENT)

    def _send_file(self, file: t.Any) -> bool:
        """Let the kernel send a file.

        :return: Whether it did; if not, it is to be read.
        """
        if self.status or self._request.method == "HEAD":
            return False
        found = place(file)
        if found is None:
            return False
        fd, offset, there = found
        self._send(self._start_body(there))
        if not self._bodyless:
            assert self.missing is not None
            if self._budget is None:
                self._budget = SlowClientBudget(self._rate)
            sent = self._wire.send_file(
                fd,
                offset,
                min(there, self.missing),
                self._budget,
                self._overflow_file,
            )
            if sent is None:
                return False
            self.missing -= sent
        self._finish()
        return True


def _add_upgrade(connection: bytes) -> bytes:
    """Name the Upgrade field among the connection's options, as who sends it must
    (RFC 9110, 7.8).

    :param connection: The Connection field, if any, and the empty line.
    """
    line = connection.removesuffix(b"\r\n\r\n")
    line = b"Connection: upgrade" if line == connection else line + b", upgrade"
    return line + b"\r\n\r\n"
