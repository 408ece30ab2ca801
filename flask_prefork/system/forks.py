"""Forks: the server's own, and the app's, whose children are no part of the server.

The app may fork in a view, in a thread, in a hook or while it is loaded: by
``os.fork``, or by ``multiprocessing``. Such a child inherits handlers that let all
signals pass and descriptors whose end the server waits for. It gets the dispositions
that it would have in a plain interpreter, and none of those descriptors. Programs that
the app runs need none of that: handlers and descriptors end with ``execve(2)``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import typing as t

#: How many forks have begun in this process, the server's own included.
count = 0
#: Handlers of the server's own in this process, by their signals.
_handlers: dict[int, t.Callable[[int, t.Any], None]] = {}
#: Called in each child of the app's.
_callbacks: list[t.Callable[[], None]] = []
#: The thread that forks a process of the server's own; 0 is none.
_forking = 0
#: What that process begins with.
_first: t.Callable[[], None] | None = None
_foreign = False
#: The signal masks of threads that fork.
_masks: dict[int, set[int]] = {}
#: What :func:`redirect_to_null` puts in place of descriptors, or -1. It is opened
#: beforehand: in the child there may be no descriptor left, nor a ``/dev``.
_null = -1


def fork(first: t.Callable[[], None] | None = None) -> int:
    """Fork a process of the server's own.

    It has the handlers of this one, but releases nothing when the app forks in it: it
    has to call :func:`when_app_forks` itself.

    :param first: Called in it, before what the app has registered there
        (``os.register_at_fork``).
    :raises OSError: As ``fork(2)``.
    """
    global _first, _forking
    _forking, _first = threading.get_ident(), first
    try:
        pid = os.fork()
    finally:
        _forking = 0
    if not pid:
        _callbacks.clear()
    return pid


def handle(number: int, handler: t.Callable[[int, t.Any], None]) -> None:
    """Handle a signal, and let the app's children have it by default."""
    signal.signal(number, handler)
    _handlers[number] = handler


def when_app_forks(callback: t.Callable[[], None]) -> None:
    """Call a function in each child that the app forks, to release what is ours.

    :param callback: If it fails, the others are called all the same.
    """
    global _null
    if _null < 0:
        _null = _open_null()
    _callbacks.append(callback)


def is_foreign() -> bool:
    """Whether this process was forked by the app.

    It may have come back from the app's code like its parent, by accident, and must
    not do the parent's work a second time (SpamAssassin bug 4370).
    """
    return _foreign


def end_if_foreign() -> None:
    """Leave at once if this process was forked by the app."""
    if _foreign:
        os._exit(0)


def redirect_to_null(fds: t.Iterable[int]) -> None:
    """Release descriptors that other code in this process refers to.

    They are not closed: another file would get the number.

    :param fds: Those below 0 are ignored.
    """
    for fd in fds:
        if fd >= 0:
            os.dup2(_null, fd, inheritable=False)


def _open_null() -> int:
    """Open what has nothing to read, for good."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except FileNotFoundError:
        # A chroot(2) without /dev. A pipe that nobody writes to is at its end, too.
        read, write = os.pipe()
        os.close(write)
        return read


def _before() -> None:
    """Before each fork: a signal to the child waits until it is no more ours."""
    global count
    count += 1
    me = threading.get_ident()
    if _handlers and _forking != me:
        _masks[me] = signal.pthread_sigmask(signal.SIG_BLOCK, _handlers)


def _after() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_in_child() -> None:
    """In each forked process.

    Whichever thread has forked, it is the main one here, which may set handlers.
    """
    try:
        if _forking != threading.get_ident():
            _release_all()
        elif _first is not None:
            _first()
    finally:
        _after()
        _masks.clear()


def _release_all() -> None:
    """Release all that is the server's, even if a part of it fails.

    :raises BaseException: What a callback has raised, when all is done.
    """
    global _foreign
    _foreign = True
    with contextlib.ExitStack() as rest:
        # The last one first.
        rest.callback(_close_null)
        rest.callback(_reset_handlers)
        for callback in reversed(_callbacks):
            rest.callback(callback)
        _callbacks.clear()


def _reset_handlers() -> None:
    for number, handler in _handlers.items():
        # Not the app's own.
        if signal.getsignal(number) == handler:
            usual: t.Any = signal.SIG_DFL
            if number == signal.SIGINT:
                usual = signal.default_int_handler
            signal.signal(number, usual)
    _handlers.clear()


def _close_null() -> None:
    global _null
    if _null >= 0:
        os.close(_null)
        _null = -1


os.register_at_fork(
    before=_before, after_in_parent=_after, after_in_child=_after_in_child
)
