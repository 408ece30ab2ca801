"""The dispatcher's handles of the TLS proxies: the one that accepts, and others.

In the dispatcher. The first is started when the listening sockets are bound. A reload
starts another, which reads certificates and keys anew; when it accepts, the one before
it is told to accept no more, and ends with its last connection. One that can't use its
certificate is dropped, and the one before it stays. The process itself is
``tlsproxy/process.py``.

It connects to a :class:`.TLSListener` for each client, and workers accept from that.
What a TLS proxy holds when it dies is lost.
"""

from __future__ import annotations

import os
import typing as t
from collections.abc import Sequence

from ..ipc.channel import Channel
from ..ipc.channel import write_document
from ..ipc.exits import BAD_CONFIGURATION
from ..ipc.exits import describe
from ..ipc.figures import Counters
from ..ipc.figures import HANDSHAKE_RESULTS
from ..ipc.figures import MOST
from ..ipc.frames import Accepting
from ..ipc.frames import Closed
from ..ipc.frames import Frame
from ..ipc.frames import Listen
from ..ipc.frames import MakeRoom
from ..ipc.frames import NOTHING_COUNTED
from ..ipc.frames import TLSCounts
from ..ipc.tls_listener import TLSListener
from ..system.log import logger
from ..system.poller import Poller
from ..system.reaper import Reaper
from ..system.running_clock import RunningClock
from .auxiliary import AuxiliaryProcess
from .service import ServiceHost

#: How long clients that are on their way in may take for the handshake when the server
#: stops, in seconds.
_LAST_HANDSHAKES = 2.0
#: So often in a row one may fail before it is ready.
_MOST_FAILED_STARTS = 5
#: How many idle connections are closed at a time for want of descriptors.
_MOST_CLOSED = 64


class TLSProxyHandle(AuxiliaryProcess):
    """One TLS proxy.

    :param service: Has the rights to start it.
    :param poller: The dispatcher's poll set.
    :param reaper: Reports its exit.
    :param clock: The dispatcher's.
    :param counters: Where handshakes and aborted connections are counted.
    :param settings: What it is to know: ``processes``, ``timeout``,
        ``proxy_allow_from``.
    :param listeners: The listening sockets.
    :param number: Its number; all that there are at a time have different ones.
    :param close_idle: Closes so many idle connections at most.

    :ivar certificates: The descriptor of the file with its clients' certificates, -1 if
        there is none.
    :ivar connections: How many it has, as it told last.
    :ivar is_ready: Whether it accepts connections, or did.
    :ivar is_closed: Whether it accepts no more.
    :ivar is_refused: Whether it can't use its certificates.
    """

    def __init__(
        self,
        service: ServiceHost,
        poller: Poller,
        reaper: Reaper,
        clock: RunningClock,
        counters: Counters,
        settings: dict[str, t.Any],
        listeners: Sequence[TLSListener],
        number: int,
        close_idle: t.Callable[[int], None],
    ) -> None:
        options = service.start_options
        arguments = (
            [tuple(one) for one in options.certificates],
            None if options.identity is None else tuple(options.identity),
        )
        module = "tlsproxy.process"
        super().__init__("TLS proxy", module, arguments, service, poller, reaper, clock)
        self.number = number
        self.certificates = -1
        self.connections = 0
        self.is_ready = self.is_closed = self.is_refused = False
        self._close_idle = close_idle
        self._failed_starts = 0
        self._counters = counters
        self._settings = settings
        self._listeners = listeners
        self._counts = NOTHING_COUNTED
        #: Whether it is to accept no more.
        self._is_leaving = False
        self._start()

    def _set_up(self, channel: Channel) -> None:
        try:
            document = write_document(self._document())
        except OSError as e:
            logger.error("Can't send the TLS proxy its settings: %s.", e)
            self._channel_ended()
            self.kill()
            return
        fds = [document]
        for one in self._listeners:
            fds.append(one.public.fd)
            if one.file >= 0:
                fds.append(one.file)
        channel.send(Listen(0), fds)
        os.close(document)
        self._counts = NOTHING_COUNTED

    def _document(self) -> dict[str, t.Any]:
        names = [
            os.fsencode(one.sock.getsockname()).hex() if one.file < 0 else None
            for one in self._listeners
        ]
        return {**self._settings, "number": self.number, "names": names}

    def _take_in(self, frame: Frame, fds: list[int]) -> None:
        if isinstance(frame, TLSCounts):
            self._count(frame)
        elif isinstance(frame, Accepting):
            self.is_ready = True
            if fds:
                self._close_certificates()
                self.certificates = fds.pop(0)
            self._pauses = 0
        elif isinstance(frame, Closed):
            self.is_closed = True
        elif isinstance(frame, MakeRoom):
            self._close_idle(min(frame.connections, _MOST_CLOSED))
        else:
            super()._take_in(frame, fds)

    def _close_certificates(self) -> None:
        if self.certificates >= 0:
            os.close(self.certificates)
        self.certificates = -1

    def _count(self, counts: TLSCounts) -> None:
        before, self._counts = self._counts, counts
        self.connections = counts.connections
        for name in HANDSHAKE_RESULTS:
            more = getattr(counts, name) - getattr(before, name)
            _add(self._counters.tls_handshakes, name, more)
        for name in ("cut", "lost"):
            more = getattr(counts, name) - getattr(before, name)
            _add(self._counters.tls_aborted, name, more)

    def _is_wanted(self) -> bool:
        return not (self._is_leaving or self.is_refused)

    def _died(self, pid: int, status: int, expected: bool) -> None:
        self._close_certificates()
        if not (self.is_ready or expected):
            self._failed_starts += 1
            if status == BAD_CONFIGURATION:
                self.is_refused = True  # it has logged why
                return
            self.is_refused = self._failed_starts >= _MOST_FAILED_STARTS
        # Who accepts no more ends when it has no connection left.
        if not (expected or (self._is_leaving and status == 0)):
            logger.error(
                "The TLS proxy (pid %d) died: %s; about %d connections were lost.",
                pid,
                describe(status),
                self.connections,
            )
            _add(self._counters.tls_aborted, "lost", self.connections)
        self.connections = 0
        self.is_closed = self._is_leaving

    def release(self) -> None:
        """See the base class; no other is started."""
        self._is_leaving = True
        super().release()

    def end(self) -> None:
        """End it now."""
        self.release()
        self.kill()
        self.is_closed = True

    def discard(self) -> None:
        """Do without it, whether it accepts already or not."""
        if self._is_set_up:
            # Its first clients may be there, though it hasn't told that it is ready.
            self.leave()
        else:
            self.end()

    def leave(self) -> None:
        """Let it accept no more, and end with its last connection."""
        self._is_leaving = True
        if not self.pid:
            self.is_closed = True
        elif self._channel is None or not self._channel.send(Closed()):
            # It doesn't read, and so it won't ping: it is killed for that.
            self.is_closed = True


def _add(counts: dict[str, int], name: str, more: int) -> None:
    """Add to a counter, which has 64 bits, whatever a TLS proxy has told."""
    counts[name] = min(counts[name] + max(more, 0), MOST)


#: Makes a handle: with the settings, the listeners, and its number.
Make = t.Callable[[dict[str, t.Any], Sequence[TLSListener], int], TLSProxyHandle]


class TLSProxies:
    """All TLS proxies, none if TLS isn't spoken.

    :param make: Makes a handle, whose process is started.
    :param clock: The dispatcher's.
    """

    def __init__(
        self,
        make: Make,
        clock: t.Callable[[], float],
    ) -> None:
        self._make = make
        self._clock = clock
        self._settings: dict[str, t.Any] = {}
        self._number = 0
        self._listeners: Sequence[TLSListener] = ()
        self._current: TLSProxyHandle | None = None
        #: The one that is to follow it, if its certificate is good.
        self._next: TLSProxyHandle | None = None
        self._before: list[TLSProxyHandle] = []
        self._closed_by: float | None = None

    def _all(self) -> list[TLSProxyHandle]:
        known = [*self._before, self._current, self._next]
        return [one for one in known if one is not None]

    @property
    def is_ready(self) -> bool:
        """Whether clients are served; always if TLS isn't spoken."""
        return self._current is None or self._current.is_ready

    @property
    def is_refused(self) -> bool:
        """Whether there is no certificate that could be used."""
        return self._current is not None and self._current.is_refused

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return sum(one.connections for one in self._all())

    @property
    def count(self) -> int:
        """How many processes there are."""
        return sum(bool(one.pid) for one in self._all())

    def open(
        self, settings: dict[str, t.Any], listeners: Sequence[TLSListener]
    ) -> None:
        """Start the first one."""
        self._listeners = listeners
        self._settings = settings
        self._current = self._start()

    def configure(self, settings: dict[str, t.Any]) -> None:
        """Go by other settings than so far, if they are others."""
        if self._current is not None and settings != self._settings:
            self._settings = settings
            self.reload()

    def reload(self) -> None:
        """Let one with the present certificates take over."""
        if self._current is None or self._closed_by is not None:
            return
        if self._next is not None:
            self._discard(self._next)
        self._next = self._start()

    def _start(self) -> TLSProxyHandle:
        # Tags have 16 bits for it (CertificatePlace).
        self._number = (self._number + 1) % 2**16
        return self._make(self._settings, self._listeners, self._number)

    def certificates(self, number: int) -> int:
        """The descriptor of the file with the client certificates of a TLS proxy; -1 if
        there is none."""
        found = (one.certificates for one in self._all() if one.number == number)
        return next(found, -1)

    def _discard(self, handle: TLSProxyHandle) -> None:
        handle.discard()
        self._before.append(handle)

    def deadline(self) -> float | None:
        """When :meth:`step` should run next."""
        times = [one.deadline() for one in self._all()]
        if self._closed_by is not None and self._clock() < self._closed_by:
            times.append(self._closed_by)
        return min((moment for moment in times if moment is not None), default=None)

    def step(self, now: float) -> None:
        """Replace the one that accepts when its successor does; start one that has
        died, and kill one that hangs."""
        for one in self._all():
            one.step(now)
        following, before = self._next, self._current
        if following is not None and following.is_refused:
            logger.error("The certificate could not be replaced; the old one stays.")
            self._next = None
        elif following is not None and following.is_ready:
            assert before is not None
            before.leave()
            self._before.append(before)
            self._current, self._next = following, None
        self._before = [one for one in self._before if one.pid]

    def reopen_logs(self) -> None:
        """Let all open the files of their logs again."""
        for one in self._all():
            one.reopen_logs()

    # The end

    def close(self) -> None:
        """Accept no more; who is on the way in is served."""
        if self._closed_by is None:
            self._closed_by = self._clock() + _LAST_HANDSHAKES
            if self._next is not None:
                self._discard(self._next)
                self._next = None
            if self._current is not None:
                self._current.leave()

    def is_closed(self) -> bool:
        """Whether nobody is on the way in any more, of those that were accepted until
        :meth:`close`."""
        if self._closed_by is None:
            self.close()
        if all(one.is_closed for one in self._all()):
            return True
        assert self._closed_by is not None
        return self._clock() >= self._closed_by

    def release(self) -> None:
        """Let them end when they have sent what they have."""
        for one in self._all():
            one.release()

    def kill(self) -> None:
        """End them now."""
        for one in self._all():
            one.end()
