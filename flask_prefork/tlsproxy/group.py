"""Several processes of one TLS proxy, forked when the certificates have been read.

So they have the keys of session tickets in common, and a client resumes its session
with any of them. They accept from the same listeners. This process serves nobody: it
starts another one when one has died, kills one that hangs, and is to the dispatcher
what a single TLS proxy would be.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import typing as t
from collections.abc import Callable

from ..ipc import spawn
from ..ipc.channel import Channel
from ..ipc.channel import close_all
from ..ipc.exits import describe
from ..ipc.frames import Closed
from ..ipc.frames import Frame
from ..ipc.frames import MakeRoom
from ..ipc.frames import NOTHING_COUNTED
from ..ipc.frames import Ping
from ..ipc.frames import TLSCounts
from ..system import forks
from ..system import log
from ..system import process_title
from ..system import socket_modes
from ..system.log import logger
from ..system.poller import Poller
from ..system.reaper import Reaper
from ..system.running_clock import RunningClock

#: Seconds between two pings.
_TICK = 1.0
#: How long a member may be silent: it pings once a second. In seconds.
_SILENT = 10.0
#: One that has died is replaced after this, in seconds. Others accept meanwhile.
_PAUSE = 1.0
#: How often it is looked whether one whose channel has ended can be reaped, in seconds.
_REAP_INTERVAL = 0.02


class _Member:
    """One of the processes.

    :param pid: Its own.
    :param channel: Our end of its channel.
    :param hang_up: When this is closed, the kernel kills it.
    :param ping_by: By when its next ping must come.

    :ivar counts: What it has, and has counted, as it told last.
    :ivar is_closed: Whether it accepts no more, and all that it has accepted are on
        their way to workers.
    :ivar has_ended: Whether its end of the channel is closed.
    """

    def __init__(
        self, pid: int, channel: Channel, hang_up: socket.socket, ping_by: float
    ) -> None:
        self.pid = pid
        self.channel = channel
        self.hang_up = hang_up
        self.ping_by = ping_by
        self.counts = NOTHING_COUNTED
        self.is_closed = self.has_ended = False


class ProxyGroup:
    """See the module.

    :param channel: Our end of the dispatcher's channel.
    :param serve: What each process does: it gets its end of a channel, as the
        dispatcher's would be, and its index. Its process ends when it returns.
    :param count: How many processes.
    :param listeners: The listening sockets, closed when nobody else is accepted.
    :param machine: The machine's monotonic seconds.
    """

    def __init__(
        self,
        channel: Channel,
        serve: Callable[[Channel, int], None],
        count: int,
        listeners: t.Sequence[socket.socket],
        machine: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._serve = serve
        self._listeners = listeners
        self._clock = RunningClock(machine)
        self._poller = Poller()
        self._reaper = Reaper(lambda pid, status: None)
        self._members: dict[int, _Member] = {}
        #: When those that are missing are started.
        self._start_at: dict[int, float] = dict.fromkeys(range(count), 0.0)
        #: What those have counted that are gone.
        self._past = NOTHING_COUNTED
        self._sent_counts = NOTHING_COUNTED
        #: Whether nobody else is to be accepted, and whether the dispatcher knows that
        #: all have heard of it.
        self._is_closed = self._has_reported = False
        self._has_dispatcher = True
        self._tick_at = 0.0
        self._poller.watch(channel.fd, self._read_dispatcher)
        forks.handle(signal.SIGUSR1, self._reopen_logs)

    def _reopen_logs(self, number: int, frame: object) -> None:
        """A signal's handler: the dispatcher asks the group to do so."""
        log.reopen()
        for member in list(self._members.values()):
            with contextlib.suppress(OSError):
                os.kill(member.pid, number)

    def run(self) -> None:
        """Run until all processes have ended after the dispatcher said so, or is
        gone."""
        while self._members or not self._is_closed:
            self.step()

    def step(self) -> None:
        """Do what is due, and wait for the next event, a second at most."""
        now = self._clock()
        for index in [i for i, moment in self._start_at.items() if moment <= now]:
            self._start(index, now)
        for member in self._members.values():
            if now >= member.ping_by:
                logger.error(
                    "A process of the TLS proxy (pid %d) is silent: it is killed.",
                    member.pid,
                )
                self._kill(member)
        if now >= self._tick_at:
            self._tick_at = now + _TICK
            self._tick()
        self._report_closed()
        wait = min([self._tick_at, *self._start_at.values()]) - self._clock()
        if any(member.has_ended for member in self._members.values()):
            wait = min(wait, _REAP_INTERVAL)
        self._clock.allow(wait)
        for callback in self._poller.wait(wait):
            callback()
        self._reaper.reap()

    # Its processes

    def _start(self, index: int, now: float) -> None:
        del self._start_at[index]
        ends: list[socket.socket] = []
        try:
            ends += socket_modes.pair()
            ends += socket_modes.pair()
            pid = os.fork()
        except OSError as e:
            logger.error("Can't start a process of the TLS proxy: %s.", e)
            for one in ends:
                one.close()
            self._start_at[index] = now + _PAUSE
            return
        ours, theirs, hang_up, their_hang_up = ends
        if not pid:
            ours.close()
            hang_up.close()
            self._be_member(index, theirs, their_hang_up)
        theirs.close()
        their_hang_up.close()
        member = _Member(pid, Channel(ours), hang_up, now + _SILENT)
        self._members[index] = member
        self._reaper.add(pid, lambda status: self._exited(index, status))
        self._poller.watch(member.channel.fd, lambda: self._read(member))

    def _be_member(
        self, index: int, channel: socket.socket, hang_up: socket.socket
    ) -> t.NoReturn:
        """In the new process. What is the group's isn't kept open here."""
        try:
            spawn.ignore_foreign_signals()
            spawn.kill_on_hang_up(hang_up)
            process_title.show("TLS proxy", index)
            self._poller.close()
            self._channel.close()
            for member in self._members.values():
                member.channel.close()
                member.hang_up.close()
            self._serve(Channel(channel), index)
        except BaseException:
            logger.exception("A process of the TLS proxy has failed:")
            os._exit(1)
        os._exit(0)

    def _read(self, member: _Member) -> None:
        received = member.channel.receive()
        if received is None:
            # It is dead, or will be.
            self._poller.forget(member.channel.fd)
            self._kill(member)
            return
        frames, fds = received
        close_all(fds)
        for frame in frames:
            self._take_in(member, frame)

    def _take_in(self, member: _Member, frame: Frame) -> None:
        if isinstance(frame, TLSCounts):
            member.counts = frame
        elif isinstance(frame, Closed):
            member.is_closed = True
        elif isinstance(frame, MakeRoom):
            self._channel.send(frame)
        member.ping_by = self._clock() + _SILENT

    def _kill(self, member: _Member) -> None:
        """End it now; the next :meth:`Reaper.reap` that finds it tells so."""
        member.has_ended = True
        member.ping_by = float("inf")
        with contextlib.suppress(OSError):
            os.kill(member.pid, signal.SIGKILL)

    def _exited(self, index: int, status: int) -> None:
        member = self._members.pop(index)
        for received in member.channel.rest():
            for frame in received[0]:
                self._take_in(member, frame)
        self._poller.forget(member.channel.fd)
        member.channel.close()
        member.hang_up.close()
        counts = member.counts
        lost = counts.connections
        if self._is_closed and status == 0:
            lost = 0
        else:
            logger.error(
                "A process of the TLS proxy (pid %d) died: %s; about %d"
                " connections were lost.",
                member.pid,
                describe(status),
                lost,
            )
        gone = counts._replace(connections=0, lost=lost)
        self._past = _sum([self._past, gone])
        if not self._is_closed:
            self._start_at[index] = self._clock() + _PAUSE

    # The dispatcher

    def _read_dispatcher(self) -> None:
        received = self._channel.receive()
        if received is None:
            # It ends, or is dead. Who is served still gets the rest.
            self._poller.forget(self._channel.fd)
            self._has_dispatcher = False
            self._close()
            for member in self._members.values():
                with contextlib.suppress(OSError):
                    # It learns the same. Our end stays open, to tell of its end.
                    member.channel.sock.shutdown(socket.SHUT_WR)
            return
        frames, fds = received
        close_all(fds)
        if any(isinstance(frame, Closed) for frame in frames):
            self._close()

    def _close(self) -> None:
        """Nobody else is to be accepted."""
        if self._is_closed:
            return
        self._is_closed = True
        self._start_at.clear()
        for one in self._listeners:
            one.close()
        for member in self._members.values():
            if not member.channel.send(Closed()):
                # It doesn't read.
                self._kill(member)

    def _report_closed(self) -> None:
        if not self._is_closed or self._has_reported or not self._has_dispatcher:
            return
        if all(member.is_closed for member in self._members.values()):
            self._has_reported = self._channel.send(Closed())

    def _tick(self) -> None:
        if not self._has_dispatcher:
            return
        # One that can't be sent is no news: the dispatcher reads nothing.
        self._channel.send(Ping())
        members = self._members.values()
        counts = _sum([self._past, *(member.counts for member in members)])
        if counts != self._sent_counts and self._channel.send(counts):
            self._sent_counts = counts


def _sum(counts: t.Sequence[TLSCounts]) -> TLSCounts:
    return TLSCounts(*map(sum, zip(*counts, strict=True)))
