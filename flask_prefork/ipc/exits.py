"""Why workers end, and a log of it that speaks once.

Whoever holds workers notes each sign of a death: the dispatcher (:mod:`.workers`), or
the zygote when the dispatcher is dead (:mod:`.orphans`).
"""

from __future__ import annotations

import signal
import typing as t

from ..system import cgroup
from ..system.log import logger
from .records import Record
from .states import Reason as Reason
from .states import State


class Why(t.NamedTuple):
    """Why we kill a worker.

    :param reason: For the counters.
    :param text: For the log.
    """

    reason: Reason
    text: str


#: Why a worker is killed whose time in a state is up.
LATE = {
    State.STARTING: Why(
        Reason.SPAWN_TIMEOUT, "it did not become idle within the spawn timeout"
    ),
    State.ORDERED: Why(Reason.SILENT, "it was ordered to accept and stayed silent"),
    State.RETIRING: Why(
        Reason.GRACEFUL_TIMEOUT, "it did not finish within the graceful timeout"
    ),
}
#: Why those are that haven't finished when the server stops.
AT_ONCE = Why(Reason.STOP, "the server stops at once")

#: The exit status of a process that can't use what it was configured with (EX_CONFIG in
#: ``sysexits.h``). The same one would end so again.
BAD_CONFIGURATION = 78

#: In a frame, the exit status of a process that nobody knows.
UNKNOWN_STATUS = 1 << 15


class ExitedWorker(t.NamedTuple):
    """A process that is dead, or will be in a moment.

    :param slot: Its slot.
    :param state: In which state it died.
    :param why: Why we killed it; ``None`` if we didn't.
    :param record: Its last words on the scoreboard.
    """

    slot: int
    state: State
    why: Why | None
    record: Record


class ExitLog:
    """Logs exits, each once, as soon as both the exit and its cause are known.

    A death shows by the end of the channel, by the pidfd and by the zygote's
    report, in any order; only the last one has the exit status.
    """

    def __init__(self) -> None:
        self._causes: dict[int, ExitedWorker] = {}
        self._oom_kills = cgroup.oom_kills()

    def note(self, pid: int, exited: ExitedWorker) -> None:
        """The first sign of a death."""
        self._causes.setdefault(pid, exited)

    def close(self) -> list[Reason]:
        """The causes of the other exits won't become known any more.

        :return: The reasons of these, as far as they are known.
        """
        reasons = [self.report(pid, None) for pid in list(self._causes)]
        return [reason for reason in reasons if reason is not None]

    def report(self, pid: int, status: int | None) -> Reason | None:
        """The death's cause is known: log it, if it was not as it should be.

        :param status: The exit status, or the signal's number below 0; ``None``
            if it won't be known.
        :return: The reason; ``None`` if no such death was noted.
        """
        exited = self._causes.pop(pid, None)
        if exited is None:
            return None
        slot, state, why, record = exited
        # A status that nobody knows is bad news only amid a request, or if we killed;
        # and one that ended by itself amid a request has retired only to finish its
        # threads.
        unusual = record.began or status or (status is None and why is not None)
        if state is State.RETIRING and not unusual:
            return Reason.RETIRED
        doing = ""
        if record.began:
            doing = f" while serving {record.method} {record.target}"
        if why is not None:
            logger.warning(
                "Worker %d (pid %d)%s was killed: %s.", slot, pid, doing, why.text
            )
            return why.reason
        reason, how = self._how(status)
        logger.error("Worker %d (pid %d)%s died: %s.", slot, pid, doing, how)
        return reason

    def _how(self, status: int | None) -> tuple[Reason, str]:
        if status is None:
            return Reason.UNKNOWN, "the exit status is not known"
        if status >= 0:
            return Reason.EXIT, f"exit status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if -status == signal.SIGKILL:
            before, self._oom_kills = self._oom_kills, cgroup.oom_kills()
            if self._oom_kills > before:
                text = f"{name}, by the kernel, which ran out of memory"
                return Reason.MEMORY, text
        return Reason.SIGNAL, name
