"""A worker's process, as the dispatcher holds it; and how it tells of its death."""

from __future__ import annotations

import signal
import typing as t

from . import cgroup
from .channel import Channel
from .log import logger
from .parking import Connection
from .pool import State
from .pool import Worker
from .record import Record


class Process:
    """What the dispatcher holds of a worker's process.

    :ivar worker: Its place in the pool.
    :ivar channel: Our end of the back channel.
    :ivar pid: 0 until the zygote told it.
    :ivar pidfd: Its pidfd (``pidfd_open(2)``), where there are such; else -1.
    :ivar resumed: A parked connection that was handed to it; our copy is kept
        until it reports that it has it.
    :ivar why: Why it was killed before its pid was known.
    :ivar wanted: A signal that it gets as soon as its pid is known; 0 is none.
    """

    __slots__ = ("channel", "pid", "pidfd", "resumed", "wanted", "why", "worker")

    def __init__(self, worker: Worker, channel: Channel) -> None:
        self.worker = worker
        self.channel = channel
        self.pid = 0
        self.pidfd = -1
        self.resumed: Connection | None = None
        self.wanted = 0
        self.why: str | None = None

    def signal(self, number: int) -> bool:
        """Send it a signal, if we can be sure that it is the one we mean.

        :return: ``False`` if only its parent can: nobody but who reaps a process
            knows that its pid is still its own.
        """
        if not self.pid:
            self.wanted = number
        elif self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass
        else:
            return False
        return True


class Departed(t.NamedTuple):
    """A process that is dead, or will be in a moment.

    :param slot: Its slot.
    :param state: In which state it died.
    :param why: Why we killed it; ``None`` if we didn't.
    :param record: Its last words on the scoreboard.
    """

    slot: int
    state: State
    why: str | None
    record: Record


class Obituaries:
    """Tells of deaths, once, when both the death and its cause are known.

    A death shows by the end of the channel, by the pidfd and by the zygote's
    report, in any order; only the last one has the exit status.
    """

    def __init__(self) -> None:
        self._departed: dict[int, Departed] = {}
        self._oom_kills = cgroup.oom_kills()

    def note(self, pid: int, departed: Departed) -> None:
        """The first sign of a death."""
        self._departed.setdefault(pid, departed)

    def close(self) -> None:
        """Who knew the causes of the other deaths won't tell them any more."""
        for pid in list(self._departed):
            self.tell(pid, None)

    def tell(self, pid: int, status: int | None) -> None:
        """The death's cause is known: log it, if it was not as it should be.

        :param status: The exit status, or the signal's number below 0; ``None``
            if it won't be known.
        """
        departed = self._departed.pop(pid, None)
        if departed is None:
            return
        slot, state, why, record = departed
        # A status that nobody knows is bad news only amid a request.
        unusual = record.began if status is None else status
        if state is State.RETIRING and not unusual:
            return
        doing = ""
        if record.began:
            doing = f" while serving {record.method} {record.target}"
        if why is not None:
            logger.warning(
                "Worker %d (pid %d)%s was killed: %s.", slot, pid, doing, why
            )
        else:
            how = self._how(status)
            logger.error("Worker %d (pid %d)%s died: %s.", slot, pid, doing, how)

    def _how(self, status: int | None) -> str:
        if status is None:
            return "nobody is left to tell how"
        if status >= 0:
            return f"exit status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if -status == signal.SIGKILL:
            before, self._oom_kills = self._oom_kills, cgroup.oom_kills()
            if self._oom_kills > before:
                return f"{name}, by the kernel, which ran out of memory"
        return name
