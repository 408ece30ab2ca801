"""Workers after the dispatcher's death: the zygote kills those that don't exit.

The log has the same lines about them as from the dispatcher (:mod:`..dispatcher.late`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import typing as t
from functools import partial

from ..ipc import dumps
from ..ipc.dumps import Dumps
from ..ipc.exits import ExitedWorker
from ..ipc.exits import ExitLog
from ..ipc.exits import LATE
from ..ipc.phase import LAST_MOMENT
from ..ipc.scoreboard import Bank
from ..ipc.states import State

_WHY = LATE[State.RETIRING]


@dataclasses.dataclass(eq=False)
class Orphan:
    """A worker.

    :param pid: Its process, which only this one reaps.
    :param slot: Its slot.
    :param dump: Where it shows its threads, see :mod:`..ipc.dumps`.
    """

    pid: int
    slot: int
    dump: int


class Orphans:
    """Workers that have not ended within the graceful timeout.

    :param orphans: All of them.
    :param bank: Has what they serve.
    :param now: Monotonic seconds.
    """

    def __init__(self, orphans: t.Iterable[Orphan], bank: Bank, now: float) -> None:
        self._bank = bank
        self._exit_log = ExitLog()
        self._dumps = Dumps()
        #: Those that live, by pid.
        self._left = {one.pid: one for one in orphans}
        self._last_moment = now + LAST_MOMENT
        for one in self._left.values():
            record = bank.read(one.slot)
            state, why = State.RETIRING.name.lower(), f"late: {_WHY.text}"
            header = dumps.header(
                one.slot, bank.generation, one.pid, state, record, now, why
            )
            show = partial(_send, one.pid, dumps.SIGNAL)
            self._dumps.ask(one, header, now, show, partial(self._kill, one))

    def deadline(self) -> float | None:
        """When to :meth:`step` next, in seconds; ``None`` if all are killed."""
        if not self._left:
            return None
        times = [self._last_moment, self._dumps.deadline()]
        return min(moment for moment in times if moment is not None)

    def step(self, now: float) -> None:
        """Kill those that have shown where they are, and in the end all.

        :param now: Monotonic seconds.
        """
        self._dumps.step(now)
        if now >= self._last_moment:
            for one in list(self._left.values()):
                self._kill(one)

    def _kill(self, one: Orphan) -> None:
        del self._left[one.pid]
        self._dumps.forget(one)
        record = self._bank.read(one.slot)
        exited = ExitedWorker(one.slot, State.RETIRING, _WHY, record)
        self._exit_log.note(one.pid, exited)
        _send(one.pid, signal.SIGKILL)

    def reaped(self, one: Orphan, status: int | None) -> None:
        """It has exited. If it was killed, log why.

        :param status: The exit status, or the signal's number below 0; ``None`` if it
            isn't known.
        """
        if self._left.pop(one.pid, None) is not None:
            self._dumps.forget(one)
        self._exit_log.report(one.pid, status)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # the app has reaped it
        os.kill(pid, number)
