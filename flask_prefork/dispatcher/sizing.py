"""Starts and retires the workers of one generation, as the policy decides.

:class:`.generation.Generation` asks for it in each turn of the dispatcher, as long as
it may start workers.
"""

from __future__ import annotations

import typing as t

from ..ipc.stats import Summary
from ..settings import size
from ..system.log import logger
from .policy import Memory
from .policy import Policy
from .pool import Pool
from .pool import State
from .workers import Workers

#: So many workers may be on order at once: more would not fit into the buffer of
#: the zygote's socket, if it is slow to fork.
_MAX_SPAWNING = 64


class Sizing:
    """One generation's growth and shrinkage.

    :param workers: Its workers.
    :param clock: Monotonic seconds.
    :param summary: Where shortages of memory are counted.
    """

    def __init__(
        self, workers: Workers, clock: t.Callable[[], float], summary: Summary
    ) -> None:
        self._workers = workers
        self._clock = clock
        self._summary = summary

    @property
    def _pool(self) -> Pool:
        return self._workers.pool

    @property
    def _policy(self) -> Policy:
        return self._workers.policy

    def begin(self) -> None:
        """Start the first workers."""
        self._spawn(self._policy.first())

    def step(self, now: float, waiting: int, others: int, memory: int) -> None:
        """Start and retire as many workers as the policy wants now.

        :param waiting: Connections that nobody was ordered to take.
        :param others: Processes of another generation.
        :param memory: What these have in memory, in bytes.
        """
        pool, policy, accounting = self._pool, self._policy, self._workers.accounting
        used = accounting.memory(pool, memory)
        at_work = pool.counts[State.BUSY] + pool.counts[State.ORDERED] - pool.suspects
        ending = pool.total - pool.idle - pool.starting - at_work + others
        wanted = policy.grow(
            now,
            idle=pool.idle,
            starting=pool.starting,
            total=pool.total,
            waiting=waiting,
            others=others,
            memory=used,
            ending=ending,
        )
        self._log_limits(pool.total + others, ending)
        if wanted:
            logger.debug(
                "Sizing: %d more workers are wanted; %d of %d are idle, %d start, and"
                " %d connections wait.",
                wanted,
                pool.idle,
                pool.total,
                pool.starting,
                waiting,
            )
            self._spawn(wanted)
        surplus = policy.shrink(now, idle=pool.idle, total=pool.total)
        for worker in pool.highest_idle(surplus):
            logger.debug(
                "Sizing: worker %d retires; %d of %d are idle.",
                worker.number,
                pool.idle,
                pool.total,
            )
            self._workers.retire(worker)
        excess, most = policy.excess(idle=pool.idle, total=pool.total, memory=used)
        if excess:
            # Those have their memory until they are gone.
            excess -= accounting.retiring(pool)
            for worker in accounting.choose_idle(pool, excess, most):
                logger.debug(
                    "Sizing: worker %d retires for the memory budget.", worker.number
                )
                self._workers.retire(worker)

    def recycle(self, now: float, others: int, memory: int) -> None:
        """Replace a worker that is due; see :meth:`step`."""
        pool, policy, accounting = self._pool, self._policy, self._workers.accounting
        used = accounting.memory(pool, memory)
        self._expire(used)
        if not pool.recycles:
            return
        room = policy.room(pool.total, others, used) > 0
        if not policy.may_replace(now, idle=pool.idle, total=pool.total, room=room):
            return
        for worker in list(accounting.urgent):
            if worker.state is State.IDLE:
                self._workers.retire(worker)
        new, old = pool.recycle(now, room)
        if new is not None:
            self._workers.start(new)
        if old is not None:
            logger.debug("Worker %d is replaced.", old.number)
            self._workers.retire(old)

    def _expire(self, memory: Memory) -> None:
        """Let those be due who have too much memory."""
        accounting = self._workers.accounting
        while accounting.over:
            self._workers.replace(accounting.over.pop(), "")
        if leak := self._policy.leak(memory):
            leak -= accounting.retiring(self._pool)
            for worker in accounting.choose_grown(leak):
                self._workers.replace(worker, ", too much for the memory budget")

    def deadline(self) -> float | None:
        """When to step, or to recycle, next if nothing happens before, in seconds."""
        times = [self._policy.deadline()]
        if self._pool.recycles:
            times.append(self._policy.back_off(self._clock()))
        return min((moment for moment in times if moment is not None), default=None)

    def _log_limits(self, total: int, ending: int) -> None:
        policy = self._policy
        if policy.full.is_new():
            logger.warning("max-workers reached: all %d workers are busy.", total)
        if policy.full_by_ending.is_new():
            logger.warning(
                "No place for another worker: %d of %d have yet to end.", ending, total
            )
        if policy.shortages.is_new():
            self._summary.shortages += 1
            logger.warning(
                "memory-budget reached: %d workers and what they share take %s of %s.",
                total,
                size.show(policy.memory),
                size.show(policy.budget),
            )

    def _spawn(self, count: int) -> None:
        # The others are still short, and come when these are there.
        for _ in range(min(count, _MAX_SPAWNING - self._workers.spawning)):
            worker = self._pool.spawn(self._clock())
            if worker is None:
                break
            self._workers.start(worker)
