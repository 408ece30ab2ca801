"""Connections that a fork would share, and who holds them.

Called by :func:`.fork_checks.check` in the zygote. A descriptor tells its peer, and
the objects of the interpreter tell whose it is, as far as that can be known.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import stat
import sys
import types
import typing as t

from ..ipc.listener import listens
from ..system import descriptors
from ..system import socket_modes
from . import fork_holders
from .fork_libraries import HOOK

#: Who only sends datagrams, and whole messages: of logs and figures.
_SENDERS = ("logging.handlers.", "statsd.", "datadog.", "graypy.")
#: The peer sends no more (``poll(2)``).
_HANGS_UP = getattr(select, "POLLRDHUP", select.POLLHUP)
#: Bytes of the longest TLS record that only says goodbye: head, nonce, alert and tag.
_GOODBYE = 31
#: Where a connection leads to: the port, or the last part of a unix socket's path.
Place = int | str


class Renewed(t.NamedTuple):
    """Connections that each worker leaves alone.

    :param places: Where they lead to, each by one of these.
    :param most: How many there are at most.
    """

    places: t.Collection[Place]
    most: int


def find(
    shared: t.Collection[t.Any],
    renewed: t.Iterable[Renewed],
    objects: list[t.Any],
    explained: t.Collection[str],
) -> list[str]:
    """Look for what would be shared.

    :param shared: Own addresses of sockets that workers are to share.
    :param renewed: What is of no harm.
    :param objects: All that the garbage collector knows.
    :param explained: Packages whose connections aren't reported one by one.
    :return: A sentence or two for each.
    """
    found = [one for one in _sockets() if one[1] not in shared]
    if not found:
        return []
    owners = _Owners(objects)
    left = [[set(one.places), one.most] for one in renewed]
    findings = []
    for fd, here, peer, kind in found:
        owner = owners.of(fd)
        if owner.partition(".")[0] in explained or fd in owners.renewed:
            continue
        if kind == socket.SOCK_DGRAM and owner.startswith(_SENDERS):
            continue
        if peer is not None and _take(left, _place(peer)):
            continue
        findings.append(_describe(here, peer, kind, owner and f" ({owner})"))
    return findings


def connections() -> list[int]:
    """The descriptors of connections that lead out of this process."""
    return [
        one.fd
        for one in _sockets()
        if one.kind == socket.SOCK_STREAM and one.peer is not None
    ]


def _take(left: list[list[t.Any]], place: Place) -> bool:
    """Whether a connection to there is of no harm; that is one less, then."""
    for one in left:
        places, count = one
        if count and place in places:
            one[1] -= 1
            return True
    return False


def _place(peer: t.Any) -> Place:
    if isinstance(peer, tuple):
        return int(peer[1])
    return os.path.basename(os.fsdecode(peer))


class _Socket(t.NamedTuple):
    fd: int
    here: t.Any
    #: ``None`` if it isn't connected.
    peer: t.Any
    kind: int


def _sockets() -> t.Iterator[_Socket]:
    """The sockets of this process that lead out of it.

    Those of the Internet, and connections to unix sockets that have a name: a pair
    of sockets has none. Datagrams to a unix socket are whole messages, whoever
    sends them, and are meant for logs most of the time. One that neither listens nor
    has a peer has lost it, or has none yet; and one that the peer has ended has nothing
    to share.
    """
    for name in os.listdir(descriptors.folder()):
        fd = int(name)
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            sock = socket_modes.look_at(os.dup(fd))
        except OSError:
            continue  # the listing's own descriptor
        with sock:
            found = _Socket(fd, sock.getsockname(), _peer(sock), sock.type)
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                leads = found.peer is not None or _receives(sock)
            else:
                leads = sock.family == socket.AF_UNIX and bool(found.peer)
                leads = leads and sock.type != socket.SOCK_DGRAM
            if leads and not _is_over(sock):
                yield found


def _peer(sock: socket.socket) -> t.Any:
    try:
        return sock.getpeername()
    except OSError:
        return None


def _is_over(sock: socket.socket) -> bool:
    """Whether the peer has ended the connection, and has left nothing to read.

    As a server does with one that was idle for long. Whoever uses it next sees that.
    """
    if sock.type != socket.SOCK_STREAM:
        return False
    try:
        left = sock.recv(_GOODBYE + 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    poll = select.poll()
    poll.register(sock, _HANGS_UP)
    # By TLS the last record says goodbye (RFC 8446, 6.1): an alert, which looks like
    # data if it is encrypted by version 1.3.
    is_goodbye = left[:1] in (b"\x15", b"\x17") and left[1:2] == b"\x03"
    ended = bool(poll.poll(0))
    return ended and (not left or (is_goodbye and len(left) <= _GOODBYE))


def _receives(sock: socket.socket) -> bool:
    """Whether a socket without a peer takes connections or datagrams."""
    if sock.type == socket.SOCK_STREAM and (told := listens(sock)) is not None:
        return told
    return bool(sock.getsockname()[1])  # no port before it is bound (udp(7))


def _describe(here: t.Any, peer: t.Any, kind: int, owner: str) -> str:
    if peer is not None:
        return (
            f"a connection to {_address(peer)}{owner} is open; all workers would read"
            f" and write it at once. Open it {HOOK}, or when it is first used."
        )
    if kind == socket.SOCK_STREAM:
        return (
            f"a socket of the app's own is bound to {_address(here)}{owner}; all"
            " workers would accept from it. Open it in a process of its own."
        )
    return (
        f"a datagram socket on {_address(here)}{owner} is open; what it receives goes"
        f" to any of the workers. Open it {HOOK}."
    )


def _address(address: t.Any) -> str:
    if not isinstance(address, tuple):
        # One that begins with a null byte is abstract (unix(7)).
        return "unix:" + os.fsdecode(address).replace("\0", "@")
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# Whose they are

_SOCKET = "socket.socket"
#: Connections of libraries that are written in C; they have ``fileno()``.
_FOREIGN = (
    "psycopg2.extensions.connection",
    "psycopg.Connection",
    "psycopg.AsyncConnection",
)
#: Pools, and where they keep their idle connections.
_POOLS = {
    "psycopg2.pool.AbstractConnectionPool": "_pool",
    "psycopg_pool.base.BasePool": "_pool",
    "redis.connection.ConnectionPool": "_available_connections",
}
#: One that drops all it has when it finds itself in another process.
_RENEWING = "redis.connection.ConnectionPool"


class _Owners:
    """Who holds the descriptors.

    :param objects: All that the garbage collector knows.

    :ivar renewed: Descriptors of connections that their library itself leaves alone
        in another process.
    """

    def __init__(self, objects: list[t.Any]) -> None:
        self._names: dict[int, str] = {}
        self.renewed: set[int] = set()
        kinds = {kind: _kind(kind) for kind in set(map(type, objects))}
        known = [(kinds[type(one)], one) for one in objects if kinds[type(one)]]
        sockets = [one for kind, one in known if kind == _SOCKET]
        if sockets:
            self._note_holders(sockets)
        for kind, one in known:
            if kind in _FOREIGN:
                self._names[_fd(one)] = _name(one)
        for kind, one in known:
            if kind in _POOLS:
                self._note_pool(one, kind)

    def of(self, fd: int) -> str:
        """The name of who holds a descriptor: a class, or a module's variable."""
        return self._names.get(fd, "")

    def _note_pool(self, pool: t.Any, kind: str) -> None:
        for connection in getattr(pool, _POOLS[kind], ()):
            # Of redis they have a socket each.
            fd = _fd(getattr(connection, "_sock", connection))
            self._names[fd] = _name(pool)
            if kind == _RENEWING:
                self.renewed.add(fd)

    def _note_holders(self, sockets: list[socket.socket]) -> None:
        fds = {id(sock): sock.fileno() for sock in sockets}
        holders = gc.get_referrers(*sockets)
        names = _names_of_attributes([one for one in holders if type(one) is dict])
        best: dict[int, tuple[t.Any, ...]] = {}
        level = {number: {fd} for number, fd in fds.items()}
        for holder in holders:
            called = names.get(id(holder)) or _holder(holder)
            by_fd = fork_holders.variables(holder, level)
            for held in gc.get_referents(holder):
                if (fd := fds.get(id(held))) is None:
                    continue
                if name := called or by_fd.get(fd, fork_holders.NOBODY).name:
                    # Who uses a library is told which one, and not by what it has
                    # inside.
                    package = name.partition(".")[0]
                    rank = (package in sys.stdlib_module_names, "._" in name, name)
                    best[fd] = min(best.get(fd, rank), rank)
        self._names.update({fd: rank[-1] for fd, rank in best.items()})


def _kind(kind: type) -> str:
    """The name of the class that it is derived from, if it is of interest here."""
    for base in kind.__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        if name == _SOCKET or name in _FOREIGN or name in _POOLS:
            return name
    return ""


def _fd(connection: t.Any) -> int:
    """A connection's descriptor; -1 if it is closed."""
    try:
        return int(connection.fileno())
    except Exception:
        # Each library has its own error for that.
        return -1


def _name(one: object) -> str:
    return f"{type(one).__module__}.{type(one).__qualname__}"


def _holder(holder: t.Any) -> str:
    """The class of who holds one of the sockets; nothing if that says nothing."""
    if type(holder) in (types.FrameType, dict, list, set, tuple):
        return ""
    name = _name(holder)
    return "" if name.startswith(("builtins.", "socket.", "_io.")) else name


def _names_of_attributes(dicts: list[dict[str, t.Any]]) -> dict[int, str]:
    """Whose attributes dictionaries are, by their ids.

    Since Python 3.11 an object has no such dictionary until somebody asks for it.
    """
    ids = set(map(id, dicts))
    names = {}
    for one in gc.get_referrers(*dicts) if dicts else ():
        try:
            attributes = object.__getattribute__(one, "__dict__")
        except (AttributeError, TypeError):
            continue
        if id(attributes) in ids and type(one) is not types.ModuleType:
            names[id(attributes)] = _name(one)
    return names
