"""The dispatcher's children: who owns which, and who wants to know of its exit.

Nothing else in the dispatcher calls ``waitpid(2)``. Zygotes, the observer, the sender
and TLS proxies have an owner. Children that nobody has started are orphans: as a
container's PID 1 the dispatcher becomes the parent of every process that loses its own,
and elsewhere Linux lets it ask for that. An app's daemons and a dead zygote's workers
end up here, and stay zombies when they die until they are reaped.
"""

from __future__ import annotations

import os
import typing as t

#: Takes in how a process ended: its exit status, or the signal's number below 0.
Exited = t.Callable[[int], None]

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


class Reaper:
    """Reaps all children of this process, and reports each to its owner.

    :param orphan_exited: Takes in the pid of a child that has no owner, and its exit
        status or the signal's number below 0.
    """

    def __init__(self, orphan_exited: t.Callable[[int, int], None]) -> None:
        self._orphan_exited = orphan_exited
        self._owners: dict[int, Exited] = {}

    def __contains__(self, pid: object) -> bool:
        """Whether the process has an owner."""
        return pid in self._owners

    def add(self, pid: int, exited: Exited) -> None:
        """Own a child, just started.

        :param exited: Called once, when it is reaped. Its pid may be another's then.
        """
        self._owners[pid] = exited

    def adopt(self, pid: int, exited: Exited) -> None:
        """Own a child that lost its parent.

        :param pid: What somebody else reports; any number.
        :param exited: See :meth:`add`.
        :raises ValueError: It is no child of ours, is dead, or has an owner.
        """
        # 0 and numbers below it mean any of several (waitpid(2)).
        if pid <= 0 or pid in self._owners or not self._is_alive(pid):
            raise ValueError(f"process {pid} is no child, or is dead")
        self.add(pid, exited)

    def _is_alive(self, pid: int) -> bool:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return False
        if found:
            self._report(found, os.waitstatus_to_exitcode(status))
        return not found

    def remove(self, pid: int) -> None:
        """Nobody waits for a child any more; its end is an orphan's."""
        self._owners.pop(pid, None)

    def reap(self) -> None:
        """Reap all that have ended; on SIGCHLD."""
        for pid in list(self._owners):
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                # Somebody else has reaped it.
                found, status = pid, 0
            if found:
                self._report(pid, os.waitstatus_to_exitcode(status))
        while True:
            try:
                found, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not found:
                return
            # One that has an owner may have ended since.
            self._report(found, os.waitstatus_to_exitcode(status))

    def _report(self, pid: int, status: int) -> None:
        exited = self._owners.pop(pid, None)
        if exited is not None:
            exited(status)
        else:
            self._orphan_exited(pid, status)
