"""What another process reports of itself is checked before it is used.

Zygotes and workers run the app, which may write anything to any descriptor. Whatever
comes over a back channel costs at most the process that sent it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import socket
import stat
import typing as t

from ..ipc.exits import UNKNOWN_STATUS
from ..ipc.frames import Deliver
from ..settings.combinations import check_addresses
from ..settings.limits import from_document
from ..settings.limits import MAX_LIMITS
from ..settings.table import option_name
from ..settings.table import ROWS
from ..settings.table import Settings
from ..system import privileges
from ..system import socket_modes
from ..system.parked_state import MAX_WAKES
from ..system.parked_state import Parked
from ..system.parked_state import Wait

#: Plain numbers: an enumeration's look themselves up each time.
_SOL_SOCKET, _SO_TYPE = int(socket.SOL_SOCKET), int(socket.SO_TYPE)
_STREAM = int(socket.SOCK_STREAM)
_AF_UNIX, _AF_INET = int(socket.AF_UNIX), int(socket.AF_INET)
_AF_INET6 = int(socket.AF_INET6)
#: The longest document that a zygote sends, in bytes: its settings.
_LONGEST = 1 << 20
#: The longest file, in bytes (``lseek(2)``).
_LONGEST_FILE = 2**63 - 1
#: No setting lets a connection wait for longer than a day, in seconds.
LONGEST_WAIT = 2 * 86400.0
#: No exit status and no signal's number is above this.
_MOST = 255


def settings(fd: int) -> Settings:
    """Read the settings that a zygote sends.

    :param fd: The document's descriptor, which is left open.
    :raises ValueError: They can't be such.
    """
    found = _document(fd)
    limits = from_document(found.pop("limits", [])) if isinstance(found, dict) else ()
    if not isinstance(found, dict) or found.keys() != ROWS.keys():
        raise ValueError("a document doesn't hold the settings")
    sources = {name: option_name(name) for name in ROWS}
    values = {name: row.convert(found[name], name) for name, row in ROWS.items()}
    check_addresses(values, sources)
    for field in dataclasses.fields(Settings):
        if values.get(field.name, limits) is None and "None" not in str(field.type):
            raise ValueError(f"the setting {field.name} is missing")
    return Settings(**values, limits=limits)  # type: ignore[arg-type]


def _document(fd: int) -> t.Any:
    """Read a document that rode along, without ever waiting for it.

    :raises ValueError: It is no file, or it holds no JSON.
    """
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_size > _LONGEST:
        raise ValueError("a document is no file, or is too long")
    try:
        return json.loads(os.pread(fd, about.st_size, 0))
    except (OSError, RecursionError) as e:
        raise ValueError(f"a document can't be read: {e}") from None


def parked(state: Parked, latest: float) -> None:
    """See that a connection can wait as a worker says.

    :param latest: No deadline is later than this, in seconds.
    :raises ValueError: It can't.
    """
    if state.wakes > MAX_WAKES:
        raise ValueError(f"no connection was woken {state.wakes} times for nothing")
    if not 0 <= state.deadline < latest:
        raise ValueError(f"a connection can't wait until {state.deadline}")
    if not 0 <= state.rate < math.inf:
        raise ValueError(f"no client can be asked for {state.rate} bytes per second")
    if state.spooled and state.wait not in (Wait.BODY, Wait.PERMIT):
        raise ValueError("only a body can be in a spool")
    if not 0 <= state.arrived < latest:
        raise ValueError(f"no request can have arrived at {state.arrived}")
    if state.limit > MAX_LIMITS or (state.wait is Wait.PERMIT) != bool(state.limit):
        raise ValueError("a connection waits for a permit of no limit")


def file_size(fd: int) -> int:
    """The bytes of a file that a worker hands over.

    :raises ValueError: It is no regular file.
    """
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("what came with a connection is no file")
    return about.st_size


def connection(fd: int, families: t.Container[int]) -> bool:
    """Whether a descriptor is a connection that may be waited for.

    :param families: Those of the sockets that connections are accepted from.
    :return: ``False`` if its client has gone.
    :raises ValueError: It is something else.
    """
    try:
        sock = socket_modes.look_into(fd)
    except OSError as e:
        raise ValueError(f"what is to be parked is no socket: {e.strerror}") from None
    try:
        if sock.getsockopt(_SOL_SOCKET, _SO_TYPE) != _STREAM:
            raise ValueError("what is to be parked is no connection of ours")
        try:
            address = sock.getpeername()
        except OSError:
            if sock.getsockopt(_SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ValueError("what is to be parked is a listening socket") from None
            return False
        if _family(address) not in families:
            raise ValueError("what is to be parked is no connection of ours")
    finally:
        # It is the caller's. No other is opened: there may be none left.
        sock.detach()
    return True


def _family(address: t.Any) -> int:
    """The family of an address, by its shape: one question less to the kernel."""
    if not isinstance(address, tuple):
        return _AF_UNIX
    return {2: _AF_INET, 4: _AF_INET6}.get(len(address), -1)


def delivery(frame: Deliver, fds: t.Sequence[int]) -> int:
    """See that what goes with a response can be sent, and waited for afterwards.

    :param fds: The connection, which is not looked at, and the files.
    :return: The bytes of the spool.
    :raises ValueError: It can't be.
    """
    if len(fds) != frame.descriptors:
        raise ValueError("what is to be sent is not there")
    sizes = [file_size(fd) for fd in fds[1:]]
    size = sizes[0] if frame.spooled else 0
    if frame.spooled > size:
        raise ValueError("a spool is shorter than it should be")
    if frame.sent > frame.spooled or (frame.sent == frame.spooled and not frame.length):
        raise ValueError("nothing is left to be sent")
    if frame.offset + frame.length > _LONGEST_FILE:
        raise ValueError("no file is so long")
    if not (0 <= frame.rate < math.inf and 0 <= frame.seconds < LONGEST_WAIT):
        raise ValueError("a response can't be sent so slowly, or waited for so long")
    if frame.parked.wait not in (Wait.KEEP_ALIVE, Wait.LINGER):
        raise ValueError("after a response, nothing else is waited for")
    return size


def _see_pidfd(fd: int, pid: int) -> None:
    """See that a descriptor is a process's pidfd (``pidfd_open(2)``).

    :raises ValueError: It isn't.
    """
    # A directory of /proc can be signalled too, but not polled.
    if _signals_nobody(fd):
        return  # it was one's that has ended
    try:
        whose = fields(f"/proc/self/fdinfo/{fd}").get("Pid")
    except OSError:
        return  # no /proc is mounted
    # -1, or nothing, if it has ended meanwhile.
    if whose is None and not _signals_nobody(fd):
        raise ValueError("what came with a process is no pidfd")
    if whose is not None and whose[0] not in (str(pid), "-1"):
        raise ValueError(f"a pidfd is process {whose[0]}'s, not {pid}'s")


def _signals_nobody(fd: int) -> bool:
    try:
        signal.pidfd_send_signal(fd, 0)
    except ProcessLookupError:
        return True
    except OSError as e:
        raise ValueError(f"what came with a process is no pidfd: {e}") from None
    return False


def worker(pid: int, pidfd: int, zygote: int) -> None:
    """See that a process is a zygote's worker, and that we may signal it.

    :param pid: What the zygote reports.
    :param pidfd: Its pidfd, or -1.
    :param zygote: The zygote's process.
    :raises ValueError: It isn't.
    """
    if pidfd >= 0:
        _see_pidfd(pidfd, pid)
    if pid <= 1 or pid == os.getpid() or not privileges.may_signal(pid, pidfd):
        raise ValueError(f"process {pid} is no worker of its own")
    try:
        parent = int(fields(f"/proc/{pid}/status")["PPid"][0])
    except (OSError, LookupError):
        return  # it has ended, or there is no /proc
    # Of a zygote that has ended, the children are somebody else's.
    if parent != zygote and not has_ended(zygote):
        raise ValueError(f"process {pid} is no child of its zygote")


def status(value: int) -> int | None:
    """The exit status, or the signal's number below 0, that a zygote reports.

    :return: ``None`` if the zygote doesn't know it.
    :raises ValueError: It can't be one.
    """
    if value == UNKNOWN_STATUS:
        return None
    if not -_MOST <= value <= _MOST:
        raise ValueError(f"there is no exit status {value}")
    return value


def has_ended(pid: int) -> bool:
    """Whether a child of ours has ended, without reaping it."""
    if not hasattr(os, "waitid"):
        return True
    try:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, pid, options) is not None
    except ChildProcessError:
        return True


def fields(path: str) -> dict[str, list[str]]:
    """A file of ``proc(5)`` with a name and values in each line.

    :raises OSError: If there is none.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = (line.partition(":") for line in file)
        return {name: values.split() for name, _, values in lines}
