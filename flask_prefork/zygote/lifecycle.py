"""Calls the app's hooks and signals, and prepares the app for forks.

Zygote and workers call this before and after forks and at their end. It calls the
app's hooks and signals (``hooks.py``), and does what the app needs before and after a
fork (``fork_checks.py``, ``prometheus.py``). Nothing the app does in a hook ends the
zygote.
"""

from __future__ import annotations

import copy
import os
import typing as t

from flask import Flask

from ..ipc.states import Reason
from ..system import forks
from ..system.log import logger
from ..worker import at_exit
from ..worker import leaving
from . import fork_checks
from . import hooks
from . import prometheus
from .fork_connections import Connections
from .fork_pipes import Own
from .hooks import Hook
from .hooks import Hooks

if t.TYPE_CHECKING:
    import socket

    from _typeshed.wsgi import WSGIApplication
    from blinker import NamedSignal


class Lifecycle:
    """The life of one generation, as the app sees it.

    :param app: What is served; if it could not be loaded, that is no app of Flask's.
    :param generation: The generation's number.
    """

    def __init__(self, app: WSGIApplication, generation: int) -> None:
        self.app = app if isinstance(app, Flask) else None
        self.generation = generation
        self._serves = False
        found = hooks.find(self.app) if self.app is not None else None
        self.hooks = found.hooks if found is not None else Hooks()
        self._connections = Connections()

    def of(self, generation: int) -> Lifecycle:
        """The same app's life as another generation."""
        other = copy.copy(self)
        other.generation = generation
        other._serves = False
        other._connections = Connections()
        return other

    # In the zygote

    def prepare(self, listeners: t.Sequence[socket.socket], own: Own) -> None:
        """Before the first fork, when no worker of the app is there.

        :param listeners: The server's own sockets, which workers are to share.
        :param own: What else is the server's.
        """
        prometheus.prepare(self.generation)
        if self.app is None:
            return
        try:
            for finding in fork_checks.check(self.app, listeners, own):
                logger.warning("Before the first fork: %s", finding)
        except Exception:
            # It has looked at all kinds of objects, which may be of any kind.
            logger.exception("The check before the first fork failed:")
        self._connections.note()

    def before_fork(self) -> bool:
        """Before each fork of a worker.

        :return: Whether to fork.
        """
        return self._call_all("before_fork", self.hooks.before_fork)

    def ready(self, follows: bool) -> None:
        """The generation serves.

        :param follows: Whether another one did before.
        """
        self._serves = True
        for hook in self.hooks.when_ready:
            self._call("when_ready", hook)
        if follows:
            self._send(hooks.reloaded, generation=self.generation)

    def resized(self, workers: int) -> None:
        """The generation has another number of workers."""
        self._send(hooks.pool_resized, workers=workers)

    def reaped(self, slot: int) -> None:
        """A worker has ended, in whatever way."""
        prometheus.remove_dead(self.generation, slot)

    def worker_exited(
        self, slot: int, pid: int, reason: Reason, status: int | None
    ) -> None:
        """The reason for a worker's end is known too.

        :param status: Its exit status, or the signal's number below 0; ``None`` if that
            isn't known.
        """
        self._send(
            hooks.worker_exited,
            slot=slot,
            pid=pid,
            generation=self.generation,
            reason=reason.value,
            status=status,
        )

    def ended(self) -> None:
        """The generation has no worker left, and gets none any more."""
        if self._serves:
            for hook in reversed(self.hooks.when_ended):
                self._call("when_ended", hook)

    # In a worker

    def begin(self, slot: int, served: t.Callable[[], int]) -> bool:
        """In a new worker, before it is idle for the first time.

        :param served: Counts its requests.
        :return: Whether it may serve.
        """
        prometheus.enter(self.generation, slot)
        hooks.become(slot, self.generation, served)
        if not self._renew():
            return False
        return self._call_all("after_fork", self.hooks.after_fork) and self._send(
            hooks.worker_started, slot=slot, generation=self.generation
        )

    def _renew(self) -> bool:
        try:
            if self.app is not None:
                self._connections.cut()
                fork_checks.renew(self.app)
        except Exception:
            logger.exception("The worker could not renew what it can't share:")
            return False
        return True

    def end(self, slot: int, pid: int) -> None:
        """In a worker that has begun, before its end.

        :param pid: The worker's. A process that the app has forked ends otherwise.
        """
        if pid != os.getpid():
            return
        self._send(hooks.worker_exiting, slot=slot, generation=self.generation)
        for hook in reversed(self.hooks.before_exit):
            self._call("before_exit", hook)

    def prepare_promotion(self, slot: int, deadline: float) -> bool:
        """In a worker that has ended, before it is forked as the next zygote.

        :param deadline: When the process will be killed, in monotonic seconds. Threads
            that end by themselves are waited for, but it must be able to end by then.
        :return: Whether it may be.
        """
        try:
            if self.app is not None:
                fork_checks.close_connections(self.app)
        except Exception:
            logger.exception(
                "The worker could not close its connections before its promotion:"
            )
            return False
        patience = deadline - leaving.last_part(deadline)
        leaving.join(patience, leaving.executors_threads())
        if threads := fork_checks.threads():
            logger.error(
                "Worker %d (pid %d) can't become the zygote, for threads run in it: %s."
                " End them in a before_exit hook.",
                slot,
                os.getpid(),
                ", ".join(threads),
            )
        elif processes := at_exit.processes():
            logger.error(
                "Worker %d (pid %d) can't become the zygote, for it would not be the"
                " parent of processes that the app has started: %s.",
                slot,
                os.getpid(),
                ", ".join(processes),
            )
            return False
        return not threads

    def _call_all(self, kind: str, functions: t.Iterable[Hook]) -> bool:
        """Call hooks until one fails.

        :return: Whether none did.
        """
        return all(self._call(kind, hook) for hook in functions)

    def _call(self, kind: str, hook: Hook) -> bool:
        """Call a hook in the app's context.

        :return: Whether it came to its end.
        """
        assert self.app is not None, "only an app has hooks"
        try:
            with self.app.app_context():
                self.app.ensure_sync(hook)()
        except BaseException:
            # As wide as that: what cancels coroutines is no Exception, nor is Ctrl-C.
            logger.exception("The hook %s (%s) failed:", kind, _name(hook))
            return False
        finally:
            forks.end_if_foreign()
        return True

    def _send(self, signal: NamedSignal, **news: t.Any) -> bool:
        """Send a signal in the app's context.

        :return: Whether all its receivers came to their end.
        """
        if self.app is None or not signal.receivers:
            return True
        try:
            with self.app.app_context():
                signal.send(self.app, _async_wrapper=self.app.ensure_sync, **news)
        except BaseException:
            logger.exception("A receiver of %s failed:", signal.name)
            return False
        finally:
            forks.end_if_foreign()
        return True


def _name(hook: Hook) -> str:
    """What people call a function: its module and name."""
    name = getattr(hook, "__qualname__", None)
    if name is None:
        return repr(hook)
    return f"{getattr(hook, '__module__', '?')}.{name}"
