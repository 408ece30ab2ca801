"""The other end of a unix socket, by the kernel: which one it is, and whose."""

from __future__ import annotations

import socket
import struct

from . import socket_modes

_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST = 1
_HEADER = struct.Struct("=IHHII")
#: family, protocol, states, inode, what to show, cookie
_QUESTION = struct.Struct("=BBxxIIIII")
#: What is before the attributes: family, type, state, inode, cookie.
_ANSWER = struct.Struct("=BBBxIII")
_ATTRIBUTE = struct.Struct("=HH")
_ANY = 0xFFFFFFFF
#: ``struct ucred``: process, user, group.
_CREDENTIALS = struct.Struct("=iii")
_SHOW_PEER = 4
_PEER = 2


def peer(inode: int) -> int:
    """The inode of the socket that a unix socket is connected to.

    :param inode: The socket's, as ``fstat(2)`` tells it.
    :return: 0 if there is none, or the system doesn't tell.
    """
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        return 0
    question = _QUESTION.pack(socket.AF_UNIX, 0, _ANY, inode, _SHOW_PEER, _ANY, _ANY)
    size = _HEADER.size + len(question)
    try:
        with socket_modes.make(family, socket.SOCK_RAW, _SOCK_DIAG) as sock:
            sock.send(_HEADER.pack(size, _BY_FAMILY, _REQUEST, 0, 0) + question)
            # The kernel has answered when the question is sent.
            answer = sock.recv(8192, socket.MSG_DONTWAIT)
    except OSError:
        return 0
    size, kind, *_ = _HEADER.unpack_from(answer)
    place = _HEADER.size + _ANSWER.size
    if kind != _BY_FAMILY:
        return 0
    while place + _ATTRIBUTE.size <= size:
        length, what = _ATTRIBUTE.unpack_from(answer, place)
        if what == _PEER:
            (found,) = struct.unpack_from("=I", answer, place + _ATTRIBUTE.size)
            return int(found)
        place += max(length + 3 & ~3, _ATTRIBUTE.size)
    return 0


def is_from_user(connection: socket.socket, uid: int) -> bool:
    """Whether a connection to a unix socket was made by a process of a user
    (``unix(7)``, SO_PEERCRED).

    :param uid: The user's id.
    :return: ``True`` where the system doesn't tell.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    try:
        found = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
    except OSError:
        return False
    return bool(_CREDENTIALS.unpack(found)[1] == uid)
