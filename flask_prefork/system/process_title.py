"""What ``ps`` and ``top`` show of a process: who it is among those of the server.

By setproctitle where that is installed: the whole title, in place of the command line.
Without it the name of the command is set, which has 15 bytes (``comm`` in
``proc_pid_comm(5)``), and the command line stays. Elsewhere than on Linux there is no
such name.

A title costs a system call, so nothing of a request is in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import typing as t

#: What all titles begin with.
PREFIX = "flask_prefork: "
#: Bytes of a command's name (``TASK_COMM_LEN`` without the NUL).
_NAME = 15
#: Characters of the app's name.
_APP = 32
#: Lets setproctitle keep the memory of the environment: ``/proc/PID/environ``.
_KEEPS_ENVIRONMENT = "SPT_NOENV"
#: The title may grow so far later: by the numbers in it.
_GROWTH = 8

#: The names of commands. What looks for ``flask`` still finds them.
_NAMES = {
    "dispatcher": "flask-dispatch",
    "zygote": "flask-zygote",
    "worker": "flask-w",
    "reloader": "flask-reloader",
    "observer": "flask-observer",
    "sender": "flask-sender",
    "TLS proxy": "flask-tlsproxy",
}

_app: str | None = None
_set_title: t.Callable[[str], None] | None = None


def set_app(import_path: str) -> None:
    """Note which app is served. Before that, :func:`show` does nothing.

    :param import_path: As it was given to ``--app``. Directories, the ending of a file
        and arguments of a factory aren't shown.
    """
    global _app
    name = os.path.basename(import_path.partition("(")[0])
    name = re.sub(r"\.py(?=:|$)", "", name)
    _app = re.sub(r"[^!-~]", "?", name)[:_APP]


def app() -> str:
    """What :func:`set_app` has made of it."""
    return _app or ""


def make(role: str, number: int | None = None, generation: int | None = None) -> str:
    """The title of a process.

    :param role: What it is: ``dispatcher``, ``zygote``, ``worker``, ``reloader``,
        ``observer``, ``sender`` or ``TLS proxy``.
    :param number: Which one of several.
    :param generation: Of which generation; the dispatcher has the one that serves.
    """
    which = f" {number}" if number is not None else ""
    of = f" generation {generation}" if generation is not None else ""
    return f"{PREFIX}{role}{which} [{app()}]{of}"


def make_name(
    role: str, number: int | None = None, generation: int | None = None
) -> str:
    """The name of the command, see :func:`make` for the parameters.

    Letters are cut rather than numbers.
    """
    which = f"{number}" if number is not None else ""
    of = f".g{generation}" if generation is not None and role != "dispatcher" else ""
    numbers = f"{which}{of}"
    return _NAMES[role][: max(_NAME - len(numbers), 0)] + numbers


def show(role: str, number: int | None = None, generation: int | None = None) -> None:
    """Show what this process is, see :func:`make` for the parameters.

    To be called when :func:`.origin.note` was, for the command line is gone then.
    """
    if _app is None:
        return
    _write_title(make(role, number, generation))
    # After the title, for setproctitle sets the name to its beginning.
    name = make_name(role, number, generation)
    with contextlib.suppress(OSError):
        # Not /proc/self/comm, which isn't ours to write when we were another user.
        path = f"/proc/self/task/{os.getpid()}/comm"
        with open(path, "wb") as file:
            file.write(name.encode())


def is_one(command: bytes) -> bool:
    """Whether a command line is a title of a process of a server."""
    return command.startswith(PREFIX.encode())


def _write_title(title: str) -> None:
    global _set_title
    if _set_title is not None:
        _set_title(title)
        return
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    _set_title = setproctitle
    if _KEEPS_ENVIRONMENT in os.environ or not _has_room(title):
        setproctitle(title)
        return
    # It looks at that once, when it is called for the first time.
    os.environ[_KEEPS_ENVIRONMENT] = "1"
    try:
        setproctitle(title)
    finally:
        del os.environ[_KEEPS_ENVIRONMENT]


def _has_room(title: str) -> bool:
    """Whether titles fit in the memory of the command line.

    If not, setproctitle takes the memory of the environment as well.
    """
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return len(file.read()) > len(title) + _GROWTH
    except OSError:
        return True
