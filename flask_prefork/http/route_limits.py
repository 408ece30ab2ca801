"""Limits of routes, as handlers go by them: which limit a request has.

Made in the zygote (``zygote/limited.py``). The permits are the dispatcher's.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable
from collections.abc import Sequence

from .takeover import asks_for_upgrade

#: Seconds after which a client that was refused because of its route's limit may try
#: again.
RETRY_AFTER = 1


class Limit(t.Protocol):
    """A limit; the fields are those of :class:`~.settings.limits.RouteLimit`."""

    @property
    def concurrency(self) -> int | None:
        """Requests that may run at once; ``None`` for any number."""

    @property
    def timeout(self) -> float | None:
        """Seconds without progress; ``None`` for the setting, 0 is never."""

    @property
    def queue_timeout(self) -> float | None:
        """Seconds of waiting; ``None`` for the setting, 0 is never."""


class RouteLimits:
    """The limits of an app's routes. They have numbers from 1; 0 is no limit.

    :param limits: In the order of their numbers.
    :param prefixes: What the paths of limited routes begin with, so that others cost
        next to nothing.
    :param find: By a request's method, target and Host field, and whether it is for a
        WebSocket, the number of its limit.
    """

    def __init__(
        self,
        limits: Sequence[Limit],
        prefixes: tuple[str, ...],
        find: Callable[[str, str, str, bool], int],
    ) -> None:
        self._limits = limits
        self._prefixes = prefixes
        self._find = find

    def __getitem__(self, number: int) -> Limit:
        return self._limits[number - 1]

    def find(
        self,
        method: str,
        target: str,
        fields: Sequence[tuple[bytes, bytes]],
        minor: int = 1,
    ) -> int:
        """The number of a request's limit.

        :param fields: Its header fields.
        :param minor: Of its version, HTTP/1.0 or HTTP/1.1.
        """
        if not self._may_be_limited(target):
            return 0
        host, upgrade = "", b""
        for name, value in fields:
            lowered = name.lower()
            if lowered == b"host":
                host = value.decode("latin-1")
            elif lowered == b"upgrade":
                # Joined as in the environ, or the app would see another one.
                upgrade = upgrade + b"," + value if upgrade else value
        # HTTP/1.0 has no such thing (RFC 9110, 7.8).
        websocket = (
            minor > 0
            and upgrade.strip().lower() == b"websocket"
            and asks_for_upgrade(fields)
        )
        return self._find(method, target, host, websocket)

    def _may_be_limited(self, target: str) -> bool:
        if target.startswith(self._prefixes) or target[:1] != "/":
            return True
        if target[:2] == "//":
            return True  # to werkzeug as many as one
        # The app sees it decoded.
        return "%" in target and "%" in target.partition("?")[0]
