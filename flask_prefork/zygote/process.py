"""The zygote: loads the app, forks workers, reaps them.

All of this runs in the zygote's process, in its only thread of ours, but for what is
said to run in a forked process. In order:

1.  ``cli`` starts the process (``ipc/spawn.py``), calls ``loading.load`` and
    ``loading.server_maker``, and then makes a :class:`Zygote` and calls
    :meth:`Zygote.run`, once. A promoted worker's child does so in ``_become_zygote``.
2.  :meth:`Zygote.run` sets the signal handlers, forks the process that watches files if
    there is to be one, sends :class:`.Loaded` with the settings, and handles one frame
    at a time.
3.  :class:`.Listen` comes first, with the listening sockets and the scoreboard. Each
    :class:`.Spawn` calls the hooks ``before_fork`` and forks. Before the first fork
    ``lifecycle.prepare`` checks the app.
4.  The forked process runs ``_begin_worker`` before any code of the app, closes what is
    the zygote's in ``_become_worker``, and calls ``work`` (:func:`.main.serve`), which
    ends it. It returns only in a process that is to be the next zygote.
5.  ``_reap`` runs after ``SIGCHLD``, and after each frame for which the app was called.
    It reports each exit once (:class:`.Exited`).
6.  When the dispatcher has freed a worker's slot, it sends the reason with
    :class:`.Ended`, and the app is told (``unreported_exits.py``).
7.  When the dispatcher has closed the control socket, the zygote waits for its workers,
    calls the hooks ``when_ended``, ends the app's threads, and runs its at-exit
    handlers.

What must never be done here: serve a request; decide how many workers there are; start
a thread before the last fork; reap a child that isn't ours; let an exception of the
app's end the process; send a frame that isn't an answer or the report of what has
happened here: the app is loaded, this process is the promoted worker's, a worker has
exited, a file has changed.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import time
import typing as t
from functools import partial

from ..http.server import PreforkServer
from ..ipc import dumps
from ..ipc import listener
from ..ipc import spawn
from ..ipc.channel import close_all
from ..ipc.channel import read_document
from ..ipc.channel import receive_one
from ..ipc.channel import send_one
from ..ipc.channel import write_document
from ..ipc.exits import UNKNOWN_STATUS
from ..ipc.frames import Changed
from ..ipc.frames import Ended
from ..ipc.frames import Exited
from ..ipc.frames import Failed
from ..ipc.frames import Frame
from ..ipc.frames import HandedOn
from ..ipc.frames import Listen
from ..ipc.frames import Loaded
from ..ipc.frames import Promoted
from ..ipc.frames import Release
from ..ipc.frames import Resized
from ..ipc.frames import Serving
from ..ipc.frames import Signal
from ..ipc.frames import Spawn
from ..ipc.frames import Spawned
from ..ipc.frames import Status
from ..ipc.frames import TASKS
from ..ipc.phase import GRACE
from ..ipc.ready_queue import ReadyQueue
from ..ipc.scoreboard import Bank
from ..ipc.spawn import Inherited
from ..settings import size
from ..settings.table import Settings
from ..system import faults
from ..system import forks
from ..system import log
from ..system import process_title
from ..system import smaps
from ..system import socket_modes
from ..system.pidfd import open_pidfd
from ..worker import at_exit
from ..worker import leaving
from . import reloader
from .fork_pipes import Own
from .lifecycle import Lifecycle
from .orphans import Orphan
from .orphans import Orphans
from .unreported_exits import UnreportedExits

if t.TYPE_CHECKING:
    Watch = t.Callable[[t.Callable[[], None]], None]
    MakeServer = t.Callable[[socket.socket, str, t.Any], PreforkServer]

#: Bytes of a block that is freed for glibc to see, :meth:`Zygote._prepare` says why.
_USUAL_BLOCK = 2 << 20
#: How long a dispatcher may take to die once it has closed its sockets, in seconds.
_LAST_MOMENT = 1.0
#: How long the watcher may take until it knows the app's files, in seconds.
_WATCHER_TIMEOUT = 30.0
#: Frames for which code of the app may run.
_TASKS = tuple(TASKS)


class Work(t.Protocol):
    """What a forked worker does: :func:`.main.serve`.

    It returns only in a process that is to be the next zygote.
    """

    def __call__(
        self,
        slot: int,
        generation: int,
        channel: socket.socket,
        dump: int,
        bank: Bank,
        ready_queue: ReadyQueue,
        servers: t.Sequence[PreforkServer],
        settings: Settings,
        life: Lifecycle,
    ) -> Inherited: ...


class Zygote:
    """The zygote's loop.

    :param begin: The control socket and the generation.
    :param settings: All settings, resolved with the app's configuration.
    :param make_server: Makes the server for one listening socket.
    :param work: What a worker does.
    :param watch: What the process does that watches the app's files; it ends with
        :data:`.reloader.CHANGED`.
    :param life: Calls the app's hooks and signals.
    :param is_failure: The app can't be loaded, and what is served shows why.
    """

    def __init__(
        self,
        begin: Inherited,
        settings: Settings,
        make_server: MakeServer,
        work: Work,
        watch: Watch | None,
        life: Lifecycle,
        is_failure: bool = False,
    ) -> None:
        self.control = begin.control
        self.generation = begin.generation
        self._dump = begin.dump
        self.settings = settings
        self.make_server = make_server
        self.work = work
        self.watch = watch
        self.life = life
        self.is_failure = is_failure
        self.servers: list[PreforkServer] = []
        self.bank: Bank | None = None
        self.ready_queue: ReadyQueue | None = None
        #: The listening sockets that end with the server.
        self.own: list[socket.socket] = []
        #: The dispatcher's pidfd (``pidfd_open(2)``), where there are such; else -1.
        self._dispatcher_pidfd = -1
        #: The workers that are alive, by pid.
        self.workers: dict[int, Orphan] = {}
        #: The same, when the dispatcher is dead and the graceful timeout is over.
        self._orphans: Orphans | None = None
        #: Workers that have ended and that the app wasn't told of.
        self._unreported = UnreportedExits(life.worker_exited)
        self._prepared = False
        #: The end of a channel that is for the next worker, or -1.
        self._spawn_channel = -1
        self._released = False
        self._is_superseded = False
        self._fault = faults.at("zygote-fork")
        self._watcher = 0
        self._watcher_socket: socket.socket | None = None

    def run(self) -> None:
        """Serve the dispatcher until it closes the control socket."""
        self._dispatcher_pidfd = open_pidfd(os.getppid())
        self._wake_up, self._wake_up_writer = socket_modes.pair(blocking=False)
        self._watch_children()
        spawn.ignore_foreign_signals()
        forks.when_app_forks(self._release_in_child)
        spawn.show_on_request(self._dump)
        if self.watch is not None:
            self._start_watcher(self.watch)
        document = write_document(self.settings.as_dict())
        loaded = Loaded(self.generation, self._memory_use(), self.is_failure)
        send_one(self.control, loaded, [document])
        os.close(document)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self._wake_up, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._wake_up.fileno() in ready:
                self._wake_up.recv(4096)
                self._reap()
            if self.control.fileno() in ready:
                received = receive_one(self.control)
                if received is None:
                    break
                frame, fds = received
                self._handle_frame(frame, fds)
                close_all(fds)
                if isinstance(frame, _TASKS):
                    self._watch_children()
                    self._reap()
        if not self._released:
            self._shut_listeners()
        self._wait_for_workers()
        if self._watcher:
            # It ends by itself, unless it is stopped.
            os.kill(self._watcher, signal.SIGKILL)
        # A SIGCHLD may come when the descriptor is closed already.
        signal.set_wakeup_fd(-1)
        self._finish()

    def _watch_children(self) -> None:
        """Let the exit of a child end the wait for frames.

        Again after each hook: an event loop that runs in one takes the wake-up
        descriptor, and leaves none (``asyncio``'s ``remove_signal_handler``). Exits
        in between were not signalled to us.
        """
        forks.handle(signal.SIGCHLD, _wake)
        signal.set_wakeup_fd(self._wake_up_writer.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

    def _finish(self) -> None:
        """End what the app runs here, before the interpreter does so without an end."""
        name = f"The zygote (pid {os.getpid()})"
        now = time.monotonic()
        leaving.watch(now + self.settings.graceful_timeout + _LAST_MOMENT, 1, name)
        self._unreported.tell_rest()
        self.life.ended()
        now = time.monotonic()
        finished = leaving.finish_threads(now + _LAST_MOMENT, name)
        if self._is_superseded:
            at_exit.quit_now(0)
        if not finished:
            at_exit.run(0)

    def _memory_use(self) -> int:
        """KiB of what was loaded, if there is a budget for it."""
        found = smaps.read() if size.parse(self.settings.memory_budget) else None
        # What it shares with the dispatcher too: that is what workers share with it.
        return found.written // 1024 if found is not None else 0

    def _start_watcher(self, watch: Watch) -> None:
        """Fork the process that watches files, and wait until it knows them.

        What changes from then on is seen.
        """
        ours, theirs = socket_modes.pair()
        self._watcher = forks.fork()
        if not self._watcher:
            try:
                signal.set_wakeup_fd(-1)
                for mine in (ours, self._wake_up, self._wake_up_writer, self.control):
                    mine.close()
                self._close_dispatcher_pidfd()
                spawn.show_no_more()
                self._close_dump()
                process_title.show("reloader", generation=self.generation)
                reloader.run(watch, theirs)
            finally:
                os._exit(1)
        theirs.close()
        # One that hangs keeps nobody from serving.
        ready = select.poll()
        ready.register(ours, select.POLLIN)
        ready.poll(_WATCHER_TIMEOUT * 1000)
        # It ends when this end is closed, however this process ends.
        self._watcher_socket = ours

    def _handle_frame(self, frame: Frame, fds: list[int]) -> None:
        """Do what a frame requests; descriptors that are kept are popped."""
        if isinstance(frame, Listen):
            self._listen(fds)
        elif isinstance(frame, Spawn) and len(fds) < 2:
            # The app has used up the descriptors (MSG_CTRUNC, recvmsg(2)).
            send_one(self.control, Failed(self.generation, frame.slot, errno.EMFILE))
        elif isinstance(frame, Spawn):
            self._spawn(frame.slot, fds.pop(0), fds.pop(0))
        elif isinstance(frame, Release):
            self._released = True
        elif isinstance(frame, HandedOn):
            self._is_superseded = True
            at_exit.drop_inherited()
        elif isinstance(frame, Serving):
            at_exit.take_over()
            self.life.ready(frame.follows)
            send_one(self.control, frame)
        elif isinstance(frame, Resized):
            self.life.resized(frame.workers)
            send_one(self.control, frame)
        elif isinstance(frame, Ended):
            self._reap()
            # Without a document there are no descriptors left; the rest is told at
            # the end.
            self._unreported.tell(read_document(fds.pop(0)) if fds else ())
            send_one(self.control, frame)
        elif (
            isinstance(frame, Signal)
            and (worker := self.workers.get(frame.pid)) is not None
            and worker.slot == frame.slot
        ):
            # Not reaped yet, so the pid is still its; perhaps as another user's.
            with contextlib.suppress(PermissionError):
                os.kill(frame.pid, frame.number)

    def _listen(self, fds: list[int]) -> None:
        hosts = read_document(fds.pop(0))
        self.bank = Bank(fds[0], self.generation)
        close_all([fds.pop(0)])
        ends = [socket_modes.adopt(fds.pop(0), blocking=False) for _ in range(2)]
        self.ready_queue = ReadyQueue(*ends)
        for host, inherited, name in hosts:
            sock = socket_modes.adopt(fds.pop(0), blocking=False)
            if not inherited:
                self.own.append(sock)
            self.servers.append(self.make_server(sock, host, name))

    def _spawn(self, slot: int, fd: int, dump: int) -> None:
        self._spawn_channel = fd
        wanted = self.life.before_fork()
        self._spawn_channel = -1
        if wanted and not self._prepared:
            self._prepare(fd)
        channel = socket_modes.adopt(fd, blocking=True)
        # But for the one that shows where a handler of the app's hangs.
        blocked = signal.valid_signals() - {signal.SIGUSR2}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            if not wanted:
                raise OSError(errno.ECANCELED, "a hook has failed")
            if self._fault is not None:
                self._fault()
            pid = forks.fork(partial(_begin_worker, dump))
            if not pid:
                self._become_worker(slot, channel, dump, mask)
        except OSError as e:
            number = e.errno or errno.EAGAIN
            frame = Failed(self.generation, slot, number)
            send_one(self.control, frame)
            os.close(dump)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            channel.close()
        self.workers[pid] = Orphan(pid, slot, dump)
        self._report_spawned(slot, pid)

    def _prepare(self, channel: int) -> None:
        """Before the first fork.

        :param channel: The first worker's end of its channel.
        """
        self._prepared = True
        ends = [self.control, self._wake_up, self._wake_up_writer]
        ends += [self._watcher_socket] if self._watcher_socket is not None else []
        fds = [channel, self._dump, *(end.fileno() for end in ends)]
        own = Own(fds, [self._watcher], os.getppid())
        self.life.prepare([server.socket for server in self.servers], own)
        # A worker would give what a large body or page took back to the kernel after
        # each request, and get it again page by page, zeroed. What glibc keeps follows
        # the size of blocks that were freed: up to twice this one (mallopt(3),
        # M_MMAP_THRESHOLD). No page of it is touched.
        bytes(_USUAL_BLOCK)
        if self.settings.gc_freeze:
            # What the app has made stays out of the collector's sight, which
            # would write to its pages in every worker. What nobody holds was collected
            # before it was looked at (fork_checks.py).
            gc.freeze()

    def _become_worker(
        self, slot: int, channel: socket.socket, dump: int, mask: t.Iterable[int]
    ) -> t.NoReturn:
        assert self.bank is not None
        assert self.ready_queue is not None
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if self._watcher_socket is not None:
                self._watcher_socket.close()
            for mine in (self._wake_up, self._wake_up_writer, self.control):
                mine.close()
            close_all([worker.dump for worker in self.workers.values()])
            self._close_dispatcher_pidfd()
            self._close_dump()
            process_title.show("worker", slot, self.generation)
            begin = self.work(
                slot,
                self.generation,
                channel,
                dump,
                self.bank,
                self.ready_queue,
                self.servers,
                self.settings,
                self.life,
            )
            self._become_zygote(begin)
        except BaseException:
            log.logger.exception("A zygote that was forked by a worker has failed:")
        finally:
            os._exit(1)

    def _become_zygote(self, begin: Inherited) -> t.NoReturn:
        """In the child of a promoted worker: be the zygote of the next generation."""
        process_title.show("zygote", generation=begin.generation)
        frame = Promoted(begin.generation, os.getpid())
        send_one(begin.control, frame)
        log.logger.identify(f"zygote {begin.generation}")
        life = self.life.of(begin.generation)
        # No watcher: an app whose files are watched isn't for long.
        Zygote(begin, self.settings, self.make_server, self.work, None, life).run()
        at_exit.run(0)

    def _report_spawned(self, slot: int, pid: int) -> None:
        # Not reaped yet, so the pid can't be another's.
        pidfd = open_pidfd(pid)
        fds = [pidfd] if pidfd >= 0 else []
        send_one(self.control, Spawned(self.generation, slot, pid), fds)
        close_all(fds)

    def _reap(self) -> None:
        """Reap our workers, and nobody else's children (SpamAssassin bug 3625)."""
        for pid, worker in list(self.workers.items()):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
                code: int | None = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                # The app has reaped it, in a hook.
                ended, code = pid, None
            if ended:
                del self.workers[pid]
                slot = worker.slot
                if all(other.slot != slot for other in self.workers.values()):
                    # The next one in its place may have come first.
                    self.life.reaped(slot)
                self._unreported.reaped(slot, pid, code)
                if self._orphans is not None:
                    self._orphans.reaped(worker, code)
                os.close(worker.dump)
                known = Status(UNKNOWN_STATUS if code is None else code)
                frame = Exited(self.generation, slot, pid, known)
                send_one(self.control, frame)
        if self._watcher:
            try:
                ended, status = os.waitpid(self._watcher, os.WNOHANG)
            except ChildProcessError:
                # The app has reaped it: what it saw isn't known any more.
                ended, status = self._watcher, 0
            if ended:
                self._watcher = 0
                if os.waitstatus_to_exitcode(status) == reloader.CHANGED:
                    send_one(self.control, Changed(self.generation))

    def _release_in_child(self) -> None:
        """In a process that the app has forked: release what is the zygote's."""
        signal.set_wakeup_fd(-1)
        ours = [self.control, self._wake_up, self._wake_up_writer, self._watcher_socket]
        ours += [server.socket for server in self.servers]
        mine = [self._dispatcher_pidfd, self._spawn_channel, self._dump]
        mine += [worker.dump for worker in self.workers.values()]
        if self.ready_queue is not None:
            mine += self.ready_queue.fds
        forks.redirect_to_null(
            [*mine, *(one.fileno() for one in ours if one is not None)]
        )
        if self.bank is not None:
            self.bank.detach()

    def _close_dispatcher_pidfd(self) -> None:
        if self._dispatcher_pidfd >= 0:
            os.close(self._dispatcher_pidfd)

    def _close_dump(self) -> None:
        if self._dump >= 0:
            os.close(self._dump)

    def _shut_listeners(self) -> None:
        """If the dispatcher is dead, refuse new connections.

        It has closed the control socket without a :class:`.Release`. Nobody else would
        refuse them, and the port would be in use until the last busy worker has exited.
        A dying process closes its sockets a moment before it is dead.
        """
        if self._dispatcher_pidfd < 0:
            return
        poll = select.poll()
        poll.register(self._dispatcher_pidfd, select.POLLIN)
        if poll.poll(_LAST_MOMENT * 1000):
            for sock in self.own:
                listener.shut(sock)

    def _wait_for_workers(self) -> None:
        """The dispatcher is gone: workers end after what they serve, or are killed.

        Idle ones see the end of their channels by themselves.
        """
        if not self.workers:
            return
        assert self.bank is not None, "there are workers"
        deadline = time.monotonic() + self.settings.graceful_timeout
        poll = select.poll()
        poll.register(self._wake_up, select.POLLIN)
        is_over = False
        while True:
            self._reap()
            now = time.monotonic()
            if not self.workers or (is_over and now >= deadline):
                return
            if self._orphans is None and now >= deadline:
                self._orphans = Orphans(self.workers.values(), self.bank, now)
            moment = deadline
            if self._orphans is not None and not is_over:
                self._orphans.step(now)
                if (due := self._orphans.deadline()) is None:
                    # All are killed; they may be in a system call.
                    is_over, due = True, now + GRACE
                    deadline = due
                moment = due
            if poll.poll(max(moment - now, 0.0) * 1000):
                self._wake_up.recv(4096)


def _begin_worker(dump: int) -> None:
    """In a new worker, before what the app has registered for a fork: it may hang."""
    dumps.show_on_signal(dump)
    at_exit.begin()


def _wake(number: int, frame: object) -> None:
    """The interpreter has written to the wake-up descriptor; that is all."""
