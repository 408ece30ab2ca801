"""The sender process: it sends many responses at a time, and waits for no client.

The dispatcher starts it (``dispatcher/sender.py``) and hands it connections whose
clients are slow to take the rest of a response, with the files that this is in
(:class:`.Deliver`). One epoll loop sends from the files whenever a socket takes more,
and hands each connection back when all is sent (:class:`.Delivered`). It ends with the
dispatcher.

Never here: reading from a client, or a wait for one of them.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
import typing as t
from collections import deque

from ..ipc import spawn
from ..ipc.channel import Channel
from ..ipc.channel import close_all
from ..ipc.frames import Deliver
from ..ipc.frames import Delivered
from ..ipc.frames import Ping
from ..system import log
from ..system import privileges
from ..system import socket_modes
from ..system.descriptors import raise_descriptor_limit
from ..system.parked_state import Parked
from ..system.parked_state import Size
from ..system.parked_state import Wait
from ..system.timers import Deadlines
from .transfer import FileRange
from .transfer import Transfer

#: Seconds between two pings.
_TICK = 1.0
#: How many sockets have their turn between two looks at the channel and the clock.
_TURN = 16
#: How many frames are taken from the channel in a turn.
_MOST_TAKEN = 64
#: Descriptors that are left for all else, and for one response more.
_RESERVE = 32


class Sender:
    """The process.

    :param channel: Our end of the dispatcher's channel.
    :param descriptors: How many this process may have.
    :param clock: The machine's monotonic seconds.
    """

    def __init__(
        self,
        channel: Channel,
        descriptors: int,
        clock: t.Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._most = descriptors - _RESERVE
        self._clock = clock
        self._epoll = select.epoll()
        self._transfers: dict[int, Transfer] = {}
        self._deadlines: Deadlines[Transfer] = Deadlines()
        #: How many descriptors the transfers take.
        self._used = 0
        #: What the dispatcher is still to be sent, with its connection.
        self._outgoing: deque[tuple[Delivered, socket.socket | None]] = deque()
        self._ping_at = clock()
        self._interest = select.EPOLLIN
        self._epoll.register(channel.fd, self._interest)

    def run(self) -> None:
        """Send until the dispatcher is gone."""
        while self.step(self._timeout()):
            pass

    def _timeout(self) -> float:
        times = [self._ping_at, self._deadlines.next()]
        next_time = min(moment for moment in times if moment is not None)
        return max(next_time - self._clock(), 0.0)

    def step(self, timeout: float) -> bool:
        """Do what is due.

        :param timeout: How long to wait for it, in seconds.
        :return: ``False`` if the dispatcher is gone.
        """
        exchange = 0
        for fd, events in self._epoll.poll(timeout, _TURN):
            if fd == self._channel.fd:
                # Last: what it brings may have the descriptors of those that end.
                exchange = events
            elif events & (select.EPOLLHUP | select.EPOLLERR):
                self._cut(self._transfers[fd])
            else:
                self._advance(self._transfers[fd])
        now = self._clock()
        for transfer in self._deadlines.pop(now):
            if transfer.is_done:
                self._wait_for_acknowledgement(transfer, now)
            elif transfer.is_too_slow(now):
                self._cut(transfer)
            else:
                self._deadlines.set(transfer, transfer.deadline())
        if now >= self._ping_at:
            self._ping_at = now + _TICK
            # One that can't be sent is no news: the dispatcher reads nothing.
            self._channel.send(Ping())
        return self._exchange(exchange)

    # The channel

    def _exchange(self, events: int) -> bool:
        """Send and receive frames; ``False`` if the dispatcher is gone."""
        if events & (select.EPOLLHUP | select.EPOLLERR):
            return False
        if events & select.EPOLLIN and not self._receive():
            return False
        self._flush()
        # While descriptors are nearly used up, what comes is held back there.
        wanted = select.EPOLLIN if self._used < self._most else 0
        if self._outgoing:
            wanted |= select.EPOLLOUT
        if wanted != self._interest:
            self._interest = wanted
            self._epoll.modify(self._channel.fd, wanted)
        return not self._channel.ended

    def _receive(self) -> bool:
        for _ in range(_MOST_TAKEN):
            if self._used >= self._most:
                break
            received = self._channel.receive()
            if received is None:
                return False
            frames, fds = received
            if not frames:
                break
            for frame in frames:
                if isinstance(frame, Deliver):
                    self._begin(frame, fds)
            close_all(fds)
        return True

    def _flush(self) -> None:
        while self._outgoing:
            frame, sock = self._outgoing[0]
            fds = () if sock is None else (sock.fileno(),)
            if not self._channel.send(frame, fds):
                return
            self._outgoing.popleft()
            if sock is not None:
                socket_modes.close(sock.detach())
                self._used -= 1

    # Transfers

    def _begin(self, frame: Deliver, fds: list[int]) -> None:
        """Begin with a response.

        :param fds: Its descriptors are taken out.
        """
        count = frame.descriptors
        if len(fds) < count:
            # The kernel had none left, and the connection is lost (unix(7)).
            self._report_cut(frame.number, 0, frame.parked)
            return
        connection, *files = fds[:count]
        del fds[:count]
        parts = []
        if frame.spooled:
            parts.append(FileRange(files.pop(0), frame.sent, frame.spooled))
            if frame.sent == frame.spooled:
                os.close(parts.pop().fd)
        if frame.length:
            parts.append(
                FileRange(files.pop(0), frame.offset, frame.offset + frame.length)
            )
        sock = socket_modes.adopt(connection, blocking=False)
        transfer = Transfer(
            sock,
            frame.number,
            parts,
            frame.rate,
            frame.parked,
            frame.seconds,
            self._clock(),
        )
        try:
            self._epoll.register(connection, select.EPOLLOUT)
        except OSError:
            # ENOMEM, ENOSPC (epoll_ctl(2)).
            transfer.cut()
            self._report_cut(frame.number, 0, frame.parked)
            return
        self._transfers[connection] = transfer
        self._used += transfer.descriptors
        self._deadlines.set(transfer, transfer.deadline())

    def _advance(self, transfer: Transfer) -> None:
        before = transfer.descriptors
        try:
            transfer.advance(self._clock())
        except (OSError, EOFError):
            self._used += transfer.descriptors - before
            self._cut(transfer)
            return
        self._used += transfer.descriptors - before
        if transfer.is_done:
            self._end(transfer)
        else:
            self._deadlines.set(transfer, transfer.deadline())

    def _forget(self, transfer: Transfer) -> None:
        fd = transfer.sock.fileno()
        del self._transfers[fd]
        self._deadlines.discard(transfer)
        if not transfer.is_done:
            # Others hold the connection too, so closing it would not do.
            self._epoll.unregister(fd)

    def _cut(self, transfer: Transfer) -> None:
        self._forget(transfer)
        self._used -= transfer.descriptors
        transfer.cut()
        self._report_cut(transfer.number, transfer.sent, transfer.parked)

    def _report_cut(self, number: int, sent: int, parked: Parked) -> None:
        frame = Delivered(0, number, Size(sent), parked._replace(deadline=0.0))
        self._outgoing.append((frame, None))

    def _end(self, transfer: Transfer) -> None:
        """All was given to the kernel."""
        # What follows is no event of a poll; a client's end may be, for ever.
        self._epoll.unregister(transfer.sock.fileno())
        # If the client has gone, whoever waits for it will see.
        with contextlib.suppress(OSError):
            if transfer.parked.wait is Wait.LINGER:
                transfer.sock.shutdown(socket.SHUT_WR)
            else:
                # Its body may have been waited for in one piece (socket(7)).
                transfer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        if transfer.parked.wait is Wait.LINGER:
            self._wait_for_acknowledgement(transfer, self._clock())
        else:
            self._hand_back(transfer)

    def _wait_for_acknowledgement(self, transfer: Transfer, now: float) -> None:
        """Hand the connection back when the client's system has the whole response.

        Who waits for the client's end doesn't wait for long. If something of the
        request is unread then, the close discards what is on its way (RFC 9112, 9.6).
        """
        if transfer.is_acknowledged():
            self._hand_back(transfer)
        elif transfer.is_too_slow(now):
            self._cut(transfer)
        else:
            self._deadlines.set(transfer, transfer.ack_deadline(now))

    def _hand_back(self, transfer: Transfer) -> None:
        """Let the connection wait as the dispatcher was told."""
        self._forget(transfer)
        # Whoever serves it shares the open file's mode.
        transfer.sock.setblocking(True)
        deadline = self._clock() + transfer.seconds
        parked = transfer.parked._replace(deadline=deadline)
        frame = Delivered(0, transfer.number, Size(transfer.sent), parked)
        self._outgoing.append((frame, transfer.sock))


def main(fd: int, identity: tuple[t.Any, ...] | None) -> t.NoReturn:
    """Be the sender, in a fresh interpreter.

    :param fd: Our end of the channel.
    :param identity: Whom to become, if anybody else (:class:`.privileges.Identity`).
    """
    log.set_up_as_told("sender")
    spawn.ignore_foreign_signals()
    os.set_inheritable(fd, False)
    if identity is not None:
        privileges.drop(privileges.Identity(*identity))
    log.logger.debug("It is ready.")
    channel = Channel(socket_modes.adopt(fd, blocking=False))
    Sender(channel, raise_descriptor_limit()).run()
    os._exit(0)
