"""Growth: which requests have left their worker with more memory.

Pure: the worker tells of each request by how much it has grown meanwhile
(``worker/memory_sampler.py``). They are counted by method and path, for a leak is in a
view, and adds up; and no more than a number of them, for paths may be as many as there
are clients.
"""

from __future__ import annotations

import typing as t

from ..settings import size as sizes

#: So many kinds of request are known at a time. Who comes then takes the place of the
#: one that has grown least.
_MOST = 64


class Grown(t.NamedTuple):
    """What requests of one kind have left.

    :param size: Bytes, together.
    :param requests: How many have left something.
    :param line: Their method and path.
    """

    size: int = 0
    requests: int = 0
    line: str = ""

    def describe(self) -> str:
        """A sentence for the log, after a space; nothing if there is nothing to say."""
        if not self.size:
            return ""
        count = f"{self.requests} request{'s' * (self.requests != 1)}"
        return f" {self.line} grew it most: by {sizes.show(self.size)} in {count}."


class Growth:
    """A worker's."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    def note(self, method: str, target: str, size: int) -> None:
        """Take in a request.

        :param target: Its target; the query doesn't count.
        :param size: By how many bytes the worker has grown; below 0 if it has shrunk.
        """
        line = f"{method} {target.partition('?')[0]}"
        sizes, counts = self._sizes, self._counts
        if line not in sizes:
            if size < 0:
                return
            if len(sizes) >= _MOST:
                least = min(sizes, key=sizes.__getitem__)
                del sizes[least], counts[least]
        sizes[line] = sizes.get(line, 0) + size
        counts[line] = counts.get(line, 0) + (size > 0)

    def most(self) -> Grown:
        """The kind that has grown the worker most; an empty one if none has."""
        line = max(self._sizes, key=self._sizes.__getitem__, default="")
        if self._sizes.get(line, 0) <= 0:
            return Grown()
        return Grown(self._sizes[line], self._counts[line], line)
