"""Owner and permissions of a unix socket."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import typing as t

#: Of a socket that is a group's, if nobody says otherwise.
_GROUPS_MODE = "660"
_FILES = "/proc/self/fd"
#: Who may (``chown(2)``).
_USERS = "only root, or a process with CAP_CHOWN, can give a socket to another user"
_GROUPS = "the server's user must be a member of the group, or root"


class Access(t.NamedTuple):
    """A unix socket's owners and permissions: who may write to it may connect.

    :param mode: Its permissions (``chmod(2)``); ``None`` for what the umask leaves.
    :param uid: Its owner; -1 for who makes it.
    :param gid: Its group; -1 for the maker's.
    """

    mode: int | None = None
    uid: int = -1
    gid: int = -1


def parse(mode: str | None, uid: int, gid: int, is_given: bool) -> Access:
    """Make it of what the user says.

    :param mode: An octal number; nothing for what the umask leaves.
    :param uid: The owner; -1 for who makes it.
    :param gid: The group; -1 for the maker's.
    :param is_given: Whether the group was asked for: then it may connect.
    :raises ValueError: If the mode is none, with what would be one.
    """
    if mode is None and is_given:
        mode = _GROUPS_MODE
    if mode is None:
        return Access(None, uid, gid)
    if not re.fullmatch("0?[0-7]{3}", mode):
        raise ValueError(
            f"The mode of a socket must be an octal number such as 660, not {mode!r}."
        )
    return Access(int(mode, 8), uid, gid)


def bind(sock: socket.socket, path: str, access: Access) -> None:
    """Bind a unix socket so that nobody it isn't for can ever connect.

    It has its mode from the beginning, and until it listens nobody connects.

    :param sock: Not listening yet.
    :raises OSError: It can't be, or can't be given away; then nothing is left of it.
    """
    if access.mode is None:
        sock.bind(path)
    else:
        mask = os.umask(0o777 & ~access.mode)
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
    if access[1:] == (-1, -1):
        return
    try:
        _give(path, access)
    except _Replaced as e:
        raise OSError(e.errno, f"it can't be given away: {e.strerror}") from None
    except OSError as e:
        os.unlink(path)
        owners = (("user", access.uid), ("group", access.gid))
        to = " and ".join(f"{kind} {number}" for kind, number in owners if number >= 0)
        text = f"it can't be given to {to}: {e.strerror}"
        if e.errno == errno.EPERM:
            text += "; " + (_USERS if access.uid >= 0 else _GROUPS)
        raise OSError(e.errno, text) from None


class _Replaced(OSError):
    """Who may write to the directory has put another file there."""


def _give(path: str, access: Access) -> None:
    """Give a socket to its owners, but nothing that was put in its place.

    Its directory may be a user's, who can rename any file in it. So it is looked at and
    given away, by one descriptor (``O_PATH`` in ``open(2)``, ``/proc/self/fd`` in
    ``proc(5)``).

    :raises _Replaced: It is not a socket that this process has just made.
    :raises OSError: This process may not.
    """
    if not hasattr(os, "O_PATH") or not os.path.isdir(_FILES):
        # A link would be somebody else's.
        os.chown(path, access.uid, access.gid, follow_symlinks=False)
        return
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise _Replaced(errno.EEXIST, "another file has taken its place")
        os.chown(f"{_FILES}/{fd}", access.uid, access.gid)
    finally:
        os.close(fd)
