"""The app's hooks and signals, and ``current_worker``.

Users get at this through :class:`.extension.Prefork` and the names in the
package itself. When what is called is in ``lifecycle.py``.
"""

from __future__ import annotations

import os
import typing as t

from blinker import Namespace
from werkzeug.local import LocalProxy

if t.TYPE_CHECKING:
    from flask import Flask

Hook = t.Callable[[], object]
F = t.TypeVar("F", bound=Hook)

#: The attribute of views that read their request's body while it comes.
STREAMS_BODY = "_prefork_streams_body"
#: The attribute of views that have a limit: its fields.
LIMIT = "_prefork_limit"

_signals = Namespace()

worker_started = _signals.signal(
    "worker-started",
    "Sent by the app in a worker, after the ``after_fork`` hooks and before the first"
    " request; with ``slot`` and ``generation``.",
)
worker_exiting = _signals.signal(
    "worker-exiting",
    "Sent by the app in a worker, before the ``before_exit`` hooks; with ``slot``"
    " and ``generation``.",
)
pool_resized = _signals.signal(
    "pool-resized",
    "Sent by the app in the zygote, when the number of worker processes of its"
    " generation has changed; with ``workers``, the new number. No worker is started"
    " while a receiver runs. If the number changes in that time, the signal is sent"
    " again right after.",
)
worker_exited = _signals.signal(
    "worker-exited",
    "Sent by the app in the zygote, when a worker of its generation has ended, in"
    " whatever way; with ``slot``, ``pid``, ``generation``, ``reason`` and ``status``."
    " The reason is a word, ``retired`` if all is well. The status is the exit status,"
    " or the signal's number below 0; ``None`` if it isn't known. No worker is started"
    " while a receiver runs.",
)
reloaded = _signals.signal(
    "reloaded",
    "Sent by the app in the new zygote, when its generation serves instead of the old"
    " one; with ``generation``, its number.",
)


class Hooks:
    """The functions that an extension's decorators have collected."""

    def __init__(self) -> None:
        self.before_fork: list[Hook] = []
        self.after_fork: list[Hook] = []
        self.before_exit: list[Hook] = []
        self.when_ready: list[Hook] = []
        self.when_ended: list[Hook] = []


class Extension(t.Protocol):
    """What an app was initialized with: :class:`flask_prefork.Prefork`."""

    hooks: Hooks
    #: Endpoints whose views read their request's body while it comes.
    streamed: set[str]

    def configuration(self, app: Flask) -> dict[str, t.Any]:
        """The app's configuration without the extension's defaults."""


def find(app: Flask) -> Extension | None:
    """The extension that an app was initialized with."""
    found = app.extensions.get("prefork")
    # Another package's may have that name.
    is_ours = isinstance(getattr(found, "hooks", None), Hooks)
    return t.cast(Extension, found) if is_ours else None


def configuration(app: Flask) -> t.Mapping[str, t.Any]:
    """What an app's configuration says, without the extension's defaults."""
    extension = find(app)
    return app.config if extension is None else extension.configuration(app)


class CurrentWorker:
    """The worker process that this code runs in.

    :ivar slot: Its number, from 0; the next worker in its place has the same.
    :ivar generation: How many times the app was loaded, this time included;
        numbers may be left out.
    :ivar pid: Its process.
    """

    __slots__ = ("_count", "generation", "pid", "slot")

    def __init__(self, slot: int, generation: int, served: t.Callable[[], int]) -> None:
        self.slot = slot
        self.generation = generation
        self.pid = os.getpid()
        self._count = served

    @property
    def served(self) -> int:
        """How many requests it has served, the present one not included."""
        return self._count()


_worker: CurrentWorker | None = None


def become(slot: int, generation: int, served: t.Callable[[], int]) -> None:
    """Make this process a worker, for who asks :data:`current_worker`.

    :param served: Counts its requests.
    """
    global _worker
    _worker = CurrentWorker(slot, generation, served)


def _find_worker() -> CurrentWorker:
    # A process that the app forks in a worker is none.
    if _worker is None or _worker.pid != os.getpid():
        raise RuntimeError(
            "Working outside of a worker.\n\n"
            "'current_worker' is known in worker processes of 'flask prefork-run'"
            " only: in requests, and in the hooks 'after_fork' and 'before_exit'."
            " Elsewhere it is false in a boolean context."
        )
    return _worker


#: The worker that this code runs in. As with Flask's own proxies, outside of one
#: it is false, and to look into it raises :exc:`RuntimeError`.
current_worker: CurrentWorker = LocalProxy(_find_worker)  # type: ignore[assignment]
