"""Workers that are late: each is shown, and killed a moment later.

Pool and stalls tell who is late (:mod:`.pool`, :mod:`.stalls`). Nothing here waits: a
worker that can show where it hangs has done so when its last moment is over.
"""

from __future__ import annotations

import signal
import typing as t

from .children import Children
from .deadlines import Deadlines
from .ending import LAST_MOMENT
from .log import logger
from .pool import State
from .pool import Worker
from .process import LATE
from .process import Reason
from .process import Why
from .stalls import Verdict


class Late:
    """One generation's workers that are late.

    :param children: All of its workers.
    :param clock: Monotonic seconds.
    """

    def __init__(self, children: Children, clock: t.Callable[[], float]) -> None:
        self._children = children
        self._clock = clock
        #: Those that were shown: why, and in which state.
        self._shown: dict[Worker, tuple[Why, State]] = {}
        self._last_moments: Deadlines[Worker] = Deadlines()

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
            self._kill(worker)
        for worker in children.killed.pop(now):
            logger.error(
                "Worker %d (pid %d) lives on after SIGKILL; nobody waits for it.",
                worker.slot,
                children.pid(worker),
            )
            children.give_up(worker)

    def show(self, worker: Worker, why: Why) -> None:
        """Let a worker log where it hangs; kill it when it has, or a moment later."""
        children = self._children
        if worker in self._shown or not children.pid(worker):
            return
        self._shown[worker] = why, worker.state
        self._last_moments.set(worker, self._clock() + LAST_MOMENT)
        children.show(worker, f"late: {why.text}", lambda: self._kill(worker))

    def _kill(self, worker: Worker) -> None:
        """Its last moment is over."""
        self._last_moments.discard(worker)
        why, state = self._shown.pop(worker, (None, None))
        if why is not None and worker.state is state:
            self._children.kill(worker, why)

    def _judge(self, worker: Worker, now: float) -> None:
        """Do something about a request that takes long."""
        children, stalls = self._children, self._children.stalls
        record = children.bank.read(worker.slot)
        verdict = stalls.judge(worker, now, record)
        if verdict is Verdict.KILL:
            why = Why(Reason.TIMEOUT, stalls.describe(record))
            if record.began and not record.upgraded:
                # Its threads were shown when it was told to end.
                children.kill(worker, why)
            else:
                self.show(worker, why)
        elif verdict is Verdict.ABORT:
            # Only then, for the request's end would be shown instead.
            children.show(
                worker,
                f"without progress for {stalls.timeout:g} s",
                lambda: children.signal(worker, signal.SIGXCPU),
            )
        elif verdict is Verdict.SHOW:
            children.show(worker)
