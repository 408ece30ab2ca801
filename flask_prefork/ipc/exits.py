"""Why workers end, and a log of it that speaks once.

Whoever holds workers notes each sign of a death: the dispatcher
(``dispatcher/workers.py``), or the zygote when the dispatcher is dead
(``zygote/orphans.py``).
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

    @property
    def may_be_retired(self) -> bool:
        """Whether it may have ended as it was asked to. One that ended amid a request
        has retired only to finish its threads."""
        return self.state is State.RETIRING and not self.record.began


class Expected(t.NamedTuple):
    """What is known of a death before its exit status, as it is sent to the zygote.

    :param killed: The reason for which we killed it; empty if we didn't.
    :param may_be_retired: Whether it may have ended as it was asked to.
    """

    killed: str
    may_be_retired: bool


def _is_usual(was_killed: bool, status: int | None) -> bool:
    """Whether a worker that may have retired did so. A status that nobody knows is bad
    news only if we killed it."""
    return not (status or (status is None and was_killed))


def describe(status: int) -> str:
    """How a process has ended, for the log: its exit status, or a signal's name.

    :param status: The exit status, or the signal's number below 0.
    """
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


class Statuses:
    """What exit statuses say about why processes have ended."""

    def __init__(self) -> None:
        self._oom_kills = cgroup.oom_kills()

    def read(self, status: int | None) -> tuple[Reason, str]:
        """The reason, for counters and for the log.

        :param status: The exit status, or the signal's number below 0; ``None``
            if it won't be known.
        """
        if status is None:
            return Reason.UNKNOWN, "the exit status is not known"
        if status >= 0:
            return Reason.EXIT, describe(status)
        name = describe(status)
        if -status == signal.SIGKILL:
            before, self._oom_kills = self._oom_kills, cgroup.oom_kills()
            if self._oom_kills > before:
                text = f"{name}, by the kernel, which ran out of memory"
                return Reason.MEMORY, text
        return Reason.SIGNAL, name


class ExitLog:
    """Logs exits, each once, as soon as both the exit and its cause are known.

    A death shows by the end of the channel, by the pidfd and by the zygote's
    report, in any order; only the last one has the exit status.
    """

    def __init__(self) -> None:
        self._causes: dict[int, ExitedWorker] = {}
        self._statuses = Statuses()

    def note(self, pid: int, exited: ExitedWorker) -> None:
        """The first sign of a death."""
        self._causes.setdefault(pid, exited)

    def expected(self, pid: int) -> Expected:
        """What is known of a death that was noted, for :func:`settle`."""
        exited = self._causes.get(pid)
        if exited is None:
            return Expected("", False)
        killed = exited.why.reason.value if exited.why is not None else ""
        return Expected(killed, exited.may_be_retired)

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
        slot, _, why, record = exited
        if exited.may_be_retired and _is_usual(why is not None, status):
            logger.debug("Worker %d (pid %d) has ended.", slot, pid)
            return Reason.RETIRED
        doing = ""
        if record.began:
            doing = f" while serving {record.method} {record.target}"
        if why is not None:
            logger.warning(
                "Worker %d (pid %d)%s was killed: %s.", slot, pid, doing, why.text
            )
            return why.reason
        reason, how = self._statuses.read(status)
        logger.error("Worker %d (pid %d)%s died: %s.", slot, pid, doing, how)
        return reason


def settle(expected: Expected, status: int | None, statuses: Statuses) -> Reason:
    """Why a worker has ended, as :meth:`ExitLog.report` would say it.

    :param expected: What :meth:`ExitLog.expected` knows.
    :param status: Its exit status, or the signal's number below 0; ``None`` if that
        isn't known.
    """
    killed, may_be_retired = expected
    if may_be_retired and _is_usual(bool(killed), status):
        return Reason.RETIRED
    return Reason(killed) if killed else statuses.read(status)[0]
