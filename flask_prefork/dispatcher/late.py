"""Workers that missed a deadline: their tracebacks are logged, and they are killed.

Pool and stalls tell who is late (:mod:`.pool`, :mod:`.watchdog`). Nothing here waits: a
worker that can show where it hangs has done so when its last moment is over.
"""

from __future__ import annotations

import signal
import typing as t

from ..ipc.exits import LATE
from ..ipc.exits import Reason
from ..ipc.exits import Why
from ..ipc.phase import LAST_MOMENT
from ..system.log import logger
from ..system.timers import Deadlines
from .pool import Slot
from .watchdog import Action
from .workers import Workers


class _Mark(t.NamedTuple):
    """What a worker was shown for.

    :param why: Why it is to be killed.
    :param turns: How many times it had changed its state by then.
    :param stalls: It was busy for too long. As it may go on in the same state, that is
        judged again.
    """

    why: Why
    turns: int
    stalls: bool


class Late:
    """One generation's workers that are late.

    :param children: All of its workers.
    :param clock: Monotonic seconds.
    """

    def __init__(self, children: Workers, clock: t.Callable[[], float]) -> None:
        self._children = children
        self._clock = clock
        self._shown: dict[Slot, _Mark] = {}
        self._last_moments: Deadlines[Slot] = Deadlines()

    def deadline(self) -> float | None:
        """When to :meth:`step` next, in seconds."""
        children = self._children
        times = [children.pool.deadline(), children.stalls.deadline()]
        times += [self._last_moments.next(), children.killed.next()]
        return min((moment for moment in times if moment is not None), default=None)

    def step(self, now: float) -> None:
        """Show and kill those whose time has come."""
        children = self._children
        for worker in children.pool.overdue(now):
            # Its time begins anew, lest it is late all along. For one that isn't forked
            # yet it is the zygote that is late.
            children.pool.renew(worker, now)
            if children.pid(worker):
                self.show(worker, LATE[worker.state])
        for worker in children.stalls.due(now):
            self._judge(worker, now)
        for worker in self._last_moments.pop(now):
            if worker in self._shown:
                self._kill(worker, self._shown[worker])
        for worker in children.killed.pop(now):
            logger.error(
                "Worker %d (pid %d) lives on after SIGKILL; nobody waits for it.",
                worker.slot,
                children.pid(worker),
            )
            children.give_up(worker)

    def show(self, worker: Slot, why: Why, stalls: bool = False) -> None:
        """Let a worker log where it hangs; kill it when it has, or a moment later.

        It lives on if it has come out of the state that it is in.

        :param stalls: It is shown for what :mod:`.watchdog` has judged.
        """
        children, before = self._children, self._shown.get(worker)
        if not children.pid(worker):
            return
        if before is not None and before.turns == worker.turns:
            return
        mark = self._shown[worker] = _Mark(why, worker.turns, stalls)
        self._last_moments.set(worker, self._clock() + LAST_MOMENT)
        children.show(worker, f"late: {why.text}", lambda: self._kill(worker, mark))

    def _kill(self, worker: Slot, mark: _Mark) -> None:
        """Its last moment is over."""
        if self._shown.get(worker) is not mark:
            return  # it was shown once more, for something else
        del self._shown[worker]
        self._last_moments.discard(worker)
        if worker.turns != mark.turns:
            return
        if mark.stalls:
            self._judge(worker, self._clock(), was_shown=True)
        else:
            self._children.kill(worker, mark.why)

    def _judge(self, worker: Slot, now: float, was_shown: bool = False) -> None:
        """Do something about a request that takes long.

        :param was_shown: It was judged so before, and shown.
        """
        children, stalls = self._children, self._children.stalls
        record = children.bank.read(worker.slot)
        verdict = stalls.judge(worker, now, record)
        if verdict is Action.KILL:
            why = Why(Reason.TIMEOUT, stalls.describe(record))
            if was_shown or (record.began and not record.upgraded):
                # Its threads were shown when it was told to end.
                children.kill(worker, why)
            else:
                self.show(worker, why, stalls=True)
        elif verdict is Action.ABORT:
            # Only then, for the request's end would be shown instead.
            children.show(
                worker,
                f"without progress for {stalls.timeout:g} s",
                lambda: children.signal(worker, signal.SIGXCPU),
            )
        elif verdict is Action.SHOW:
            children.show(worker)
