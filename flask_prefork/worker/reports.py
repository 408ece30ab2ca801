"""What a worker reports to the dispatcher, and what it hands over.

In this order for each connection: busy, then the connection if it is to wait or if the
rest of its response is to be sent, then idle. A parked one that was the only one since
the worker was idle goes with the report of being idle: one call, and the dispatcher
wakes up once.
"""

from __future__ import annotations

import os
import socket
import typing as t

from ..ipc.channel import send_fds
from ..ipc.frames import Busy
from ..ipc.frames import Deliver
from ..ipc.frames import encode
from ..ipc.frames import Frame
from ..ipc.frames import Idle
from ..ipc.frames import Park
from ..system.parked_state import Parked
from ..system.parked_state import Size
from ..system.parked_state import Wait

if t.TYPE_CHECKING:
    from ..http.handback import Delivery

#: What a client's further bytes put an end to.
_WAITS_FOR_BYTES = (Wait.HEAD, Wait.KEEP_ALIVE, Wait.BODY)


class Reports:
    """The worker's side of its back channel.

    :param channel: Its end, blocking.
    :param generation: The worker's generation,
    :param slot: and its number.

    :ivar parks_when_idle: Whether the next report, but for those of limits, is that it
        is idle.
    """

    def __init__(self, channel: socket.socket, generation: int, slot: int) -> None:
        self.parks_when_idle = False
        self._channel = channel
        self._generation = generation
        self._slot = slot
        #: The connection that is parked then.
        self._to_park: tuple[Park, list[int]] | None = None

    def send(self, frame: Frame) -> bool:
        """Send a frame; ``False`` if the dispatcher is gone."""
        try:
            os.write(self._channel.fileno(), encode(frame))
        except OSError:
            return False
        return True

    def busy(self, resumed: bool) -> bool:
        """See :class:`.Busy`."""
        return self.send(Busy(self._generation, self._slot, resumed))

    def idle(self, served: int) -> bool:
        """See :class:`.Idle`.

        :param served: Requests since the last time.
        """
        frame = Idle(self._generation, self._slot, served)
        self.parks_when_idle = False
        if self._to_park is None:
            return self.send(frame)
        (park, fds), self._to_park = self._to_park, None
        return self._hand_over([park, frame], fds)

    def flush(self) -> None:
        """Hand over what waits for the report of being idle, which doesn't come yet."""
        if self._to_park is not None:
            (park, fds), self._to_park = self._to_park, None
            self._hand_over([park], fds)

    def park(
        self, index: int, connection: socket.socket, parked: Parked, spool: int = -1
    ) -> None:
        """Hand a connection back, to wait.

        :param index: The listener's that it came by.
        :param spool: The descriptor of its spool, if it has one; it is closed.
        """
        if parked.mark > 1 and parked.wait in _WAITS_FOR_BYTES:
            try:
                # Quiet until there is so much, or the end (socket(7)).
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVLOWAT, parked.mark
                )
            except OSError:
                pass
        if connection.gettimeout() is not None:
            connection.setblocking(True)
        frame = Park(self._generation, self._slot, index, parked)
        fds = [connection.detach(), *([spool] if spool >= 0 else ())]
        if self.parks_when_idle:
            self.flush()
            self._to_park = frame, fds
        else:
            self._hand_over([frame], fds)

    def deliver(
        self, index: int, connection: socket.socket, delivery: Delivery
    ) -> None:
        """Hand a connection on whose client is slow to take its response.

        :param index: The listener's that it came by.
        """
        spooled, fds = 0, [connection.detach()]
        if delivery.spool is not None:
            spooled = delivery.spool.size
            fds.append(delivery.spool.detach())
        if delivery.file >= 0:
            fds.append(delivery.file)
        frame = Deliver(
            self._generation,
            self._slot,
            index,
            0,
            delivery.rate,
            Size(spooled),
            Size(delivery.sent),
            Size(delivery.offset),
            Size(delivery.length),
            delivery.seconds,
            delivery.parked,
        )
        self._hand_over([frame], fds)

    def _hand_over(self, frames: t.Sequence[Frame], fds: list[int]) -> bool:
        """Send frames, the first with descriptors, and close these.

        :return: ``False`` if the dispatcher is gone.
        """
        sent = send_fds(self._channel, frames, fds)
        # The dispatcher has them, so that no close waits (socket(7), SO_LINGER).
        for fd in fds:
            os.close(fd)
        return sent
