"""Workers that have ended, until the app was told of each, once.

The zygote knows a worker's exit status, and the dispatcher the rest: whether it was
asked to exit, or killed and why. What it knows comes when it has freed the slot, before
or after the exit was reaped here.
"""

from __future__ import annotations

import typing as t

from ..ipc.exits import Expected
from ..ipc.exits import Reason
from ..ipc.exits import settle
from ..ipc.exits import Statuses

#: Is called with slot, pid, reason and exit status.
Tell = t.Callable[[int, int, Reason, "int | None"], None]


class UnreportedExits:
    """The workers of one zygote that have ended.

    :param tell: Tells the app of one.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._statuses = Statuses()
        #: Slot and exit status of those that were reaped, by pid.
        self._reaped: dict[int, tuple[int, int | None]] = {}
        #: Those that the app was told of before they were reaped: not even SIGKILL has
        #: ended them in time.
        self._told: set[int] = set()

    def reaped(self, slot: int, pid: int, status: int | None) -> None:
        """One has ended.

        :param status: Its exit status, or the signal's number below 0; ``None`` if
            that isn't known.
        """
        if pid in self._told:
            self._told.discard(pid)
        else:
            self._reaped[pid] = slot, status

    def tell(self, ended: t.Iterable[tuple[int, int, str, bool]]) -> None:
        """Tell the app of those that the dispatcher has told of.

        :param ended: Slot, pid, and what is :class:`.exits.Expected`.
        """
        for slot, pid, killed, may_be_retired in ended:
            status = None
            if pid in self._reaped:
                _, status = self._reaped.pop(pid)
            else:
                self._told.add(pid)
            expected = Expected(killed, may_be_retired)
            self._tell(slot, pid, settle(expected, status, self._statuses), status)

    def tell_rest(self) -> None:
        """Tell the app of all others that were reaped: the dispatcher is gone.

        Those that have ended by themselves with status 0 have seen that, and finished.
        """
        for pid, (slot, status) in list(self._reaped.items()):
            del self._reaped[pid]
            expected = Expected("", status == 0)
            self._tell(slot, pid, settle(expected, status, self._statuses), status)
