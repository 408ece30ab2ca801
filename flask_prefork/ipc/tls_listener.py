"""Where the TLS proxy hands connections over: a unix socket for each listener.

The TLS proxy accepts from the listener that clients know, and connects to this one when
a client has sent something. Workers accept from it as from any other, so all that is
decided about accept queues holds for it as well. A connection begins with a header of
the PROXY protocol, which says whom it is from (:mod:`..system.proxy_protocol`).

On Linux the socket's file has no name: only who has a descriptor of it can connect
(:func:`_bind_without_name`). Other users of the machine could flood one that has. Where
that can't be done, the kernel chooses a name in the abstract namespace (``unix(7)``).
Workers ask the kernel in any case who has connected (:func:`.unix_peer.is_from_user`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile

from ..system import socket_modes
from .listener import Listener

#: Where a process finds the files that it has open.
FILES = "/proc/self/fd"


class TLSListener(Listener):
    """A listener of which workers accept what the TLS proxy has decrypted.

    :param public: The one that clients know. It is owned from now on.
    :param backlog: Connections that may wait.

    :ivar file: The descriptor of the socket's file, by which the TLS proxy connects; -1
        if it does so by a name.

    :raises OSError: There is no descriptor left, or no place for its name.
    """

    def __init__(self, public: Listener, backlog: int) -> None:
        sock = socket_modes.make(socket.AF_UNIX, socket.SOCK_STREAM, blocking=False)
        path = None
        self.file = _bind_without_name(sock)
        if self.file >= 0:
            pass
        elif sys.platform == "linux":
            sock.bind("")
        else:
            path = os.path.join(tempfile.mkdtemp(prefix="flask_prefork"), "tls")
            sock.bind(path)
        sock.listen(backlog)
        super().__init__(sock, public.host, path)
        self.public = public

    @property
    def port(self) -> int:
        """See the base class."""
        return self.public.port

    def addresses(self, scheme: str) -> list[str]:
        """See the base class."""
        return self.public.addresses(scheme)

    def stop_accepting(self) -> None:
        """See the base class."""
        self.public.stop_accepting()

    def has_pending_handshake(self) -> bool:
        """Whether there is somebody on the way in, or not accepted yet."""
        return self.public.has_pending_handshake() or self.public.is_waited_on()

    def shut(self) -> None:
        """See the base class."""
        self.public.shut()
        super().shut()

    def close(self) -> None:
        """See the base class."""
        self.public.close()
        super().close()
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _bind_without_name(sock: socket.socket) -> int:
    """Bind a socket in a directory that nobody else can enter, and remove its name.

    :return: A descriptor of its file, by which it can be connected to as long as it is
        open (``O_PATH`` in ``open(2)``, ``/proc/self/fd`` in ``proc(5)``); -1 if that
        can't be.
    """
    if not hasattr(os, "O_PATH") or not os.path.isdir(FILES):
        return -1
    try:
        folder = tempfile.mkdtemp(prefix="flask_prefork")
    except OSError:
        return -1
    path = os.path.join(folder, "tls")
    try:
        sock.bind(path)
        # The TLS proxy may be another user's process.
        os.chmod(path, 0o666)
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        # The path may be too long; then it isn't bound.
        if sock.getsockname():
            raise
        return -1
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(folder)
