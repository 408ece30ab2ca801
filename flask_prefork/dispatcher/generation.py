"""One generation, seen from the dispatcher: a zygote and its workers.

In the dispatcher. ``loop.py`` makes a :class:`Generation` for each zygote that was
started, and :class:`.Generations` calls it, in this order:

1. :meth:`Generation.open`, once, after the zygote has sent ``Loaded``: before it there
   are no slots. ``queues.py`` then calls :meth:`Generation.order` and
   :meth:`Generation.resume`.
2. :meth:`Generation.step` in each turn, and :meth:`Generation.recycle` before it.
3. :meth:`Generation.drain` or :meth:`Generation.retire`: no workers are started from
   then on. :meth:`Generation.promote` lets one of its workers leave the next zygote
   behind.
4. :meth:`Generation.release` once no worker is left; :meth:`Generation.close` once the
   zygote has exited as well.

What pool, policy and request watchdog decide is carried out from here, by
:mod:`.workers`. What the zygote sends comes in through :mod:`.zygote_handle`; each
frame is checked (:mod:`.vetting`) before it is used.

Never here: forking, which is the zygote's, or waiting for an answer.
"""

from __future__ import annotations

import os
import typing as t

from ..ipc.channel import write_document
from ..ipc.exits import AT_ONCE
from ..ipc.exits import LATE
from ..ipc.exits import Reason
from ..ipc.exits import Why
from ..ipc.frames import Changed
from ..ipc.frames import Ended
from ..ipc.frames import Exited
from ..ipc.frames import Failed
from ..ipc.frames import Frame
from ..ipc.frames import HandedOn
from ..ipc.frames import Listen
from ..ipc.frames import Loaded
from ..ipc.frames import Order
from ..ipc.frames import Promoted
from ..ipc.frames import Resized
from ..ipc.frames import Serving
from ..ipc.frames import Spawned
from ..ipc.listener import Listener
from ..ipc.parked_connections import Connection
from ..ipc.phase import GRACE
from ..ipc.scoreboard import Bank
from ..ipc.spawn import ZygoteHandle
from ..ipc.stats import Summary
from ..ipc.tls_listener import TLSListener
from ..settings import size
from ..settings.table import MAX_SLOTS
from ..settings.table import Settings
from ..system.poller import Poller
from ..system.reaper import Reaper
from ..system.running_clock import RunningClock
from . import vetting
from .late import Late
from .parked_holder import ParkedHolder
from .policy import Policy
from .pool import Pool
from .pool import PoolWorker
from .pool import State
from .pool import Timeouts
from .sizing import Sizing
from .watchdog import RequestWatchdog
from .workers import Workers
from .zygote_handle import ZygoteControl

#: Workers that die before their first idle, in a row, before a generation
#: that has never served is given up.
MAX_FAILURES = 5
#: A worker that resumes a parked connection takes from no accept queue.
_NO_QUEUE = -1

_GIVEN_UP = Why(Reason.STOP, "its generation is given up")
TOO_LATE = LATE[State.RETIRING]
_AT_WORK = (State.STARTING, State.BUSY, State.RETIRING)


def _description(listener: Listener) -> tuple[t.Any, ...]:
    """What a zygote is to know of a listener: as the user has given it, whether it was
    inherited, and the name that clients know if that isn't its own."""
    name = None
    if isinstance(listener, TLSListener):
        name = listener.public.sock.getsockname()
    return listener.host, listener.inherited, name


class Generation:
    """A zygote and its workers.

    :param zygote: The zygote, just started.
    :param poller: The dispatcher's poll set.
    :param scoreboard: The descriptor of the shared scoreboard.
    :param clock: The dispatcher's.
    :param parked: Where connections go that its workers hand back.
    :param summary: Where it is counted what they do.
    :param reaper: Reports its zygote's exit.
    :param is_known: Whether a process is another one of the server's.
    :param zygote_exited: Takes in that its zygote has ended, and its exit status.
    """

    def __init__(
        self,
        zygote: ZygoteHandle,
        poller: Poller,
        scoreboard: int,
        clock: RunningClock,
        parked: ParkedHolder,
        summary: Summary,
        reaper: Reaper,
        is_known: t.Callable[[int], bool],
        zygote_exited: t.Callable[[Generation, int], None],
    ) -> None:
        self.number = zygote.generation
        self.clock = clock
        self.settings: Settings | None = None
        #: No new workers from now on.
        self.closed = False
        #: A file of its app has changed.
        self.outdated = False
        self._has_changed = False
        #: Its app can't be loaded, and its workers show why.
        self.is_failure = False
        self._is_known = is_known
        #: Its zygote was a worker of the generation before.
        self.is_promoted = False
        #: Requests after which a worker is to be promoted; 0 is none.
        self._refork_after = 0
        self.bank = Bank(scoreboard, self.number)
        self.workers = Workers(
            self.number, self.bank, poller, clock, parked, self._send, summary
        )
        self.zygote = ZygoteControl(
            zygote,
            poller,
            clock,
            reaper,
            self._from_zygote,
            self.workers.orphan,
            lambda status: zygote_exited(self, status),
        )
        self._late = Late(self.workers, clock)
        self._sizing = Sizing(self.workers, clock, summary)
        self._summary = summary
        self._others_wait = False
        self._has_ready = False
        self._serves = False
        self._size = 0
        self._size_is_acknowledged = True
        self._exits_are_acknowledged = True
        self._scoreboard = scoreboard
        self._parked = parked

    # What the dispatcher asks

    @property
    def pool(self) -> Pool:
        """Its workers."""
        return self.workers.pool

    @property
    def policy(self) -> Policy:
        """How many there should be."""
        return self.workers.policy

    @property
    def memory(self) -> int:
        """What its zygote and its workers have in memory together, in bytes."""
        return self.workers.accounting.total(self.pool)

    @property
    def pid(self) -> int:
        """Its zygote's process; 0 until that is known."""
        return self.zygote.pid

    @property
    def alive(self) -> bool:
        """Whether its zygote still listens to us."""
        return self.zygote.alive

    @property
    def loaded(self) -> bool:
        """Whether the zygote has loaded the app."""
        return self.settings is not None

    @property
    def opened(self) -> bool:
        """Whether its zygote was given what to serve on."""
        return bool(self.pool.workers)

    @property
    def ready(self) -> bool:
        """Whether all workers that it starts with were idle."""
        pool = self.pool
        return self.workers.ever_idle and len(pool) > 0 and not pool.starting

    @property
    def failed_to_start(self) -> bool:
        """Whether it never got a worker idle in so many starts."""
        return not self.workers.ever_idle and self.policy.failures >= MAX_FAILURES

    @property
    def promotion_failed(self) -> bool:
        """Whether it was to come from a worker, and never came."""
        return not self.pid and not self.alive

    @property
    def is_ordered(self) -> bool:
        """Whether its workers wait for orders, or block in accept."""
        return self.settings is not None and self.settings.dispatch == "ordered"

    @property
    def running(self) -> int:
        """How many requests are served."""
        read = self.bank.read
        return sum(bool(read(worker.number).began) for worker in self.pool)

    def begun(self) -> list[float]:
        """When each request that is served was begun, by the workers' clock."""
        read = self.bank.read
        moments = (read(worker.number).began for worker in self.pool)
        return [moment for moment in moments if moment]

    @property
    def recycles(self) -> bool:
        """Whether there may be something for :meth:`recycle` to do."""
        over = bool(self.workers.accounting.over) or self.policy.budget > 0
        return over or self.pool.recycles

    def refork_candidate(self) -> PoolWorker | None:
        """The lowest-numbered idle worker, if it is to be promoted."""
        if not (self._refork_after and self.alive):
            return None
        worker = self.pool.lowest_idle()
        wanted = worker is not None and worker.served >= self._refork_after
        return worker if wanted else None

    def awaits_request(self) -> bool:
        """Whether a worker has a connection, but no request of it yet."""
        return any(
            worker.state is State.BUSY and not self.bank.read(worker.number).began
            for worker in self.pool
        )

    def about_to_accept(self) -> bytes:
        """Which workers below the lowest idle one are about to accept again.

        :return: A byte for each; if not 0, another one each time it does so.
        """
        lowest = self.pool.lowest_idle()
        return self.bank.about_to_accept(lowest.number) if lowest is not None else b""

    def deadline(self) -> float | None:
        """When :meth:`step` should run next if nothing happens before."""
        times = [self._late.deadline(), self.zygote.deadline()]
        times.append(self.workers.dumps.deadline())
        if not self.closed and self.alive:
            times.append(self._sizing.deadline())
        return min((time for time in times if time is not None), default=None)

    # What the dispatcher does

    def open(
        self, listeners: t.Sequence[Listener], before: Policy | None = None
    ) -> None:
        """Give the zygote what its workers serve on, and start the first ones.

        :param before: The policy of the generation before, if what was adjusted in it
            by hand is to hold.
        """
        settings = self.settings
        assert settings is not None, "the app is loaded"
        self.bank.reset()
        self.workers.pool = Pool(
            # Places for those, too, that only finish what the app's threads do.
            min(2 * settings.max_workers, MAX_SLOTS),
            Timeouts(spawn=settings.spawn_timeout, retire=settings.graceful_timeout),
            max_requests=settings.max_requests,
            jitter=settings.max_requests_jitter,
        )
        self.workers.policy = Policy.of(settings, self.clock())
        if before is not None:
            self.policy.adjust(before.min_idle - settings.min_idle)
        self.workers.accounting.limit = size.parse(settings.max_worker_memory)
        self.workers.watchdog = RequestWatchdog.of(settings, self.clock.at)
        self.workers.limits = [limit.name for limit in settings.limits]
        try:
            document = write_document(list(map(_description, listeners)))
        except OSError as e:
            self.zygote.kill(f"Can't send the zygote its listeners: {e}.")
            return
        shared = (self._scoreboard, *self._parked.ready_queue.fds)
        fds = [document, *shared, *(one.fd for one in listeners)]
        self._send(Listen(self.number), fds)
        os.close(document)
        self._sizing.begin()

    def order(self, count: int, queue: int) -> None:
        """Order idle workers to accept, the lowest-numbered first.

        :param count: Connections that wait and that nobody was ordered to take.
        :param queue: The listener they wait on.
        """
        assert self.settings is not None
        for worker in self.pool.order(count, self.clock(), queue):
            self._summary.orders += 1
            run = self.settings.run_length
            if worker.limit:
                run = max(1, min(run, worker.limit - worker.served))
            frame = Order(self.number, worker.number, queue, run)
            self.workers.send(worker, frame)

    def resume(self, connection: Connection) -> None:
        """Hand a parked connection to the lowest-numbered idle worker.

        There must be one.
        """
        (worker,) = self.pool.order(1, self.clock(), _NO_QUEUE)
        if connection.limit:
            # It may have been another generation's.
            number = self.workers.limit_number(connection.limit)
            connection.state = connection.state._replace(limit=number)
        self.workers.resume(worker, connection)

    def set_spooled(self, size: int) -> None:
        """Show the workers how many bytes all spools have together."""
        self.workers.bank.set_spooled(size)

    def set_others_wait(self, wait: bool) -> None:
        """Show the workers whether parked connections wait for one that is idle."""
        if wait != self._others_wait:
            self._others_wait = wait
            self.bank.set_others_wait(wait)

    def set_ready(self, ready: bool) -> bool:
        """Show the workers whether connections are in the ready queue.

        :return: Whether that is news.
        """
        if ready == self._has_ready:
            return False
        self._has_ready = ready
        self.bank.set_ready(ready)
        return True

    def notify_ready(self, follows: bool) -> None:
        """Report to the app, once, that the generation serves.

        :param follows: It has taken over from another.
        """
        if not self._serves:
            self._serves = True
            self._send(Serving(self.number, follows))

    def _notify_size(self) -> None:
        """Report to the app how many workers there are, as fast as it takes it in."""
        size = len(self.pool)
        if self.alive and self._size_is_acknowledged and size != self._size:
            self._size, self._size_is_acknowledged = size, False
            self._send(Resized(self.number, size))

    def _notify_exits(self) -> None:
        """Report to the app which workers have ended, as fast as it takes it in."""
        if self.workers.ended and self._exits_are_acknowledged:
            self._send_exits()

    def _send_exits(self) -> None:
        if not (self.workers.ended and self.alive):
            return
        try:
            document = write_document(self.workers.ended)
        except OSError:
            # The zygote will have to do with the exit statuses, which it knows itself.
            return
        self.workers.ended.clear()
        self._exits_are_acknowledged = False
        self._send(Ended(self.number), [document])
        os.close(document)

    def step(self, now: float, waiting: int, others: int, memory: int = 0) -> None:
        """Do what pool, policy and stalls want now.

        :param waiting: Connections that nobody was ordered to take.
        :param others: Processes of another generation.
        :param memory: What these have in memory, in bytes.
        """
        self.zygote.step(now)
        self._late.step(now)
        self.workers.dumps.step(now)
        if not self.closed and self.settings is not None and self.alive:
            self._sizing.step(now, waiting, others, memory)
        self._notify_size()
        self._notify_exits()

    def promote(
        self, worker: PoolWorker, generation: int, fds: t.Sequence[int]
    ) -> None:
        """Let a worker leave the zygote of another generation behind, once.

        :param fds: That zygote's end of its control socket, and the file for its dumps.
        """
        self._refork_after = 0
        self.workers.promote(worker, generation, fds)

    def recycle(self, now: float, others: int, memory: int) -> None:
        """Replace a worker that is due; see :meth:`step`."""
        if not self.closed and self.alive:
            self._sizing.recycle(now, others, memory)

    def show_busy(self) -> None:
        """Let all who are at something log their threads' tracebacks.

        That is every worker but those that wait for orders, and a zygote that loads the
        app or that hasn't done yet what it was asked to.
        """
        for worker in self.pool:
            if worker.state in _AT_WORK or worker.suspect:
                self.workers.show(worker)
        self.zygote.show_busy()

    def reopen_logs(self) -> None:
        """Let zygote and workers open the files of their logs again."""
        self.zygote.reopen_logs()
        self.workers.reopen_logs()

    def show_late(self) -> None:
        """Log of each worker that is left where it hangs."""
        for worker in self.pool:
            self._late.show(worker, TOO_LATE)

    def drain(self) -> None:
        """Start no more workers; let connections end with their request."""
        self.closed = True
        self.bank.set_draining()

    def retire(self, end: float | None = None) -> None:
        """Let all workers finish what they serve, then exit; start no more.

        :param end: When they will be killed, if that is before their own deadline.
        """
        self.closed = True
        for worker in list(self.pool):
            self.workers.retire(worker, end)

    def hand_over_exit_tasks(self) -> None:
        """Notify the zygote that another one inherits what is to run at its exit."""
        self._send(HandedOn(self.number))

    def give_up(self) -> None:
        """End it before it was to serve.

        With blocking dispatch its first workers may serve already, before all are
        there: these finish that.
        """
        self.closed = True
        for worker in list(self.pool):
            if self.is_ordered or not self.workers.has_been_idle(worker):
                self.workers.kill(worker, _GIVEN_UP)
            else:
                self.workers.retire(worker)

    def kill_all(self, why: Why) -> None:
        """Send SIGKILL to every worker that is left."""
        self.closed = True
        for worker in list(self.pool):
            self.workers.kill(worker, why)

    def kill_unfinished(self) -> None:
        """Send SIGKILL to every worker that isn't waiting for orders."""
        for worker in list(self.pool):
            if worker.state is not State.IDLE:
                self.workers.kill(worker, AT_ONCE)

    def release(self) -> None:
        """Let the zygote end: it bounds the time of what the app does then."""
        self._send_exits()
        graceful = self.settings.graceful_timeout if self.settings is not None else 0.0
        self.zygote.release(graceful + GRACE)

    def close(self) -> None:
        """Close all that is left of it here."""
        self.release()
        self.workers.close()
        self.bank.close()

    # The zygote's channel

    def _send(self, frame: Frame, fds: t.Sequence[int] = ()) -> bool:
        return self.zygote.send(frame, fds)

    def _from_zygote(self, frame: Frame, fds: list[int]) -> None:
        if isinstance(frame, Promoted) and not self.pid:
            self._check_unknown(frame.pid)
            self.zygote.adopt(frame.pid)
            self.is_promoted = True
        elif isinstance(frame, Loaded) and not self.loaded:
            if not fds:
                # It would be waited for without an end.
                raise ValueError("the settings didn't come, or no descriptors are left")
            self._load(frame, fds[0])
        elif isinstance(frame, Spawned):
            self.workers.spawned(frame, fds, self._vet)
        elif isinstance(frame, Failed):
            self.workers.failed(frame)
        elif isinstance(frame, Exited):
            self.workers.exited(frame)
        elif isinstance(frame, Resized):
            self._size_is_acknowledged = True
        elif isinstance(frame, Ended):
            self._exits_are_acknowledged = True
        elif isinstance(frame, Changed) and not self._has_changed:
            self.outdated = self._has_changed = True

    def _check_unknown(self, pid: int) -> None:
        if self._is_known(pid):
            raise ValueError(f"process {pid} is another one")

    def _vet(self, pid: int, pidfd: int) -> None:
        self._check_unknown(pid)
        vetting.worker(pid, pidfd, self.pid)

    def _load(self, frame: Loaded, document: int) -> None:
        self.settings = settings = vetting.settings(document)
        self.is_failure = frame.is_failure
        self.zygote.loaded(settings.spawn_timeout)
        if not self.is_promoted:
            self._refork_after = settings.refork_after
        self.workers.accounting.zygote = frame.size * 1024
