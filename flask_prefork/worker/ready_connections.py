"""A worker's side of the ready queue: what it takes there, and what it puts there.

What is taken is looked at first, for the app of any worker may write to any descriptor.
"""

from __future__ import annotations

import os
import socket

from ..ipc.frames import Resume
from ..ipc.ready_queue import ReadyQueue
from ..ipc.scoreboard import Bank
from ..system.parked_state import Parked
from ..system.proxy_protocol import certificate_place


class ReadyConnections:
    """The ready queue, as a worker uses it.

    :param queue: It.
    :param bank: The generation's half of the scoreboard.
    :param listeners: How many listeners there are.

    :ivar must_report: The dispatcher doesn't know that a connection is there, and will
        look when this worker reports that it is idle.
    """

    def __init__(self, queue: ReadyQueue, bank: Bank, listeners: int) -> None:
        self.must_report = False
        self._queue = queue
        self._bank = bank
        self._listeners = listeners

    def take(self) -> tuple[Resume, int] | None:
        """Take the next connection.

        :return: How to go on with it, and its descriptor; ``None`` if there is none.
        :raises OSError: ``EMFILE``: the app has used up this process's descriptors, and
            the connection is lost.
        """
        while (taken := self._queue.take()) is not None:
            frame, fd = taken
            if frame.listener < self._listeners and not frame.parked.spooled:
                return taken
            os.close(fd)
        return None

    def put(self, connection: socket.socket, index: int, parked: Parked) -> bool:
        """Let a connection with its next request wait behind those that are there.

        :param index: Its listener's.
        :return: ``False`` if it has to be parked.
        """
        # The dispatcher has what belongs to a client's certificate.
        if certificate_place(parked.tag) is not None:
            return False
        if not self._queue.put(connection.fileno(), index, parked):
            return False
        connection.close()
        # The dispatcher clears this, then it looks once more: one of us sees the other.
        self.must_report = self.must_report or not self._bank.has_ready()
        return True
