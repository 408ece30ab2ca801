"""A worker's process from the fork to its exit, and its promotion to a zygote.

The zygote calls :func:`serve` in a freshly forked process, when it has closed its own
descriptors there. In order: signal handlers; a :class:`.Worker`; the app's hooks
``after_fork`` (``lifecycle.begin``); :meth:`.Worker.run`, the loop; the hooks
``before_exit`` (``lifecycle.end``); threads and at-exit handlers (``leaving``,
``at_exit``); the end of the process. If an ``after_fork`` hook fails, loop and
``before_exit`` hooks don't run. Whatever else is raised, the steps after it do.

A worker that is to be promoted forks once more before its end, when nothing of the app
runs in it any more. :func:`serve` returns in that child, and nowhere else.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
import typing as t
from collections.abc import Sequence

from ..http.server import PreforkServer
from ..ipc import dumps
from ..ipc import spawn
from ..ipc.frames import Finishing
from ..ipc.ready_queue import ReadyQueue
from ..ipc.scoreboard import Bank
from ..ipc.spawn import Inherited
from ..settings.table import Settings
from ..system import forks
from ..system import log
from . import at_exit
from . import leaving
from .worker import Worker


class Life(t.Protocol):
    """The app's hooks: ``zygote/lifecycle.py``."""

    def begin(self, slot: int, served: t.Callable[[], int]) -> bool:
        """In a new worker, before it is idle for the first time.

        :return: Whether it may serve.
        """

    def end(self, slot: int, pid: int) -> None:
        """In a worker that has begun, before its end."""

    def prepare_promotion(self, slot: int, deadline: float) -> bool:
        """In a worker that has ended, before it is forked as the next zygote.

        :return: Whether it may be.
        """


def serve(
    slot: int,
    generation: int,
    channel: socket.socket,
    dump: int,
    bank: Bank,
    ready_queue: ReadyQueue,
    servers: Sequence[PreforkServer],
    settings: Settings,
    life: Life,
) -> Inherited:
    """Be a worker, from the fork to the end of the process.

    See :class:`.worker.Worker` for the other parameters.

    :param dump: Where it shows its threads; see :mod:`..ipc.dumps`.
    :param life: Calls the app's hooks.
    :return: Only in the child of a promoted worker, which is to be the zygote: its
        control socket and generation.
    """
    status = 1
    worker = begin = None
    try:
        # Before anything else (SpamAssassin bug 4304).
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log.logger.identify(f"worker {slot}")
        spawn.ignore_foreign_signals()
        worker = Worker(slot, generation, channel, bank, ready_queue, servers, settings)
        forks.when_app_forks(worker.release_in_child)
        _listen_to_signals(worker, dump)
        at_exit.begin_in_libraries()
        forks.when_app_forks(_unregister_dump)
        if life.begin(slot, lambda: worker.requests):
            try:
                log.logger.debug("Generation %d has one worker more.", generation)
                worker.run()
                status = 0
            finally:
                log.logger.debug("It ends after %d requests.", worker.requests)
                life.end(slot, worker.pid)
            if worker.promotion is not None:
                _report_finishing(worker)
                if life.prepare_promotion(slot, _deadline(worker)):
                    begin = _fork_zygote(worker, worker.promotion, dump)
                    if begin is None:
                        # What was registered here is the zygote's.
                        at_exit.quit_now(status)
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        log.logger.exception("Worker %d has failed:", slot)
    finally:
        if begin is None:
            _exit(status, worker)
    return begin


def _deadline(worker: Worker) -> float:
    """When it will be killed; if it ends unasked it has as much time."""
    if worker.deadline is None:
        worker.deadline = time.monotonic() + worker.settings.graceful_timeout
    return worker.deadline


def _exit(status: int, worker: Worker | None) -> t.NoReturn:
    """End the process, whichever it is."""
    try:
        if forks.is_foreign():
            # As an interpreter ends it, for it is no part of the server.
            threading._shutdown()  # type: ignore[attr-defined]
        elif worker is not None:
            for server in worker.servers:
                server.socket.close()
            _report_finishing(worker)
            name = f"Worker {worker.slot} (pid {worker.pid})"
            leaving.leave(status, _deadline(worker), name)
    except BaseException:
        traceback.print_exc()
    finally:
        at_exit.run(status)


def _report_finishing(worker: Worker) -> None:
    """Report work to wait for, for which the dispatcher must not count on this worker.

    To report it twice does no harm.
    """
    if leaving.is_at_work():
        worker.reports.send(Finishing(worker.generation, worker.slot))


def _listen_to_signals(worker: Worker, dump: int) -> None:
    """Let the dispatcher ask where the app is, and abort a request."""
    forks.handle(signal.SIGXCPU, worker.abort)
    # Even an app that is deep in a C function is shown.
    dumps.show_on_signal(dump)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGXCPU])


def _unregister_dump() -> None:
    faulthandler.unregister(signal.SIGUSR2)


# Promotion


def _fork_zygote(worker: Worker, begin: Inherited, dump: int) -> Inherited | None:
    """Fork the next zygote.

    A worker that became it without a fork would have the old zygote for a parent. As
    the child of a process that has ended, it is adopted by the dispatcher.

    :return: In the child, when that is so; ``None`` in the worker, which is to end.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.pidfd_open(os.getpid())
    # What the app has registered for a fork runs before the dispatcher knows the pid.
    if forks.fork(lambda: spawn.kill_on_hang_up(begin.control)):
        return None
    spawn.survive_hang_up(begin.control)
    spawn.wait_for_end(parent)
    _unregister_dump()
    os.close(dump)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    worker.channel.close()
    if worker.sampler is not None:
        worker.sampler.close()
    worker.entry.release()
    worker.bank.close()
    worker.ready_queue.close()
    for server in worker.servers:
        server.socket.close()
    return begin
