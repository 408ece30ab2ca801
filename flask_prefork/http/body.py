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
    :ivar before: Files with what was taken from the wire, to be read first.
    :ivar budget: How long the client may let us wait.
    :ivar done: Whether the body was read to its end.
    :ivar failed: Why it never will be. Every further read fails with it too: the
        place of the next request is unknown.
    """

    def __init__(self, wire: Wire, limits: Limits, expects: bool) -> None:
        self._wire = wire
        self.budget = SlowClientBudget(limits.min_data_rate)
        self.before: list[t.Any] = []
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
        while self.before:
            count = self.before[0].readinto(buffer)
            if count:
                return int(count)
            self.before.pop(0).close()
        if self.done:
            return 0
        try:
            self.send_continue()
            if self._wire.outbox is not None:
                # The client may wait for it before it sends more.
                self._wire.outbox.drain()
            return self._fill(memoryview(buffer).cast("B"))
        except (BodyError, ClientDisconnected) as e:
            self.failed = e
            raise

    def send_continue(self) -> None:
        """Let a client that waits for it send the body (RFC 9110, 10.1.1).

        :raises ClientDisconnected: It has left.
        """
        if self.expects:
            self.expects = False
            self._wire.write(_CONTINUE, None, self.rate)

    def readall(self) -> bytes:
        """Read all that comes. The base class would ask for 8 KiB at a time.

        :raises BodyError: See :meth:`readinto`.
        :raises ClientDisconnected: See :meth:`readinto`.
        """
        return b"".join(iter(lambda: self.read(_PART), b""))

    def close(self) -> None:
        """Close the files that it reads from."""
        for file in self.before:
            file.close()
        super().close()

    @property
    def arrived(self) -> bool:
        """Whether nothing of it is left on the wire: what comes next there is the next
        request."""
        raise NotImplementedError

    @property
    def left(self) -> int:
        """Bytes that are still on the wire, -1 if that isn't known."""
        return -1

    def take_into(self, view: memoryview) -> tuple[int, int] | None:
        """Take what is there, without waiting.

        :return: How many bytes of content, and how many they took on the wire; ``None``
            if nothing is there.
        :raises BodyError: The body is malformed, too large, or ended early.
        :raises ClientDisconnected: The connection is broken.
        """
        raise NotImplementedError

    def dump(self) -> list[t.Any]:
        """Where its end is, of what was taken. To be kept as JSON."""
        raise NotImplementedError

    def load(self, state: list[t.Any]) -> None:
        """Go on from what :meth:`dump` returned, in another process."""
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

    @property
    def left(self) -> int:
        return self._left

    def take_into(self, view: memoryview) -> tuple[int, int] | None:
        count = self._wire.take_into(view[: self._left])
        if count is None:
            return None
        if not count:
            raise _ended()
        self._left -= count
        return count, count

    def dump(self) -> list[t.Any]:
        return [self._left]

    def load(self, state: list[t.Any]) -> None:
        (self._left,) = state

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
        if not self._left:
            self.done = True
            return 0
        count = self._wire.read_into(view[: self._left], self.budget)
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

    def take_into(self, view: memoryview) -> tuple[int, int] | None:
        used = 0
        if not self._content:
            data = self._wire.peek()
            if data is None:
                return None
            if not data:
                raise _ended()
            # No more than there is room for: it may be the last that is taken.
            data = data[: len(view)]
            content, used = self._decoder.feed(data, time.monotonic())
            self._wire.consume(used)
            self._content = memoryview(content)
        count = min(len(view), len(self._content))
        view[:count] = self._content[:count]
        self._content = self._content[count:]
        return count, used

    def dump(self) -> list[t.Any]:
        return self._decoder.dump()

    def load(self, state: list[t.Any]) -> None:
        self._decoder.load(state)

    def _store(self, data: bytes, limit: int) -> bool:
        if len(self._content) > limit:
            return False
        content, used = self._decoder.feed(data, time.monotonic())
        self._wire.consume(used)
        self._content = memoryview(self._content.tobytes() + content)
        return True

    def _fill(self, view: memoryview) -> int:
        while not self._content and not self._decoder.done:
            data = self._wire.wait_and_peek(self.budget)
            if not data:
                raise _broken(-1 if data is None else 0)
            content, used = self._decoder.feed(data, time.monotonic())
            self._wire.consume(used)
            self.budget.account(0, used)
            self._content = memoryview(content)
        count = min(len(view), len(self._content))
        view[:count] = self._content[:count]
        self._content = self._content[count:]
        self.done = self._decoder.done and not self._content
        return count


def _ended() -> BodyError:
    return BodyError(400, "the body ended early")


def _broken(count: int) -> OSError:
    if count < 0:
        return BodyError(408, "body too slow")
    return ClientDisconnected("the client left before its body's end")
