"""Weights: how much memory the workers of a pool have, and together.

Pure, like :mod:`.pool`: workers tell what they have for themselves, at times
(:mod:`.scales`), and that comes in as an event. Who has served nothing yet is light,
but won't be: there must be room for what it will have, which is the mean of those
that have served.
"""

from __future__ import annotations

from .policy import Memory
from .pool import Pool
from .pool import Worker


class Weights:
    """The memory of one generation, in bytes.

    :param limit: What a worker may have for itself; 0 is no limit.
    :param zygote: What the zygote has, and with it what workers share.
    """

    def __init__(self, limit: int = 0, zygote: int = 0) -> None:
        self.limit = limit
        self.zygote = zygote
        self._known: dict[Worker, int] = {}
        self._sum = 0
        # What one had before it served.
        self._fresh = 0

    def weigh(self, worker: Worker, size: int, served: bool) -> bool:
        """Take in what a worker has for itself.

        :param served: Whether it has served a request.
        :return: Whether that is more than it may have. A new worker never has: the
            next one would have as much.
        """
        if not served:
            self._fresh = max(self._fresh, size)
            return False
        self._sum += size - self._known.get(worker, 0)
        self._known[worker] = size
        return 0 < self.limit < size

    def forget(self, worker: Worker) -> None:
        """A worker's process is dead."""
        self._sum -= self._known.pop(worker, 0)

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
        return Memory(self.total(pool) + others, reserve, self.each)

    def _unknown(self, pool: Pool) -> int:
        return len(pool) - len(self._known)

    def coldest(self, pool: Pool, excess: int, most: int) -> list[Worker]:
        """The idle workers to retire for so many bytes, the highest slots first.

        One that hasn't served counts with what it would have.

        :param excess: The bytes.
        :param most: No more workers than this.
        """
        chosen: list[Worker] = []
        for worker in pool.highest_idle(most):
            if excess <= 0:
                break
            excess -= self._known.get(worker, self.each)
            chosen.append(worker)
        return chosen
