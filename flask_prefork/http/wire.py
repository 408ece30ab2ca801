"""A client's socket: nothing waits on it without a deadline.

There is one for each connection that a worker serves. ``connection.py`` peeks for
heads, ``handler.py`` consumes them, ``body.py`` reads bodies, ``response.py`` writes,
and the end is ``finish`` or ``linger``. ``before_write`` is called before anything is
sent, if the app might have taken the connection over.

On a plain socket a head is looked at with ``MSG_PEEK`` and only what belongs to the
request is consumed, so that the rest stays in the kernel and the connection can go to
another process at any time. TLS has no such look: there, and where a connection
stays with its process anyway, what comes is kept in a buffer here.

Never done here: parse; close the socket, which is for who has accepted it, but where
nothing can follow the last byte; wait for longer than the caller or the client's budget
allows.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import time
import typing as t
from collections.abc import Callable

from ..system import forks
from ..system.slow_client import SlowClientBudget
from ..system.socket_state import bytes_queued
from .errors import ClientDisconnected

if t.TYPE_CHECKING:
    from ..system.parked_state import Wait
    from .handback import Delivery

_PEEK = socket.MSG_PEEK | socket.MSG_DONTWAIT
_NOW = socket.MSG_DONTWAIT
#: The end follows at once, and goes in the same segment where the system can.
_LAST = _NOW | getattr(socket, "MSG_MORE", 0)
#: The client has sent its end (``poll(2)``).
HANG_UP = getattr(select, "POLLRDHUP", 0)
READABLE = select.POLLIN | HANG_UP
#: Bytes to ask the kernel for at once, and for a head.
CHUNK = 65536
_USUAL = 8192

#: Seconds to wait for more before a connection is parked: less than what handing it
#: over and back would cost.
PARK_DELAY = 0.001
#: Seconds of each wait for a client that stays with its worker, between looks at
#: what goes on around.
CHECK_INTERVAL = 0.25
#: What sendfile(2) gives for files that it can't send.
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
#: Bytes for one sendfile: a slow disk must not hide a slow client for long.
_SENDFILE_MAX = 1 << 24

#: Seconds between two looks at what a client has taken of a full send queue: it isn't
#: writable before a good part of that is free.
_SEND_STEP = 0.25
#: Seconds of each wait for a client that has got its last response.
_LINGER_STEP = 0.01


def wait_for_room(
    sock: socket.socket,
    budget: SlowClientBudget,
    wait: Callable[[float], bool],
    progress: Callable[[], None],
    limit: float = math.inf,
    contended: Callable[[], bool] = lambda: False,
) -> bool:
    """Wait until there is room in a socket's send queue. What the client takes of it
    meanwhile is progress, though the socket isn't writable yet.

    :param wait: Waits for that, for at most so many seconds.
    :param progress: Called when the client has taken something.
    :param limit: Seconds to wait at most, whatever it takes.
    :param contended: Tells whether others wait for the worker.
    :return: ``False`` if the client is too slow.
    """
    last = bytes_queued(sock) or 0
    now = time.monotonic()
    limit += now
    end = min(now + budget.seconds_left(), limit)
    while now < end:
        ready = wait(min(end - now, _SEND_STEP))
        before, now = now, time.monotonic()
        left = bytes_queued(sock) or 0
        taken = max(last - left, 0)
        last = left
        budget.hurry(contended())
        budget.account_queue(now - before, taken)
        if taken:
            end = min(now + budget.seconds_left(), limit)
            progress()
        if ready:
            return True
    return False


class UnsentData(t.Protocol):
    """What waits to be sent, and is before all that follows: :class:`.Outbox`."""

    def write(self, data: bytes | memoryview) -> bool:
        """Send behind all that waits; ``False`` if nothing does any more."""

    def append_file(self, fd: int, offset: int, length: int) -> bool:
        """Keep a part of a file; ``False`` if that can't be."""

    def drain(self) -> None:
        """Wait until the client has taken all."""

    def close(self) -> None:
        """Give it up."""

    def deliver(self, wait: Wait, seconds: float) -> Delivery:
        """Let another process send it."""


class Wire:
    """A connection's socket.

    :param sock: Connected, and nobody else reads from it.
    :param local: Whether it is a unix socket.
    :param progress: Called when some of a body was read or sent.
    :param contended: Tells whether others wait for the worker.
    """

    #: Bytes sent.
    sent = 0
    #: What was received and not taken; ``None`` while all of that is left in the
    #: kernel.
    buffered: bytearray | None = None
    #: Whether the client was told that nothing more will be sent.
    finished = False
    #: Whether it has been closed, which nothing can follow.
    closed = False
    #: Whether the client has asked for the end after this response, and has sent
    #: nothing that wasn't taken. Then the last byte may be followed by a close.
    is_last = False
    #: Whether more of a body is waited for, or was when the request was aborted.
    awaits_body = False
    #: Whether the app has the connection; and what is called before anything is sent.
    taken = False
    before_write: Callable[[], None] | None = None
    #: What waits to be sent, if anything does.
    outbox: UnsentData | None = None
    #: Whether somebody else than the response may write to the client (``wfile``).
    shared = False
    #: What :meth:`wait` has waited for last.
    _events = 0
    _poll: select.poll

    def __init__(
        self,
        sock: socket.socket,
        local: bool = False,
        progress: Callable[[], None] = lambda: None,
        contended: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sock = sock
        self.contended = contended
        self.local = local
        self.progress = progress
        self._forks = forks.count

    def _receive(self, size: int, flags: int = _NOW) -> bytes | None:
        try:
            return self.sock.recv(size, flags)
        except BlockingIOError:
            return None
        except OSError as e:
            raise ClientDisconnected(str(e)) from None

    def _receive_into(self, view: memoryview) -> int | None:
        try:
            return self.sock.recv_into(view, 0, _NOW)
        except BlockingIOError:
            return None
        except OSError as e:
            raise ClientDisconnected(str(e)) from None

    def _send(self, data: bytes | memoryview, flags: int = _NOW) -> int:
        try:
            return self.sock.send(data, flags)
        except BlockingIOError:
            return 0
        except OSError as e:
            raise ClientDisconnected(str(e)) from None

    # Waiting.

    def wait(self, seconds: float, events: int = READABLE) -> bool:
        """Wait until something can be read, or the client has left.

        :param seconds: For at most so long.
        :param events: What to wait for, if it is something else.
        """
        if events != self._events:
            self._register(events)
        # Rounded up: a wait of 0 would be a spin. No further: while a millisecond is
        # waited for the next request, the worker is nobody else's.
        return bool(self._poll.poll(math.ceil(max(seconds, 0.0) * 1000)))

    def _register(self, events: int) -> None:
        """Wait for other events from now on."""
        if not self._events:
            self._poll = select.poll()
        self._poll.register(self.sock, events)
        self._events = events

    def wait_writable(self, seconds: float) -> bool:
        """Wait until something can be written, or the client has left.

        :param seconds: For at most so long.
        """
        return self.wait(seconds, select.POLLOUT)

    def wait_more(self, have: int, seconds: float) -> bool:
        """Wait until there is more than what was looked at, or the client left.

        :param have: How many bytes :meth:`peek` returned.
        """
        have -= len(self.buffered or b"")
        if have > 0:
            if self.local:
                # SO_RCVLOWAT is for TCP only.
                time.sleep(min(seconds, 0.001))
                return True
            self.low_water(have + 1)
            try:
                return self.wait(seconds)
            finally:
                self.low_water(1)
        return self.wait(seconds)

    def low_water(self, mark: int) -> None:
        """Let polls fire from so many bytes on (``socket(7)``, SO_RCVLOWAT)."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
        except OSError:
            # The connection is broken; reading will tell.
            pass

    # Reading.

    def peek(self) -> bytes | None:
        """What there is, without taking it.

        :return: ``None`` if nothing is there, ``b""`` if nothing will come. With
            something there, the end of what comes can't be seen by looking: see
            :meth:`ended`.
        """
        if self.buffered is None:
            # Nearly always enough, and cheaper to make room for.
            try:
                found = self.sock.recv(_USUAL, _PEEK)
            except BlockingIOError:
                return None
            except OSError as e:
                raise ClientDisconnected(str(e)) from None
            return found if len(found) < _USUAL else self._receive(CHUNK, _PEEK)
        data = self._receive(CHUNK, _PEEK)
        return bytes(self.buffered + data) if data else bytes(self.buffered) or data

    def ended(self, have: int) -> bool:
        """Whether nothing comes after what was looked at.

        :param have: How many bytes :meth:`peek` returned.
        """
        if hasattr(select, "POLLRDHUP"):
            return self.has_left(have)
        buffer = self.buffer(have)
        data = self._receive(CHUNK)
        if data:
            buffer += data
        return data == b""

    def has_left(self, have: int) -> bool:
        """As :meth:`ended`, where that shows without reading."""
        poll = select.poll()
        poll.register(self.sock, HANG_UP)
        # More may have come between that look and the end.
        return bool(poll.poll(0)) and len(self.peek() or b"") <= have

    def buffer(self, have: int) -> bytearray:
        """Take what was looked at, but keep it here: the connection can't move until
        :meth:`consume` has taken it.

        :param have: How many bytes :meth:`peek` returned.
        """
        if self.buffered is None:
            self.buffered = bytearray()
        have -= len(self.buffered)
        if have > 0:
            self.buffered += self._receive(have) or b""
        return self.buffered

    def consume(self, count: int) -> None:
        """Take bytes that were looked at."""
        if self.buffered is not None:
            held = min(count, len(self.buffered))
            del self.buffered[:held]
            count -= held
            if not self.buffered:
                self.buffered = None
        while count:
            # One call, but for a kernel that gives less than it has shown.
            data = self._receive(count)
            if not data:
                raise ClientDisconnected("the received bytes are gone")
            count -= len(data)

    def take_into(self, view: memoryview) -> int | None:
        """Take what is there of the next bytes, where nothing is buffered.

        :return: How many bytes: ``None`` if nothing is there, 0 if nothing will come.
        """
        return self._receive_into(view)

    def read_into(self, view: memoryview, budget: SlowClientBudget) -> int:
        """Read what comes next, waiting as long as the budget allows.

        :return: 0 at the end of what comes, -1 if the client is too slow.
        """
        if self.buffered:
            count = min(len(view), len(self.buffered))
            view[:count] = self.buffered[:count]
            self.consume(count)
            return count
        while True:
            received = self._receive_into(view)
            if received is not None:
                self.progress()
                budget.account(0, received)
                return received
            if not self._wait_readable(budget):
                return -1

    def wait_and_peek(self, budget: SlowClientBudget) -> bytes | None:
        """As :meth:`peek`, waiting as long as the budget allows.

        :return: ``None`` if the client is too slow.
        """
        while True:
            data = self.peek()
            if data is not None:
                self.progress()
                return data
            if not self._wait_readable(budget):
                return None

    def _wait_readable(self, budget: SlowClientBudget) -> bool:
        seconds = budget.seconds_left()
        if seconds <= 0:
            return False
        start = time.monotonic()
        # Not in a finally clause: a RequestTimeout that ends the wait is to find it.
        self.awaits_body = True
        ready = self.wait(seconds)
        self.awaits_body = False
        budget.hurry(self.contended())
        budget.account(time.monotonic() - start, 0)
        return ready

    # Writing.

    def write(
        self,
        data: bytes,
        budget: SlowClientBudget | None,
        rate: float,
        last: bool = False,
        overflow: Callable[[memoryview, SlowClientBudget], bool] | None = None,
    ) -> SlowClientBudget | None:
        """Send all of it.

        :param last: Nothing more will be sent, so the client is told the end too.
        :param budget: What the last call returned; most responses fit into the
            kernel's buffer and need none.
        :param rate: For the budget, if one is needed.
        :param overflow: Takes what the client doesn't take now, or returns ``False``;
            see :class:`.Outbox`.
        :raises ConnectionError: The client left, or is too slow, or is the app's.
        """
        if self.before_write is not None:
            self.before_write()
        if self.outbox is not None and self.outbox.write(data):
            return budget
        count = self._send(data, _LAST if last else _NOW)
        self.sent += count
        if count == len(data):
            if last:
                self.finish()
            else:
                self.progress()
            if budget is not None:
                budget.account(0, count)
            return budget
        if count:
            self.progress()
        budget = budget or SlowClientBudget(rate)
        budget.account(0, count)
        view = memoryview(data)[count:]
        while view:
            if overflow is not None and overflow(view, budget):
                return budget
            self.wait_for_room(budget)
            count = self._send(view)
            self.sent += count
            self.progress()
            budget.account(0, count)
            view = view[count:]
        return budget

    def send_some(self, data: memoryview) -> int:
        """Send as much of it as the client takes now.

        :return: How many bytes.
        :raises ClientDisconnected: The client left.
        """
        count = self._send(data)
        self.sent += count
        self.progress()
        return count

    def wait_for_room(self, budget: SlowClientBudget) -> None:
        """Wait until there is room for more.

        :raises ClientDisconnected: The client doesn't take it in time.
        """
        if not wait_for_room(
            self.sock,
            budget,
            self.wait_writable,
            self.progress,
            contended=self.contended,
        ):
            raise ClientDisconnected("the client takes its response too slowly")

    def send_file(
        self,
        fd: int,
        offset: int,
        count: int,
        budget: SlowClientBudget,
        overflow: Callable[[int, int, int, SlowClientBudget], bool],
    ) -> int | None:
        """Let the kernel send from a regular file.

        :param overflow: Takes descriptor, offset and length of what the client doesn't
            take now, or returns ``False``; see :class:`.Outbox`.
        :return: How many bytes it sent, fewer if the file ends before; ``None`` if
            it doesn't do that for this file.
        :raises ClientDisconnected: The client left, or doesn't take it in time.
        """
        start, end = offset, offset + count
        if not count:
            return 0
        if self.outbox is not None:
            if overflow(fd, offset, count, budget):
                return count
            self.outbox.drain()
        self.sock.setblocking(False)
        while offset < end:
            try:
                sent = os.sendfile(
                    self.sock.fileno(), fd, offset, min(end - offset, _SENDFILE_MAX)
                )
            except BlockingIOError:
                if overflow(fd, offset, end - offset, budget):
                    return count
                self.wait_for_room(budget)
                continue
            except OSError as e:
                if offset == start and e.errno in _NO_SENDFILE:
                    return None
                raise ClientDisconnected(str(e)) from None
            if not sent:
                break
            offset += sent
            self.sent += sent
            self.progress()
            budget.account(0, sent)
        return offset - start

    # Closing.

    def finish(self) -> None:
        """Say that nothing more will be sent.

        A close says that too. But if the app has forked meanwhile, a copy of the
        descriptor would keep that from being seen.
        """
        if self.finished:
            return
        self.finished = True
        try:
            if self.is_last and forks.count == self._forks:
                self.closed = True
                self.sock.close()
            else:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def linger(
        self,
        seconds: float,
        limit: int,
        busy_seconds: float,
        contended: Callable[[], bool],
    ) -> None:
        """Say that nothing more will be sent, and throw away what still comes.

        Closing a socket with unread bytes resets the connection, and that may
        cost the client the response (RFC 9112, 9.6).

        :param seconds: Wait for at most so long,
        :param limit: and for so many bytes.
        :param busy_seconds: For so long if others wait. That its system has all of the
            response is no reason to stop before: it may be about to send, and an error
            then hides the response from it.
        """
        self.finish()
        end, scratch = time.monotonic() + seconds, memoryview(bytearray(CHUNK))
        try:
            while limit > 0:
                count = self._drop(scratch)
                if count == 0:
                    return
                left = end - time.monotonic()
                if left <= 0 or (left <= seconds - busy_seconds and contended()):
                    return
                limit -= count or 0
                if not count:
                    self.wait(min(_LINGER_STEP, left))
        except ClientDisconnected:
            return

    def _drop(self, scratch: memoryview) -> int | None:
        return self._receive_into(scratch)
