"""Connections that the zygote opens while it has workers.

A thread of the zygote, such as one that sends telemetry, may connect at any time, and
its library may keep the connection for the next time. A worker that is forked then has
it, too: both would write requests into it, and read each other's answers. The workers
before have none of it, so no worker needs it.

:meth:`Connections.note` is called in the zygote at its first fork. What is open then
was reported, and is left as it is. :meth:`Connections.cut` is called in each worker.
"""

from __future__ import annotations

import os

from ..system import socket_modes
from . import fork_sockets


class Connections:
    """Those that the zygote had at its first fork."""

    def __init__(self) -> None:
        #: Their inodes, each of which is one socket's for the time of a boot.
        self._known: frozenset[int] = frozenset()

    def note(self) -> None:
        """Take those that are open now for shared."""
        self._known = frozenset(map(_inode, fork_sockets.connections()))

    def cut(self) -> list[int]:
        """Let all others look as if their peers had closed them, in this process alone.

        Libraries connect again then, as after a server's timeout. To close the
        descriptors would be worse: the next file would get such a number, and who has
        the connection would write into that file.

        :return: Their descriptors.
        """
        new = [fd for fd in fork_sockets.connections() if _inode(fd) not in self._known]
        if new:
            dead, peer = socket_modes.pair()
            peer.close()
            with dead:
                for fd in new:
                    os.dup2(dead.fileno(), fd, inheritable=False)
        return new


def _inode(fd: int) -> int:
    return os.fstat(fd).st_ino
