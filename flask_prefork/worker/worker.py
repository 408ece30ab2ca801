"""A worker: waits for orders, accepts, serves, reports.

All of this runs in the worker's process, in its main thread; :meth:`Worker.progress`
and :meth:`Worker.upgrade` are called by threads of the app too. In order:

1.  ``main.serve`` makes a :class:`Worker` right after the fork, before any hook. The
    zygote must have closed its own descriptors in this process, and signals must have
    their handlers.
2.  ``main.serve`` calls :meth:`Worker.run` once, when the app's ``after_fork`` hooks
    have returned. It reports *idle*, then reads one frame at a time from the back
    channel.
3.  :class:`.Order`: ``_serve_run`` accepts, reports *busy* and calls
    ``PreforkServer.serve``, which calls the app. :class:`.Resume`: the same with a
    parked connection. With ``--dispatch blocking`` it accepts without an order. After
    either it serves what is in the ready queue (:mod:`.ready_connections`).
4.  While ``serve`` runs, the server calls the methods of ``http.monitor.Monitor``.
    They write this worker's record on the scoreboard, and no other record.
5.  A connection that has to wait is sent back (:class:`.Park`). Then the worker reports
    *idle*.
6.  :class:`.Retire`, :class:`.Promote`, a frame of another generation, or the end of
    the back channel: :meth:`Worker.run` returns, and ``main.serve`` ends the process.

What must never be done here: accept after ``_is_stopped()`` is true; read two frames at
once, for the descriptors of the second would be open in this process; wait for the
dispatcher, but for its answer to a :class:`.PermitRequest`, and that for a second at
most; serve on after the app has forked and this is its child.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time
import typing as t
from collections.abc import Sequence
from functools import partial

from ..http import app_socket
from ..http.errors import RequestTimeout
from ..http.handback import Collecting
from ..http.handback import Delivery
from ..ipc.channel import close_all
from ..ipc.frames import Frame
from ..ipc.frames import LimitRefused
from ..ipc.frames import Order
from ..ipc.frames import PermitAnswer
from ..ipc.frames import PermitRelease
from ..ipc.frames import PermitRequest
from ..ipc.frames import Promote
from ..ipc.frames import Resume
from ..ipc.frames import Retire
from ..ipc.listener import Listener
from ..ipc.ready_queue import ReadyQueue
from ..ipc.records import NEVER
from ..ipc.scoreboard import Bank
from ..ipc.spawn import Inherited
from ..settings import size
from ..settings.table import Settings
from ..system import client_certificates
from ..system import faults
from ..system import forks
from ..system import socket_modes
from ..system.log import logger
from ..system.parked_state import Parked
from ..system.parked_state import Wait
from ..system.proxy_protocol import certificate_place
from ..system.socket_state import arrival
from ..system.socket_state import has_hung_up
from ..system.socket_state import NOTHING_KNOWN
from ..system.socket_state import tcp_arrival
from . import memory_sampler
from .inbox import Inbox
from .memory_sampler import MemorySampler
from .ready_connections import ReadyConnections
from .reports import Reports
from .waiter import Waiter

if t.TYPE_CHECKING:
    from ..http.server import PreforkServer

#: While the system has no descriptors or memory for another connection, a
#: worker would spin on its order. Seconds it waits instead.
_PAUSE = 0.05
#: A worker with too much memory waits so long to be replaced, before it accepts again
#: with blocking dispatch, in seconds. There may be nobody who could replace it.
_OVER_PAUSE = 0.5
#: How long a worker waits for the next connection of its standing order before
#: it reports that it is idle, in milliseconds.
_MOMENT = 1
#: While connections wait in the ready queue and in accept queues, a worker serves one
#: kind for so long, or for one connection, in seconds.
_READY_RUN = 0.005


class Worker:
    """One process's state; the servers see it as their monitor.

    :param slot: Its number, from 0.
    :param generation: The generation it is of.
    :param channel: Its end of the back channel, blocking.
    :param bank: Its generation's half of the scoreboard.
    :param ready_queue: Where it finds ready connections while nobody is idle.
    :param servers: One for each listening socket, in the dispatcher's order.
    :param settings: All settings.

    :ivar promotion: What a zygote begins with that it is to leave behind, if any.
    :ivar deadline: When it will be killed, if it was asked to exit.
    """

    def __init__(
        self,
        slot: int,
        generation: int,
        channel: socket.socket,
        bank: Bank,
        ready_queue: ReadyQueue,
        servers: Sequence[PreforkServer],
        settings: Settings,
    ) -> None:
        self.slot = slot
        self.generation = generation
        self.channel = channel
        self._inbox = Inbox(channel)
        self.reports = Reports(channel, generation, slot)
        self.bank = bank
        self.ready_queue = ready_queue
        self._ready = ReadyConnections(ready_queue, bank, len(servers))
        self.servers = servers
        self.settings = settings
        self._spool_limit = size.parse(settings.buffer_total) or sys.maxsize
        self.abortable = False  # set while the app runs (http.monitor.Monitor)
        self._fault = faults.at("worker-ordered")
        self._serve_fault = faults.at("worker-accepted")
        self.pid = os.getpid()
        self.queues = [Listener(server.socket, "") for server in servers]
        self.waits = []
        for server in servers:
            wait = select.poll()
            wait.register(server.socket, select.POLLIN)
            self.waits.append(wait)
            server.watch(self)
        self._is_ordered = settings.dispatch == "ordered"
        self.requests = self.connections = self._reported = 0
        self.sampler = memory_sampler.of(settings)
        self.promotion: Inherited | None = None
        self.deadline: float | None = None
        #: The connection that is served. It may be closed before that is over.
        self._serving: socket.socket | None = None
        self._waiter: Waiter | None = None
        self.entry = bank.entry(slot)
        self.entry.enter(self.pid, generation, time.monotonic())

    # What the servers report and ask (http.monitor.Monitor)

    def begin(self, method: str, path: str, client: str) -> None:
        """A request's head was read."""
        self.entry.begin(time.monotonic(), method, path, client)
        if self.sampler is not None:
            self.sampler.begin(method, path)

    def set_client(self, client: str) -> None:
        """A proxy has told of another client."""
        self.entry.set_client(client)

    def add_queue_time(self, seconds: float) -> None:
        """The request has waited so long for this worker."""
        self.entry.wait(seconds)

    def set_timeout(self, seconds: float) -> None:
        """The request's route has a timeout of its own."""
        self.entry.set_timeout(seconds or NEVER)

    def ask_for_permit(self, limit: int) -> bool:
        """Ask the dispatcher for a permit, and wait a moment for the answer.

        :param limit: The limit's number.
        """
        request = PermitRequest(self.generation, self.slot, limit)
        granted = self._inbox.ask(partial(self.reports.send, request))
        if granted is None:
            # If it is granted after all, it is released by this.
            self.release_permit()
        return bool(granted)

    def refused(self, limit: int) -> None:
        """A request was refused that has waited longer than its route's limit lets it.

        :param limit: The limit's number.
        """
        self.reports.send(LimitRefused(self.generation, self.slot, limit))

    def release_permit(self) -> None:
        """The request is over that had a permit."""
        self.reports.send(PermitRelease(self.generation, self.slot))

    def progress(self) -> None:
        """Something of the request was read or written."""
        self.entry.move(time.monotonic())

    def upgrade(self) -> None:
        """The app has taken the connection over."""
        self.abortable = False
        self.entry.upgrade(time.monotonic())

    def end(self, status: int, sent: int) -> None:
        """Its response is over."""
        now = time.monotonic()
        self.requests += 1
        self.entry.end(now, status, sent)
        if self.sampler is not None and self.sampler.served(now):
            self._report_memory(self.sampler)

    def about_to_accept(self) -> None:
        """The connection's last byte is about to be sent."""
        self.entry.set_about_to_accept()

    def draining(self) -> bool:
        """Whether kept-alive connections should end."""
        return self.bank.is_draining()

    def retiring(self) -> bool:
        """Whether connections should end that the app has taken over."""
        return self.bank.is_draining() or self.bank.is_retiring(self.slot)

    def others_ready(self) -> bool:
        """Whether parked connections wait for a worker."""
        return self.bank.has_ready() or self.bank.others_wait()

    def contended(self) -> bool:
        """Whether others wait for a worker."""
        limit = self.settings.max_requests
        return (
            bool(
                # The dispatcher replaces it after its next report, not while it serves.
                (limit and self.requests - self._reported >= limit)
                or self.others_ready()
                or self._is_stopped()
                or any(queue.is_waited_on() for queue in self.queues)
            )
            and not self._is_last()
        )

    def _is_last(self) -> bool:
        """Whether the server stops, and the dispatcher closes what it gets back."""
        return self.bank.is_draining() and self.bank.is_retiring(self.slot)

    def spool_room(self) -> int:
        """How many bytes the spools of all connections may still take."""
        return max(0, self._spool_limit - self.bank.spooled())

    def _is_stopped(self) -> bool:
        """Whether to take no more connections on the standing order.

        The dispatcher sets that. A worker with too much memory doesn't wait for it.
        """
        return self._is_over() or self.bank.is_stopped(self.slot)

    def _is_over(self) -> bool:
        """Whether it has too much memory."""
        return self.sampler is not None and self.sampler.is_over

    def release_in_child(self) -> None:
        """In a process that the app has forked: release what is this worker's.

        The child may live on, and neither the client nor the dispatcher would see
        that an end is closed. Or it returns from the view like its parent, and
        must not answer a second time; perhaps in the middle of the next response.
        """
        ours = [self.channel, *(server.socket for server in self.servers)]
        waiter = self._waiter.fileno() if self._waiter is not None else -1
        serving = self._serving.fileno() if self._serving is not None else -1
        # Before its connection is gone, which the kernel is asked about.
        offered = app_socket.duplicated_descriptors()
        fds = [serving, waiter, *offered, *(one.fileno() for one in ours)]
        fds += self.ready_queue.fds
        forks.redirect_to_null(fds)
        self.entry.release()
        self.bank.detach()
        self.entry = self.bank.entry(self.slot)
        for server in self.servers:
            server.context.access_log = False

    # The loop

    def abort(self, number: int, frame: object) -> None:
        """End the request with an error, if it is still the late one (SIGXCPU)."""
        record = self.bank.read(self.slot)
        silent = time.monotonic() - max(record.began, record.moved)
        timeout = record.timeout or self.settings.timeout
        if self.abortable and record.began and silent >= timeout:
            self.abortable = False
            raise RequestTimeout(f"no progress for {timeout:g} s")

    def run(self) -> None:
        """Serve until a request to retire, or until the dispatcher is gone."""
        # Before it counts as started: if there is nothing to wait by, the dispatcher
        # pauses before it starts another.
        is_blocking = self.settings.dispatch == "blocking"
        if is_blocking:
            # Not accept() itself, which nothing but a signal could end; and
            # EPOLLEXCLUSIVE wakes one worker for a connection, not all.
            self._waiter = Waiter(self.channel, [s.socket for s in self.servers])
        elif self.sampler is not None:
            self._waiter = Waiter(self.channel, [])
        if not self._report_idle():
            return
        if self._waiter is not None and is_blocking:
            self._run_blocking(self._waiter)
        else:
            self._run_ordered(self._waiter)

    def _run_ordered(self, waiter: Waiter | None) -> None:
        while True:
            if waiter is not None and not self._inbox.has_kept:
                self._sample_when_idle(waiter)
            received = self._inbox.receive()
            if received is None or not self._handle_frame(*received):
                return

    def _run_blocking(self, waiter: Waiter) -> None:
        while True:
            has_kept = self._inbox.has_kept
            if not has_kept:
                self._sample_when_idle(waiter)
            has_frame = has_kept or self._has_frame(waiter)
            index = None if has_frame else waiter.wait()
            if index is None:
                received = self._inbox.receive()
                if received is None or not self._handle_frame(*received):
                    return
                continue
            before = self.connections
            self._serve_run(index, self.settings.run_length, ordered=False)
            if self.connections > before and not self._report_idle():
                return

    def _has_frame(self, waiter: Waiter) -> bool:
        """Wait a moment for a frame before the next connection.

        A worker that retires lets the dispatcher see that it is idle, and parked
        connections are served too, however many new ones come.
        """
        if self._is_over():
            return waiter.is_readable(_OVER_PAUSE)
        if self._is_stopped():
            return waiter.is_readable(_PAUSE)
        return self.bank.others_wait() and waiter.is_readable(_MOMENT / 1000)

    def _handle_frame(self, frame: Frame, fds: list[int]) -> bool:
        """Do what a frame requests.

        :return: ``False`` to retire.
        """
        if frame.generation != self.generation:
            return False
        if isinstance(frame, PermitAnswer):
            self._inbox.ignore_late()
            return True
        if isinstance(frame, (Retire, Promote)):
            self.deadline = frame.deadline or None
        if isinstance(frame, Order):
            if self._fault is not None:
                self._fault()
            self._serve_run(frame.listener, frame.run_length, ordered=True)
            self._serve_ready(frame.run_length)
        elif isinstance(frame, Resume) and fds:
            if not self._report_busy(resumed=True):
                return False
            is_blocking = self.settings.dispatch == "blocking"
            self._resume(frame, *fds)
            if is_blocking:
                self._serve_each_listener()
            else:
                self._serve_ready(self.settings.run_length)
        elif isinstance(frame, Promote) and fds:
            control = socket_modes.adopt(fds[0], blocking=True)
            self.promotion = Inherited(control, frame.next_generation, *fds[1:2])
            return False
        else:
            if isinstance(frame, (Resume, Promote)):
                logger.error(
                    "The worker ends: no descriptors are left for what it was handed."
                )
            return False
        return self._report_idle()

    def _resume(self, frame: Resume, fd: int, *more: int) -> None:
        """Go on with a connection that was parked.

        :param more: The descriptors of its spool and of the file with its client's
            certificate, if it has those.
        """
        try:
            connection = self.servers[frame.listener].adopt(fd)
        except OSError:
            close_all((fd, *more))  # it is no socket
            return
        parked, certificate = frame.parked, None
        fds = list(more)
        place = certificate_place(parked.tag)
        if place is not None and fds:
            # Before the look at the connection: as long as that is open, nobody else
            # has the slot.
            certificate = client_certificates.read(fds.pop(), place.slot)
        spool = fds[0] if fds else -1
        try:
            address = connection.getpeername()
            is_gone = connection.family == socket.AF_UNIX and has_hung_up(connection)
        except OSError:
            is_gone = True  # the client has reset it
        if is_gone:
            if parked.wait is Wait.PERMIT:
                self.release_permit()
            connection.close()
            if spool >= 0:
                os.close(spool)
            return
        queue_time = 0.0
        if parked.arrived:
            queue_time = max(time.monotonic() - parked.arrived, 0.0)
        self._serve_one(
            frame.listener, connection, address, parked, spool, queue_time, certificate
        )

    def _serve_ready(self, length: int) -> None:
        """Serve connections from the ready queue, as on a standing order.

        :param length: After how many requests the accept queues have their turn.
        """
        end, until = self.requests + length, time.monotonic() + _READY_RUN
        while self.requests < end and self._may_take_ready():
            # It was to go with the report.
            self.reports.flush()
            taken = self._ready.take()
            if taken is None:
                return
            self._resume(*taken)
            if time.monotonic() > until:
                return

    def _may_take_ready(self) -> bool:
        """Whether the ready queue comes before the next report."""
        bank, limit = self.bank, self.settings.max_requests
        return (
            bank.has_ready()
            and not self._ready.must_report
            and not (limit and self.requests >= limit)
            and not bank.others_wait()
            and not self._is_stopped()
            and not bank.is_retiring(self.slot)
            and not bank.lower_is_idle(self.slot)
        )

    def _serve_each_listener(self) -> None:
        """After a parked connection, serve one from each listener.

        The next parked one may be on its way here already, and so on.
        """
        for index in range(len(self.servers)):
            if not self._is_stopped():
                self._serve_run(index, 1, ordered=False, is_busy=True)

    def _serve_one(
        self,
        index: int,
        connection: socket.socket,
        address: t.Any,
        resumed: Parked | None = None,
        spool: int = -1,
        queue_time: float = 0.0,
        certificate: bytes | None = None,
    ) -> None:
        """Serve a connection until it ends or has to wait."""
        self._serving = connection
        if self._serve_fault is not None:
            self._serve_fault()
        found = self.servers[index].serve(
            connection, address, resumed, spool, queue_time, certificate
        )
        self._serving = None
        if forks.is_foreign():
            # The app has forked, and this is its child, not the worker
            # (SpamAssassin bug 4370).
            os._exit(0)
        if found is None:
            return
        is_next = self._is_ordered and self._may_take_ready()
        # Then it waits no longer than for the report.
        self.reports.parks_when_idle = (
            resumed is not None and self._is_ordered and not is_next
        )
        if isinstance(found, Delivery):
            self.reports.deliver(index, connection, found)
        elif isinstance(found, Collecting):
            parked = found.parked.after(resumed)
            self.reports.park(index, connection, parked, found.spool.detach())
        elif not (
            is_next
            and found.wait is Wait.WORKER
            and self._ready.put(connection, index, found)
        ):
            self.reports.park(index, connection, found.after(resumed))

    def _serve_run(
        self, index: int, length: int, ordered: bool, is_busy: bool = False
    ) -> None:
        """Take connections from one listener as long as the standing order holds.

        :param is_busy: It has reported that it is busy.
        """
        server, until = self.servers[index], time.monotonic() + _READY_RUN
        ask = arrival if server.context.is_local else tcp_arrival
        for accepted in range(length):
            has_waited = True
            try:
                try:
                    connection, address = server.accept()
                except BlockingIOError:
                    if not (accepted and ordered and self._is_readable_soon(index)):
                        return
                    connection, address = server.accept()
                    # It was this worker that has waited.
                    has_waited = False
            except BlockingIOError:
                return
            except OSError as e:
                if not isinstance(e, ConnectionError):
                    # ENFILE, ENOBUFS, ENOMEM: another process may succeed
                    # (accept(2)).
                    time.sleep(_PAUSE)
                if e.errno == errno.EMFILE:
                    # The app has used up this process's descriptors. As long as
                    # it waits for orders, the connection would be ordered to it.
                    raise
                return
            if not (accepted or is_busy) and not self._report_busy():
                connection.close()
                return
            self.connections += 1
            self.entry.accept()
            is_gone, queue_time = NOTHING_KNOWN
            if has_waited:
                is_gone, queue_time = ask(connection)
            if is_gone:
                connection.close()
            else:
                self._serve_one(index, connection, address, queue_time=queue_time)
            if self._is_stopped() or self.bank.others_wait() or self._ready.must_report:
                return
            if self.bank.has_ready() and time.monotonic() > until:
                return
            if ordered and self.bank.lower_is_idle(self.slot):
                return

    def _is_readable_soon(self, index: int) -> bool:
        """Wait a moment for the next connection of a standing order.

        No lower-numbered worker is idle, so this one is who would be ordered next,
        and asking for the order costs more than the moment.
        """
        if self.bank.has_ready():
            return False
        self.about_to_accept()
        readable = self.waits[index].poll(_MOMENT)
        return bool(readable) and not self._is_stopped()

    def _sample_when_idle(self, waiter: Waiter) -> None:
        """If no frame comes for a while, report the memory of the last request."""
        if self.sampler is not None and self.sampler.is_due(waiter.is_quiet):
            self._report_memory(self.sampler)

    def _report_memory(self, sampler: MemorySampler) -> None:
        """Report this worker's own memory."""
        frame = sampler.frame(self.generation, self.slot)
        self.entry.grow(sampler.growth.most())
        self.reports.send(frame)

    def _report_idle(self) -> bool:
        """Report that it waits for orders.

        On the scoreboard it remains about to accept: until this report is read, a
        connection would be another worker's.

        :return: ``False`` if the dispatcher is gone.
        """
        self._ready.must_report = False
        served, self._reported = self.requests - self._reported, self.requests
        return self.reports.idle(served)

    def _report_busy(self, resumed: bool = False) -> bool:
        """Report that it serves, see :class:`.Busy`.

        :return: ``False`` if the dispatcher is gone.
        """
        self.entry.clear_about_to_accept()
        return self.reports.busy(resumed)
