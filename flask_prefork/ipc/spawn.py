"""Start a zygote: by fork for the first generation, by exec for a reloaded app.

The command calls :func:`by_fork` when it starts, and ``dispatcher/generations.py``
calls
:func:`by_exec` for each reload. A zygote started by exec has a fresh interpreter, so a
reload sees new code and new dependencies, whatever this command had imported. At the
start of the command nothing is stale yet, and a fork saves importing Flask a second
time, which takes half of the time until the first response.

A worker may be promoted too (:func:`by_promotion`): the zygote that it leaves behind
has what requests have loaded.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import select
import signal
import socket
import sys
import threading
import typing as t

from ..system import forks
from ..system import log
from ..system import origin
from ..system import output_locks
from ..system import socket_modes
from ..system.systemd import VARIABLES
from . import dumps

#: Names the descriptor of a zygote's control socket, its generation, and the descriptor
#: of the file for its dumps.
VARIABLE = "FLASK_PREFORK_ZYGOTE"

#: What the user or a supervisor may send to all processes at once (a
#: terminal's Ctrl-C, systemd's KillMode=control-group). They are for the
#: dispatcher; zygote and workers pass over them.
FOREIGN_SIGNALS = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class ZygoteHandle(t.NamedTuple):
    """A zygote that was started.

    :param pid: Its process; 0 until it has told that.
    :param control: The dispatcher's end of its control socket.
    :param generation: Its number.
    :param dump: Where it shows its threads, see :mod:`.dumps`; -1 if it can't.
    """

    pid: int
    control: socket.socket
    generation: int
    dump: int = -1


class Inherited(t.NamedTuple):
    """What the zygote process itself has to begin with.

    :param control: Its end of the control socket.
    :param generation: Its number.
    :param dump: Where it shows its threads, see :mod:`.dumps`; -1 if it can't.
    """

    control: socket.socket
    generation: int
    dump: int = -1


def told_generation() -> int | None:
    """The generation that this process is to be the zygote of, if it is one that has
    not called :func:`inherited` yet."""
    value = os.environ.get(VARIABLE)
    return None if value is None else int(value.split(":")[1])


def inherited() -> Inherited | None:
    """Whether this process was started as a zygote, by :func:`by_exec`."""
    # Popped, lest the app's own children take themselves for zygotes.
    value = os.environ.pop(VARIABLE, None)
    os.environ.pop(log.VARIABLE, None)
    if value is None:
        return None
    fd, generation, dump = (int(part) for part in value.split(":"))
    os.set_inheritable(fd, False)
    os.set_inheritable(dump, False)
    return Inherited(socket_modes.adopt(fd, blocking=True), generation, dump)


def by_fork(generation: int) -> ZygoteHandle | Inherited:
    """Become two processes: the dispatcher and its first zygote.

    The foreign signals are blocked in both, until they have their handlers.

    :return: The zygote, to the dispatcher; to the zygote what it begins with.
    :raises OSError: If there are no descriptors left.
    """
    origin.note()
    if threading.active_count() > 1:
        # A plugin of the `flask` command has started a thread, and fork(2)
        # would leave its locks as they are at this moment.
        return by_exec(generation)
    ours, theirs, dump = dumps.open_with_channel()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, FOREIGN_SIGNALS)
    pid = forks.fork()
    if pid:
        theirs.close()
        return ZygoteHandle(pid, ours, generation, dump)
    ours.close()
    return Inherited(theirs, generation, dump)


def by_exec(generation: int) -> ZygoteHandle:
    """Run the same command line again, as a zygote.

    :raises OSError: If the process can't be started.
    """
    ours, theirs, dump = dumps.open_with_channel()
    try:
        theirs.set_inheritable(True)
        os.set_inheritable(dump, True)
        told = {VARIABLE: f"{theirs.fileno()}:{generation}:{dump}"}
        first = origin.environment().items()
        kept = {name: value for name, value in first if name not in VARIABLES}
        with output_locks.inherited() as locks:
            pid = origin.again(
                {**kept, **told, **log.told(), **locks},
                # A Ctrl-C while the interpreter starts would end it with a
                # traceback; it unblocks them when it has its own handlers.
                FOREIGN_SIGNALS,
            )
        os.set_inheritable(dump, False)
    except BaseException:
        ours.close()
        os.close(dump)
        raise
    finally:
        theirs.close()
    return ZygoteHandle(pid, ours, generation, dump)


def by_promotion(generation: int) -> tuple[ZygoteHandle, socket.socket]:
    """Prepare a zygote that a worker is to leave behind (``worker/main.py``).

    :return: The zygote, and its end of the control socket, for the worker.
    :raises OSError: If there are no descriptors left.
    """
    ours, theirs, dump = dumps.open_with_channel()
    return ZygoteHandle(0, ours, generation, dump), theirs


def kill_on_hang_up(sock: socket.socket) -> None:
    """Let the kernel kill this process as soon as the other end of a socket is closed.

    It does so even if the process is stopped or hangs, and whoever had that end needs
    no pid. ``PR_SET_PDEATHSIG`` would be about the parent, which may be another
    process. Only Linux can do so; elsewhere nothing happens.

    :param sock: To which nothing may be sent in the meantime (``F_SETSIG`` in
        ``fcntl(2)``).
    """
    if not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(sock, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    fcntl.fcntl(sock, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([sock], (), (), 0)[0]:
        # It has hung up before.
        os._exit(1)


def survive_hang_up(sock: socket.socket) -> None:
    """End what :func:`kill_on_hang_up` has begun: the socket is read from now on."""
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    fcntl.fcntl(sock, fcntl.F_SETFL, flags & ~os.O_ASYNC)


def wait_for_end(pidfd: int) -> None:
    """Wait until a process is a zombie, and its children are somebody else's.

    :param pidfd: Its pidfd (``pidfd_open(2)``), which is closed.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    os.close(pidfd)


def ignore_foreign_signals() -> None:
    """Let the signals that are for the dispatcher pass, in all other processes.

    ``USR1`` opens the files of the log again.

    By handlers that do nothing: a signal that is set to be ignored would stay
    so in programs that the app runs (``execve(2)``).
    """
    # What is registered isn't again, though another handler has taken its place.
    faulthandler.unregister(signal.SIGUSR2)
    for number in FOREIGN_SIGNALS:
        forks.handle(number, _reopen if number == signal.SIGUSR1 else _pass)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FOREIGN_SIGNALS)


def take_signals() -> None:
    """Take all signals, if whoever started this process has blocked or ignored some.

    Both are inherited (``execve(2)``).
    """
    for number in (signal.SIGCHLD, signal.SIGXCPU, signal.SIGTTIN, signal.SIGTTOU):
        # The others that the server lives by have handlers in all its processes.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def show_on_request(dump: int) -> None:
    """Show all threads' tracebacks on USR2: the dispatcher asks where the process is.

    It shows even an app that is deep in a C function. To be called when the foreign
    signals are ignored.

    :param dump: Where to, see :mod:`.dumps`; below 0 is nowhere.
    """
    if dump >= 0:
        dumps.show_on_signal(dump)
        forks.when_app_forks(show_no_more)


def show_no_more() -> None:
    """End what :func:`show_on_request` has begun."""
    faulthandler.unregister(signal.SIGUSR2)


def _reopen(number: int, frame: object) -> None:
    """The files of logs may have been moved away. The dispatcher passes it on."""
    log.reopen()


def _pass(number: int, frame: object) -> None:
    pass
