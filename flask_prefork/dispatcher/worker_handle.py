"""The dispatcher's handle of a worker: its process and its back channel.

:mod:`.workers` makes a :class:`WorkerHandle` for each worker that it starts.
"""

from __future__ import annotations

import signal
from collections import deque

from ..ipc.channel import Channel
from ..ipc.exits import Why
from ..ipc.frames import Resume
from ..ipc.parked_connections import Connection
from .pool import PoolWorker


class WorkerHandle:
    """What the dispatcher holds of a worker's process, which it is not.

    It is made before the process is forked, and forgotten when that has exited.

    :ivar worker: Its place in the pool.
    :ivar channel: Our end of the back channel.
    :ivar dump: Where it shows its threads, see :mod:`..ipc.dumps`.
    :ivar pid: 0 until the zygote has reported it.
    :ivar pidfd: Its pidfd (``pidfd_open(2)``), where there are such; else -1.
    :ivar resumed: Parked connections that were handed to it, in their order; our
        copies are kept until it reports that it has them. With blocking dispatch it
        may be idle once more before it reads of the first.
    :ivar why: Why it was killed before its pid was known.
    :ivar wanted: A signal that it gets as soon as its pid is known; 0 is none.
    """

    __slots__ = (
        "channel",
        "dump",
        "pid",
        "pidfd",
        "resumed",
        "wanted",
        "why",
        "worker",
    )

    def __init__(self, worker: PoolWorker, channel: Channel, dump: int) -> None:
        self.worker = worker
        self.channel = channel
        self.dump = dump
        self.pid = 0
        self.pidfd = -1
        self.resumed: deque[Connection] = deque()
        self.wanted = 0
        self.why: Why | None = None

    def signal(self, number: int) -> bool:
        """Send it a signal, if we can be sure that it is the one we mean.

        :return: ``False`` if only its parent can: nobody but who reaps a process
            knows that its pid is still its own.
        """
        if not self.pid:
            self.wanted = number
        elif self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except (ProcessLookupError, PermissionError):
                pass  # it has ended, or the app has made it another user's
        else:
            return False
        return True

    def send_on(self, connection: Connection, generation: int) -> bool:
        """Hand it a parked connection.

        :return: ``False`` if it doesn't read, or is gone.
        """
        self.resumed.append(connection)
        slot, listener = self.worker.number, connection.listener
        frame = Resume(generation, slot, listener, connection.state)
        fds = connection.fds
        if connection.certificates >= 0:
            fds = (*fds, connection.certificates)
        return self.channel.send(frame, fds)
