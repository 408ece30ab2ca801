"""How the command was started, to start zygotes in the same way later.

A reload is to be what a second start would be. So a zygote that is started by exec, and
the observer, have the limits of the command and not the dispatcher's, and the zygote is
started where the command was: by the directory's name, which may mean another one
since, as when ``current`` is a link to the last release.

:func:`note` is called first, once, by the process that becomes the dispatcher.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import typing as t
from collections.abc import Iterable
from collections.abc import Mapping


class Origin(t.NamedTuple):
    """How the command was started.

    :param directory: Where; ``None`` if that has no name.
    :param program: What to execute for the same command again.
    :param arguments: All of its arguments.
    :param descriptors: Its limit of descriptors (RLIMIT_NOFILE), the soft one.
    :param environment: The environment that it was started with.
    """

    directory: str | None
    program: str
    arguments: list[str]
    descriptors: int
    environment: dict[str, str]


class DirectoryError(OSError):
    """The directory that the command was started in can't be entered any more."""

    def __str__(self) -> str:
        return f"can't go to {self.filename}, where it was started: {self.strerror}"


_origin: Origin | None = None


def note() -> None:
    """Keep in mind how this process was started, before it changes anything."""
    global _origin
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    _origin = Origin(_directory(), *_command(), soft, _read_environment())


def environment() -> dict[str, str]:
    """The environment that the command was started with.

    What it has taken from ``.flaskenv`` since then must not hide what is in that file
    now.
    """
    return dict(_origin.environment) if _origin is not None else _read_environment()


def _read_environment() -> dict[str, str]:
    """The present process's first environment; a title may be written over it later
    (:mod:`.process_title`)."""
    try:
        with open("/proc/self/environ", "rb") as file:
            pairs = [pair.partition(b"=") for pair in file.read().split(b"\0")]
    except OSError:
        return dict(os.environ)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs if name}


def _directory() -> str | None:
    """The present directory, as whoever started us calls it.

    ``PWD`` is that if it is no other's (POSIX, 2.5.3): getcwd(3) has no links in it.
    """
    try:
        directory = os.getcwd()
    except OSError:
        return None
    name = os.environ.get("PWD", "")
    if os.path.isabs(name) and _is_same(name, directory):
        return name
    return directory


def _command() -> tuple[str, list[str]]:
    """The program and its arguments.

    A script is what was executed, if it names the interpreter that we are: another
    release's may name another one.
    """
    arguments = sys.orig_argv
    if arguments[1:2] and _interpreter(arguments[1]) == arguments[0]:
        return arguments[1], arguments[1:]
    # A relative name is made absolute by the interpreter, without links.
    relative = os.path.dirname(arguments[0]) and not os.path.isabs(arguments[0])
    if relative and _is_same(arguments[0], sys.executable):
        return arguments[0], arguments
    return sys.executable, arguments


def _interpreter(script: str) -> str | None:
    """The interpreter that an executable script names in its first line."""
    if "/" not in script or not os.access(script, os.X_OK):
        return None
    try:
        with open(script, "rb") as file:
            line = file.readline(4096)
    except OSError:
        return None
    return os.fsdecode(line[2:].strip()) if line.startswith(b"#!") else None


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def again(environment: Mapping[str, str], mask: Iterable[int]) -> int:
    """Run the command again, where it was started.

    This process goes to that directory, too.

    :param environment: Its variables.
    :param mask: Signals that it begins with blocked.
    :return: Its pid.
    :raises DirectoryError: If the directory is gone, or may not be entered.
    :raises OSError: If the process can't be started.
    """
    origin = _origin
    if origin is None:
        return spawn(sys.executable, sys.orig_argv, environment, mask)
    if origin.directory is not None:
        try:
            os.chdir(origin.directory)
        except OSError as e:
            raise DirectoryError(e.errno, e.strerror, origin.directory) from None
    return spawn(origin.program, origin.arguments, environment, mask)


def spawn(
    program: str,
    arguments: list[str],
    environment: Mapping[str, str],
    mask: Iterable[int],
) -> int:
    """Run a program with the limits that the command was started with.

    :param program: Its path.
    :param arguments: Its arguments, from its name on.
    :param environment: Its variables.
    :param mask: Signals that it begins with blocked.
    :return: Its pid.
    :raises OSError: If the process can't be started.
    """
    with _first_limit():
        return os.posix_spawn(program, arguments, environment, setsigmask=mask)


@contextlib.contextmanager
def _first_limit() -> t.Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _origin is None or _origin.descriptors == soft:
        yield
        return
    # What is open above it stays open (getrlimit(2)). No other thread runs here but the
    # one of the log, which needs a descriptor only for a file that was moved away.
    resource.setrlimit(resource.RLIMIT_NOFILE, (_origin.descriptors, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
