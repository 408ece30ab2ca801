"""A worker's process from the fork to its exit, and its promotion to a zygote.

The zygote calls :func:`serve` in a freshly forked process. The loop in between is
``worker.py``.
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
from ..ipc.scoreboard import Bank
from ..ipc.spawn import Inherited
from ..settings.table import Settings
from ..system import forks
from . import at_exit
from . import leaving
from .worker import Worker


class Life(t.Protocol):
    """What the app is told: ``zygote/lifecycle.py``."""

    def begin(self, slot: int, served: t.Callable[[], int]) -> bool:
        """In a new worker, before it is idle for the first time.

        :return: Whether it may serve.
        """

    def end(self, slot: int, pid: int) -> None:
        """In a worker that has begun, before its end."""

    def bequeath(self, slot: int, deadline: float) -> bool:
        """In a worker that has ended, before it is forked as the next zygote.

        :return: Whether it may be.
        """


def serve(
    slot: int,
    generation: int,
    channel: socket.socket,
    dump: int,
    bank: Bank,
    servers: Sequence[PreforkServer],
    settings: Settings,
    life: Life,
) -> Inherited:
    """Be a worker, from the fork to the end of the process.

    See :class:`.worker.Worker` for the other parameters.

    :param dump: Where it shows its threads; see :mod:`.dumps`.
    :param life: What the app is told.
    :return: Not in this process: in one that a promoted worker leaves behind, which is
        to be the zygote. What it begins with.
    """
    status = 1
    worker = begin = None
    try:
        # Before anything else (SpamAssassin bug 4304).
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        spawn.ignore_foreign_signals()
        worker = Worker(slot, generation, channel, bank, servers, settings)
        forks.when_app_forks(worker.disown)
        _listen_to_signals(worker, dump)
        at_exit.begin_in_libraries()
        forks.when_app_forks(_listen_no_more)
        if life.begin(slot, lambda: worker.requests):
            try:
                worker.run()
                status = 0
            finally:
                life.end(slot, worker.pid)
            if worker.promotion is not None:
                _tell_of_work(worker)
                if life.bequeath(slot, _deadline(worker)):
                    begin = _leave_behind(worker, worker.promotion, dump)
                    if begin is None:
                        # What was registered here is the zygote's.
                        at_exit.quit_now(status)
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        if begin is None:
            _leave(status, worker)
    return begin


def _deadline(worker: Worker) -> float:
    """When it will be killed; if it ends unasked it has as much time."""
    if worker.deadline is None:
        worker.deadline = time.monotonic() + worker.settings.graceful_timeout
    return worker.deadline


def _leave(status: int, worker: Worker | None) -> t.NoReturn:
    """End the process, whichever it is."""
    try:
        if forks.is_foreign():
            # As an interpreter ends it, for it is no part of the server.
            threading._shutdown()  # type: ignore[attr-defined]
        elif worker is not None:
            for server in worker.servers:
                server.socket.close()
            _tell_of_work(worker)
            name = f"Worker {worker.slot} (pid {worker.pid})"
            leaving.leave(status, _deadline(worker), name)
    except BaseException:
        traceback.print_exc()
    finally:
        at_exit.run(status)


def _tell_of_work(worker: Worker) -> None:
    """Tell the dispatcher if there is work to wait for: nobody is to wait for it too.

    It does no harm to say so twice.
    """
    if leaving.is_at_work():
        worker.send(Finishing(worker.generation, worker.slot))


def _listen_to_signals(worker: Worker, dump: int) -> None:
    """Let the dispatcher ask where the app is, and abort a request."""
    forks.handle(signal.SIGXCPU, worker.abort)
    # Even an app that is deep in a C function is shown.
    dumps.show_on_signal(dump)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGXCPU])


def _listen_no_more() -> None:
    faulthandler.unregister(signal.SIGUSR2)


# Promotion


def _leave_behind(worker: Worker, begin: Inherited, dump: int) -> Inherited | None:
    """Fork the zygote that follows.

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
    _listen_no_more()
    os.close(dump)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    worker.channel.close()
    if worker.scales is not None:
        worker.scales.close()
    worker.entry.release()
    worker.bank.close()
    for server in worker.servers:
        server.socket.close()
    return begin
