"""The workers of one generation, as the dispatcher holds them: start, reports, exit.

In the dispatcher. :mod:`.generation`, :mod:`.sizing` and :mod:`.late` decide which
workers to start, order, retire or kill, and this module does it:

1. :meth:`Workers.start` for a slot that the pool has made STARTING. The zygote forks,
   and :meth:`Workers.spawned` or :meth:`Workers.failed` follows.
2. :meth:`Workers.send` and :meth:`Workers.resume`, after the pool has made the slot
   ORDERED. What the process reports goes into the pool (``_take_in``).
3. :meth:`Workers.retire` or :meth:`Workers.promote`; :meth:`Workers.kill` at any time.
4. An exit shows by the end of the channel, by the pidfd, by the zygote's report
   (:meth:`Workers.exited`) and, without a zygote, by the reaper
   (:meth:`Workers.orphan_ended`), in any order. The first of pidfd and reports frees
   the slot, after the last frames were read.

A handle (:class:`.WorkerHandle`) and a slot are not the process: both may be there
before it is forked, and it may live on when they are gone. It is signalled by its
pidfd, or else by its zygote, which alone knows that the pid is still its own.

Never here: ``waitpid(2)``, for workers are the zygote's children; or a signal to a
worker by its pid.
"""

from __future__ import annotations

import contextlib
import os
import signal
import typing as t
from functools import partial

from ..ipc import dumps
from ..ipc.channel import Channel
from ..ipc.channel import close_all
from ..ipc.dumps import Dumps
from ..ipc.dumps import Then
from ..ipc.exits import ExitedWorker
from ..ipc.exits import ExitLog
from ..ipc.exits import Reason
from ..ipc.exits import Why
from ..ipc.frames import Busy
from ..ipc.frames import Deliver
from ..ipc.frames import Exited
from ..ipc.frames import Failed
from ..ipc.frames import Finishing
from ..ipc.frames import Frame
from ..ipc.frames import Idle
from ..ipc.frames import LimitRefused
from ..ipc.frames import MalformedFrame
from ..ipc.frames import MemoryUse
from ..ipc.frames import Park
from ..ipc.frames import PermitAnswer
from ..ipc.frames import PermitRelease
from ..ipc.frames import PermitRequest
from ..ipc.frames import Promote
from ..ipc.frames import Retire
from ..ipc.frames import Signal
from ..ipc.frames import Spawn
from ..ipc.frames import Spawned
from ..ipc.parked_connections import Connection
from ..ipc.scoreboard import Bank
from ..ipc.stats import Summary
from ..settings import size
from ..system.log import logger
from ..system.poller import Poller
from ..system.running_clock import RunningClock
from ..system.timers import Deadlines
from . import vetting
from .ending import KILL_TIME
from .memory import MemoryAccounting
from .parked_holder import ParkedHolder
from .policy import Policy
from .pool import Event
from .pool import Pool
from .pool import PoolWorker
from .pool import State
from .watchdog import RequestWatchdog
from .worker_handle import WorkerHandle

Fds = t.Sequence[int]
SendToZygote = t.Callable[[Frame, Fds], bool]


class Workers:
    """One generation's workers.

    :param number: The generation's.
    :param bank: Its half of the scoreboard.
    :param poller: The dispatcher's poll set.
    :param clock: The dispatcher's.
    :param parked: Where connections go that workers hand back.
    :param send_to_zygote: Sends a frame to the zygote, ``False`` if it is gone.
    :param summary: Where they are counted.

    :ivar ever_idle: Whether any of them was ever idle.
    :ivar killed: Those that were sent SIGKILL, until they must be dead.
    :ivar limits: The names of the limits that workers know by their numbers.
    :ivar ended: Those that have ended and that the app wasn't told of: slot, pid, and
        what is :class:`.exits.Expected`.
    """

    def __init__(
        self,
        number: int,
        bank: Bank,
        poller: Poller,
        clock: RunningClock,
        parked: ParkedHolder,
        send_to_zygote: SendToZygote,
        summary: Summary,
    ) -> None:
        self.number = number
        self.bank = bank
        self.poller = poller
        self.clock = clock
        self.pool = Pool(0)
        self.policy = Policy(1, 1, 1, 1, 1.0, clock())
        self.watchdog = RequestWatchdog(0.0, 0.0, 0.0)
        self.accounting = MemoryAccounting()
        self.killed: Deadlines[PoolWorker] = Deadlines()
        self.ever_idle = False
        self.limits: t.Sequence[str] = ()
        self.ended: list[tuple[int, int, str, bool]] = []
        self._is_orphaned = False
        #: The last connection couldn't be parked, and that was logged.
        self._is_full = False
        self._parked = parked
        self._send_to_zygote = send_to_zygote
        self._summary = summary
        self._processes: dict[int, WorkerHandle] = {}
        self._exit_log = ExitLog()
        self.dumps = Dumps()

    # Start

    def start(self, worker: PoolWorker) -> None:
        """Let the zygote fork a process for a worker that is STARTING."""
        try:
            ours, theirs, dump = dumps.open_with_channel()
        except OSError as e:
            # EMFILE, ENFILE, ENOBUFS: there will be others.
            logger.error("Can't start worker %d: %s.", worker.number, e.strerror)
            self.policy.failed(self.clock())
            self.pool.report(worker, Event.EXIT, self.clock())
            return
        process = WorkerHandle(worker, Channel(ours), dump)
        self._processes[worker.number] = process
        self.bank.clear(worker.number)
        self._show(worker)
        self.poller.watch(process.channel.fd, lambda: self._read(process))
        frame = Spawn(self.number, worker.number)
        sent = self._send_to_zygote(frame, [theirs.fileno(), dump])
        theirs.close()
        if not sent:
            self._exited(process, failed=False)

    def has(self, pid: int) -> bool:
        """Whether a process is one of them."""
        return any(process.pid == pid for process in self._processes.values())

    def pid(self, worker: PoolWorker) -> int:
        """A worker's process; 0 while there is none, or none any more."""
        process = self._processes.get(worker.number)
        return process.pid if process is not None and process.worker is worker else 0

    @property
    def spawning(self) -> int:
        """How many the zygote was asked to fork, and hasn't yet."""
        return sum(not process.pid for process in self._processes.values())

    def spawned(
        self, frame: Spawned, fds: list[int], vet: t.Callable[[int, int], None]
    ) -> None:
        """The zygote has forked it.

        :param vet: Raises :exc:`ValueError` if pid and pidfd can't be a worker's.
        """
        process = self._processes.get(frame.slot)
        if process is None or process.pid:
            return
        vet(frame.pid, fds[0] if fds else -1)
        process.pid = frame.pid
        logger.debug(
            "Worker %d (pid %d) of generation %d has started.",
            frame.slot,
            frame.pid,
            self.number,
        )
        self._summary.spawned += 1
        # The others that it was asked to fork have their time from now on too.
        for other in self._processes.values():
            if not other.pid or other is process:
                self.pool.renew(other.worker, self.clock())
        if fds:
            self.poller.watch(fds[0], lambda: self._exited(process))
            process.pidfd = fds.pop(0)
        if process.wanted:
            if process.worker.state is State.KILLED:
                self._note_exit(process, process.why)
            self._signal(process, process.wanted)

    def failed(self, frame: Failed) -> None:
        """The zygote could not fork it."""
        process = self._processes.get(frame.slot)
        if process is not None and not process.pid:
            reason = os.strerror(frame.errno)
            logger.error("Can't fork worker %d: %s.", frame.slot, reason)
            self._exited(process)

    # Reports

    def _read(self, process: WorkerHandle) -> None:
        worker = process.worker
        if self._processes.get(worker.number) is not process:
            return  # closed by a callback of the same batch
        try:
            received = process.channel.receive()
            if received is not None:
                self._take_in(process, *received)
        except (ValueError, OverflowError, OSError) as e:
            self.kill(worker, Why(Reason.GARBAGE, f"it sent garbage: {e}"))
            return
        if received is None:
            # A moment before its exit is reported; and one that lives on without its
            # channel is of no use.
            self.poller.forget(process.channel.fd)
            if self._is_orphaned and process.pidfd < 0:
                self._exited(process)
            elif worker.state is not State.RETIRING:
                self.kill(worker, None)

    def _take_in(
        self, process: WorkerHandle, frames: list[Frame], fds: list[int]
    ) -> None:
        worker = process.worker
        now = self.clock()
        try:
            for frame in frames:
                if frame.generation != self.number:
                    continue
                if isinstance(frame, Idle):
                    if not worker.was_idle:
                        self.ever_idle = True
                        # Its pid may not be known yet.
                        logger.debug("Worker %d is ready.", worker.number)
                        self.policy.started(now)
                    if self.pool.report(worker, Event.IDLE, now, frame.served):
                        self._parked.release_permit(worker)
                    if worker.due:
                        self.bank.set_stop(worker.number)
                    self.watchdog.forget(worker)
                elif isinstance(frame, Busy):
                    if not worker.was_busy:
                        self.policy.proved(now)
                    if self.pool.report(worker, Event.BUSY, now):
                        self.watchdog.watch(worker, now)
                    if frame.resumed and process.resumed:
                        # It is the worker's alone now. Otherwise it is busy
                        # with what it has accepted itself (blocking dispatch).
                        self._parked.taken(process.resumed.popleft(), worker)
                elif isinstance(frame, PermitRelease):
                    self._parked.release_permit(worker)
                elif isinstance(frame, LimitRefused):
                    self._parked.refused(self._limit_name(frame.limit))
                elif isinstance(frame, PermitRequest):
                    self._answer_permit(worker, frame)
                elif isinstance(frame, Finishing):
                    self.pool.finish(worker, now)
                    self.bank.set_stop(worker.number)
                elif isinstance(frame, MemoryUse):
                    self.accounting.record(worker, frame.size * 1024, frame.has_served)
                elif isinstance(frame, Park):
                    own = fds[: 2 if frame.parked.spooled else 1]
                    del fds[: len(own)]
                    if not self._park(frame, own):
                        continue
                    self._parked.release_permit(worker)
                    self._summary.parked += 1
                elif isinstance(frame, Deliver):
                    if self._are_lost(fds, frame.descriptors):
                        self._summary.deliveries["lost"] += 1
                        continue
                    self._parked.deliver(frame, fds)
                    self._parked.release_permit(worker)
                else:
                    name = type(frame).__name__
                    raise MalformedFrame(f"{name} is not for workers to send")
        finally:
            close_all(fds)
        self._show(worker)

    def _park(self, frame: Park, fds: list[int]) -> bool:
        """Let a connection wait.

        :param fds: What rode along for it: its descriptor, and its spool's.
        :return: ``False`` if descriptors of it were lost by the way.
        :raises ValueError: It can't be parked.
        """
        try:
            if self._are_lost(fds, 1 + bool(frame.parked.spooled)):
                return False
            limit = self._limit_name(frame.parked.limit)
            spool = fds[1] if len(fds) > 1 else -1
            self._parked.park(fds[0], frame.listener, frame.parked, spool, limit)
            fds.clear()
            return True
        finally:
            close_all(fds)

    def _limit_name(self, number: int) -> str:
        """The limit of a number that a worker sends; empty for 0.

        :raises ValueError: There is no such limit.
        """
        if number > len(self.limits):
            raise ValueError(f"there is no limit {number}")
        return self.limits[number - 1] if number else ""

    def limit_number(self, name: str) -> int:
        """The number of a limit; 0 if there is none of this name."""
        return self.limits.index(name) + 1 if name in self.limits else 0

    def _answer_permit(self, worker: PoolWorker, frame: PermitRequest) -> None:
        name = self._limit_name(frame.limit)
        granted = bool(name) and self._parked.ask_for_permit(worker, name)
        answer = PermitAnswer(self.number, worker.number, granted)
        self.send(worker, answer)

    def _are_lost(self, fds: Fds, count: int) -> bool:
        """Whether descriptors were lost by the way: none are left here (MSG_CTRUNC,
        ``recvmsg(2)``), which is no fault of the worker's.

        :param fds: Those that came with a frame.
        :param count: How many were sent with it.
        """
        is_full = len(fds) < count
        if is_full and not self._is_full:
            logger.error(
                "Can't take connections from workers: no descriptors are left."
            )
        self._is_full = is_full
        return is_full

    def replace(self, worker: PoolWorker, why: str) -> None:
        """Let a worker be replaced for what it has in memory, and say so."""
        if self.bank.is_stopped(worker.number):
            return
        logger.info(
            "Worker %d (pid %d) has %s for itself%s; it is to be replaced.%s",
            worker.number,
            self._processes[worker.number].pid,
            size.show(self.accounting.of(worker)),
            why,
            self.bank.read(worker.number).grown.describe(),
        )
        self.pool.expire(worker)
        self.bank.set_stop(worker.number)

    def _show(self, worker: PoolWorker) -> None:
        self.bank.set_state(worker.number, worker.state.value)

    # Orders

    def send(self, worker: PoolWorker, frame: Frame, fds: Fds = ()) -> None:
        """Send a worker a frame; one that doesn't read is killed."""
        self._show(worker)
        process = self._processes[worker.number]
        if not process.channel.send(frame, fds):
            self._unsent(process)

    def resume(self, worker: PoolWorker, connection: Connection) -> None:
        """Hand a worker a parked connection.

        Until it reports that it took it, its death puts the connection back.
        """
        self._show(worker)
        process = self._processes[worker.number]
        self._summary.resumed += not connection.is_counted
        if not process.send_on(connection, self.number):
            self._unsent(process)

    def _unsent(self, process: WorkerHandle) -> None:
        """It does not read, or it has just died by itself."""
        why = Why(Reason.SILENT, "its back channel is full")
        self.kill(process.worker, None if process.channel.ended else why)

    def signal(self, worker: PoolWorker, number: int) -> None:
        """Send a worker's process a signal."""
        self._signal(self._processes[worker.number], number)

    def reopen_logs(self) -> None:
        """Let all open the files of their logs again."""
        for process in self._processes.values():
            # Those that are about to be forked may get the zygote's old ones.
            if process.worker.state is not State.KILLED:
                self._signal(process, signal.SIGUSR1)

    def _signal(self, process: WorkerHandle, number: int) -> None:
        if not process.signal(number):
            slot = process.worker.number
            self._send_to_zygote(Signal(self.number, slot, process.pid, number), ())

    # Exit

    def retire(self, worker: PoolWorker, end: float | None = None) -> None:
        """Let a worker finish what it serves, then exit, within the graceful timeout.

        :param end: When it will be killed, if that is before.
        """
        frame = Retire(self.number, worker.number)
        self._ask_to_exit(worker, frame, end=end)

    def has_been_idle(self, worker: PoolWorker) -> bool:
        """Whether a worker has ever reported that it is idle, until now.

        If it has not, it accepts nothing for a moment (:meth:`.Worker._has_frame`).
        """
        self.bank.set_stop(worker.number)
        process = self._processes[worker.number]
        self._read(process)
        return worker.was_idle and self._processes.get(worker.number) is process

    def promote(self, worker: PoolWorker, generation: int, fds: Fds) -> None:
        """Let a worker end as well, and leave a zygote behind.

        :param fds: The zygote's end of its control socket, and the file for its dumps.
        """
        frame = Promote(self.number, worker.number, generation)
        self._ask_to_exit(worker, frame, fds)

    def _ask_to_exit(
        self,
        worker: PoolWorker,
        frame: Retire | Promote,
        fds: Fds = (),
        end: float | None = None,
    ) -> None:
        now = self.clock()
        moment = now + self.pool.timeouts.retire
        if self.pool.report(worker, Event.RETIRE, now):
            self.bank.set_stop(worker.number)
            moment = moment if end is None else min(moment, end)
            deadline = self.clock.machine_at(moment)
            self.send(worker, frame._replace(deadline=deadline), fds)

    def show(
        self, worker: PoolWorker, text: str = "", then: Then | None = None
    ) -> None:
        """Let a worker log where its threads are.

        :param text: Why, for the log.
        :param then: Is called when that is done, or when it didn't show them for
            :data:`.dumps.TIMEOUT`; not if it is dead by then.
        """
        process, now = self._processes[worker.number], self.clock()
        if process.pid:
            record, state = self.bank.read(worker.number), worker.state.name.lower()
            header = dumps.header(
                worker.number,
                self.number,
                process.pid,
                state,
                record,
                self.clock.machine(),
                text,
            )
            send = partial(self._signal, process, dumps.SIGNAL)
            self.dumps.ask(process, header, now, send, then)
        elif then is not None:
            then()

    def kill(self, worker: PoolWorker, why: Why | None) -> None:
        """Kill a worker. It is marked before (SpamAssassin bugs 3983, 4189).

        :param why: ``None`` if it is dead already, by itself.
        """
        if self.pool.workers[worker.number] is not worker:
            return  # it has ended meanwhile
        process = self._processes[worker.number]
        self.dumps.forget(process)
        process.why = why
        self._note_exit(process, why)
        if self.pool.report(worker, Event.KILL, self.clock()):
            self._show(worker)
            self._signal(process, signal.SIGKILL)
            # Without a pidfd its zygote reports it, if there is one.
            if process.pidfd >= 0 or (process.pid and self._is_orphaned):
                self.killed.set(worker, self.clock() + KILL_TIME)

    def give_up(self, worker: PoolWorker) -> None:
        """Free the slot of one that not even SIGKILL ends; it won't run again."""
        self._exited(self._processes[worker.number])

    def exited(self, frame: Exited) -> None:
        """The zygote has reaped it."""
        process = self._processes.get(frame.slot)
        if process is not None and process.pid == frame.pid:
            self._exited(process)
        self._ended(frame.pid, vetting.status(frame.status))

    def orphan_ended(self, pid: int, status: int) -> None:
        """A process that had lost its zygote was reaped: perhaps one of ours."""
        for process in list(self._processes.values()):
            if process.pid == pid:
                self._exited(process)
        self._ended(pid, status)

    def orphan(self) -> None:
        """The zygote is gone; without a pidfd, a channel's end means an exit."""
        self._is_orphaned = True
        for process in list(self._processes.values()):
            if not process.pid:
                self._exited(process, failed=False)  # nobody has tried
            elif process.pidfd < 0 and not self.poller.is_watched(process.channel.fd):
                self._exited(process)  # it has hung up before
            elif process.pidfd < 0 and process.worker.state is State.KILLED:
                self.killed.set(process.worker, self.clock() + KILL_TIME)

    def _ended(self, pid: int, status: int | None) -> None:
        self._summary.count_exit(self._exit_log.report(pid, status))

    def _note_exit(self, process: WorkerHandle, why: Why | None) -> None:
        worker = process.worker
        if process.pid:
            record = self.bank.read(worker.number)
            exited = ExitedWorker(worker.number, worker.state, why, record)
            self._exit_log.note(process.pid, exited)

    def _exited(self, process: WorkerHandle, failed: bool = True) -> None:
        """A process is known to be dead: its slot is free."""
        worker = process.worker
        if self._processes.get(worker.number) is not process:
            return
        self._drain_channel(process)
        self._note_exit(process, None)
        by_itself = False
        if process.pid:
            expected = self._exit_log.expected(process.pid)
            by_itself = not expected.killed and not expected.may_be_retired
            self.ended.append((worker.number, process.pid, *expected))
        if failed and not worker.was_idle:
            self.policy.failed(self.clock())
        elif failed and by_itself and not worker.was_busy:
            self.policy.failed(self.clock(), was_idle=True)
        self.pool.report(worker, Event.EXIT, self.clock())
        self.killed.discard(worker)
        self._parked.release_permit(worker)
        self.watchdog.forget(worker)
        self.accounting.forget(worker)
        self._forget(process)
        place, now = worker.number, self.clock.machine()
        record, spread = self.bank.read(place), self.bank.durations(place)
        with self._summary.exited(self.number, place, record, spread, now):
            self.bank.clear(place)

    def _drain_channel(self, process: WorkerHandle) -> None:
        """Read what an exited process has sent: it may have parked a connection.

        Its pidfd and its zygote may be read before its last frames.
        """
        with contextlib.suppress(ValueError, OverflowError, OSError):
            for received in process.channel.rest():
                self._take_in(process, *received)

    def close(self) -> None:
        """Close all that is left here of their processes."""
        for process in list(self._processes.values()):
            self._forget(process)
        for reason in self._exit_log.close():
            self._summary.count_exit(reason)

    def _forget(self, process: WorkerHandle) -> None:
        while process.resumed:
            # The first that it was handed is the next one's first again.
            self._parked.put_back(process.resumed.pop())
        del self._processes[process.worker.number]
        self.poller.forget(process.channel.fd)
        process.channel.close()
        self.dumps.forget(process)
        os.close(process.dump)
        if process.pidfd >= 0:
            self.poller.forget(process.pidfd)
            os.close(process.pidfd)
