"""Memory accounting: how much the workers of a pool have, and together.

Pure, like :mod:`.pool`: workers report what they have for themselves, at times and when
they grow (``worker/memory_sampler.py``), and that comes in as an event. Who has served
nothing yet has little, but will have more: there must be room for that, which is the
mean of those that have served. And who has grown since its last report will grow again:
a leak goes on until its worker is replaced.
"""

from __future__ import annotations

from .policy import Memory
from .pool import Pool
from .pool import PoolWorker
from .pool import State

#: A worker that is above its limit by this part of it waits for no replacement.
TOO_FAR = 0.25
#: A worker is replaced for the budget if so much of what it has came after its first
#: request. Another one would soon have the rest as well.
GROWN = 0.5


#: While a worker is replaced, it and the others serve so many requests more.
AHEAD = 2
_SERVING = (State.IDLE, State.ORDERED, State.BUSY)


class MemoryAccounting:
    """The memory of one generation, in bytes.

    :param limit: What a worker may have for itself; 0 is no limit.
    :param zygote: What the zygote has, and with it what workers share.
    """

    def __init__(self, limit: int = 0, zygote: int = 0) -> None:
        self.limit = limit
        self.zygote = zygote
        self._known: dict[PoolWorker, int] = {}
        self._sum = 0
        # What one had before it served.
        self._fresh = 0
        # What those had who had just served for the first time, and how many did.
        self._first = 0
        self._firsts = 0
        # By how much they have grown since they reported it before.
        self._growth: dict[PoolWorker, int] = {}
        self._growth_sum = 0
        #: Those who have reported that they have more than they may have.
        self.over: set[PoolWorker] = set()
        #: Those who are to go as soon as they are idle, before another one is there.
        self.urgent: set[PoolWorker] = set()

    def record(self, worker: PoolWorker, size: int, served: bool) -> None:
        """Take in what a worker has for itself, as it reports it.

        :param served: Whether it has served a request. A new worker never has more
            than it may have: the next one would have as much.
        """
        if not served:
            self._fresh = max(self._fresh, size)
            return
        before = self._known.get(worker)
        if before is None:
            self._first += size
            self._firsts += 1
            before, growth = 0, 0
        else:
            growth = max(size - before, 0)
        self._sum += size - before
        self._known[worker] = size
        self._growth_sum += growth - self._growth.get(worker, 0)
        self._growth[worker] = growth
        if 0 < self.limit < size:
            self.over.add(worker)
            if size > self.limit * (1 + TOO_FAR):
                self.urgent.add(worker)

    def of(self, worker: PoolWorker) -> int:
        """What a worker has, as far as it has reported."""
        return self._known.get(worker, 0)

    def forget(self, worker: PoolWorker) -> None:
        """A worker's process is dead."""
        self._sum -= self._known.pop(worker, 0)
        self._growth_sum -= self._growth.pop(worker, 0)
        self.over.discard(worker)
        self.urgent.discard(worker)

    @property
    def each(self) -> int:
        """What one more worker will have."""
        mean = self._sum // len(self._known) if self._known else 0
        return max(mean, self._fresh)

    def total(self, pool: Pool) -> int:
        """What zygote and workers have together."""
        return self.zygote + self._sum + self._fresh * self._unknown(pool)

    def memory(self, pool: Pool, others: int) -> Memory:
        """What is to be held against a budget.

        :param others: Bytes that other generations have.
        """
        # What those will have in addition that haven't served yet.
        reserve = (self.each - self._fresh) * self._unknown(pool)
        growth = AHEAD * self._growth_sum
        return Memory(self.total(pool) + others, reserve + growth, self.each, growth)

    def _unknown(self, pool: Pool) -> int:
        return len(pool) - len(self._known)

    def retiring(self, pool: Pool) -> int:
        """What the system will get back from those that retire."""
        if not pool.counts[State.RETIRING]:
            return 0
        retiring = (worker for worker in pool if worker.state is State.RETIRING)
        return sum(self._known.get(worker, self.each) for worker in retiring)

    def choose_grown(self, excess: int) -> list[PoolWorker]:
        """The workers to replace for so many bytes, those that have grown most first.

        They are urgent from now on. Those that were already count for the bytes.

        :param excess: The bytes.
        """
        first = self._first // max(self._firsts, 1)
        gains = {worker: size - first for worker, size in self._known.items()}
        excess -= sum(
            gain
            for worker, gain in gains.items()
            if worker in self.urgent and worker.state in _SERVING
        )
        chosen: list[PoolWorker] = []
        for worker in sorted(gains, key=gains.__getitem__, reverse=True):
            if excess <= 0 or gains[worker] < GROWN * self._known[worker]:
                break
            if worker.state in _SERVING and worker not in self.urgent:
                excess -= gains[worker]
                chosen.append(worker)
        self.urgent.update(chosen)
        return chosen

    def choose_idle(self, pool: Pool, excess: int, most: int) -> list[PoolWorker]:
        """The idle workers to retire for so many bytes, the highest slots first.

        One that hasn't served counts with what it would have.

        :param excess: The bytes.
        :param most: No more workers than this.
        """
        chosen: list[PoolWorker] = []
        for worker in pool.highest_idle(most):
            if excess <= 0:
                break
            excess -= self._known.get(worker, self.each)
            chosen.append(worker)
        return chosen
