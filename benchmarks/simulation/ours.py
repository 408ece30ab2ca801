"""``flask prefork-run`` in the simulation, with its own pool and policy.

:class:`Prefork` replaces the dispatcher: it calls both after each event, and at the
policy's deadline. Messages take no time here.
"""

from __future__ import annotations

import math
import typing as t

from flask_prefork.dispatcher.policy import Policy
from flask_prefork.dispatcher.pool import Pool
from flask_prefork.ipc.states import Event

from .engine import Process
from .engine import Server
from .engine import World

RUN_LENGTH = 64
"""Requests of a standing order; the default of ``--run-length``."""


class Limits(t.NamedTuple):
    """How the pool is bounded. Each server has these under names of its own."""

    min_idle: int
    max_workers: int
    max_idle: int = 0
    """0 is twice min_idle."""

    min_workers: int = 0
    """0 is min_idle."""

    @property
    def most_idle(self) -> int:
        return self.max_idle or 2 * self.min_idle

    @property
    def fewest(self) -> int:
        return self.min_workers or self.min_idle


class Prefork(Server):
    """Ordered dispatch, with standing orders.

    :param idle_timeout: as ``--idle-timeout``.
    :param policy: the class that decides how many.
    """

    def __init__(
        self,
        world: World,
        limits: Limits,
        idle_timeout: float = 10.0,
        policy: type[Policy] = Policy,
    ) -> None:
        super().__init__(world)
        self.pool = Pool(limits.max_workers)
        self.policy = policy(
            limits.min_idle,
            limits.most_idle,
            limits.fewest,
            limits.max_workers,
            idle_timeout,
            world.now,
        )
        self._left = [0] * limits.max_workers
        """What is left of each slot's standing order."""

    def begin(self) -> None:
        self._spawn(self.policy.first())

    def arrived(self) -> None:
        # While nobody is idle the dispatcher doesn't poll the listening socket.
        if self.pool.idle:
            self._turn()

    def started(self, process: Process) -> None:
        self.policy.started(self.world.now)
        self._idle(process)

    def finished(self, process: Process) -> None:
        slot = process.number
        if self.world.queue and self._left[slot] and not self._lower_is_idle(slot):
            # The standing order holds: the dispatcher hears nothing of it.
            self._left[slot] -= 1
            self.world.take(process)
        else:
            self._idle(process)

    def wake(self) -> None:
        self._turn()

    def _lower_is_idle(self, slot: int) -> bool:
        lowest = self.pool.lowest_idle()
        return lowest is not None and lowest.number < slot

    def _idle(self, process: Process) -> None:
        worker = self.pool.workers[process.number]
        assert worker is not None
        self.pool.report(worker, Event.IDLE, self.world.now)
        self._turn()

    def _turn(self) -> None:
        world, pool, policy = self.world, self.pool, self.policy
        now = world.now
        if world.queue:
            for worker in pool.order(len(world.queue), now):
                pool.report(worker, Event.BUSY, now)
                self._left[worker.number] = RUN_LENGTH - 1
                world.take(world.processes[worker.number])
        idle = pool.idle
        wanted = policy.grow(
            now,
            idle=idle,
            starting=pool.starting,
            total=len(pool),
            waiting=0 if idle else len(world.queue),
        )
        if wanted:
            self._spawn(wanted)
        surplus = policy.shrink(now, idle=idle, total=len(pool))
        if surplus:
            self._retire(surplus)
        deadline = policy.deadline()
        self.deadline = math.inf if deadline is None else deadline

    def _spawn(self, count: int) -> None:
        for _ in range(count):
            worker = self.pool.spawn(self.world.now)
            assert worker is not None, "the policy keeps to max_workers"
            process = self.world.fork()
            assert process.number == worker.number

    def _retire(self, count: int) -> None:
        for worker in self.pool.highest_idle(count):
            for event in (Event.RETIRE, Event.EXIT):
                self.pool.report(worker, event, self.world.now)
            self.world.retire(self.world.processes[worker.number])
