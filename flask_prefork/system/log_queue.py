"""Handlers that may wait, in a process that must not: a thread calls them.

The dispatcher forks no process any more when there is this thread; it starts others by
``posix_spawn(3)``, which has no locks to be left behind.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
import traceback
import typing as t
from collections.abc import Callable
from collections.abc import Iterable
from logging.handlers import QueueHandler

#: Records that are kept for a handler that is slow.
_MOST = 10_000


class HandlerThread:
    """Calls handlers, one record after the other."""

    def __init__(self) -> None:
        #: How many records were lost because too many waited.
        self.lost = 0
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST)
        self._thread = threading.Thread(
            target=self._run, name="flask_prefork log", daemon=True
        )
        # Signals are for the main thread.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except Exception:
                # As logging does it with what a handler raises.
                if logging.raiseExceptions:
                    traceback.print_exc()

    def put(self, call: Callable[[], None]) -> bool:
        """Let something be called by the thread; never waits.

        :return: ``False`` if too many wait.
        """
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self.lost += 1
            return False
        return True

    def is_full(self) -> bool:
        """Whether nothing can be put now."""
        return self._queue.full()

    def finish(self, seconds: float) -> bool:
        """Wait for what was put.

        :param seconds: At most.
        :return: Whether all was done.
        """
        end = time.monotonic() + seconds
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return False
        self._thread.join(max(end - time.monotonic(), 0.0))
        return not self._thread.is_alive()


class GuardedFilter:
    """A logger's filter that may raise, in a process that goes on then.

    :param inner: The filter: an object that has one, or a function.
    """

    def __init__(self, inner: t.Any) -> None:
        self._call = getattr(inner, "filter", inner)

    def filter(self, record: logging.LogRecord) -> t.Any:
        """What the filter says; a record that it fails for is logged."""
        try:
            return self._call(record)
        except Exception:
            if logging.raiseExceptions:
                traceback.print_exc()
            return True


class ThreadedHandler(QueueHandler):
    """Stands in for a logger's handlers, which a thread calls.

    :param thread: The thread.
    :param handlers: The handlers.
    """

    def __init__(
        self, thread: HandlerThread, handlers: Iterable[logging.Handler]
    ) -> None:
        super().__init__(t.cast(t.Any, None))
        self._thread = thread
        self._handlers = list(handlers)

    def enqueue(self, record: logging.LogRecord) -> None:
        """Hand a record over."""
        self._thread.put(lambda: self._handle(record))

    def _handle(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
