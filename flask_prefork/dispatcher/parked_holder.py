"""Who takes the connections that workers hand back, as the workers' handles see it.

What holds them (``queues.py``) has all generations and so imports the handles; these
know it by this protocol only.
"""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ..ipc.frames import Deliver
    from ..ipc.parked_connections import Connection
    from ..ipc.ready_queue import ReadyQueueOwner
    from ..system.parked_state import Parked


class ParkedHolder(t.Protocol):
    """Takes and keeps what workers hand back: :class:`.queues.Queues`.

    :ivar ready_queue: Where those are that any worker may take.
    """

    ready_queue: ReadyQueueOwner

    def park(
        self,
        fd: int,
        listener: int,
        state: Parked,
        spool: int = -1,
        limit: str = "",
    ) -> None:
        """Take over a connection that a worker hands back, and its spool.

        :param limit: The limit that it waits for a permit of, if it does.
        :raises ValueError: Listener, state or spool make no sense. Nothing is taken
            over then.
        """

    def deliver(self, frame: Deliver, fds: list[int]) -> None:
        """Have the rest of a response sent on a connection that a worker hands over.

        :param fds: The connection and the files. They are taken out.
        :raises ValueError: The frame makes no sense, or the descriptors don't.
        """

    def taken(self, connection: Connection, worker: t.Hashable) -> None:
        """A worker has what it was handed."""

    def ask_for_permit(self, worker: t.Hashable, limit: str) -> bool:
        """Whether a worker has a permit now that it needs at once."""

    def refused(self, limit: str) -> None:
        """A worker has refused a request that had waited longer than the limit lets
        it."""

    def release_permit(self, worker: t.Hashable) -> None:
        """The request is over for which a worker had a permit, if it had one."""

    def put_back(self, connection: Connection) -> None:
        """Take back a connection that a worker died before taking."""
