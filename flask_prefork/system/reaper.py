"""Children that the dispatcher didn't start, but inherits.

As a container's PID 1 it becomes the parent of every process that loses its own, and
elsewhere Linux lets it ask for that. An app's daemons and a dead zygote's workers end
up here, and stay zombies when they die until they are reaped.
"""

from __future__ import annotations

import os
from collections.abc import Container
from collections.abc import Iterable

#: ``linux/prctl.h``.
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> bool:
    """Adopt the descendants of this process that lose their parent.

    Programs that are executed don't inherit it, and neither do forked children
    (``PR_SET_CHILD_SUBREAPER(2const)``).

    :return: Whether the system does so: only Linux does.
    """
    try:
        # It costs a few milliseconds and a megabyte, and only the server
        # needs it.
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return False
    # Variadic in C: the kernel reads all five as long.
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    return bool(prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def reap_orphans(known: Container[int]) -> list[tuple[int, int]]:
    """Reap the dead children that nobody here has started.

    :param known: Pids of children that have an owner, dead or alive. They are
        left to it, for it to learn their exit status.
    :return: The pid and the exit status of each, or the signal's number below 0.
    """
    if not hasattr(os, "waitid"):
        # macOS before Python 3.13, where only launchd adopts.
        return []
    reaped: list[tuple[int, int]] = []
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, options)
        except ChildProcessError:
            return reaped
        if found is None:
            return reaped
        if found.si_pid in known:
            # It would be found again and again, and others behind it never.
            return reaped + _reap_each(pid for pid in _children() if pid not in known)
        reaped += _reap_each([found.si_pid])


def _reap_each(pids: Iterable[int]) -> list[tuple[int, int]]:
    """Reap those of the given children that are dead."""
    reaped = []
    for pid in pids:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue
        if found:
            reaped.append((pid, os.waitstatus_to_exitcode(status)))
    return reaped


def _children() -> list[int]:
    """All children of this process, the dead among them (``proc(5)``).

    None where the system doesn't list them. There the caller gets at the others
    when the known ones are reaped.
    """
    pids: list[int] = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", encoding="utf-8") as file:
                pids += map(int, file.read().split())
    except OSError:
        pass
    return pids
