"""Processes that the app talks to by pipes, which a fork would share.

Called by :func:`.fork_checks.check` in the zygote. A pipe, a pair of sockets or a
pseudo terminal matters if its other end is held by a process that the app has started:
its answers go to whoever reads first. One with both ends here, or one that was
inherited from who started the server, has nobody to answer. Only Linux shows all that.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import sys
import typing as t

from ..system import process_title
from ..system import socket_modes
from ..system import unix_peer
from .fork_holders import Holder
from .fork_libraries import HOOK

#: So much of a command line is reported.
_MOST = 80
#: Asks a pseudo terminal for the number of its other side (``ioctl_tty(2)``).
_TIOCGPTN = 0x80045430
#: Processes of the standard library's, and where it keeps the pipe to them. They take
#: whole messages from everybody, or none at all.
_MEANT = (
    ("resource_tracker", "_resource_tracker", "_fd"),
    ("forkserver", "_forkserver", "_forkserver_alive_fd"),
)
#: What is made to be used by several processes, or reported by :mod:`.fork_libraries`.
_QUEUES = (
    "multiprocessing.queues.Queue",
    "multiprocessing.queues.SimpleQueue",
    "concurrent.futures.process._ThreadWakeup",
)
_OBSERVER = b"flask_prefork.observe"
_PROCESS = "multiprocessing.popen_fork.Popen"


class End(t.NamedTuple):
    """Our end of something.

    :param fd: Its descriptor.
    :param what: What it is, for the log.
    :param other: How ``/proc/PID/fd`` shows the other end.
    :param reads: Whether we read from it.
    :param writes: Whether we write to it.
    """

    fd: int
    what: str
    other: str
    reads: bool = True
    writes: bool = True


class Helper(t.NamedTuple):
    """A process at the other end.

    :param pid: Its number.
    :param command: Its command line, cut.
    :param ends: Our ends.
    """

    pid: int
    command: str
    ends: tuple[End, ...]


class Own(t.NamedTuple):
    """What is the server's.

    :param fds: Descriptors.
    :param pids: Processes that this one has started.
    :param dispatcher: The dispatcher; 0 is none. It adopts orphans: a process that was
        started in a worker which is the zygote now. Its other children run its command.
    """

    fds: t.Collection[int] = ()
    pids: t.Collection[int] = ()
    dispatcher: int = 0


def find(own: Own, objects: list[t.Any]) -> list[Helper]:
    """Look for processes that all workers would talk to at once.

    :param objects: All that the garbage collector knows.
    """
    ends = {end.fd: end for end in _ends() if end.fd not in own.fds}
    for fd in _meant(objects) if ends else ():
        ends.pop(fd, None)
    helpers = []
    for pid in _started(own) if ends else ():
        held = _held(pid)
        found = tuple(end for end in ends.values() if _is_other(end, held))
        if found:
            helpers.append(Helper(pid, _show(_command(pid)), found))
            for end in found:
                del ends[end.fd]
    return helpers


def describe(helper: Helper, holder: Holder) -> str:
    """What is reported of one, and what to do."""
    whats = [end.what for end in helper.ends]
    what = "pipes" if whats.count("a pipe") == len(whats) > 1 else whats[0]
    reads = any(end.reads for end in helper.ends)
    writes = any(end.writes for end in helper.ends)
    if reads and writes:
        harm = "all workers would write to it, and read each other's answers"
    elif reads:
        harm = "each worker would read a part of what it writes"
    else:
        harm = "what several workers write to it would mix"
    return (
        f"{what} to the process {helper.pid} ({helper.command}){holder.shown}"
        f" {'are' if what == 'pipes' else 'is'} open; {harm}. Start it {HOOK}, or when"
        " it is first used."
    )


# Our ends


def _ends() -> t.Iterator[End]:
    try:
        fds = sorted(map(int, os.listdir("/proc/self/fd")))
    except OSError:
        return
    # Copies of these, as a terminal's, are no more shared than they are.
    standard = {os.fstat(fd).st_ino for fd in fds if fd <= 2}
    for fd in fds:
        try:
            if os.fstat(fd).st_ino in standard:
                continue
            end = _end(fd)
        except OSError:
            continue  # the listing's own descriptor
        if end is not None:
            yield end


def _end(fd: int) -> End | None:
    status = os.fstat(fd)
    if stat.S_ISFIFO(status.st_mode):
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        reads, writes = mode != os.O_WRONLY, mode != os.O_RDONLY
        return End(fd, "a pipe", os.readlink(f"/proc/self/fd/{fd}"), reads, writes)
    if stat.S_ISSOCK(status.st_mode):
        with socket_modes.look_at(os.dup(fd)) as sock:
            is_named = sock.family != socket.AF_UNIX or sock.getsockname()
            if is_named or sock.getpeername():
                return None
        other = unix_peer.peer(status.st_ino)
        return End(fd, "a socket pair", f"socket:[{other}]")
    if stat.S_ISCHR(status.st_mode) and os.readlink(f"/proc/self/fd/{fd}").endswith(
        "/ptmx"
    ):
        (number,) = struct.unpack("I", fcntl.ioctl(fd, _TIOCGPTN, bytes(4)))
        return End(fd, "a pseudo terminal", f"/dev/pts/{number}")
    return None


def _meant(objects: list[t.Any]) -> t.Iterator[int]:
    """Descriptors that are meant to be shared, or that nobody reads and writes."""
    for module in list(sys.modules):
        for name, variable, attribute in _MEANT:
            if module.rpartition(".")[2] == name:
                process = getattr(sys.modules[module], variable, None)
                fd = getattr(process, attribute, None)
                if isinstance(fd, int):
                    yield fd
    kinds = {kind: name for kind in set(map(type, objects)) if (name := _kind(kind))}
    for one in objects:
        if type(one) not in kinds:
            continue
        if kinds[type(one)] == _PROCESS:
            # A pipe each way, by which parent and child see that the other has ended.
            args = getattr(getattr(one, "finalizer", None), "_args", ())
            yield from (fd for fd in args if isinstance(fd, int))
        else:
            for end in ("_reader", "_writer"):
                yield _fileno(getattr(one, end, None))


def _kind(kind: type) -> str:
    for base in kind.__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        if name == _PROCESS or name in _QUEUES:
            return name
    return ""


def _fileno(file: t.Any) -> int:
    try:
        return int(file.fileno())
    except (AttributeError, OSError, ValueError):
        return -1  # none, or closed


# Processes


def _started(own: Own) -> list[int]:
    """Processes that the app has started, and what these have started."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            # The command's name is in brackets, and may have some itself.
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if len(fields) > 1 and fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(name))
    to_do = list(children.get(os.getpid(), ()))
    # Without a title, a zygote that was forked has the dispatcher's command.
    ours = {_command(os.getpid()), _command(own.dispatcher)}
    for pid in children.get(own.dispatcher, ()) if own.dispatcher else ():
        command = _command(pid)
        is_own = command in ours or process_title.is_one(command)
        if not is_own and _OBSERVER not in command:
            to_do.append(pid)
    found: list[int] = []
    while to_do:
        pid = to_do.pop(0)
        if pid not in own.pids:
            found.append(pid)
            to_do += children.get(pid, ())
    return found


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""  # it has ended


def _command(pid: int) -> bytes:
    return _read(f"/proc/{pid}/cmdline").rstrip(b"\0")


def _show(command: bytes) -> str:
    words = os.fsdecode(command).replace("\0", " ")
    shown = words.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= _MOST else f"{shown[:_MOST]}..."


def _held(pid: int) -> set[tuple[str, bool, bool]]:
    """What a process has open: its name, and whether it can be read and written."""
    held = set()
    folder = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(folder):
            mode = os.lstat(f"{folder}/{name}").st_mode
            link = os.readlink(f"{folder}/{name}")
            held.add((link, bool(mode & stat.S_IRUSR), bool(mode & stat.S_IWUSR)))
    except OSError:
        pass  # it has ended, or isn't ours to look at
    return held


def _is_other(end: End, held: set[tuple[str, bool, bool]]) -> bool:
    """Whether a process has the other end of it."""
    return any(
        name == end.other and ((end.writes and reads) or (end.reads and writes))
        for name, reads, writes in held
    )
