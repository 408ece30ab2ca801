"""The observer process: serves what it reads from shared memory.

The dispatcher starts it (``dispatcher/observer.py``), sends it once what to serve, and
answers its pings; everything else it reads for itself. So it answers while every
worker is busy and the dispatcher is stopped. It ends with the dispatcher.
"""

from __future__ import annotations

import os
import select
import threading
import time
import typing as t
from importlib import metadata

from ..ipc import spawn
from ..ipc.channel import Channel
from ..ipc.channel import read_document
from ..ipc.channel import receive_one
from ..ipc.channel import send_one
from ..ipc.frames import Closed
from ..ipc.frames import Observe
from ..ipc.frames import Ping
from ..ipc.listener import Listener
from ..system import log
from ..system import privileges
from ..system import socket_modes
from .admin_server import AdminServer
from .agent import Agent
from .background import in_background
from .background import or_exit
from .history import History
from .history import WINDOW
from .memory import PssSampler
from .reading import About
from .reading import Board
from .reading import Circumstances
from .reading import take
from .site import Site
from .snapshot import PoolSample
from .snapshot import Snapshot

#: Seconds between two samples, and between two pings.
_TICK = 1.0
#: After so many ticks without an answer the dispatcher is unresponsive. Ticks and not
#: seconds, because ticks stop while the whole system is suspended.
_MAX_UNANSWERED = 5


class Heartbeat:
    """Whether the dispatcher responds, found without waiting for it.

    :param pid: Its process.
    """

    def __init__(self, pid: int) -> None:
        self._path = f"/proc/{pid}/stat"
        #: Ticks since the ping that wasn't answered.
        self.unanswered = 0

    def is_responsive(self) -> bool:
        """Whether it answers, and isn't stopped (``proc_pid_stat(5)``)."""
        if self.unanswered >= _MAX_UNANSWERED:
            return False
        try:
            with open(self._path, "rb") as file:
                return not file.read().rpartition(b") ")[2].startswith(b"T")
        except OSError:
            return True  # its end shows otherwise


class Observer:
    """The process.

    :param channel: Our end of the dispatcher's channel.
    :param about: What doesn't change.
    :param board: The scoreboard.
    :param listeners: The sockets whose queues are shown.
    """

    def __init__(
        self,
        channel: Channel,
        about: About,
        board: Board,
        listeners: list[Listener],
    ) -> None:
        self._channel = channel
        self._about = about
        self._board = board
        self._listeners = listeners
        self._history = History(time.monotonic(), about.begun)
        self._memory = PssSampler()
        self._heartbeat = Heartbeat(about.pid)
        # Connections' threads, and the main one.
        self._lock = threading.Lock()

    def snapshot(self) -> Snapshot:
        """How everything is now."""
        with self._lock:
            look = self._board.look()
            queue = sum(listener.waiting() for listener in self._listeners)
            limit = sum(listener.limit() for listener in self._listeners)
        now = time.monotonic()
        counted = look.durations
        latency, queue_time = self._history.quantiles(now, WINDOW, counted)
        around = Circumstances(
            now=now,
            responsive=self._heartbeat.is_responsive(),
            queue=queue,
            queue_limit=limit,
            pss=self._memory.known,
            history=self._history.samples(now),
            latency=latency,
            queue_time=queue_time,
        )
        return take(look, self._about, around)

    def run(self) -> None:
        """Tick until the dispatcher is gone."""
        in_background(self._sample_memory)
        poll = select.poll()
        poll.register(self._channel.sock, select.POLLIN)
        next_tick = time.monotonic()
        while True:
            left = next_tick - time.monotonic()
            if poll.poll(max(left, 0.0) * 1000) and not self._receive():
                return
            if time.monotonic() >= next_tick:
                self._tick()
                next_tick = time.monotonic() + _TICK

    def _receive(self) -> bool:
        """Receive the dispatcher's frames; ``False`` if it has exited."""
        received = self._channel.receive()
        if received is None:
            return False
        for frame in received[0]:
            if isinstance(frame, Ping):
                self._heartbeat.unanswered = 0
            elif isinstance(frame, Closed):
                self._close_queues()
        return True

    def _close_queues(self) -> None:
        """A socket that we kept open would let clients connect to nobody."""
        with self._lock:
            for listener in self._listeners:
                listener.close()
            self._listeners.clear()

    def _tick(self) -> None:
        if not self._heartbeat.unanswered:
            self._channel.send(Ping())
        self._heartbeat.unanswered += 1
        with self._lock:
            look = self._board.look()
            queue = sum(listener.waiting() for listener in self._listeners)
        sample = PoolSample(
            0.0,
            look.workers,
            look.busy,
            queue,
            look.sums.requests,
            queue + look.ready,
        )
        self._history.add(time.monotonic(), sample, look.durations)

    def _sample_memory(self) -> t.NoReturn:
        while True:
            with self._lock:
                pids = self._board.pids()
            self._memory.step(pids)
            time.sleep(_TICK)


def _version() -> str:
    try:
        return metadata.version("flask_prefork")
    except metadata.PackageNotFoundError:
        return "unknown"  # a source tree that isn't installed


def main(fd: int) -> t.NoReturn:
    """Be the observer, in a fresh interpreter.

    :param fd: Our end of the channel.
    """
    log.set_up_as_told("observer")
    spawn.ignore_foreign_signals()
    or_exit(_observe, fd)
    # Threads that wait for clients are no reason to stay.
    os._exit(0)


def _observe(fd: int) -> None:
    os.set_inheritable(fd, False)
    sock = socket_modes.adopt(fd, blocking=True)
    send_one(sock, Ping())
    received = receive_one(sock)
    if received is None or not isinstance(received[0], Observe):
        return
    document, board, *sockets = received[1]
    config = read_document(document)
    # Its files may be out of the user's reach.
    version = _version()
    if config["identity"] is not None:
        privileges.drop(privileges.Identity(*config["identity"]))
    about = About(config["pid"], config["begun"], tuple(config["addresses"]), version)
    opened = [socket_modes.adopt(one, blocking=False) for one in sockets]
    listeners = dict(zip(config["admin_listeners"], opened, strict=False))
    queues = [Listener(one, "") for one in opened[len(listeners) :]]
    log.logger.debug("It is ready.")
    observer = Observer(Channel(sock), about, Board(board), queues)
    if "admin" in listeners:
        site = Site(observer.snapshot, config["token"], config["guarded"])
        in_background(AdminServer(site, listeners["admin"]).run)
    if "agent" in listeners:
        in_background(Agent(observer.snapshot, listeners["agent"]).run)
    observer.run()
