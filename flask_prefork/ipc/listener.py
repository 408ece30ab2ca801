"""Listening sockets: TCP, unix, or inherited, and how many wait on them.

The dispatcher binds them (``dispatcher/service.py``) and asks how many connections
wait; a worker waits on them by a :class:`Waiter` when it isn't ordered.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
import sys
import time
import typing as t

from ..settings import addresses
from ..settings.addresses import Address
from ..system import socket_access as unix_access
from ..system import socket_modes
from ..system import syn_filter
from ..system.sock_diag import SockDiag
from ..system.socket_access import Access
from ..system.syn_filter import Handshakes

_UNIX = "unix://"
_INHERITED = "fd://"
#: The longest path of a unix socket: ``sun_path`` without the zero at its end
#: (``unix(7)``; ``sys/un.h`` of others).
_MAX_PATH = 107 if sys.platform == "linux" else 103
#: How many the server can have: :class:`.Listen` takes two descriptors for each with
#: TLS, and :mod:`.channel` receives 64 with one frame.
MAX_LISTENERS = 30
#: Below it ports are root's, unless the system was told otherwise (``ip(7)``).
_UNPRIVILEGED = 1024
#: The start of ``struct tcp_info`` (linux/tcp.h) up to ``tcpi_unacked`` and
#: ``tcpi_sacked``: on a listening socket these are the length of the accept queue
#: and its limit.
_TCP_INFO = struct.Struct("=24xII")
#: Who makes a unix socket has it, with what the umask leaves of its mode.
AS_IT_IS = Access()
#: How long the kernel keeps a connection back that sends nothing (``tcp(7)``).
_DEFER_ACCEPT_SECONDS = 1


class BindError(Exception):
    """An address that can't be listened on, with what to do about it.

    :param text: All of that.
    :param reason: The same without the address.
    """

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason or text


def _refused(where: str, reason: str) -> BindError:
    return BindError(f"Can't listen on {where}: {reason}", reason)


class Listener:
    """A listening socket and how to speak of it.

    :param sock: The socket, non-blocking and listening.
    :param host: As the user gave it; for ``unix://`` the whole.
    :param path: The unix socket's path, if we made it.
    :param inherited: Whoever gave it to us may go on listening.
    """

    def __init__(
        self,
        sock: socket.socket,
        host: str,
        path: str | None = None,
        inherited: bool = False,
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.host = host
        self.path = path
        self.inherited = inherited
        self._handshakes: Handshakes | None = None
        self._made = os.stat(path).st_ino if path else 0
        self._counts = sys.platform == "linux"
        self._diag = SockDiag()
        self._inode = os.fstat(self.fd).st_ino
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._name = sock.getsockname()
        #: For :meth:`listen_again`, which unix sockets can't.
        self._limit = 0
        if sock.family != socket.AF_UNIX:
            self._limit = self.limit() or socket.SOMAXCONN

    @property
    def tells_age(self) -> bool:
        """Whether the kernel tells how old its connections are."""
        return self._counts and self.sock.family != socket.AF_UNIX

    @property
    def port(self) -> int:
        """The bound TCP port; 0 for unix sockets."""
        if self.sock.family == socket.AF_UNIX:
            return 0
        return int(self.sock.getsockname()[1])

    def waiting(self) -> int:
        """How many connections wait to be accepted.

        Where the system doesn't tell, 1 stands for some.
        """
        if self.sock.family == socket.AF_UNIX and not self.is_waited_on():
            return 0
        queue = self._queue()
        return queue[0] if queue is not None else int(self.is_waited_on())

    def is_waited_on(self) -> bool:
        """Whether a connection waits to be accepted."""
        return bool(self._poll.poll(0))

    def is_shut(self) -> bool:
        """Whether somebody has ended it, for all who share it (``shutdown(2)``)."""
        return any(events & select.POLLHUP for _, events in self._poll.poll(0))

    def listen_again(self) -> None:
        """Listen again, after somebody has ended it. Who waited there is lost.

        :raises OSError: It can't be. Of unix sockets none can.
        """
        if self.sock.family == socket.AF_UNIX:
            raise OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
        try:
            # A port that the kernel has chosen was given back.
            self.sock.bind(self._name)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            # Another one is still its own (bind(2)).
        self.sock.listen(self._limit)
        if self.is_shut():
            raise OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))

    def limit(self) -> int:
        """How many connections may wait; 0 where the system doesn't tell."""
        queue = self._queue()
        return queue[1] if queue is not None else 0

    def _queue(self) -> tuple[int, int] | None:
        """The accept queue's length and limit, where the system tells."""
        if not self._counts:
            return None
        if self.sock.family == socket.AF_UNIX:
            # Nor does poll(2) tell more than whether there is one.
            queue = self._diag.unix_queue(self._inode)
            self._counts = self._diag.answers
            return queue
        try:
            info = self.sock.getsockopt(
                socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size
            )
            length, limit = _TCP_INFO.unpack(info)
        except (OSError, struct.error):
            self._counts = False
            return None
        return length, limit

    def addresses(self, scheme: str) -> list[str]:
        """Where a user reaches it, for the banner."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return [f"{_UNIX}{os.fsdecode(name)}"]
        host, port = name[:2]
        if host in ("0.0.0.0", "::"):
            local = "127.0.0.1" if host == "0.0.0.0" else "[::1]"
            return [
                f"{scheme}://{local}:{port}",
                f"all addresses ({host}), port {port}",
            ]
        if ":" in host:
            host = f"[{host}]"
        return [f"{scheme}://{host}:{port}"]

    def stop_accepting(self) -> None:
        """Let nobody begin to connect, but keep who is on the way in.

        To be followed by :meth:`shut` when that one was served.
        """
        if self.inherited:
            return
        if self.sock.family != socket.AF_UNIX:
            if syn_filter.stop_accepting(self.sock):
                self._handshakes = Handshakes(self.sock, time.monotonic)
        else:
            # On unix sockets there is no way between outside and inside.
            self._remove_path()

    def has_pending_handshake(self) -> bool:
        """Whether there is somebody on the way in who would be lost."""
        return self._handshakes is not None and self._handshakes.are_left()

    def shut(self) -> None:
        """Refuse new connections from now on, in all processes that share it.

        See :func:`shut`. An inherited socket isn't ours to end.
        """
        if not self.inherited:
            shut(self.sock)

    def close(self) -> None:
        """Close our copy, and remove the unix socket's path if it is still ours."""
        self.sock.close()
        self._diag.close()
        if self._handshakes is not None:
            self._handshakes.close()
        self._remove_path()

    def _remove_path(self) -> None:
        if self.path is not None:
            try:
                if os.stat(self.path).st_ino == self._made:
                    os.unlink(self.path)
            except OSError:
                pass
            self.path = None


def shut(sock: socket.socket) -> None:
    """Refuse new connections, and end those that nobody has accepted.

    On Linux ``shutdown(2)`` ends the listening for every holder of the socket, also
    for workers that are still busy. TCP then resets who waits; on a unix socket they
    would wait on until its last holder is gone.

    :param sock: A listening socket.
    """
    # The app may have set another default, and accept() would try on until then.
    sock.setblocking(False)
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # who else holds it was faster, or goes on listening
    if sock.family == socket.AF_UNIX:
        try:
            while True:
                sock.accept()[0].close()
        except OSError:
            pass  # there are no more, or no descriptor for one


def bind(
    host: str,
    port: int,
    backlog: int,
    access: Access = AS_IT_IS,
    ipv6_only: bool = False,
) -> Listener:
    """Listen on an address.

    :param host: An IPv4 or IPv6 address, a name, ``unix:PATH`` or ``unix://PATH``, or
        ``fd://N`` for an inherited descriptor that is bound already.
    :param port: The TCP port; 0 takes a free one.
    :param backlog: Connections that may wait; the kernel lowers it to its maximum.
    :param access: Of a unix socket that is made.
    :param ipv6_only: Whether one for all addresses leaves those of IPv4 to others.
    :raises BindError: If it can't be, with the reason and the way out.
    """
    if host.startswith(_INHERITED):
        return _inherit(host, backlog)
    if host.startswith("unix:"):
        path = host.removeprefix("unix:").removeprefix("//")
        return _bind_unix(host, os.path.abspath(path), backlog, access)
    return _bind_tcp(host, port, backlog, ipv6_only)


def find(address: Address) -> Address:
    """Find the host of an address, see :func:`numeric`.

    :return: The address with a number as its host, and the name that it was.
    :raises BindError: If there is no such name.
    """
    host = numeric(address.host)
    return (
        address
        if host == address.host
        else address._replace(host=host, name=address.host)
    )


def numeric(host: str) -> str:
    """Find an address, so that :func:`bind` needn't ask anybody for it.

    To ask for a name may take as long as the name service likes (``resolver(5)``).

    :param host: As :func:`bind` takes it; only a name is changed.
    :raises BindError: If there is no such name.
    """
    if not host or ":" in host:
        return host
    return str(_look_up(host, None, socket.AF_INET)[0])


def _look_up(
    host: str, port: int | None, family: socket.AddressFamily
) -> tuple[t.Any, ...]:
    try:
        return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
    except (socket.gaierror, UnicodeError, OverflowError) as e:
        reason = e.strerror if isinstance(e, socket.gaierror) else e
        raise BindError(
            f"Can't find the address of {host!r}: {reason}; give a name that the system"
            " knows, or an address such as 127.0.0.1, or 0.0.0.0 for all of this"
            " machine."
        ) from None


def _bind_tcp(host: str, port: int, backlog: int, ipv6_only: bool) -> Listener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if not 0 <= port <= 65535:
        # getaddrinfo(3) may cut it to 16 bits.
        raise BindError(f"{port} is no port; give one from 0 to 65535.")
    where = str(Address(host, port))
    address = _look_up(host, port, family)
    sock = None
    try:
        sock = socket_modes.make(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ipv6_only:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        # Accepted sockets inherit these on Linux.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_DEFER_ACCEPT"):
            sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_ACCEPT_SECONDS
            )
        _listen(sock, backlog)
    except OSError as e:
        if sock is not None:
            sock.close()
        raise _refused(where, _explain(e, host, port)) from None
    return Listener(sock, host)


def _explain(error: OSError, host: str, port: int) -> str:
    """Why a TCP port can't be listened on, and what to do about it."""
    reason = error.strerror or str(error)
    every = "[::]" if ":" in host else "0.0.0.0"
    if error.errno == errno.EADDRINUSE:
        # The words of `flask run`.
        reason += (
            f". Port {port} is in use by another program. Either identify and stop"
            " that program, or start the server with a different port."
        )
        if sys.platform == "darwin" and port == 5000:
            reason += (
                " On macOS, try searching for and disabling 'AirPlay Receiver' in"
                " System Settings."
            )
        return reason
    if error.errno in (errno.EACCES, errno.EPERM) and port < _UNPRIVILEGED:
        return (
            f"{reason}; give a port above {_UNPRIVILEGED - 1}, or let systemd pass the"
            " socket, or start as root with --user, or with CAP_NET_BIND_SERVICE."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        meant = addresses.bracketed(host)
        return (
            f"{reason}; this machine doesn't have it: give an address of its own, or"
            f" {every} for all of them."
        ) + (f" If its last part is a port, give {meant}." if meant else "")
    if error.errno == errno.EAFNOSUPPORT:
        return f"{reason}; this system has no IPv6: give an IPv4 address."
    if error.errno == errno.EINVAL and host.lower().startswith("fe80:"):
        return (
            f"{reason}; a link-local address needs its interface, such as"
            f" [{host.partition('%')[0]}%eth0]:{port}."
        )
    return f"{reason}."


def _bind_unix(host: str, path: str, backlog: int, access: Access) -> Listener:
    _check_length(path)
    sock = socket_modes.make(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        unix_access.bind(sock, path, access)
        _listen(sock, backlog)
    except OSError as e:
        sock.close()
        raise _refused(path, _explain_path(e, path)) from None
    except BaseException:
        sock.close()
        raise
    return Listener(sock, host, path)


def check_count(count: int) -> None:
    """See that the server can have so many listeners.

    :raises BindError: There are too many.
    """
    if count > MAX_LISTENERS:
        raise BindError(
            f"There are {count} addresses to listen on; {MAX_LISTENERS} are possible."
        )


def check_path(path: str, is_ours: bool = True) -> None:
    """See that a unix socket can be made somewhere, and leave it as it is there.

    Whether another program listens there isn't asked.

    :param is_ours: Whether this process's user is who is to make it, so that the rights
        matter.
    :raises BindError: It can't, as :func:`bind` would say.
    """
    path = os.path.abspath(path)
    folder, number = os.path.dirname(path), 0
    _check_length(path)
    try:
        if not _is_there(path):
            if not os.path.isdir(folder):
                number = errno.ENOTDIR if os.path.lexists(folder) else errno.ENOENT
            elif os.path.lexists(path):
                number = errno.EADDRINUSE  # a link to nothing (bind(2))
        if not number and is_ours and not os.access(folder, os.W_OK | os.X_OK):
            number = errno.EACCES
        if number:
            raise OSError(number, os.strerror(number))
    except OSError as e:
        if e.errno != errno.EACCES or is_ours:
            raise _refused(path, _explain_path(e, path)) from None


def _check_length(path: str) -> None:
    length = len(os.fsencode(path))
    if length > _MAX_PATH:
        raise _refused(
            path,
            f"the path is too long: it has {length} bytes, and {_MAX_PATH} are possible"
            " for a unix socket; give a shorter one, such as unix:/run/shop.sock.",
        )


def _explain_path(error: OSError, path: str) -> str:
    """Why a unix socket can't be made there, and what to do about it."""
    reason = error.strerror or str(error)
    folder = os.path.dirname(path)
    hints = {
        errno.ENOENT: f"there is no folder {folder}; make it first",
        errno.ENOTDIR: f"{folder} is no folder; give a path in one",
        errno.EACCES: f"the server's user must be allowed to write to {folder}",
    }
    hint = hints.get(error.errno or 0)
    return f"{reason}: {hint}." if hint else f"{reason}."


def _is_there(path: str) -> bool:
    """Whether there is a socket.

    :raises BindError: It is something else.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        if stat.S_ISDIR(mode):
            raise _refused(path, "it is a folder; give a path in it, or another one.")
        raise _refused(
            path,
            "a file that is no socket is there. Give another path, or move the file"
            " out of the way.",
        )
    return True


def _remove_stale(path: str) -> None:
    """Remove a socket that a killed server has left; nothing else."""
    if not _is_there(path):
        return
    with socket_modes.make(socket.AF_UNIX, socket.SOCK_STREAM, blocking=False) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _remove(path)
            return
        except PermissionError:
            raise _refused(
                path,
                "another user's socket is there. Either remove it, or start the server"
                " with a different path.",
            ) from None
        except BlockingIOError:
            pass
    raise _refused(
        path,
        "another program does. Either identify and stop that program, or start the"
        " server with a different path.",
    )


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except PermissionError as e:
        raise _refused(
            path,
            f"the socket that another server has left there can't be removed:"
            f" {e.strerror}. Remove it, or start the server with a different path.",
        ) from None


def _inherit(host: str, backlog: int) -> Listener:
    number = host[len(_INHERITED) :]
    if not number.isascii() or not number.isdigit():
        raise BindError(f"{host!r} names no descriptor; give one as fd://3.")
    fd = int(number)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise _refused(host, f"descriptor {fd} is no socket.")
        sock = socket_modes.look_at(fd)
    except OSError as e:
        raise _refused(
            host,
            f"{e.strerror}; whoever starts the server must pass it descriptor {fd}.",
        ) from None
    except OverflowError:
        raise BindError(f"{number} is no descriptor.") from None
    if sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise _refused(host, f"descriptor {fd} is no stream socket.")
    sock.set_inheritable(False)
    try:
        if not listens(sock):
            _listen(sock, backlog)
    except OSError as e:
        sock.detach()
        raise _refused(host, f"{e.strerror}; it may be a connection.") from None
    sock.setblocking(False)
    return Listener(sock, host, inherited=True)


def listens(sock: socket.socket) -> bool | None:
    """Whether a socket takes connections; ``None`` where the system doesn't tell."""
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return None  # macOS has the option, and doesn't know it


def _listen(sock: socket.socket, backlog: int) -> None:
    sock.listen(backlog)
    sock.setblocking(False)
