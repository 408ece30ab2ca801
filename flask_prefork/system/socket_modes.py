"""Sockets of a stated mode, whatever :func:`socket.setdefaulttimeout` was called with.

Each new socket object takes the default timeout of its process, and an app may set one
while it is loaded: then reads of a back channel would fail after so many seconds. So
every socket of the server's is made here, but for connections, see
:meth:`.http.server.PreforkServer.accept`; ``tests/test_socket_modes.py`` checks that.
"""

from __future__ import annotations

import os
import socket
import struct
import typing as t

#: Marks a type of socket: the object is non-blocking, and its descriptor is left as it
#: is. Only Linux and BSD have it.
_NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0)
#: Whether a close waits, and for how many seconds (``socket(7)``, SO_LINGER).
_LINGER = struct.Struct("ii")


def make(
    family: int, kind: int, protocol: int = 0, *, blocking: bool = True
) -> socket.socket:
    """Make a socket.

    :param family: As ``AF_UNIX``.
    :param kind: As ``SOCK_STREAM``.
    :param protocol: As ``IPPROTO_TCP``; 0 is the usual one.
    :raises OSError: As ``socket(2)``.
    """
    if _NONBLOCK and not blocking:
        # By one call.
        return socket.socket(family, kind | _NONBLOCK, protocol)
    return _state(socket.socket(family, kind, protocol), blocking)


def accept(listener: socket.socket) -> tuple[socket.socket, t.Any]:
    """Accept a connection, whose socket is non-blocking.

    :raises OSError: As ``accept(2)``.
    """
    # As the listener's own method does, which makes it blocking first.
    fd, address = listener._accept()  # type: ignore[attr-defined]
    kind = listener.family, listener.type, listener.proto
    return _state(socket.socket(*kind, fileno=fd), False), address


def pair(
    *, blocking: bool = True, kind: int = socket.SOCK_STREAM
) -> tuple[socket.socket, socket.socket]:
    """Make two unix sockets that are connected.

    :param kind: As ``SOCK_STREAM``.
    :raises OSError: As ``socketpair(2)``.
    """
    ours, theirs = socket.socketpair(type=kind)
    return _state(ours, blocking), _state(theirs, blocking)


def adopt(fd: int, *, blocking: bool) -> socket.socket:
    """Own a descriptor from now on. Who shares its open file shares the mode.

    :raises OSError: If it is no socket.
    """
    return _state(socket.socket(fileno=fd), blocking)


def look_at(fd: int) -> socket.socket:
    """Own a descriptor whose open file is somebody else's, and keeps its mode.

    The object itself never waits.

    :raises OSError: If it is no socket.
    """
    if not _NONBLOCK:
        return socket.socket(fileno=fd)
    probe = socket.socket(type=socket.SOCK_STREAM | _NONBLOCK, fileno=fd)
    kind = probe.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    return socket.socket(type=kind | _NONBLOCK, fileno=probe.detach())


def look_into(fd: int) -> socket.socket:
    """The same as :func:`look_at` without asking what it is, for calls that don't
    depend on it. The object's own family, type and protocol say nothing.

    :raises OSError: If it is no socket.
    """
    if not _NONBLOCK:
        return socket.socket(fileno=fd)
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | _NONBLOCK, 0, fd)


def close(fd: int) -> None:
    """Close a descriptor of which others have decided what it is, without waiting.

    An app may let the close of its connections wait until clients have taken all
    (SO_LINGER), also of those that are accepted later. That holds for whoever closes
    the last descriptor.

    :param fd: A socket or anything else.
    :raises OSError: It isn't open.
    """
    try:
        sock = look_into(fd)
    except OSError:
        pass  # no socket
    else:
        try:
            linger = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size)
            if all(_LINGER.unpack(linger)):
                # For 0 seconds it is reset, which never waits.
                off = _LINGER.pack(0, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
        except OSError:
            pass  # it has no such option
        finally:
            sock.detach()
    os.close(fd)


def _state(sock: socket.socket, blocking: bool) -> socket.socket:
    sock.setblocking(blocking)
    return sock
