"""Deadlines by key, most of which are cancelled before they are due. Pure.

``ipc/parked_connections.py`` has one for each connection that waits, and
``dispatcher/watchdog.py`` one for each worker that is busy.
"""

from __future__ import annotations

import heapq
import typing as t

#: Deadlines are kept to this precision, in seconds.
_GRAIN = 0.05

Item = t.TypeVar("Item", bound=t.Hashable)


class Deadlines(t.Generic[Item]):
    """Many deadlines that are mostly taken back before they come.

    Items of about the same time share a bucket, so that taking one back is
    cheap and leaves nothing behind.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Item, None]] = {}
        self._order: list[int] = []
        self._of: dict[Item, int] = {}

    def __len__(self) -> int:
        return len(self._of)

    def set(self, item: Item, when: float) -> None:
        """Give the item a deadline, in place of any it has."""
        self.discard(item)
        # Rounded up: an item is never early.
        key = -int(-when // _GRAIN)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = {}
            heapq.heappush(self._order, key)
        bucket[item] = None
        self._of[item] = key

    def discard(self, item: Item) -> None:
        """Take the item's deadline back, if it has one."""
        key = self._of.pop(item, None)
        if key is not None:
            del self._buckets[key][item]

    def next(self) -> float | None:
        """The next deadline, in seconds."""
        while self._order:
            key = self._order[0]
            if self._buckets[key]:
                return key * _GRAIN
            heapq.heappop(self._order)
            del self._buckets[key]
        return None

    def pop(self, now: float) -> list[Item]:
        """Take out all whose time has come."""
        items: list[Item] = []
        while (when := self.next()) is not None and when <= now:
            key = heapq.heappop(self._order)
            bucket = self._buckets.pop(key)
            for item in bucket:
                del self._of[item]
            items += bucket
        return items
