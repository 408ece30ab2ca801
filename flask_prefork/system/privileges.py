"""``--user`` and ``--group``: zygote and workers don't stay root.

The dispatcher looks the names up, so that a wrong one ends the start, and each
zygote drops what root may do before it loads the app. The dispatcher keeps it:
it has to bind again, and to signal workers of any user.
"""

from __future__ import annotations

import codecs
import contextlib
import grp
import os
import pwd
import typing as t
from collections.abc import MutableMapping

from . import socket_access
from .socket_access import Access

#: ``linux/prctl.h``.
_PR_SET_DUMPABLE = 4
#: The highest id. The one above it, -1, means "leave as it is" to the system
#: calls (``setresuid(2)``).
_MAX_ID = 2**32 - 2
#: What the ``socket`` module and others look up when they need it first: host names
#: are encoded by ``idna``, which needs ``punycode``. Without these modules even
#: ``getfqdn("127.0.0.1")`` fails.
_CODECS = ("ascii", "idna", "latin-1", "punycode", "unicode_escape", "utf-8")


class Identity(t.NamedTuple):
    """Whom to become.

    :param uid: The user.
    :param gid: The group.
    :param groups: The supplementary groups.
    :param name: The user's name; ``None`` if the number has none.
    :param home: The user's home directory.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str | None
    home: str


def look_up(user: str | None, group: str | None) -> Identity | None:
    """Find a user and a group.

    :param user: A name or a number, the name first (as ``chown(1)``); nothing for
        the present one.
    :param group: Likewise; nothing for the user's own.
    :return: ``None`` if there is nothing to change.
    :raises ValueError: If there is no such user or group, or if we may not become
        it; with the reason.
    """
    if not user and not group:
        return None
    uid, entry = _find_user(user) if user else _present_user()
    if group:
        gid = _find_group(group)
    elif entry is not None:
        gid = entry.pw_gid
    else:
        raise ValueError(f"User {user} is not in the system's list: give a group too.")
    if os.geteuid() != 0:
        if (uid, gid) == (os.geteuid(), os.getegid()):
            return None
        option = "user" if uid != os.geteuid() else "group"
        raise ValueError(
            f"Only root can change the {option}; start the server as root."
        )
    if entry is None:
        # The root directory, as login(1) does for users without a home.
        return Identity(uid, gid, (gid,), None, "/")
    groups = os.getgrouplist(entry.pw_name, gid)[: os.sysconf("SC_NGROUPS_MAX")]
    return Identity(uid, gid, tuple(groups), entry.pw_name, entry.pw_dir)


def look_up_access(
    identity: Identity | None,
    mode: str | None,
    group: str | None,
    owner: str | None = None,
) -> Access:
    """Find whose unix sockets are to be, and who else may connect to them.

    :param identity: Who the app is served as, if not who we are: they are theirs.
    :param mode: Their permissions, an octal number; nothing for what the umask leaves.
    :param group: A name or a number, the name first; nothing for the user's own. With
        nothing else said, the group may connect.
    :param owner: Likewise; nothing for the user as whom the app is served.
    :raises ValueError: If there is no such user, group or mode, with the reason.
    """
    uid, gid = (identity.uid, identity.gid) if identity is not None else (-1, -1)
    if owner:
        uid, _ = _find_user(owner)
    if group:
        gid = _find_group(group)
    return socket_access.parse(mode, uid, gid, bool(group))


def _find_user(user: str) -> tuple[int, pwd.struct_passwd | None]:
    try:
        entry = pwd.getpwnam(user)
        return entry.pw_uid, entry
    except KeyError:
        uid = _number(user)
    if uid is None:
        raise ValueError(f"There is no user {user!r}.")
    return uid, _entry(uid)


def _present_user() -> tuple[int, pwd.struct_passwd | None]:
    return os.geteuid(), _entry(os.geteuid())


def _entry(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _find_group(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        gid = _number(group)
    if gid is None:
        raise ValueError(f"There is no group {group!r}.")
    return gid


def _number(text: str) -> int | None:
    """The id that the text is, if it is one."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_ID)):
        number = int(text)
        return number if number <= _MAX_ID else None
    return None


def drop(identity: Identity, environ: MutableMapping[str, str] = os.environ) -> None:
    """Become the user and the group, for good.

    ``HOME``, ``USER`` and ``LOGNAME`` become the user's, as under systemd's
    ``User=`` (``systemd.exec(5)``) and mod_wsgi. gunicorn and uWSGI leave them,
    and so have the libraries look for their files in ``/root``, where they may
    not look: since PostgreSQL 15, its client can't connect for that.

    :param identity: From :func:`look_up`.
    :param environ: The environment to change.
    :raises OSError: If the system refuses.
    :raises RuntimeError: If there would be a way back. Whatever is raised, the
        process must end: it may be half of both.
    """
    changes_user = identity.uid != os.geteuid()
    # The interpreter's files may be out of the user's reach.
    for codec in _CODECS:
        codecs.lookup(codec)
    _load_metadata()
    # The user last: without root's rights the groups can't be changed. As root
    # the calls set the saved and the real id too (setuid(2)).
    os.setgroups(identity.groups)
    os.setgid(identity.gid)
    os.setuid(identity.uid)
    _verify(identity)
    if changes_user:
        environ["HOME"] = identity.home
        for variable in ("USER", "LOGNAME"):
            if identity.name is None:
                environ.pop(variable, None)
            else:
                environ[variable] = identity.name


def _load_metadata() -> None:
    """Load what tells werkzeug its own version when a server is made."""
    # Processes that are nobody else's do without.
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        # Python 3.13 imports a part of it only now.
        metadata.version("werkzeug")


@contextlib.contextmanager
def acting_as(identity: Identity) -> t.Iterator[None]:
    """Have the rights of a user, and take root's back afterwards.

    All threads have them meanwhile.

    :param identity: From :func:`look_up`; the process must act as root.
    :raises OSError: If the system refuses.
    """
    group, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups(identity.groups)
        os.setegid(identity.gid)
        os.seteuid(identity.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def hide_memory() -> bool:
    """Keep other processes of this user from reading this one's memory, and the kernel
    from writing it to a core file (``PR_SET_DUMPABLE(2const)``).

    :return: Whether the system does so: only Linux does.
    """
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return False
    # Variadic in C: the kernel reads all five as long.
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    return bool(prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def _verify(identity: Identity) -> None:
    """See that root is gone, and that it can't come back."""
    users = {os.getuid(), os.geteuid()}
    groups = {os.getgid(), os.getegid()}
    # macOS doesn't tell the saved ids; the attempt below shows them.
    if hasattr(os, "getresuid"):
        users |= set(os.getresuid())
    if hasattr(os, "getresgid"):
        groups |= set(os.getresgid())
    if (
        users != {identity.uid}
        or groups != {identity.gid}
        or not set(os.getgroups()) <= {*identity.groups, identity.gid}
    ):
        raise RuntimeError("The user or the group was not changed in full.")
    if identity.uid == 0:
        return
    try:
        # A capability that was kept (capabilities(7), SECBIT_NO_SETUID_FIXUP)
        # shows in nothing but this.
        os.setuid(0)
    except OSError:
        return
    raise RuntimeError("The process can become root again.")


def may_signal(pid: int, pidfd: int = -1) -> bool:
    """Whether the user as whom we act could signal a process.

    The kernel asks for the real id too (``kill(2)``), and with ``--user`` the
    dispatcher's is root's: it must not be talked into ending a process of somebody
    else's. One that is gone can't be signalled, by anybody.

    :param pid: The process.
    :param pidfd: Its pidfd, which counts if there is one: it is what is signalled.
    """
    user = os.geteuid()
    if os.getuid() == user:
        return True
    try:
        if pidfd >= 0:
            pid = int(_fields(f"/proc/self/fdinfo/{pidfd}")["Pid"][0])
        owners = _fields(f"/proc/{pid}/status")["Uid"] if pid > 0 else []
    except (OSError, LookupError):
        return True  # it ended while we looked
    return set(map(int, owners)) <= {user}


def _fields(path: str) -> dict[str, list[str]]:
    """A file of ``proc(5)`` with a name and values in each line."""
    with open(path) as file:
        lines = (line.partition(":") for line in file)
        return {name: values.split() for name, _, values in lines}
