"""The dispatcher's handle of the sender: what it was handed, and what comes back.

In the dispatcher. :meth:`SenderHandle.deliver` takes over a connection whose client is
slow to take the rest of its response (:meth:`.Queues.deliver`). The sender is started
when there is the first, gets each in its order as soon as it reads, and ends when there
was none for a while. The connection that it hands back is parked. The process itself is
``relay/sender.py``.

What the sender holds when it dies is lost; what is still held here is for the next one.
"""

from __future__ import annotations

import math
import typing as t
from collections import deque

from ..ipc.channel import Channel
from ..ipc.channel import close_all
from ..ipc.exits import describe
from ..ipc.frames import Deliver
from ..ipc.frames import Delivered
from ..ipc.frames import Frame
from ..ipc.frames import MalformedFrame
from ..ipc.phase import GRACE
from ..system.log import logger
from ..system.parked_state import Parked
from ..system.parked_state import Wait
from ..system.poller import Poller
from ..system.reaper import Reaper
from ..system.running_clock import RunningClock
from .auxiliary import AuxiliaryProcess
from .service import ServiceHost

#: How long it may be without a response before it ends, in seconds.
_IDLE = 60.0
#: When its channel is full, it is tried again after so long, in seconds.
_PAUSE = 0.05
#: A response that no sender could be handed for so long is cut short, in seconds.
_HOLD = 30.0
#: Frames carry no greater number.
_NUMBERS = 2**32


class _Held(t.NamedTuple):
    """A response that the sender wasn't handed yet, and since when it waits."""

    frame: Deliver
    fds: list[int]
    spooled: int
    since: float


class _Sent(t.NamedTuple):
    """A response that the sender has: its listener, bytes of spool, and the wait."""

    listener: int
    spooled: int
    wait: Wait


class SenderHandle(AuxiliaryProcess):
    """At most one process that sends what slow clients haven't taken yet.

    :param service: Has the rights to start it.
    :param poller: The dispatcher's poll set.
    :param reaper: Reports its exit.
    :param clock: The dispatcher's.
    :param park: Parks a connection that came by a listener.
    :param results: Where it is counted how many responses were sent to their end
        (``complete``), cut short because the client left or was too slow
        (``incomplete``), or lost here or with a sender (``lost``).

    :ivar descriptors: How many descriptors are held here.
    :ivar spooled: Bytes of the spools of all responses that are on their way.
    """

    def __init__(
        self,
        service: ServiceHost,
        poller: Poller,
        reaper: Reaper,
        clock: RunningClock,
        park: t.Callable[[int, int, Parked], None],
        results: dict[str, int],
    ) -> None:
        identity = service.start_options.identity
        arguments = (None if identity is None else tuple(identity),)
        module = "relay.sender"
        super().__init__("sender", module, arguments, service, poller, reaper, clock)
        self.descriptors = self.spooled = 0
        self._results = results
        self._park = park
        self._held: deque[_Held] = deque()
        self._sent: dict[int, _Sent] = {}
        self._number = 0
        #: When it is tried again, when its channel was full.
        self._send_at: float | None = None
        #: When it is to end because there is nothing for it.
        self._end_at: float | None = None
        #: Whether nothing is taken over any more.
        self._is_closed = False

    @property
    def count(self) -> int:
        """How many responses are on their way."""
        return len(self._held) + len(self._sent)

    def drop_last(self) -> None:
        """Cut the response short that was held here last, if it is held still: there
        are no descriptors for it."""
        if self._held:
            logger.error("No descriptors are left for a response; it was cut short.")
            self._drop(self._held.pop())

    def deliver(self, frame: Deliver, fds: list[int], spooled: int) -> None:
        """Have the rest of a response sent.

        :param frame: What a worker sent; it is good.
        :param fds: The descriptors that go with it, owned from now on.
        :param spooled: Bytes of its spool.
        """
        self.spooled += spooled
        self.descriptors += len(fds)
        self._held.append(_Held(frame, fds, spooled, self._clock()))
        self._end_at = None
        if self._is_closed:
            self._drop_held()
        elif self._send_at is None:
            self._send_held()

    def _send_held(self) -> None:
        """Hand the sender what it takes, in order."""
        channel = self._channel
        self._send_at = None
        if channel is None or not self._is_set_up:
            return
        while self._held:
            held = self._held[0]
            number = self._next_number()
            frame: Deliver = held.frame._replace(number=number)
            if not channel.send(frame, held.fds):
                if not channel.ended:
                    self._send_at = self._clock() + _PAUSE
                return
            self._held.popleft()
            self._close(held)
            self._sent[number] = _Sent(frame.listener, held.spooled, frame.parked.wait)

    def _next_number(self) -> int:
        """A number that no response has that is on its way."""
        while True:
            self._number = (self._number + 1) % _NUMBERS
            if self._number not in self._sent:
                return self._number

    # What the process does

    def _set_up(self, channel: Channel) -> None:
        self._send_held()

    def _take_in(self, frame: Frame, fds: list[int]) -> None:
        if not isinstance(frame, Delivered):
            super()._take_in(frame, fds)
            return
        sent = self._sent.get(frame.number)
        if sent is None:
            raise MalformedFrame(f"there is no response {frame.number}")
        # Otherwise it was cut short; or its descriptor was lost, as there was none left
        # here (unix(7)).
        is_complete = frame.parked.deadline > 0 and bool(fds)
        if is_complete and frame.parked.wait is not sent.wait:
            raise MalformedFrame(f"response {frame.number} doesn't end like that")
        del self._sent[frame.number]
        self._count("complete" if is_complete else "incomplete", sent.spooled)
        if is_complete:
            self._park(fds[0], sent.listener, frame.parked)
            del fds[0]

    def _count(self, result: str, spooled: int) -> None:
        self._results[result] += 1
        self.spooled -= spooled
        if not self.count:
            self._end_at = self._clock() + _IDLE

    def _is_wanted(self) -> bool:
        return bool(self._held)

    def _died(self, pid: int, status: int, expected: bool) -> None:
        if not expected:
            logger.error(
                "The sender (pid %d) died: %s; %d responses were cut short.",
                pid,
                describe(status),
                len(self._sent),
            )
        self._lose_sent()

    def _lose_sent(self) -> None:
        for number in list(self._sent):
            self._count("lost", self._sent.pop(number).spooled)

    def _drop_held(self, until: float = math.inf) -> int:
        """Cut those short that were held here since before a time.

        :return: How many.
        """
        count = 0
        while self._held and self._held[0].since <= until:
            self._drop(self._held.popleft())
            count += 1
        return count

    def _drop(self, held: _Held) -> None:
        self._close(held)
        self._count("lost", held.spooled)

    def _close(self, held: _Held) -> None:
        close_all(held.fds)
        self.descriptors -= len(held.fds)

    # Its life

    def deadline(self) -> float | None:
        """When :meth:`step` should run next."""
        times = [super().deadline(), self._send_at, self._end_at]
        if self._held:
            times.append(self._held[0].since + _HOLD)
        return min((moment for moment in times if moment is not None), default=None)

    def step(self, now: float) -> None:
        """Start, kill or end the process, and hand on what it didn't take before."""
        super().step(now)
        if self._send_at is not None and now >= self._send_at:
            self._send_held()
        count = self._drop_held(now - _HOLD)
        if count:
            logger.error("No sender took %d responses; they were cut short.", count)
        if self._end_at is not None and now >= self._end_at:
            self._end_at = None
            if self.pid and not self._is_released:
                super().release()
                self._gone_by = now + GRACE

    def release(self) -> None:
        """Let it end, and take over nothing more."""
        self._is_closed = True
        self._end_at = None
        super().release()

    def cut(self) -> None:
        """End it now, and cut short what is on its way, for the server ends."""
        self._drain_channel()
        count = self.count
        self.release()
        self.kill()
        self._lose_sent()
        self._drop_held()
        self._end_at = None
        if count:
            logger.warning("%d responses to slow clients were cut short.", count)
