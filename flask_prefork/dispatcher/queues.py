"""What waits for a worker: the accept queues, and parked connections.

In the dispatcher. The loop (``loop.py``) sets :attr:`Queues.listeners` once they are
bound. In each turn it calls :meth:`Queues.reserve`, then :meth:`Queues.dispatch` once
all reports were read, then :meth:`Queues.serve_left_behind` after workers were retired.
``workers.py`` calls :meth:`Queues.park` when a worker hands a connection back,
:meth:`Queues.deliver` when its client is slow to take the response,
:meth:`Queues.taken` when one has taken its connection, and
:meth:`Queues.put_back` when one exits before it did. ``shutdown.py``
calls :meth:`Queues.stop_accepting` first, asks :meth:`Queues.is_served`, and calls
:meth:`Queues.close` last.

The descriptors of all that waits are held here. ``ipc/parked_connections.py`` decides
about parked connections, and the generation's pool which worker is next. Orders go out
through the :class:`.Generation` that is passed in.

Never here: reading from a connection; how much has come is asked of the kernel. What
accepts the front of an accept queue, and refuses requests, is ``shedder.py``. A
descriptor is taken out of the poll set before it is closed.
"""

from __future__ import annotations

import contextlib
import typing as t
from collections.abc import Sequence
from functools import partial

from ..ipc.listener import Listener
from ..ipc.parked_connections import Connection
from ..ipc.stats import Summary
from ..system.log import logger
from ..system.parked_state import Wait
from ..system.poller import Poller
from ..system.proxy_protocol import certificate_place
from .generation import Generation
from .left_behind import LeftBehind
from .parking import Parking
from .shedding import ShedReason
from .tls_proxies import TLSProxies

if t.TYPE_CHECKING:
    from ..settings.table import Settings

#: While orders are on their way, look this often whether more connections
#: wait than orders, in seconds.
_DISPATCH_INTERVAL = 0.02
#: How long a connection is kept for a worker that has handed its last byte to
#: the kernel and is about to accept, in seconds.
_HOLD = 0.01
#: How long a client that is on its way in when the server stops may take until
#: its connection can be accepted, in seconds. It may never send a byte.
_LAST_STEPS = 1.0
#: How long a client whose connection was kept alive may take to use it when the server
#: stops, in seconds. The response to that has "Connection: close".
_LAST_REQUEST = 1.0


class Queues(Parking):
    """Everything that waits.

    :param poller: The dispatcher's poll set.
    :param clock: The machine's monotonic seconds: what workers and clients go by, whom
        a pause of this process doesn't stop.
    :param descriptors: How many this process may have.
    :param summary: Where it is counted what is done here.
    """

    def __init__(
        self,
        poller: Poller,
        clock: t.Callable[[], float],
        descriptors: int,
        summary: Summary | None = None,
    ) -> None:
        super().__init__(poller, clock, descriptors, summary)
        #: The settings by which permits are given and requests refused.
        self._configured: Settings | None = None
        #: The processes that accept where TLS is spoken; set once.
        self.tls: TLSProxies | None = None
        #: Listeners that were readable since the last dispatch.
        self._readable: set[int] = set()
        #: Listeners that the app has ended for good.
        self._shut: set[int] = set()
        #: How often :meth:`dispatch` was called; before, all channels were read.
        self._turns = 0
        #: When the requests were begun that were served at the last look for who waits,
        #: and in which turn that was.
        self._begun: list[float] = []
        self._begun_turn = 0
        #: Those whose end is watched for, because workers block in accept.
        self._ends: set[int] = set()
        self._dispatch_at: float | None = None
        self._left_behind = LeftBehind()
        #: The workers for which a connection was held back last, and since when.
        self._held_for = b""
        self._held_since = 0.0
        #: Whether the next worker is for a parked connection.
        self._parked_turn = True
        self._next_listener = 0
        #: Whether nobody waits here any more.
        self._is_closed = False
        #: Until when the server's end waits for who is on the way in.
        self._handshakes_until = 0.0

    # Dispatch

    def dispatch(self, generation: Generation) -> None:
        """Order workers to accept, or hand them parked connections."""
        self._turns += 1
        self._configure(generation)
        self._expire()
        for connection in self.permits.expire(self._clock()):
            self._poller.forget(connection.fd)
            self.shedder.refuse(connection, ShedReason.LIMIT)
        self._grant()
        self._dispatch_at = None
        pool, ordered = generation.pool, generation.is_ordered
        if self.parked.ready_count:
            self._alternate(generation, ordered)
        elif ordered:
            self._order_waiting(generation)
        # These last: whoever is done with an accept queue goes on with the ready queue.
        # Workers take from it, and put into it; to ask is a system call.
        if pool.idle and len(self.ready_queue):
            self._take_back(pool.idle)
            self._alternate(generation, ordered)
        idle = pool.idle
        if idle and not ordered and self.waiting():
            # Who blocks in accept would have taken it, but may be stopped.
            idle = 0
        self.shedder.step(self.listeners, pool.outstanding, idle)
        if ordered and not pool.idle:
            self._share()
        self._show_waiting(generation, ordered)
        generation.set_spooled(self.spooled)
        self._readable.clear()
        if ordered:
            self._arm(generation)
        else:
            self._watch_ends()

    def _order_waiting(self, generation: Generation) -> None:
        """Order workers to accept who waits."""
        for index in self._rotation():
            if not generation.pool.idle:
                break
            waiting = self._unordered(generation, index)
            if waiting > 0:
                generation.order(waiting, index)

    def _configure(self, generation: Generation) -> None:
        """Go by the limits of the generation that serves."""
        settings = generation.settings
        if settings is not None and settings is not self._configured:
            self._configured = settings
            self.permits.configure(settings.limits, settings.queue_timeout)
            shedding = self.shedder.shedding
            shedding.configure(settings.queue_timeout, settings.max_queue)
            self.shedder.header_timeout = settings.header_timeout
            self.shedder.server_header = settings.server_header

    def _grant(self) -> None:
        """Let those be served who have a permit now."""
        for connection in self.permits.grant():
            self._poller.forget(connection.fd)
            self.parked.granted.append(connection)

    def _alternate(self, generation: Generation, ordered: bool) -> None:
        """Serve parked connections and accept queues by turns.

        If either came first always, the other would starve: with as many busy
        kept-alive connections as workers nobody would ever accept.
        """
        waiting: dict[int, int] = {}
        if ordered and generation.pool.idle:
            for index in self._rotation():
                waiting[index] = self._unordered(generation, index)
        held = self.parked.held()
        while generation.pool.idle:
            # Who was accepted from a queue comes before the rest of it.
            queue = next(
                (i for i, count in waiting.items() if count > 0 and i not in held), None
            )
            if self.parked.granted:
                self._resume(self.parked.take_ready(), generation)
                continue
            if self.parked.ready and (self._parked_turn or queue is None):
                connection = self.parked.take_ready()
                self._resume(connection, generation)
                if connection.is_front:
                    held = self.parked.held()
            elif queue is not None:
                generation.order(1, queue)
                waiting[queue] -= 1
            else:
                break
            self._parked_turn = not self._parked_turn

    def _show_waiting(self, generation: Generation, ordered: bool) -> None:
        """Show the workers where others wait for them."""
        ready = self.parked.ready
        # Of those that only find no room in the ready queue they need not know. If that
        # is empty, it is of no use any more.
        is_full = ordered and self.ready_queue.count > 0
        accounted = ready and not (is_full and self._is_plain(ready[0]))
        generation.set_others_wait(bool(self.parked.granted or accounted))
        has_ready = self.ready_queue.count > 0
        if generation.set_ready(has_ready) and not has_ready and len(self.ready_queue):
            # A worker has put one there before it could see that.
            generation.set_ready(True)
            self._dispatch_at = self._clock()

    def _take_back(self, count: int) -> None:
        """Take connections out of the ready queue, to hand them to idle workers.

        :param count: How many are to be ready here.
        """
        while self.parked.ready_count < count and self.take_back():
            pass

    def _share(self) -> None:
        """Let the workers take who is ready, since nobody is idle."""
        ready = self.parked.ready
        while ready and self._is_plain(ready[0]) and self.share(ready[0]):
            ready.popleft()

    def _is_plain(self, connection: Connection) -> bool:
        """Whether the dispatcher needs not know which worker takes a connection."""
        if connection.spool >= 0 or connection.limit or connection.is_front:
            return False
        return self.tls is None or certificate_place(connection.state.tag) is None

    def _resume(self, connection: Connection, generation: Generation) -> None:
        """Hand a connection to a worker."""
        if connection.is_front and connection.state.wait is Wait.HEAD:
            # As much time for the head as if it had waited in its accept queue.
            deadline = self._clock() + self.shedder.header_timeout
            connection.state = connection.state._replace(deadline=deadline)
        place = (
            certificate_place(connection.state.tag) if self.tls is not None else None
        )
        if place is not None and self.tls is not None:
            connection.certificates = self.tls.certificates(place.proxy)
            if connection.certificates < 0:
                # That TLS proxy is dead, and so is the connection.
                self._close(connection)
                return
        generation.resume(connection)

    def _rotation(self) -> list[int]:
        count = len(self.listeners)
        if count < 2:
            return list(range(count))
        self._next_listener = (self._next_listener + 1) % count
        start = self._next_listener
        return [*range(start, count), *range(start)]

    def _unordered(self, generation: Generation, index: int) -> int:
        """Connections on a listener that nobody was ordered to take."""
        listener = self.listeners[index]
        outstanding = generation.pool.outstanding[index]
        unsure = outstanding or listener.fd in self._readable
        # While nobody is idle, nobody polls it.
        if not unsure and self._poller.is_watched(listener.fd):
            return 0  # it would be readable
        waiting = listener.waiting() - outstanding
        if waiting <= 0:
            if not outstanding and listener.fd in self._readable:
                self._listen_again(listener)
            return 0
        return waiting - self._held_back(generation)

    def _listen_again(self, listener: Listener) -> None:
        """Listen again if that has ended: workers share the socket with us, and the
        app may shut it down."""
        if listener.fd in self._shut or not listener.is_shut():
            return
        try:
            listener.listen_again()
        except OSError as e:
            # Polls would tell it for ever.
            self._shut.add(listener.fd)
            logger.error(
                "The app has shut down the listening socket %s, and nobody can listen"
                " on it again: %s. Start the server again.",
                listener.host,
                e.strerror,
            )
        else:
            logger.error(
                "The app has shut down the listening socket %s; the server listens on"
                " it again.",
                listener.host,
            )

    def _held_back(self, generation: Generation) -> int:
        """How many connections lower-numbered workers will take in a moment.

        A worker that has sent the last byte of a response accepts again within
        microseconds; a client that has read it may be faster. Such a worker is
        as good as idle, and it is the hot one.
        """
        marks = generation.about_to_accept()
        count = len(marks) - marks.count(0)
        if not count:
            return 0
        now = self._clock()
        if marks != self._held_for:
            self._held_for = marks
            self._held_since = now
        if now >= self._held_since + _HOLD:
            return 0
        self._dispatch_at = self._held_since + _HOLD
        return count

    def _arm(self, generation: Generation) -> None:
        """Poll a listener while somebody is idle and no order is on its way.

        A queue that is being served would be readable all the time.
        """
        idle = generation.pool.idle
        held = self._dispatch_at is not None
        for fd in self._ends:
            self._poller.forget(fd)
        self._ends.clear()
        for index, listener in enumerate(self.listeners):
            wanted = idle and not held and not generation.pool.outstanding[index]
            if listener.fd in self._shut:
                wanted = False
            watched = self._poller.is_watched(listener.fd)
            if wanted and not watched:
                self._poller.watch(listener.fd, self._mark_readable(listener.fd))
                if not self._poller.is_watched(listener.fd):
                    # The system has no room for it; its queue is looked at.
                    self._dispatch_at = self._clock() + _DISPATCH_INTERVAL
            elif watched and not wanted:
                self._poller.forget(listener.fd)
            if idle and not wanted and not held:
                self._dispatch_at = self._clock() + _DISPATCH_INTERVAL

    def _watch_ends(self) -> None:
        """Watch for the end of listeners that nobody polls to be read."""
        for listener in self.listeners:
            if listener.fd in self._ends or listener.fd in self._shut:
                continue
            self._poller.forget(listener.fd)
            with contextlib.suppress(OSError):  # tried again in the next turn
                self._poller.watch_hang_up(
                    listener.fd, partial(self._ended, listener), half_closed=False
                )
                self._ends.add(listener.fd)

    def _ended(self, listener: Listener) -> None:
        self._listen_again(listener)
        if listener.fd in self._shut:
            self._poller.forget(listener.fd)
            self._ends.discard(listener.fd)

    def _mark_readable(self, fd: int) -> t.Callable[[], None]:
        return lambda: self._readable.add(fd)

    def serve_left_behind(
        self, current: Generation, generations: Sequence[Generation]
    ) -> None:
        """See :class:`.LeftBehind`.

        :param current: The generation that serves.
        :param generations: All whose workers may have been woken.
        """
        self._left_behind.serve(
            self._clock(), current, generations, self.listeners, self._rotation
        )

    @property
    def are_left_behind(self) -> bool:
        """Whether :meth:`serve_left_behind` has something to do soon."""
        return self._left_behind.deadline is not None

    def unanswered(self, generation: Generation) -> int:
        """Connections for which nobody is idle."""
        if generation.pool.idle:
            return 0
        outstanding = generation.pool.outstanding
        ready = self.parked.ready_count + len(self.ready_queue)
        return ready + sum(
            max(0, listener.waiting() - outstanding[index])
            for index, listener in enumerate(self.listeners)
        )

    def waiting(self) -> int:
        """The length of all accept queues together."""
        return sum(listener.waiting() for listener in self.listeners)

    def all_waiting(self) -> int:
        """How many connections wait for a worker, wherever they wait."""
        ready = self.parked.ready_count + len(self.ready_queue)
        return self.waiting() + ready

    def deadline(self) -> float | None:
        """When to dispatch again if nothing happens before."""
        if self._is_closed:
            return self._left_behind.deadline
        times = [self._dispatch_at, self._left_behind.deadline, self.parked.deadline()]
        times += [self.permits.deadline(), self.shedder.shedding.deadline()]
        return min((moment for moment in times if moment is not None), default=None)

    # The end

    def stop_accepting(self) -> None:
        """Begin no new connection; those whose handshake is under way are served."""
        self._handshakes_until = self._clock() + _LAST_STEPS
        for listener in self.listeners:
            listener.stop_accepting()

    def is_served(self, generation: Generation) -> bool:
        """Whether nobody waits: no connection, no begun request, and nobody who may
        just be about to begin one."""
        if not generation.pool.total:
            return True  # nor is anybody left who could serve
        now = self._clock()
        if generation.awaits_request():
            # What it looks at may come back as a connection that waits.
            self._dispatch_at = now + _DISPATCH_INTERVAL
            return False
        # Before the look at the accept queues, to which it goes from there.
        if now < self._handshakes_until and self._has_pending_handshake():
            self._dispatch_at = now + _DISPATCH_INTERVAL
            return False
        if self.tls is not None and not self.tls.is_closed():
            self._dispatch_at = now + _DISPATCH_INTERVAL
            return False
        idle_since = self.parked.last_idle_since()
        if idle_since is not None and now < idle_since + _LAST_REQUEST:
            self._dispatch_at = idle_since + _LAST_REQUEST
            return False
        waits = (
            self.parked.ready_count
            or len(self.ready_queue)
            or self.parked.heads
            or self.parked.bodies
            or self.parked.lingering
            or self.permits
            or any(generation.pool.outstanding.values())
            or self.waiting()
        )
        if waits:
            return False
        # A worker may have parked a connection after its channel was read, and have
        # begun another request since. While all serve what they served at the last
        # look, what they had parked before was read in between.
        begun = generation.begun()
        if begun != self._begun:
            self._begun, self._begun_turn = begun, self._turns
        if begun and self._begun_turn == self._turns:
            self._dispatch_at = now + _DISPATCH_INTERVAL
            return False
        return True

    def _has_pending_handshake(self) -> bool:
        return any(one.has_pending_handshake() for one in self.listeners)

    def close(self) -> None:
        """Refuse new connections, and close those between two requests."""
        self._is_closed = True
        # First: their descriptors may be wanted for who waits at a listener.
        for connection in (*self.parked.clear(), *self.permits.clear()):
            self._close(connection)
        self.ready_queue.close()
        for listener in self.listeners:
            self._poller.forget(listener.fd)
            listener.shut()
            listener.close()
        self.listeners = ()
        self._ends.clear()
