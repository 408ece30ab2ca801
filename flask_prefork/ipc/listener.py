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
from collections.abc import Sequence

from ..system import socket_access as unix_access
from ..system import socket_modes
from ..system import syn_filter
from ..system.sock_diag import SockDiag
from ..system.socket_access import Access
from ..system.syn_filter import Handshakes

_UNIX = "unix://"
_INHERITED = "fd://"
#: The start of ``struct tcp_info`` (linux/tcp.h) up to ``tcpi_unacked`` and
#: ``tcpi_sacked``: on a listening socket these are the length of the accept queue
#: and its limit.
_TCP_INFO = struct.Struct("=24xII")
#: Who makes a unix socket has it, with what the umask leaves of its mode.
AS_IT_IS = Access()
#: How long the kernel keeps a connection back that sends nothing (``tcp(7)``).
_DEFER_ACCEPT_SECONDS = 1


class BindError(Exception):
    """An address that can't be listened on, with what to do about it."""


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


class Waiter:
    """Waits for a connection on any listener, or news on the channel."""

    def __init__(
        self, channel: socket.socket, listeners: Sequence[socket.socket]
    ) -> None:
        self._channel = channel.fileno()
        self._indexes = {sock.fileno(): i for i, sock in enumerate(listeners)}
        self._poll: t.Any
        flags = select.POLLIN
        if hasattr(select, "epoll"):
            self._poll, self._second = select.epoll(), 1
            flags = select.EPOLLIN | select.EPOLLEXCLUSIVE
        else:
            self._poll, self._second = select.poll(), 1000
        self._poll.register(self._channel, select.POLLIN)
        self._news = select.poll()
        self._news.register(self._channel, select.POLLIN)
        for fd in self._indexes:
            self._poll.register(fd, flags)

    def fileno(self) -> int:
        """The descriptor by which it waits; -1 where it needs none."""
        return self._poll.fileno() if hasattr(self._poll, "fileno") else -1

    def wait(self) -> int | None:
        """The index of a listener at which somebody waits, ``None`` for a frame."""
        ready = [fd for fd, _ in self._poll.poll()]
        if self._channel in ready:
            return None
        return self._indexes[ready[0]]

    def is_readable(self, seconds: float) -> bool:
        """Whether news come on the channel within so many seconds."""
        return bool(self._news.poll(seconds * 1000))

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing happens for so long."""
        return not self._poll.poll(seconds * self._second)


def bind(host: str, port: int, backlog: int, access: Access = AS_IT_IS) -> Listener:
    """Listen on an address.

    :param host: An IPv4 or IPv6 address, a name, ``unix://PATH``, or ``fd://N``
        for an inherited descriptor that is bound already.
    :param port: The TCP port; 0 takes a free one.
    :param backlog: Connections that may wait; the kernel lowers it to its maximum.
    :param access: Of a unix socket that is made.
    :raises BindError: If it can't be, with the reason and the way out.
    """
    if host.startswith(_INHERITED):
        return _inherit(host, backlog)
    if host.startswith(_UNIX):
        return _bind_unix(host, backlog, access)
    return _bind_tcp(host, port, backlog)


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
        raise BindError(f"Can't find the address of {host!r}: {e}.") from None


def _bind_tcp(host: str, port: int, backlog: int) -> Listener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if not 0 <= port <= 65535:
        # getaddrinfo(3) may cut it to 16 bits.
        raise BindError(f"{port} is no port; give one from 0 to 65535.")
    address = _look_up(host, port, family)
    sock = socket_modes.make(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Accepted sockets inherit these on Linux.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_DEFER_ACCEPT"):
            sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_ACCEPT_SECONDS
            )
        _listen(sock, backlog)
    except (OSError, OverflowError) as e:
        sock.close()
        raise BindError(_explain(e, port)) from None
    return Listener(sock, host)


def _explain(error: Exception, port: int) -> str:
    if not isinstance(error, OSError):
        return f"{port} is no port; give one from 0 to 65535."
    lines = [error.strerror or str(error)]
    if error.errno == errno.EADDRINUSE:
        # The words of `flask run`.
        lines.append(
            f"Port {port} is in use by another program. Either identify and stop"
            " that program, or start the server with a different port."
        )
        if sys.platform == "darwin" and port == 5000:
            lines.append(
                "On macOS, try searching for and disabling 'AirPlay Receiver' in"
                " System Settings."
            )
    return "\n".join(lines)


def _bind_unix(host: str, backlog: int, access: Access) -> Listener:
    path = os.path.abspath(host[len(_UNIX) :])
    sock = socket_modes.make(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        unix_access.bind(sock, path, access)
        _listen(sock, backlog)
    except OSError as e:
        sock.close()
        raise BindError(f"Can't listen on {path}: {e.strerror or e}.") from None
    except BaseException:
        sock.close()
        raise
    return Listener(sock, host, path)


def _remove_stale(path: str) -> None:
    """Remove a socket that a killed server has left; nothing else."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BindError(f"Can't listen on {path}: a file that is no socket is there.")
    with socket_modes.make(socket.AF_UNIX, socket.SOCK_STREAM, blocking=False) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise BindError(
        f"Can't listen on {path}: another program does. Either identify and stop"
        " that program, or start the server with a different path."
    )


def _inherit(host: str, backlog: int) -> Listener:
    number = host[len(_INHERITED) :]
    if not number.isascii() or not number.isdigit():
        raise BindError(f"{host!r} names no descriptor; give one as fd://3.")
    fd = int(number)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise BindError(f"Descriptor {fd} is no socket.")
        sock = socket_modes.look_at(fd)
    except OSError as e:
        raise BindError(f"Can't use descriptor {fd}: {e.strerror}.") from None
    except OverflowError:
        raise BindError(f"{number} is no descriptor.") from None
    if sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise BindError(f"Descriptor {fd} is no stream socket.")
    sock.set_inheritable(False)
    try:
        if not listens(sock):
            _listen(sock, backlog)
    except OSError as e:
        sock.detach()
        raise BindError(f"Can't listen on descriptor {fd}: {e.strerror}.") from None
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
