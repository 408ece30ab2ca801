"""One generation as the dispatcher sees it: a zygote and its workers.

The dispatcher makes a :class:`Generation` for each zygote it starts. This
module feeds the generation's pool with what comes over its channels, and is
the one place that carries out what pool and policy decide.
"""

from __future__ import annotations

import os
import signal
import socket
import typing as t

from . import parking
from .channel import Channel
from .channel import close_all
from .channel import Frame
from .channel import Kind
from .channel import Malformed
from .channel import read_document
from .channel import write_document
from .launch import Zygote
from .log import logger
from .parking import Connection
from .policy import Policy
from .poller import Poller
from .pool import Event
from .pool import Pool
from .pool import State
from .pool import Timeouts
from .pool import Worker
from .scoreboard import Bank
from .settings import Settings
from .sockets import Listener

#: Workers that die before their first idle, in a row, before a generation
#: that has never served is given up.
MAX_FAILURES = 5
#: A worker that resumes a parked connection takes from no accept queue.
_NO_QUEUE = -1

_WHY_LATE = {
    State.STARTING: "it did not become idle within the spawn timeout",
    State.ORDERED: "it was ordered to accept and stayed silent",
    State.RETIRING: "it did not finish within the graceful timeout",
}


class ParkedConnections(t.Protocol):
    """Where connections wait for their client: :class:`.queues.Queues`."""

    def park(self, fd: int, frame: Frame) -> None:
        """Take over a connection that a worker hands back."""

    def put_back(self, connection: Connection) -> None:
        """Take back a connection that a worker died before taking."""


class Process:
    """A worker's process: what the dispatcher holds of it.

    :ivar worker: Its place in the pool.
    :ivar channel: Our end of the back channel.
    :ivar pid: 0 until the zygote told it.
    :ivar pidfd: Its pidfd (``pidfd_open(2)``), where there are such; else -1.
    :ivar resumed: A parked connection that was handed to it; our copy is kept
        until it reports that it has it.
    """

    __slots__ = ("channel", "pid", "pidfd", "resumed", "worker")

    def __init__(self, worker: Worker, channel: Channel) -> None:
        self.worker = worker
        self.channel = channel
        self.pid = 0
        self.pidfd = -1
        self.resumed: Connection | None = None


class Generation:
    """A zygote and its workers.

    :param zygote: The zygote, just started.
    :param poller: The dispatcher's poll set.
    :param scoreboard: The descriptor of the shared scoreboard.
    :param clock: Monotonic seconds.
    :param lot: Where connections go that its workers hand back.
    """

    def __init__(
        self,
        zygote: Zygote,
        poller: Poller,
        scoreboard: int,
        clock: t.Callable[[], float],
        lot: ParkedConnections,
    ) -> None:
        self.number = zygote.generation
        self.pid = zygote.pid
        self.clock = clock
        self.poller = poller
        self.settings: Settings | None = None
        #: The zygote still listens to us.
        self.alive = True
        #: No new workers from now on.
        self.closed = False
        self.bank = Bank(scoreboard, self.number)
        self.pool = Pool(0)
        self.policy = Policy(1, 1, 1, 1, 1.0, clock())
        self._lot = lot
        self._others_wait = False
        self._scoreboard = scoreboard
        self._control = Channel(zygote.control)
        self._processes: dict[int, Process] = {}
        # Processes known dead whose exit status the zygote hasn't told yet,
        # by pid: the letter of the state they died in.
        self._departed: dict[int, tuple[int, State]] = {}
        self._never_idle = True
        poller.watch(self._control.fd, self._read_control)

    # What the dispatcher asks

    @property
    def loaded(self) -> bool:
        """Whether the zygote has loaded the app."""
        return self.settings is not None

    @property
    def ready(self) -> bool:
        """Whether as many workers are idle, or were, as it starts with."""
        if self.settings is None or self.pool.starting:
            return False
        return not self._never_idle and len(self.pool) > 0

    @property
    def hopeless(self) -> bool:
        """Whether it never got a worker idle in so many starts."""
        return self._never_idle and self.policy.failures >= MAX_FAILURES

    def deadline(self) -> float | None:
        """When :meth:`step` should run next if nothing happens before."""
        times = [self.pool.deadline()]
        if not self.closed:
            times.append(self.policy.deadline())
        return min((time for time in times if time is not None), default=None)

    # What the dispatcher does

    def open(self, listeners: t.Sequence[Listener]) -> None:
        """Give the zygote what its workers serve on, and start the first ones."""
        settings = self.settings
        assert settings is not None, "the app is loaded"
        now = self.clock()
        self.pool = Pool(
            settings.max_workers,
            Timeouts(spawn=settings.spawn_timeout, retire=settings.graceful_timeout),
            max_requests=settings.max_requests,
            jitter=settings.max_requests_jitter,
        )
        self.policy = Policy(
            settings.min_idle,
            settings.max_idle,
            settings.min_workers,
            settings.max_workers,
            settings.idle_timeout,
            now,
        )
        document = write_document([listener.host for listener in listeners])
        fds = [document, self._scoreboard]
        fds += [listener.sock.fileno() for listener in listeners]
        self._tell(Frame(Kind.LISTEN, self.number), fds)
        os.close(document)
        self._spawn(self.policy.first(), now)

    def order(self, count: int, queue: int) -> None:
        """Order idle workers to accept, the lowest-numbered first.

        :param count: Connections that wait and that nobody was ordered to take.
        :param queue: The listener they wait on.
        """
        assert self.settings is not None
        for worker in self.pool.order(count, self.clock(), queue):
            run = self.settings.run_length
            if worker.limit:
                run = max(1, min(run, worker.limit - worker.served))
            self._show(worker)
            process = self._processes[worker.slot]
            self._send(process, Frame(Kind.ORDER, self.number, worker.slot, run, queue))

    def resume(self, connection: Connection) -> None:
        """Hand a parked connection to the lowest-numbered idle worker.

        There must be one. Until it reports that it took the connection, its
        death puts the connection back.
        """
        (worker,) = self.pool.order(1, self.clock(), _NO_QUEUE)
        self._show(worker)
        process = self._processes[worker.slot]
        process.resumed = connection
        frame = Frame(
            Kind.RESUME,
            self.number,
            worker.slot,
            connection.have,
            connection.queue,
            parking.flags(connection.wait, connection.wakes),
            connection.deadline,
        )
        self._send(process, frame, [connection.fd])

    def _send(self, process: Process, frame: Frame, fds: t.Sequence[int] = ()) -> None:
        if not process.channel.send(frame, fds):
            self._kill(process, "its back channel is full or closed")

    @property
    def is_ordered(self) -> bool:
        """Whether its workers wait for orders, or block in accept."""
        return self.settings is not None and self.settings.dispatch == "ordered"

    def endings(self) -> bytes:
        """Which workers below the lowest idle one are about to accept again.

        :return: A byte for each; if not 0, another one each time it does so.
        """
        lowest = self.pool.lowest_idle()
        return self.bank.endings(lowest.slot) if lowest is not None else b""

    def tell_others_wait(self, wait: bool) -> None:
        """Tell the workers whether parked connections wait for their turn."""
        if wait != self._others_wait:
            self._others_wait = wait
            self.bank.set_others_wait(wait)

    def step(self, now: float, waiting: int, others: int) -> None:
        """Do what pool and policy want now.

        :param waiting: Connections that nobody was ordered to take.
        :param others: Processes of another generation.
        """
        for worker in self.pool.overdue(now):
            self._kill(self._processes[worker.slot], _WHY_LATE[worker.state])
        if self.closed or self.settings is None or not self.alive:
            return
        pool = self.pool
        episodes = self.policy.episodes
        wanted = self.policy.grow(
            now,
            idle=pool.idle,
            starting=pool.starting,
            total=len(pool),
            waiting=waiting,
            others=others,
        )
        if self.policy.episodes > episodes:
            logger.warning(
                "max-workers reached: all %d workers are busy.", len(pool) + others
            )
        self._spawn(wanted, now)
        surplus = self.policy.shrink(now, idle=pool.idle, total=len(pool))
        for worker in pool.highest_idle(surplus):
            self._retire(worker)
        room = len(pool) + others < self.policy.max_workers
        new, old = pool.recycle(now, room and not self.policy.failures)
        if new is not None:
            self._start(new)
        if old is not None:
            self._retire(old)

    @property
    def opened(self) -> bool:
        """Whether its zygote was given what to serve on."""
        return bool(self.pool.workers)

    def drain(self) -> None:
        """Start no more workers; let connections end with their request."""
        self.closed = True
        self.bank.set_draining()

    def retire(self) -> None:
        """Let all workers finish what they serve, then exit; start no more."""
        self.closed = True
        for worker in list(self.pool):
            self._retire(worker)

    def kill_all(self, why: str) -> None:
        """Send SIGKILL to every worker that is left."""
        self.closed = True
        for process in list(self._processes.values()):
            self._kill(process, why)

    def kill_unfinished(self) -> None:
        """Send SIGKILL to every worker that isn't waiting for orders."""
        for process in list(self._processes.values()):
            if process.worker.state is not State.IDLE:
                self._kill(process, "the server stops at once")

    def release(self) -> None:
        """Let the zygote end: it does when nobody holds its control socket."""
        if self.alive:
            self.alive = False
            self.poller.forget(self._control.fd)
            self._control.close()

    def close(self) -> None:
        """Close all that is left of it here."""
        self.release()
        for process in list(self._processes.values()):
            self._forget(process)
        self.bank.close()

    # The zygote's channel

    def _tell(self, frame: Frame, fds: t.Sequence[int] = ()) -> bool:
        if self.alive and not self._control.send(frame, fds):
            logger.error("The zygote of generation %d does not listen.", self.number)
            self.release()
        return self.alive

    def _read_control(self) -> None:
        if not self.alive:
            return
        try:
            received = self._control.receive()
        except Malformed as e:
            logger.error("The zygote sent garbage: %s.", e)
            received = None
        if received is None:
            self.release()
            return
        frames, fds = received
        for frame in frames:
            self._from_zygote(frame, fds)
        close_all(fds)

    def _from_zygote(self, frame: Frame, fds: list[int]) -> None:
        if frame.kind is Kind.LOADED and fds:
            self.settings = Settings(**read_document(fds.pop(0)))
        elif frame.kind is Kind.SPAWNED:
            self._spawned(frame, fds)
        elif frame.kind is Kind.FAILED:
            process = self._processes.get(frame.slot)
            if process is not None and not process.pid:
                logger.error(
                    "Can't fork worker %d: %s.",
                    frame.slot,
                    os.strerror(frame.argument),
                )
                self._dead(process)
        elif frame.kind is Kind.EXITED:
            process = self._processes.get(frame.slot)
            if process is not None and process.pid == frame.argument:
                self._dead(process)
            self._tell_of_death(frame.argument, int(frame.moment))

    def _spawned(self, frame: Frame, fds: list[int]) -> None:
        process = self._processes.get(frame.slot)
        if process is None or process.pid:
            return
        process.pid = frame.argument
        if fds:
            process.pidfd = fds.pop(0)
            self.poller.watch(process.pidfd, lambda: self._dead(process))
        if process.worker.state is State.KILLED:
            self._signal(process)

    def _tell_of_death(self, pid: int, status: int) -> None:
        slot, state = self._departed.pop(pid, (0, State.KILLED))
        if state is State.KILLED or (state is State.RETIRING and status == 0):
            return
        how = f"exit status {status}"
        if status < 0:
            try:
                how = signal.Signals(-status).name
            except ValueError:
                how = f"signal {-status}"
        busy = f", {state.name.lower()}," if state is not State.STARTING else ""
        logger.error("Worker %d (pid %d)%s died: %s.", slot, pid, busy, how)

    # The workers' channels

    def _spawn(self, count: int, now: float) -> None:
        for _ in range(count):
            worker = self.pool.spawn(now)
            if worker is None:
                break
            self._start(worker)

    def _start(self, worker: Worker) -> None:
        ours, theirs = socket.socketpair()
        process = Process(worker, Channel(ours))
        self._processes[worker.slot] = process
        self.bank.clear(worker.slot)
        self._show(worker)
        self.poller.watch(process.channel.fd, lambda: self._read(process))
        frame = Frame(Kind.SPAWN, self.number, worker.slot)
        sent = self._tell(frame, [theirs.fileno()])
        theirs.close()
        if not sent:
            self._dead(process)

    def _read(self, process: Process) -> None:
        worker = process.worker
        if self._processes.get(worker.slot) is not process:
            return
        try:
            received = process.channel.receive()
        except Malformed as e:
            self._kill(process, f"it sent garbage: {e}")
            return
        if received is None:
            # The end comes a moment before the news of its exit. A worker
            # that lives on without its channel is of no use.
            self.poller.forget(process.channel.fd)
            if worker.state is not State.RETIRING:
                self._hang_up(process)
            return
        frames, fds = received
        now = self.clock()
        for frame in frames:
            if frame.generation != self.number:
                continue
            if frame.kind is Kind.IDLE:
                if not worker.ready:
                    self._never_idle = False
                    self.policy.started()
                self.pool.report(worker, Event.IDLE, now, frame.argument)
                self._taken(process)
            elif frame.kind is Kind.BUSY:
                self.pool.report(worker, Event.BUSY, now)
                self._taken(process)
            elif frame.kind is Kind.PARK and fds:
                self._park(process, frame, fds.pop(0))
        close_all(fds)
        self._show(worker)

    def _park(self, process: Process, frame: Frame, fd: int) -> None:
        try:
            self._lot.park(fd, frame)
        except ValueError:
            os.close(fd)
            self._kill(process, "it parked a connection for no known reason")

    def _taken(self, process: Process) -> None:
        """A parked connection that was handed to the worker is its alone now."""
        if process.resumed is not None:
            os.close(process.resumed.fd)
            process.resumed = None

    def _hang_up(self, process: Process) -> None:
        if process.pid and process.pidfd < 0 and not self.alive:
            # Nobody is left who could tell of its exit.
            self._dead(process)
        else:
            self._departing(process)
            self._kill(process, None)

    def _departing(self, process: Process) -> None:
        if process.pid and process.pid not in self._departed:
            state = process.worker.state
            self._departed[process.pid] = (process.worker.slot, state)

    # Endings

    def _retire(self, worker: Worker) -> None:
        if not self.pool.report(worker, Event.RETIRE, self.clock()):
            return
        self._show(worker)
        self.bank.set_stop(worker.slot)
        process = self._processes[worker.slot]
        self._send(process, Frame(Kind.RETIRE, self.number, worker.slot))

    def _kill(self, process: Process, why: str | None) -> None:
        """Kill a worker. It is marked before (SpamAssassin bugs 3983, 4189)."""
        worker = process.worker
        if not self.pool.report(worker, Event.KILL, self.clock()):
            return
        self._show(worker)
        if why is not None:
            logger.warning(
                "Worker %d (pid %d) is killed: %s.", worker.slot, process.pid, why
            )
        self._signal(process)

    def _signal(self, process: Process) -> None:
        if not process.pid:
            return  # it will be when the zygote tells who it is
        if process.pidfd >= 0:
            try:
                signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            # Only who reaps it can be sure that the pid is still its.
            self._tell(
                Frame(
                    Kind.SIGNAL,
                    self.number,
                    process.worker.slot,
                    process.pid,
                    signal.SIGKILL,
                )
            )

    def _dead(self, process: Process) -> None:
        """A process is known to be dead: its slot is free."""
        worker = process.worker
        if self._processes.get(worker.slot) is not process:
            return
        self._departing(process)
        if not worker.ready and worker.state is State.STARTING:
            self.policy.failed(self.clock())
        self.pool.report(worker, Event.EXIT, self.clock())
        self._forget(process)
        self.bank.clear(worker.slot)

    def _forget(self, process: Process) -> None:
        if process.resumed is not None:
            self._lot.put_back(process.resumed)
            process.resumed = None
        del self._processes[process.worker.slot]
        self.poller.forget(process.channel.fd)
        process.channel.close()
        if process.pidfd >= 0:
            self.poller.forget(process.pidfd)
            os.close(process.pidfd)

    def _show(self, worker: Worker) -> None:
        self.bank.set_state(worker.slot, worker.state.value)
