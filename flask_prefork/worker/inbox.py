"""What the dispatcher sends to a worker: frames, in order, and an answer in between.

:meth:`Inbox.ask` waits for the answer to a request for a permit while a request is
served. What else comes meanwhile is kept until :meth:`Inbox.receive` is called for it.
Answers come in the order of what was asked, so a late one is told from the next by its
place.
"""

from __future__ import annotations

import select
import socket
import time
import typing as t
from collections import deque

from ..ipc.channel import receive_one
from ..ipc.frames import Frame
from ..ipc.frames import PermitAnswer

#: How long the dispatcher may take to answer, in seconds.
_PATIENCE = 1.0


class Inbox:
    """The receiving side of a worker's back channel.

    :param channel: Its end, blocking.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        #: Frames that came while an answer was waited for, and their descriptors.
        self._kept: deque[tuple[Frame, list[int]]] = deque()
        #: Answers that weren't waited for until they came.
        self._late = 0

    @property
    def has_kept(self) -> bool:
        """Whether :meth:`receive` has a frame without looking at the channel."""
        return bool(self._kept)

    def receive(self) -> tuple[Frame, list[int]] | None:
        """The next frame and its descriptors, when it comes: first those that came
        while an answer was waited for.

        :return: ``None`` if the dispatcher is gone.
        """
        if self._kept:
            return self._kept.popleft()
        return receive_one(self._channel)

    def ask(self, send: t.Callable[[], bool]) -> bool | None:
        """Ask for a permit, and wait a moment for the answer.

        :param send: Sends the request; ``False`` if the dispatcher is gone.
        :return: Whether it was granted; ``None`` if no answer has come in time. Then it
            may be granted yet.
        """
        if not send():
            return False
        deadline = time.monotonic() + _PATIENCE
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
            received = receive_one(self._channel)
            if received is None:
                return False
            frame, _ = received
            if not isinstance(frame, PermitAnswer):
                self._kept.append(received)
            elif self._late:
                self._late -= 1
            else:
                return frame.granted
        self._late += 1
        return None

    def ignore_late(self) -> None:
        """An answer has come that nobody waits for any more."""
        self._late = max(self._late - 1, 0)
