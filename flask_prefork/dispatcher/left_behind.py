"""Connections that no worker has accepted because one ended that was woken for them.

Only with blocking dispatch. A connection wakes one of the workers that block in accept
(EPOLLEXCLUSIVE, ``epoll_ctl(2)``). If that one retires or dies before it accepts, the
kernel wakes no other. So while workers end, the accept queues are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

from ..ipc.listener import Listener
from .generation import Generation

#: While workers end, look this often whether a connection was left behind, in seconds.
#: The others take one in less.
_INTERVAL = 0.05


class LeftBehind:
    """Orders workers to take what was left behind."""

    def __init__(self) -> None:
        #: The workers that had ended, by generation, at the last look.
        self._gone: dict[int, int] = {}
        self.deadline: float | None = None

    def serve(
        self,
        now: float,
        current: Generation,
        generations: Sequence[Generation],
        listeners: Sequence[Listener],
        rotation: Callable[[], Iterable[int]],
    ) -> None:
        """Look, if it is time for that.

        :param now: The time, in seconds.
        :param current: The generation that serves.
        :param generations: All whose workers may have been woken.
        :param rotation: Returns the listeners' indexes, in the order in which to look.
        """
        if current.is_ordered:
            self.deadline = None
            return
        gone = {one.number: one.pool.gone for one in generations}
        ending = gone != self._gone or any(one.pool.retiring for one in generations)
        self._gone = gone
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            for index in rotation():
                waiting = listeners[index].waiting() - current.pool.outstanding[index]
                if waiting > 0 and current.pool.idle:
                    current.order(waiting, index)
        if ending and self.deadline is None:
            self.deadline = now + _INTERVAL
