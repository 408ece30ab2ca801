"""Collects a request's body before the app is called: a slow client holds no worker.

The handler makes a :class:`Collector` when a body isn't all there with its head, and
calls :meth:`Collector.run`. That takes what comes quickly. When nothing comes for a
moment the connection is parked: what there is of the body goes with it in a spool, and
behind that what is needed to go on (:func:`_dump`). The next worker begins with
:func:`restore`. :meth:`Collector.finish` gives the app's ``wsgi.input``.

Never done here: wait longer than a moment; take what belongs to the next request.
"""

from __future__ import annotations

import io
import json
import os
import struct
import time
import typing as t

from ..system.parked_state import Parked
from ..system.parked_state import Size
from ..system.parked_state import Wait
from ..system.slow_client import SlowClientBudget
from ..system.spool import IN_MEMORY
from ..system.spool import Spool
from .body import ChunkedBody
from .body import Input
from .body import LengthBody
from .errors import BodyError
from .errors import Refused
from .handback import Collecting
from .wire import CHUNK
from .wire import PARK_DELAY

if t.TYPE_CHECKING:
    from .body import Body
    from .context import HandlerContext
    from .head import Head
    from .wire import Wire

#: Bytes to write to a spool at once, and those that a parked client has to send before
#: a worker is of use.
_PART = 1 << 18
#: What is collected in memory may be longer by one piece.
_MEMORY = IN_MEMORY + CHUNK
#: A client keeps its worker for so many seconds in all, and for one more for each so
#: many bytes. Those that are slower wait parked.
_PATIENCE = 0.01
#: Seconds that one which has begun quickly may pause while nobody else waits: writing
#: what there is into a spool costs more.
_MOMENT = 0.005
_QUICK = 1 << 22
#: Seconds after which to try again when there is no room for a body.
_RETRY_AFTER = 10
#: At the end of a spool: how long what is before it is that isn't of the body.
_SIZE = struct.Struct("=Q")


class Suspended(t.NamedTuple):
    """A body that was being collected when its connection was parked.

    :param head: The request's head as it came.
    :param state: What the body goes on from, see :meth:`.Body.load`.
    :param spool: What there is of it.
    :param parked: How the connection was parked.
    """

    head: bytes
    state: list[t.Any]
    spool: Spool
    parked: Parked


def restore(spool: Spool, parked: Parked) -> Suspended:
    """Read what is needed to go on, and leave the content in the spool.

    :param spool: Given up by this.
    """
    end = spool.size - _SIZE.size
    (size,) = _SIZE.unpack(os.pread(spool.fd, _SIZE.size, end))
    head, state = json.loads(os.pread(spool.fd, size, end - size))
    os.ftruncate(spool.fd, end - size)
    content = Spool.adopt(spool.detach(), end - size)
    return Suspended(head.encode("latin-1"), state, content, parked)


def _dump(head: Head, body: Body) -> bytes:
    data = json.dumps([head.raw.decode("latin-1"), body.dump()]).encode()
    return data + _SIZE.pack(len(data))


class Collector:
    """A body that is being collected.

    :param context: Of its server.
    :param wire: The connection; what comes next is of the body.
    :param head: The request's.
    :param parked: How the connection was parked, if it was.
    :param spool: What there is already; owned from now on.
    :param body: Reads the rest, if that has begun.
    """

    def __init__(
        self,
        context: HandlerContext,
        wire: Wire,
        head: Head,
        parked: Parked | None = None,
        spool: Spool | None = None,
        body: Body | None = None,
    ) -> None:
        self._monitor = context.monitor
        self._limits = limits = context.limits
        self._wire = wire
        self._head = head
        self._spool = spool
        #: What is behind that, and how many bytes it has. The memory is the server's,
        #: for one body at a time: new memory costs as much as the copying.
        self._context = context
        self._memory, context.memory = context.memory or bytearray(_MEMORY), None
        self._held = 0
        if body is not None:
            self._body = body
        elif head.length < 0:
            self._body = ChunkedBody(wire, limits, False)
        else:
            self._body = LengthBody(wire, limits, False, head.length)
        #: Until when it was to wait, and bytes that were accounted for before.
        self._deadline = None if parked is None else parked.deadline
        self._accounted = 0 if parked is None else parked.have
        if parked is not None:
            left = parked.deadline - time.monotonic()
            self._body.budget = SlowClientBudget(limits.min_data_rate, left)
        is_patient = parked is None or not self._monitor.contended()
        self._patience = _PATIENCE if is_patient else 0.0
        #: Bytes that came since.
        self._came = 0

    @classmethod
    def resume(
        cls, context: HandlerContext, wire: Wire, head: Head, before: Suspended
    ) -> Collector:
        """Go on with one that was parked."""
        self = cls(context, wire, head, before.parked, before.spool)
        self._body.load(before.state)
        return self

    @property
    def _size(self) -> int:
        return self._held + (self._spool.size if self._spool else 0)

    def run(self) -> Collecting | None:
        """Take what is there and what comes quickly.

        :return: How to park the connection, or ``None`` to serve the request: the body
            is whole, or the app is to read the rest from the wire.
        :raises Refused: There is no room for it, while others wait.
        :raises BodyError: It is malformed, too large or too slow, or ended early.
        :raises ClientDisconnected: The connection is broken.
        """
        body, limit = self._body, self._limits.buffer_body
        while not body.arrived and (room := limit - self._size) > 0:
            end = self._held + min(room, CHUNK)
            found = body.take_into(memoryview(self._memory)[self._held : end])
            if found is not None:
                self._add(*found)
                if not self._fits_in_memory() and not self._store():
                    self._refuse_if_contended()
                    return None
            elif self._is_late():
                raise BodyError(408, "body too slow")
            elif not self._wait_a_moment():
                return self._suspend()
        return None

    def _add(self, size: int, count: int) -> None:
        """Account for what was taken.

        :param size: Bytes of content,
        :param count: and of what they took on the wire.
        """
        self._held += size
        again = min(count, self._accounted)
        self._accounted -= again
        self._came += count - again
        self._body.budget.account(0, count - again)

    def _fits_in_memory(self) -> bool:
        limit = IN_MEMORY if self._spool is None else _PART
        return self._held < limit

    def _is_late(self) -> bool:
        if self._limits.min_data_rate or self._deadline is None:
            return self._body.budget.seconds_left() <= 0
        return not self._came and time.monotonic() >= self._deadline

    def _wait_a_moment(self) -> bool:
        """Wait for more, unless the client is slow."""
        if self._patience + self._came / _QUICK <= 0:
            return False
        start = time.monotonic()
        ready = self._wire.wait(PARK_DELAY)
        if not ready and self._came and not self._monitor.contended():
            ready = self._wire.wait(_MOMENT)
        waited = time.monotonic() - start
        self._patience -= waited
        self._body.budget.account(waited, 0)
        return ready

    def _store(self, tail: bytes = b"") -> bool:
        """Move what is in memory into the spool.

        :param tail: What to write behind it.
        :return: Whether there was room. If not, it stays in memory.
        """
        if self._size + len(tail) > self._monitor.spool_room():
            return False
        try:
            if self._spool is None:
                length = max(self._head.length, self._held)
                self._spool = Spool(min(length, self._limits.buffer_body))
            size = self._spool.size
            self._spool.append(memoryview(self._memory)[: self._held])
            try:
                self._spool.append(tail)
            except OSError:
                self._spool.size = size
                raise
        except OSError:
            return False
        self._held = 0
        return True

    def _refuse_if_contended(self) -> None:
        """There is no room for more, so its worker would have to wait for the client.

        :raises Refused: Others wait for the worker.
        """
        if self._monitor.contended():
            raise Refused(503, "no room for the body", retry_after=_RETRY_AFTER)

    def suspend(self, parked: Parked) -> Collecting | None:
        """Park the connection though all of the body is there that is collected.

        :param parked: How it waits.
        :return: ``None`` if there is no room for what there is.
        """
        if not self._store(_dump(self._head, self._body)) or self._spool is None:
            return None
        spool, self._spool = self._spool, None
        self.close()
        return Collecting(parked._replace(spooled=Size(spool.size)), spool)

    def _suspend(self) -> Collecting | None:
        """Park the connection, if there is room for what there is."""
        body = self._body
        need = 0
        if self._head.length > 0 and not self._wire.local:
            room = self._limits.buffer_body - self._size
            need = min(body.left, room, _PART)
        if not self._store(_dump(self._head, body)) or self._spool is None:
            self._refuse_if_contended()
            return None
        parked = Parked(
            Wait.BODY,
            time.monotonic() + body.budget.seconds_left(),
            need=need,
            rate=self._limits.min_data_rate,
            spooled=Size(self._spool.size),
        )
        spool, self._spool = self._spool, None
        self.close()
        return Collecting(parked, spool)

    def finish(self) -> tuple[t.Any, Body | None]:
        """Give the body to the app.

        :return: ``wsgi.input``, to be closed after the request; and what is to be read
            from the wire, if anything is.
        """
        body, spool = self._body, self._spool
        if spool is None or not spool.size:
            return self._finish_memory()
        if body.arrived and self._size <= CHUNK:
            first = os.pread(spool.fd, spool.size, 0)
            stored = io.BytesIO(first + self._rest)
            self.close()
            return stored, None
        return self._finish_file(spool)

    @property
    def _rest(self) -> bytes:
        return bytes(memoryview(self._memory)[: self._held])

    def _finish_memory(self) -> tuple[t.Any, Body | None]:
        body = self._body
        if body.arrived and self._held <= CHUNK:
            stored = io.BytesIO(self._rest)
            self.close()
            return stored, None
        self._close_spool()
        body.before.append(InMemory(self._context, self._memory, self._held))
        return Input(body), None if body.arrived else body

    def _finish_file(self, spool: Spool) -> tuple[t.Any, Body | None]:
        body = self._body
        if self._held:
            self._store()
        # A write that failed may have left more.
        os.ftruncate(spool.fd, spool.size)
        file = os.fdopen(spool.detach(), "rb", CHUNK)
        file.seek(0)
        rest = self._rest
        self.close()
        if body.arrived and not rest:
            return file, None
        body.before += [file, io.BytesIO(rest)]
        return Input(body), None if body.arrived else body

    def close(self) -> None:
        """Give it up."""
        self._context.memory = self._memory
        self._close_spool()

    def _close_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None


class InMemory(io.RawIOBase):
    """Reads a body from the memory in which it was collected, and gives that back.

    :param context: Whose memory it is.
    :param memory: It has the body at its beginning.
    :param size: The body's bytes.
    """

    def __init__(self, context: HandlerContext, memory: bytearray, size: int) -> None:
        self._context = context
        self._memory = memory
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: t.Any) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._size - self._position)
        end = self._position + count
        view[:count] = memoryview(self._memory)[self._position : end]
        self._position = end
        return count

    def close(self) -> None:
        """What comes next there is another body."""
        if not self.closed:
            self._context.memory, self._size = self._memory, self._position
        super().close()
