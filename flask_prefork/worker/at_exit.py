"""At-exit handlers and finalizers: each runs in the process that registered it.

What is registered while the app is loaded belongs to the zygote, and runs once, when
the generation ends. A worker inherits all of it by the fork and runs only what was
registered in itself: of ``atexit``, of :func:`weakref.finalize` (as used by
``TemporaryDirectory``), of ``multiprocessing``, and of ``threading`` (by which
executors end).

A promoted worker hands both on, to the zygote that it leaves behind. As soon as that
serves, its generation's end is the end of what the first zygote has registered too, and
the first one ends without running it.

The order is ``atexit``'s own, last in, first out: a worker registers :func:`_stop`
before anything else, which runs when all its own handlers have run, and ends the
process.
"""

from __future__ import annotations

import atexit
import collections
import inspect
import logging
import os
import sys
import tempfile
import threading
import traceback
import typing as t
import weakref

#: Packages whose threads start anew in a child when they are needed there: they
#: look at the pid, or have ``os.register_at_fork``.
RENEWING = frozenset({"opentelemetry", "sentry_sdk"})
Handler = t.Callable[[], object]

#: Handlers that libraries register once, when they are imported, for whatever is made
#: in the process: each process has its own to do.
_OF_EACH = {
    ("concurrent.futures.process", "_python_exit"),
    ("concurrent.futures.thread", "_python_exit"),
    ("joblib.externals.loky.process_executor", "_python_exit"),
    ("logging", "shutdown"),
    ("loky.process_executor", "_python_exit"),
    ("multiprocessing.util", "_exit_function"),
    ("weakref", "finalize._exitfunc"),
}
#: Methods of these change nothing but memory, of which each process has its own.
_MEMORY = (collections.deque, dict, list, set)

_status = 0
#: What of the inherited handlers is run here too, the last one first.
_of_each: list[Handler] = []
#: What a worker has put aside of what it inherited.
_finalizers: list[tuple[t.Any, t.Any]] = []
_callbacks: list[Handler] = []
_children: set[t.Any] = set()
#: What deletes the file of a ``NamedTemporaryFile`` when that is closed.
_files: weakref.WeakSet[t.Any] = weakref.WeakSet()
_inherited_files: list[weakref.ref[t.Any]] = []


def watch_files() -> None:
    """In a zygote, before the app is loaded: note temporary files that have names.

    An interpreter deletes them when it takes itself to pieces.
    """
    kind: t.Any = tempfile._TemporaryFileCloser  # type: ignore[attr-defined]

    class Closer(kind):  # type: ignore[misc]
        def __init__(self, *args: t.Any, **kwargs: t.Any) -> None:
            super().__init__(*args, **kwargs)
            _files.add(self)

    tempfile._TemporaryFileCloser = Closer  # type: ignore[attr-defined]
    atexit.register(_delete_files)


def begin() -> None:
    """In a new worker, before any hook: what was registered so far is the zygote's."""
    _of_each[:] = [one for one in reversed(_registered()) if _is_of_each(one)]
    atexit.register(_stop)
    for finalizer, info in list(weakref.finalize._registry.items()):  # type: ignore[attr-defined]
        obj = info.weakref()
        if info.atexit and obj is not None and not _is_in_memory(info.func):
            # Called neither at the end nor when the object has gone; but by the app, as
            # by TemporaryDirectory.cleanup().
            info.atexit = False
            info.weakref = weakref.ref(obj)
            _finalizers.append((finalizer, info))
    for file in _files:
        if file.delete:
            file.delete = False
            _inherited_files.append(weakref.ref(file))
    _callbacks[:] = _take_callbacks()


def _take_callbacks() -> list[Handler]:
    """Take away the callbacks of ``threading`` that aren't for each process."""
    every = threading._threading_atexits  # type: ignore[attr-defined]
    taken = [one for one in every if not _is_of_each(_function(one))]
    every[:] = [one for one in every if one not in taken]
    return taken


def begin_in_libraries() -> None:
    """In a new worker: forget the zygote's threads, processes and records.

    Libraries that aren't loaded stay so.
    """
    modules = sys.modules
    if "concurrent.futures.thread" in modules:
        modules["concurrent.futures.thread"]._threads_queues.clear()
    if "concurrent.futures.process" in modules:
        modules["concurrent.futures.process"]._threads_wakeups.clear()
    if "multiprocessing.process" in modules:
        # As BaseProcess._bootstrap() does it.
        process: t.Any = modules["multiprocessing.process"]
        _children.update(process._children)
        process._children = set()
    if "multiprocessing.util" in modules:
        modules["multiprocessing.util"]._run_after_forkers()
    for handler in logging._handlerList:  # type: ignore[attr-defined]
        buffer = getattr(handler(), "buffer", None)
        if isinstance(buffer, list):
            buffer.clear()


def processes() -> list[str]:
    """Processes of ``multiprocessing`` whose parent a zygote made here wouldn't be."""
    active: t.Iterable[t.Any] = ()
    if "multiprocessing.process" in sys.modules:
        active = sys.modules["multiprocessing.process"].active_children()
    return [f"{one.name!r} (pid {one._popen.pid})" for one in (*_children, *active)]


def take_over() -> None:
    """In a zygote that was a worker: restore what the worker has put aside."""
    atexit.unregister(_stop)
    for finalizer, info in _finalizers:
        info.atexit = True
        obj = info.weakref()
        if obj is not None:
            info.weakref = weakref.ref(obj, finalizer)
    _finalizers.clear()
    for ref in _inherited_files:
        file = ref()
        if file is not None:
            file.delete = True
    _inherited_files.clear()
    threading._threading_atexits[:0] = _callbacks  # type: ignore[attr-defined]
    _callbacks.clear()
    if "multiprocessing.util" in sys.modules:
        for one in sys.modules["multiprocessing.util"]._finalizer_registry.values():
            one._pid = os.getpid()


def drop_inherited() -> None:
    """In a zygote: another one has inherited all that was registered here."""
    _take_callbacks()


def run(status: int) -> t.NoReturn:
    """Run what is to be run here, and end the process.

    An interpreter's end would then take itself to pieces, and only touch memory that is
    shared.
    """
    global _status
    _status = status
    try:
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        quit_now(status)


def _delete_files() -> None:
    for file in list(_files):
        if file.delete:
            file.__del__()


def quit_now(status: int) -> t.NoReturn:
    """End the process without running anything of the app's."""
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        pass
    finally:
        os._exit(status)


def _stop() -> t.NoReturn:
    """All that was registered in this worker has run."""
    for handler in (*_of_each, _delete_files):
        try:
            handler()
        except BaseException:
            traceback.print_exc()
    quit_now(_status)


class _Probe:
    """What ``atexit`` compares with all that is registered, and finds equal to none."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.seen: list[Handler] = []

    def __eq__(self, other: object) -> bool:
        self.seen.append(t.cast(Handler, other))
        return False


def _registered() -> list[Handler]:
    """The registered functions, which ``atexit`` doesn't list; the first one first."""
    probe = _Probe()
    atexit.unregister(t.cast(Handler, probe))
    return probe.seen


def _function(callback: t.Any) -> t.Any:
    """The function of a callback of ``threading``: a partial, from 3.13 on a lambda."""
    if hasattr(callback, "func"):
        return callback.func
    return inspect.getclosurevars(callback).nonlocals.get("func", callback)


def _is_of_each(function: t.Any) -> bool:
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", "")
    return (module, name) in _OF_EACH or module.partition(".")[0] in RENEWING


def _is_in_memory(function: t.Any) -> bool:
    return isinstance(getattr(function, "__self__", None), _MEMORY)
