"""Workers that missed a deadline: their tracebacks are logged, and they are killed.

Pool and request watchdog decide who is late (:mod:`.pool`, :mod:`.watchdog`). Nothing
here waits: a worker that can show where it hangs has done so when its last moment is
over.
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
from .pool import PoolWorker
from .watchdog import Action
from .workers import Workers


class _Shown(t.NamedTuple):
    """What a worker was shown for.

    :param why: Why it is to be killed.
    :param transitions: How many times it had changed its state by then.
    :param no_progress: It was busy for too long. As it may go on in the same state,
        that is checked again.
    """

    why: Why
    transitions: int
    no_progress: bool


class Late:
    """One generation's workers that are late.

    :param workers: All of its workers.
    :param clock: Monotonic seconds.
    """

    def __init__(self, workers: Workers, clock: t.Callable[[], float]) -> None:
        self._workers = workers
        self._clock = clock
        self._shown: dict[PoolWorker, _Shown] = {}
        self._last_moments: Deadlines[PoolWorker] = Deadlines()

    def deadline(self) -> float | None:
        """When to :meth:`step` next, in seconds."""
        workers = self._workers
        times = [workers.pool.deadline(), workers.watchdog.deadline()]
        times += [self._last_moments.next(), workers.killed.next()]
        return min((moment for moment in times if moment is not None), default=None)

    def step(self, now: float) -> None:
        """Show and kill those whose time has come."""
        workers = self._workers
        for worker in workers.pool.overdue(now):
            # Its time begins anew, lest it is late all along. For one that isn't forked
            # yet it is the zygote that is late.
            workers.pool.renew(worker, now)
            if workers.pid(worker):
                self.show(worker, LATE[worker.state])
        for worker in workers.watchdog.due(now):
            self._check(worker, now)
        for worker in self._last_moments.pop(now):
            if worker in self._shown:
                self._kill(worker, self._shown[worker])
        for worker in workers.killed.pop(now):
            logger.error(
                "Worker %d (pid %d) lives on after SIGKILL; nobody waits for it.",
                worker.number,
                workers.pid(worker),
            )
            workers.give_up(worker)

    def show(self, worker: PoolWorker, why: Why, no_progress: bool = False) -> None:
        """Let a worker log where it hangs; kill it when it has, or a moment later.

        It lives on if it has come out of the state that it is in.

        :param no_progress: It is shown for what :mod:`.watchdog` has found.
        """
        workers, before = self._workers, self._shown.get(worker)
        if not workers.pid(worker):
            return
        if before is not None and before.transitions == worker.transitions:
            return
        shown = self._shown[worker] = _Shown(why, worker.transitions, no_progress)
        self._last_moments.set(worker, self._clock() + LAST_MOMENT)
        workers.show(worker, f"late: {why.text}", lambda: self._kill(worker, shown))

    def _kill(self, worker: PoolWorker, shown: _Shown) -> None:
        """Its last moment is over."""
        if self._shown.get(worker) is not shown:
            return  # it was shown once more, for something else
        del self._shown[worker]
        self._last_moments.discard(worker)
        if worker.transitions != shown.transitions:
            return
        if shown.no_progress:
            self._check(worker, self._clock(), was_shown=True)
        else:
            self._workers.kill(worker, shown.why)

    def _check(self, worker: PoolWorker, now: float, was_shown: bool = False) -> None:
        """Do something about a request that takes long.

        :param was_shown: It was found so before, and shown.
        """
        workers, watchdog = self._workers, self._workers.watchdog
        record = workers.bank.read(worker.number)
        action = watchdog.check(worker, now, record)
        if action is Action.KILL:
            why = Why(Reason.TIMEOUT, watchdog.describe(record))
            if was_shown or (record.began and not record.upgraded):
                # Its threads were shown when it was aborted.
                workers.kill(worker, why)
            else:
                self.show(worker, why, no_progress=True)
        elif action is Action.ABORT:
            # Only then, for the request's end would be shown instead.
            workers.show(
                worker,
                f"without progress for {watchdog.timeout_of(record):g} s",
                lambda: workers.signal(worker, signal.SIGXCPU),
            )
        elif action is Action.SHOW:
            workers.show(worker)
