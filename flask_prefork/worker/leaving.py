"""How a worker or a zygote exits: as any interpreter, but within a deadline.

An interpreter that ends first waits for threads that aren't daemons, after it has told
the executors of ``concurrent.futures`` to take no more work; then it runs the at-exit
handlers (``Py_FinalizeEx``). It does so for ever. Here what isn't done by the deadline
is cut off, and logged.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
import typing as t

from ..system.log import logger
from . import at_exit

#: Of the time until a process is killed this part, and not more than so many seconds,
#: is left for at-exit handlers, and to log what was cut off.
_LAST_PART = 0.2
_LAST_SECONDS = 1.0


def is_at_work() -> bool:
    """Whether an interpreter's end would wait for something."""
    return bool(_threads() or _processes())


def leave(status: int, deadline: float, name: str) -> t.NoReturn:
    """End the process as an interpreter would.

    :param status: The exit status.
    :param deadline: When it will be killed, as :func:`time.monotonic`.
    :param name: What the log calls it.
    """
    try:
        last = last_part(deadline)
        watch(max(deadline - last / 4, time.monotonic() + _LAST_SECONDS), status, name)
        if not finish_threads(deadline - last, name):
            _end_processes()
    except BaseException:
        traceback.print_exc()
    finally:
        at_exit.run(status)


def last_part(deadline: float) -> float:
    """Seconds of what is left that are for the very end."""
    left = max(deadline - time.monotonic(), 0.0)
    return min(left * _LAST_PART, _LAST_SECONDS)


def finish_threads(deadline: float, name: str) -> bool:
    """Wait for threads that aren't daemons, after executors were asked to end.

    :return: Whether they have ended. If not, it is logged which haven't.
    """
    # Nothing more is to be registered for the end (threading._register_atexit).
    threading._SHUTTING_DOWN = True  # type: ignore[attr-defined]
    callbacks = list(reversed(threading._threading_atexits))  # type: ignore[attr-defined]
    threading._threading_atexits.clear()  # type: ignore[attr-defined]
    called = not callbacks or _call_in_background(callbacks, deadline)
    if join(deadline) and called:
        return True
    logger.warning("%s ends before its threads and processes: %s.", name, _left())
    return False


def _left() -> str:
    left = [f"thread {one.name!r} ({what_runs(one)})" for one in _threads()]
    left += [f"process {one.name!r} (pid {one.pid})" for one in _processes()]
    return ", ".join(left) or "none is left"


def join(deadline: float, but: t.Collection[threading.Thread] = ()) -> bool:
    """Wait for threads that aren't daemons, and those that these start.

    :param but: Those that aren't waited for.
    :return: Whether they have ended.
    """
    while threads := [one for one in _threads() if one not in but]:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        threads[0].join(left)
    return True


def executors_threads() -> list[threading.Thread]:
    """Threads of executors, which end when these are shut down."""
    module = sys.modules.get("concurrent.futures.thread")
    return list(module._threads_queues) if module is not None else []


def _threads() -> list[threading.Thread]:
    mine = (threading.current_thread(), threading.main_thread())
    return [one for one in threading.enumerate() if not one.daemon and one not in mine]


def _processes() -> list[t.Any]:
    """Children that ``multiprocessing`` waits for."""
    module = sys.modules.get("multiprocessing.process")
    return [one for one in module.active_children() if not one.daemon] if module else []


def _end_processes() -> None:
    """End what would wait for a thread that is cut off, and be waited for."""
    for process in _processes():
        process.terminate()


def _call_in_background(callbacks: list[t.Callable[[], object]], until: float) -> bool:
    """Call what may wait for threads without an end.

    :return: Whether it came to its end.
    """

    def call() -> None:
        for callback in callbacks:
            try:
                callback()
            except BaseException:
                traceback.print_exc()

    helper = threading.Thread(target=call, daemon=True)
    try:
        helper.start()
    except RuntimeError:
        call()  # there can be no more threads
        return True
    helper.join(max(until - time.monotonic(), 0.0))
    return not helper.is_alive()


def watch(deadline: float, status: int, name: str) -> None:
    """End the process at the deadline, whatever its main thread does then."""

    def end() -> None:
        time.sleep(max(deadline - time.monotonic(), 0.0))
        try:
            logger.warning(
                "%s ends before its at-exit handlers are done; its threads and"
                " processes: %s.",
                name,
                _left(),
            )
            for process in _processes():
                process.kill()
        finally:
            os._exit(status)

    with contextlib.suppress(RuntimeError):  # there can be no more threads
        threading.Thread(target=end, daemon=True).start()


def what_runs(thread: threading.Thread) -> str:
    """Whose a thread is: its function, or its class."""
    what = getattr(thread, "_target", None) or type(thread)
    module = getattr(what, "__module__", None) or "?"
    return f"{module}.{getattr(what, '__qualname__', what)}"
