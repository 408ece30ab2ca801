"""``wsgi.input``: a request's body and not a byte more.

The handler makes one for each request whose body isn't there with its head. The app
reads it. When the response begins, what is left decides whether the connection goes on.
"""

from __future__ import annotations

import io
import time
import typing as t

from ..system.slow_client import SlowClientBudget
from .chunked import Decoder
from .errors import BodyError
from .errors import BodyRefused
from .errors import ClientDisconnected
from .limits import Limits
from .wire import CHUNK
from .wire import Wire

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Bytes to read at once when all is to be read. The allocator has them at hand: with
#: 64 KiB each piece costs page faults, and all of it takes twice as long.
_PART = 32768


class Body(io.RawIOBase):
    """Reads a body from the wire.

    :param expects: Whether the client waits for ``100 Continue``, which is sent
        when the app reads first.

    :ivar expects: Whether it still does.
    :ivar done: Whether the body was read to its end.
    :ivar failed: Why it never will be. Every further read fails with it too: the
        place of the next request is unknown.
    """

    def __init__(self, wire: Wire, limits: Limits, expects: bool) -> None:
        self._wire = wire
        self._budget = SlowClientBudget(limits.min_data_rate)
        self.rate = limits.min_data_rate
        self.expects = expects
        self.done = False
        self.failed: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: t.Any) -> int:
        """Read what comes next, at most until the body's end.

        :raises BodyError: The body is malformed, too large or too slow.
        :raises ClientDisconnected: It ended too early.
        """
        if self.failed is not None:
            raise self.failed
        if self.done:
            return 0
        try:
            if self.expects:
                self.expects = False
                self._wire.write(_CONTINUE, None, self.rate)
            return self._fill(memoryview(buffer).cast("B"))
        except (BodyError, ClientDisconnected) as e:
            self.failed = e
            raise

    def readall(self) -> bytes:
        """Read all that comes. The base class would ask for 8 KiB at a time.

        :raises BodyError: See :meth:`readinto`.
        :raises ClientDisconnected: See :meth:`readinto`.
        """
        return b"".join(iter(lambda: self.read(_PART), b""))

    @property
    def arrived(self) -> bool:
        """Whether nothing of it is left on the wire: what comes next there is the next
        request."""
        raise NotImplementedError

    def _fill(self, view: memoryview) -> int:
        raise NotImplementedError

    def _store(self, data: bytes, limit: int) -> bool:
        """Take some of what was looked at, to be read later.

        :return: Whether what is held is within the limit.
        """
        raise NotImplementedError

    def fetch(self, limit: int, seconds: float) -> bool:
        """Take what is left from the wire, if it is little and there in a moment. The
        app can still read it.

        :param limit: Hold at most about so many bytes.
        :param seconds: Wait for at most so long in all.
        :return: Whether nothing is left.
        """
        wire = self._wire
        deadline = time.monotonic() + seconds
        try:
            while not self.arrived:
                if self.failed or self.expects:
                    return False
                data = wire.peek()
                if data:
                    if not self._store(data, limit):
                        return False
                elif data is not None:
                    return False
                else:
                    left = deadline - time.monotonic()
                    if left <= 0 or not wire.wait(left):
                        return False
        except (BodyError, ClientDisconnected) as e:
            self.failed = e
            return False
        return True


class Input(io.BufferedReader):
    """A body as a file: ``wsgi.input``.

    :param body: The body.
    """

    def __init__(self, body: Body) -> None:
        super().__init__(body, CHUNK)

    def readinto(self, buffer: t.Any) -> int:
        """As :class:`io.BufferedReader`; werkzeug's ``LimitedStream`` calls this.

        :raises BodyRefused: Instead of :exc:`.BodyError`, see there.
        """
        try:
            return super().readinto(buffer)
        except BodyError as e:
            raise BodyRefused(e.status, e.reason) from e


class LengthBody(Body):
    """A body with a Content-Length.

    :param length: In bytes, more than 0.
    """

    def __init__(self, wire: Wire, limits: Limits, expects: bool, length: int) -> None:
        super().__init__(wire, limits, expects)
        #: Bytes on the wire, and those before them that were taken from there.
        self._left = length
        self._stored = bytearray()

    @property
    def arrived(self) -> bool:
        return not self._left

    def _store(self, data: bytes, limit: int) -> bool:
        if self._left > limit:
            return False
        data = data[: self._left]
        self._wire.consume(len(data))
        self._stored += data
        self._left -= len(data)
        return True

    def _fill(self, view: memoryview) -> int:
        if self._stored:
            count = min(len(view), len(self._stored))
            view[:count] = self._stored[:count]
            del self._stored[:count]
            self.done = not self._left and not self._stored
            return count
        count = self._wire.read_into(view[: self._left], self._budget)
        if count <= 0:
            if not view:
                return 0
            raise _broken(count)
        self._left -= count
        self.done = not self._left
        return count


class ChunkedBody(Body):
    """A body in the chunked transfer coding."""

    def __init__(self, wire: Wire, limits: Limits, expects: bool) -> None:
        super().__init__(wire, limits, expects)
        self._decoder = Decoder(limits)
        self._content = memoryview(b"")

    def prefetch(self, data: bytes) -> bytes | None:
        """Decode what came with the head, so that what is malformed there is
        refused before the app runs.

        :param data: What was looked at behind the head; what belongs to the body
            is taken.
        :return: The content if that was all of it.
        :raises BodyError: 400 or 413.
        """
        content, used = self._decoder.feed(data, time.monotonic())
        if used:
            self._wire.consume(used)
            self.expects = False
        if self._decoder.done:
            self.done = True
            return content
        self._content = memoryview(content)
        return None

    @property
    def arrived(self) -> bool:
        return self._decoder.done

    def _store(self, data: bytes, limit: int) -> bool:
        if len(self._content) > limit:
            return False
        content, used = self._decoder.feed(data, time.monotonic())
        self._wire.consume(used)
        self._content = memoryview(self._content.tobytes() + content)
        return True

    def _fill(self, view: memoryview) -> int:
        while not self._content and not self._decoder.done:
            data = self._wire.wait_and_peek(self._budget)
            if not data:
                raise _broken(-1 if data is None else 0)
            content, used = self._decoder.feed(data, time.monotonic())
            self._wire.consume(used)
            self._budget.account(0, used)
            self._content = memoryview(content)
        count = min(len(view), len(self._content))
        view[:count] = self._content[:count]
        self._content = self._content[count:]
        self.done = self._decoder.done and not self._content
        return count


def _broken(count: int) -> OSError:
    if count < 0:
        return BodyError(408, "body too slow")
    return ClientDisconnected("the client left before its body's end")
