"""A request's id: the proxy's, or one that is made here.

Made only when the access log's format asks for it.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time

#: What may be the id of a request: it is passed on, logged and searched for.
_SANE = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}", re.ASCII)


class RequestIds:
    """The ids of a worker's requests.

    Unique among all workers of all machines: they begin with the milliseconds at
    which this worker had its first request, and 40 random bits. So ids sort by
    workers' ages, and those of a worker by time.
    """

    def __init__(self) -> None:
        # Not made here: this object is made before the fork.
        self._start = ""
        self._count = itertools.count(1)

    def choose(self, offered: str | None) -> str:
        """The id of a request.

        :param offered: What a listed proxy says that it is.
        """
        if offered is not None and _SANE.fullmatch(offered):
            return offered
        if not self._start:
            milliseconds = time.time_ns() // 1_000_000
            self._start = f"{milliseconds:011x}{secrets.token_hex(5)}"
        return f"{self._start}-{next(self._count):06x}"
