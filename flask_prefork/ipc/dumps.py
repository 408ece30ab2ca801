"""Tracebacks of other processes: requested by a signal, and logged in one piece.

A process shows its threads by :mod:`faulthandler`, in the handler of ``SIGUSR2``, even
if it is deep in a C function. It writes piece by piece to a file in memory that it
shares with the dispatcher, and with the zygote that has forked it, which reads it when
the dispatcher is dead. Who reads it looks a moment later, and again, until the handler
has returned. What came to be by then is cut to what is of interest (:mod:`.tracebacks`)
and logged as one record, below a header that says whose it is.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import re
import signal
import socket
import typing as t

from ..system import memory_file
from ..system import socket_modes
from ..system.log import logger
from . import tracebacks
from .records import Record

#: The signal that a process shows its threads for.
SIGNAL = signal.SIGUSR2
#: How long nothing may come before what is there has to do, in seconds; and how long
#: one may take at most.
TIMEOUT = 2.0
_LONGEST = 10.0
#: The same where nobody can tell whether the handler has returned.
_QUIET = 0.25
#: Between two looks, the first and the longest, in seconds.
_FIRST, _PAUSE = 0.005, 0.1
#: Bytes of a dump that are logged.
_MOST = 256 * 1024
_BLOCKED = re.compile(rb"^SigBlk:\t([0-9a-f]+)$", re.MULTILINE)
#: What isn't for terminals, and in a header no end of a line either.
_STRANGE = re.compile(r"[^\x20-\x7e\n]")
_STRANGE_IN_LINE = re.compile(r"[^\x20-\x7e]")

Then = t.Callable[[], None]


def create() -> int:
    """Make the file for one process's dumps.

    :return: Its descriptor; all that is written goes to its end.
    :raises OSError: It can't be created.
    """
    fd = memory_file.create("flask_prefork_dump")
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return fd


def open_with_channel() -> tuple[socket.socket, socket.socket, int]:
    """Open what the dispatcher and another process have in common.

    :return: Our end of their channel, the other end, and the file for its dumps.
    :raises OSError: There are no descriptors left.
    """
    dump = create()
    try:
        ours, theirs = socket_modes.pair()
    except OSError:
        os.close(dump)
        raise
    return ours, theirs, dump


def show_on_signal(fd: int) -> None:
    """Let this process write its threads' tracebacks to a file on ``SIGUSR2``.

    :param fd: What :func:`create` has made.
    """
    # What is registered isn't again, though another handler has taken its place.
    faulthandler.unregister(signal.SIGUSR2)
    faulthandler.register(signal.SIGUSR2, fd)


def header(
    slot: int,
    generation: int,
    pid: int,
    state: str,
    record: Record,
    now: float,
    why: str = "",
) -> str:
    """What is logged above a worker's threads.

    :param generation: The worker's.
    :param state: A word for it, if it has no request.
    :param record: What it serves.
    :param now: Monotonic seconds.
    :param why: Why it is shown, if there is more to say.
    """
    why = f", {why}" if why else ""
    if not record.began:
        return f"Worker {slot} (pid {pid}) of generation {generation} is {state}{why}"
    # A client has sent them, and the app may have written over them.
    method, target, client = (
        _escape(text, _STRANGE_IN_LINE)
        for text in (record.method, record.target, record.client)
    )
    client = f", client {client}" if client else ""
    took = now - record.began
    return (
        f"Worker {slot} (pid {pid}) of generation {generation} serves {method} {target}"
        f" for {took:.1f} s{client}{why}"
    )


def _escape(text: str, strange: re.Pattern[str]) -> str:
    return strange.sub(lambda c: c[0].encode("unicode_escape").decode(), text)


class Shown(t.Protocol):
    """A process that can be asked."""

    pid: int
    #: What :func:`create` has made.
    dump: int


class _Request:
    """A dump that was asked for.

    :param header: What is logged above it.
    :param now: The time.
    :param start: Where in the file it begins.
    :param is_told: Whether it can be seen that the handler has returned.
    """

    def __init__(self, header: str, now: float, start: int, is_told: bool) -> None:
        self.header = header
        self.start = self.size = start
        self.is_told = is_told
        self.thens: list[Then] = []
        self.begun = self.grown = now
        self.pause = _FIRST
        self.next = now + _FIRST


class Dumps:
    """Dumps that were asked for and didn't come yet."""

    def __init__(self) -> None:
        self._requests: dict[Shown, _Request] = {}

    def ask(
        self,
        process: Shown,
        header: str,
        now: float,
        send: Then,
        then: Then | None = None,
    ) -> None:
        """Let a process show its threads. If it was asked already, that will do.

        :param header: What is logged above them, to which ``; its threads:`` is added.
        :param now: Monotonic seconds.
        :param send: Sends it :data:`SIGNAL`.
        :param then: Is called when they were logged, or didn't come in time; not if the
            process has ended before.
        """
        request = self._requests.get(process)
        if request is None:
            _clear(process.dump)
            start = os.fstat(process.dump).st_size
            request = _Request(header, now, start, _blocks(process.pid) is False)
            self._requests[process] = request
            send()
        if then is not None:
            request.thens.append(then)

    def deadline(self) -> float | None:
        """When to :meth:`step` next, in monotonic seconds."""
        return min((one.next for one in self._requests.values()), default=None)

    def step(self, now: float) -> None:
        """Log those that are complete, or that won't be.

        :param now: Monotonic seconds.
        """
        for process, request in list(self._requests.items()):
            if now < request.next:
                continue
            size = os.fstat(process.dump).st_size
            has_grown = size != request.size
            if has_grown:
                request.size, request.grown = size, now
            is_late = now - request.begun >= _LONGEST
            if is_late or (not has_grown and self._is_over(process, request, now)):
                self._log(process, request)
                for then in request.thens:
                    then()
            else:
                request.pause = min(2 * request.pause, _PAUSE)
                request.next = now + request.pause

    def _is_over(self, process: Shown, request: _Request, now: float) -> bool:
        quiet = now - request.grown
        if quiet >= TIMEOUT:
            return True
        if request.size <= request.start:
            return False
        if request.is_told:
            return _blocks(process.pid) is False
        return quiet >= _QUIET

    def forget(self, process: Shown) -> None:
        """It has ended. What it has shown by then is logged."""
        request = self._requests.get(process)
        if request is not None:
            self._log(process, request)

    def _log(self, process: Shown, request: _Request) -> None:
        del self._requests[process]
        data = os.pread(process.dump, _MOST, request.start)
        _clear(process.dump)
        if not data:
            logger.warning("%s, and doesn't show its threads.", request.header)
            return
        text = data.decode("ascii", "backslashreplace").strip("\n")
        text = tracebacks.summarize(_escape(text, _STRANGE))
        if len(data) == _MOST:
            text += "\n..."
        logger.warning("%s; its threads:\n%s", request.header, text)


def _clear(fd: int) -> None:
    try:
        os.ftruncate(fd, 0)
    except OSError:
        pass  # the process has sealed it (fcntl(2)), and fills its own memory


def _blocks(pid: int) -> bool | None:
    """Whether a process's main thread blocks the signal, as it does in its handler.

    :return: ``None`` if that can't be seen (``proc(5)``).
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            found = _BLOCKED.search(file.read())
    except OSError:
        return None
    return bool(int(found[1], 16) >> SIGNAL - 1 & 1) if found is not None else None
