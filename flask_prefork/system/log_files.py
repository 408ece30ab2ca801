"""Files of logs that are moved away, as logrotate does, and opened again.

A descriptor keeps its number (``dup2(2)``), so that it doesn't matter what a thread or
an interrupted function is about to do with it.

With ``--user`` the directory of a log is often the user's, so that the file can be
opened again. Then the user can put a link there, at any time. So root opens files as
the user (:func:`open_as`): what the user may not write to, the log isn't written to.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import stat
import threading
import typing as t

from .privileges import acting_as
from .privileges import Identity
from .trusted_paths import is_roots

#: As whom files are opened, if this process is root.
_user: Identity | None = None


def open_as(user: Identity | None) -> None:
    """Open files as this user from now on, where this process acts as root."""
    global _user
    _user = user


def open_to_append(path: str) -> int:
    """Open a file to write at its end.

    Root gives it to the user, if it is where nobody but root can write.

    :param path: It is made if it isn't there. Of a named pipe the reader may come and
        go, and lines are lost while there is none.
    :return: A descriptor.
    :raises OSError: It can't be opened.
    """
    fd, is_roots_own = _open_with_rights(path, lambda: _open(path))
    if is_roots_own and _user is not None and stat.S_ISREG(os.fstat(fd).st_mode):
        with contextlib.suppress(PermissionError):
            os.fchown(fd, _user.uid, _user.gid)
    return fd


def _open(path: str) -> int:
    how = os.O_WRONLY
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.stat(path).st_mode):
            # Else it would be waited for a reader (fifo(7)).
            how = os.O_RDWR | os.O_NONBLOCK
    return os.open(path, how | os.O_APPEND | os.O_CREAT | os.O_NOCTTY, 0o666)


@contextlib.contextmanager
def handlers_open_as_user() -> t.Iterator[None]:
    """Let handlers of :mod:`logging` that are made meanwhile open files as the user,
    now and later.

    Only that: what they import may be out of the user's reach.
    """

    def opener(path: str, flags: int) -> int:
        return _open_with_rights(path, lambda: os.open(path, flags, 0o666))[0]

    # A FileHandler keeps what it finds by this name when it is made.
    logging.open = functools.partial(open, opener=opener)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del logging.open  # type: ignore[attr-defined]


def _open_with_rights(path: str, opens: t.Callable[[], int]) -> tuple[int, bool]:
    """Open a file as the user, or else as root if only root decides which one it is.

    :param opens: Opens it, with the rights that it finds.
    :return: What that returned, and whether it was done as root in place of the user.
    :raises OSError: It can't be opened.
    """
    if _user is None or os.geteuid() != 0:
        return opens(), False
    if threading.current_thread() is not threading.main_thread():
        # The rights are the process's, and the main thread needs root's for a moment.
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
    try:
        with acting_as(_user):
            return opens(), False
    except PermissionError:
        if not is_roots(os.path.abspath(path)):
            raise
    return opens(), True


def replace(fd: int, path: str) -> bool:
    """Let a descriptor be of the file that has this path now.

    :return: ``False`` if that can't be opened. The descriptor stays what it was.
    """
    try:
        new = open_to_append(path)
    except OSError:
        return False
    try:
        os.dup2(new, fd, inheritable=os.get_inheritable(fd))
    finally:
        os.close(new)
    return True


def reopen_handlers() -> None:
    """Open the files of all handlers of the logging module again.

    For a signal's handler: it waits for no lock.
    """
    # What dictConfig() forgets of those that were there is still in use by loggers.
    listed = [one() for one in list(logging._handlerList)]  # type: ignore[attr-defined]
    used = [handler for one in loggers() for handler in list(one.handlers)]
    for handler in {id(one): one for one in (*listed, *used)}.values():
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                replace(handler.stream.fileno(), handler.baseFilename)


def loggers() -> list[logging.Logger]:
    """All loggers that there are."""
    known = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(one for one in known if isinstance(one, logging.Logger))]
