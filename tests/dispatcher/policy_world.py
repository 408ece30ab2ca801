"""A simulated server around the policy, without process or clock."""

from __future__ import annotations

import heapq

from flask_prefork.dispatcher.policy import Policy
from flask_prefork.dispatcher.pool import Pool
from flask_prefork.dispatcher.pool import PoolWorker
from flask_prefork.ipc.states import Event
from flask_prefork.ipc.states import State

FORK = 0.01


def make(
    min_idle: int = 2,
    max_idle: int = 4,
    min_workers: int = 2,
    max_workers: int = 40,
    idle_timeout: float = 10.0,
    budget: int = 0,
) -> Policy:
    return Policy(
        min_idle, max_idle, min_workers, max_workers, idle_timeout, 0.0, budget
    )


class Server:
    """Pool and policy, wired as the dispatcher does, with events from a heap."""

    def __init__(self, policy: Policy) -> None:
        self.now = 0.0
        self.policy = policy
        self.pool = Pool(policy.max_workers)
        self.waiting = 0
        self.durations: list[float] = []
        self.events: list[tuple[float, int, str, object]] = []
        self.serial = 0
        self.spawned = 0
        self.retired = 0
        self.most = 0
        self.spawn(policy.first())

    def at(self, when: float, what: str, about: object = None) -> None:
        self.serial += 1
        heapq.heappush(self.events, (when, self.serial, what, about))

    def spawn(self, count: int) -> None:
        for _ in range(count):
            worker = self.pool.spawn(self.now)
            assert worker is not None
            self.spawned += 1
            self.at(self.now + FORK, "idle", worker)

    def arrive(self, when: float, duration: float) -> None:
        self.at(when, "arrive", duration)

    def run(self, until: float) -> None:
        while True:
            wake = self.policy.deadline()
            if self.events and (wake is None or self.events[0][0] <= wake):
                if self.events[0][0] > until:
                    break
                self.now, _, what, about = heapq.heappop(self.events)
                self.happen(what, about)
            elif wake is not None and wake <= until:
                self.now = max(wake, self.now)
            else:
                break
            self.step()
        self.now = until

    def happen(self, what: str, about: object) -> None:
        if what == "arrive":
            assert isinstance(about, float)
            self.durations.append(about)
        elif what == "idle":
            assert isinstance(about, PoolWorker)
            self.pool.report(about, Event.IDLE, self.now)
        else:
            assert isinstance(about, PoolWorker)
            self.pool.report(about, Event.EXIT, self.now)

    def step(self) -> None:
        pool = self.pool
        for worker in pool.order(len(self.durations), self.now):
            pool.report(worker, Event.BUSY, self.now)
            self.at(self.now + self.durations.pop(0), "idle", worker)
        grow = self.policy.grow(
            self.now,
            idle=pool.idle,
            starting=pool.starting,
            total=len(pool),
            waiting=len(self.durations),
        )
        self.spawn(grow)
        surplus = self.policy.shrink(self.now, idle=pool.idle, total=len(pool))
        for worker in pool.highest_idle(surplus):
            pool.report(worker, Event.RETIRE, self.now)
            self.retired += 1
            self.at(self.now + FORK, "exit", worker)
        self.most = max(self.most, len(pool))
        assert len(pool) <= self.policy.max_workers

    @property
    def busy(self) -> int:
        return self.pool.counts[State.BUSY]
