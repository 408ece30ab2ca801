"""What surrounds the server: systemd, the pid file, user rights, orphans.

The dispatcher calls it at the turns of its life. What the modules ``systemd``,
``pid_file``, ``privileges`` and ``reaper`` can do is put together here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import typing as t

from ..ipc.listener import AS_IT_IS
from ..ipc.listener import bind
from ..ipc.listener import BindError
from ..ipc.listener import check_count
from ..ipc.listener import Listener
from ..ipc.tls_listener import TLSListener
from ..settings import addresses
from ..settings.addresses import Address
from ..settings.certificates import Certificate
from ..system import reaper
from ..system.pid_file import PidFile
from ..system.privileges import Identity
from ..system.socket_access import Access
from ..system.systemd import Notifier

#: How often the server's state is sent to systemd, in seconds.
_STATUS_INTERVAL = 5.0
#: What is appended to a pid file's name for the file with the admin address.
ADMIN_SUFFIX = ".admin"
#: Connections that may wait for the observer while it is started again.
_OBSERVER_BACKLOG = 64
#: How messages name its addresses.
_ADMIN, _AGENT = "admin address", "agent check's address"
#: Of its unix socket: what it shows is for nobody else.
_ADMIN_MODE = 0o600


class StartOptions(t.NamedTuple):
    """What the command was started with, apart from the app's settings.

    :param addresses: What to listen on; names were looked up (:func:`.listener.find`).
    :param certificates: By which TLS is spoken; none if it isn't.
    :param fds: Listening sockets that systemd has passed; they go before the
        addresses.
    :param notifier: Notifies systemd of the server's state.
    :param pid_file: Where to write the pid, if anywhere.
    :param identity: Who the zygotes and workers become, if not who we are.
    :param access: Of the unix sockets that are made for the app, if there are any.
    """

    addresses: t.Sequence[Address]
    certificates: tuple[Certificate, ...]
    fds: t.Sequence[int]
    notifier: Notifier
    pid_file: str | None = None
    identity: Identity | None = None
    access: Access = AS_IT_IS

    @property
    def listens_on(self) -> t.Sequence[Address]:
        """Where the app is served: what was passed, else the addresses."""
        return [Address("", 0, fd=fd) for fd in self.fds] or self.addresses

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return "https" if self.certificates else "http"


def _bind(wanted: t.Sequence[Address], backlog: int, access: Access) -> list[Listener]:
    """Listen on all addresses of the app, or on none.

    :raises BindError: For the first that can't be listened on.
    """
    check_count(len(wanted))
    made: list[Listener] = []
    try:
        for one in wanted:
            ipv6_only = one.is_ipv6_only(wanted)
            made.append(bind(one.target, one.port, backlog, access, ipv6_only))
    except BaseException as e:
        for listener in made:
            listener.close()
        if isinstance(e, BindError) and one.name:
            raise BindError(f"Can't listen on {one.shown}: {e.reason}") from None
        raise
    return made


def _behind_tls(listener: Listener, backlog: int) -> TLSListener:
    try:
        return TLSListener(listener, backlog)
    except OSError as e:
        raise BindError(f"Can't make a socket for the TLS proxy: {e}.") from None


class ServiceHost:
    """The dispatcher's side of whoever runs it as a service.

    :param start_options: What the command was started with.
    :param clock: The machine's monotonic seconds: systemd goes by them.

    :ivar admin: Where the observer is to serve its site, if anywhere.
    :ivar admin_address: The same, to be shown.
    :ivar agent: Where it is to answer HAProxy, if anywhere.
    :ivar agent_address: The same, to be shown.
    """

    def __init__(
        self, start_options: StartOptions, clock: t.Callable[[], float]
    ) -> None:
        self._clock = clock
        self.start_options = start_options
        self.admin: Listener | None = None
        self.admin_address: Address | None = None
        self.agent: Listener | None = None
        self.agent_address: Address | None = None
        self._notifier = start_options.notifier
        path = start_options.pid_file
        self._pid_file = PidFile(path) if path is not None else None
        self._notify_at = clock() if self._notifier.listened_to else None

    def listen(
        self, backlog: int, admin: str | None = None, agent: str | None = None
    ) -> list[Listener]:
        """Bind, write the pid file, and give up the rights that this needed.

        :param admin: Where the observer is to serve its site, if anywhere.
        :param agent: Where it is to answer HAProxy, if anywhere.
        :raises BindError: An address can't be listened on.
        :raises PidFileError: The pid file can't be written.
        """
        outside = self.start_options
        for text, name in ((admin, _ADMIN), (agent, _AGENT)):
            if text is not None:
                self._refuse_the_apps(addresses.parse(text), name)
        listeners = _bind(outside.listens_on, backlog, outside.access)
        try:
            if outside.certificates:
                for index, public in enumerate(listeners):
                    listeners[index] = _behind_tls(public, backlog)
            if admin is not None:
                self._listen_for_admin(addresses.parse(admin))
            if agent is not None:
                self._listen_for_agent(addresses.parse(agent))
            if self._pid_file is not None:
                self._pid_file.create()
                beside = self.admin_address
                self._pid_file.write_beside(
                    ADMIN_SUFFIX, None if beside is None else f"{beside.reached()}\n"
                )
        except BaseException:
            for listener in listeners:
                listener.close()
            self._close_admin_listeners()
            raise
        self._lower()
        return listeners

    def _refuse_the_apps(self, wanted: Address, name: str) -> None:
        """See that an address of the observer's isn't one of the app's."""
        place = wanted
        if wanted.path:
            place = wanted._replace(path=os.path.abspath(wanted.path))
        if any(map(place.clashes, self.start_options.listens_on)):
            raise BindError(
                f"The app is to be served on {wanted}; give the {name} another"
                f" {'path' if wanted.path else 'port'}."
            )

    def _listen_beside(
        self,
        wanted: Address,
        name: str,
        access: Access = AS_IT_IS,
    ) -> Listener:
        """Bind an address of the observer's."""
        try:
            return bind(wanted.target, wanted.port, _OBSERVER_BACKLOG, access)
        except BindError as e:
            raise BindError(f"Can't bind the {name} {wanted}: {e.reason}") from None

    def _listen_for_agent(self, wanted: Address) -> None:
        self.agent = self._listen_beside(wanted, _AGENT)
        self.agent_address = wanted._replace(port=self.agent.port)
        # Its clients wait for us to speak first.
        if hasattr(socket, "TCP_DEFER_ACCEPT"):
            self.agent.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0)

    def _listen_for_admin(self, wanted: Address) -> None:
        identity = self.start_options.identity
        owner = (identity.uid, identity.gid) if identity is not None else (-1, -1)
        access = Access(_ADMIN_MODE, *owner)
        listener = self._listen_beside(wanted, _ADMIN, access)
        self.admin = listener
        if listener.path is None:
            self.admin_address = wanted._replace(port=listener.port)
            return
        self.admin_address = wanted._replace(path=listener.path)

    def admin_listeners(self) -> dict[str, Listener]:
        """Where the observer is to serve: ``admin``, ``agent``, both or neither."""
        known = {"admin": self.admin, "agent": self.agent}
        return {name: one for name, one in known.items() if one is not None}

    def _close_admin_listeners(self) -> None:
        for listener in self.admin_listeners().values():
            listener.close()
        self.admin = self.agent = None

    # Rights

    def _lower(self) -> None:
        """Act as the user from now on; root's id is kept aside (seteuid(2))."""
        identity = self.start_options.identity
        if identity is not None:
            os.setgroups(identity.groups)
            os.setegid(identity.gid)
            os.seteuid(identity.uid)

    @contextlib.contextmanager
    def rights(self) -> t.Iterator[None]:
        """Act as who started the server: to start a zygote, or to clean up."""
        lowered = self.start_options.identity and os.geteuid() != os.getuid()
        if lowered:
            os.seteuid(os.getuid())
            os.setegid(os.getgid())
        try:
            yield
        finally:
            if lowered:
                self._lower()

    # Notifying systemd

    def ready(self, status: str) -> None:
        """The server serves, for the first time or again."""
        self._notifier.ready(status)

    def reloading(self) -> None:
        """A reload begins."""
        self._notifier.reloading()

    def stopping(self) -> None:
        """The server goes down."""
        self._notifier.stopping()

    def deadline(self) -> float | None:
        """When :meth:`notify` is due, in seconds."""
        return self._notify_at

    def notify(self, now: float, status: str) -> None:
        """Report that the loop runs, and the server's state."""
        if self._notify_at is None or now < self._notify_at:
            return
        self._notifier.watchdog()
        self._notifier.status(status)
        interval = self._notifier.watchdog_interval or _STATUS_INTERVAL
        self._notify_at = now + min(interval, _STATUS_INTERVAL)

    # Orphans

    def adopt_orphans(self) -> None:
        """Be the parent of processes that lose theirs.

        In a container that is so anyway (PID 1); elsewhere it lets us reap the
        workers of a zygote that was killed.
        """
        with self.rights():
            # The interpreter's files, of which it needs some, may be out of reach.
            reaper.become_subreaper()

    def close(self) -> None:
        """Leave nothing behind."""
        self._notifier.close()
        with self.rights():
            self._close_admin_listeners()
            if self._pid_file is not None:
                self._pid_file.remove()
