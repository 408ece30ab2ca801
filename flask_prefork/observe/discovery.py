"""Finding a server by its admin address or its pid file, for ``prefork-status``.

A server that has both writes the address to a file beside the pid file. A killed
server leaves both files, so what they say holds only if the server says the same.
"""

from __future__ import annotations

import os
import typing as t
from urllib.parse import urlsplit

from ..settings.addresses import Address
from ..settings.addresses import parse
from .client import ask
from .client import AskError
from .client import NobodyThere
from .client import Reply

#: What the file beside the pid file is called (``dispatcher/service.py`` writes it).
SUFFIX = ".admin"
#: What is longer is neither a number nor an address.
_MAX_SIZE = 4096


class RunningServer(t.NamedTuple):
    """A server that may run.

    :param address: Its admin address.
    :param pid_file: The pid file that it was found by, if any.
    :param pid: The pid in it.
    """

    address: Address
    pid_file: str = ""
    pid: int = 0

    def ask(self, token: str | None = None) -> Reply:
        """Ask the server for its status.

        :raises AskError: If there is no status, or another server's.
        """
        try:
            answer = ask(self.address, token)
        except NobodyThere:
            if self.pid and not _is_running(self.pid):
                raise NobodyThere(_stale_message(self.pid_file, self.pid)) from None
            raise
        if self.pid and answer.snapshot.pid != self.pid:
            raise AskError(
                f"The pid file {self.pid_file} is stale: it has {self.pid}, but the pid"
                f" of the server at {self.address} is {answer.snapshot.pid}."
            )
        return answer


def by_address(text: str) -> RunningServer:
    """Find the server that has an admin address.

    :param text: As ``--admin`` has it, or as an ``http`` URL.
    :raises ValueError: If it is no address.
    """
    if "://" in text and not text.startswith("unix:"):
        text = _host_and_port(text)
    address = parse(text)
    if not (address.path or address.port):
        raise ValueError("0 stands for any free port; use the one that the log shows")
    return RunningServer(address)


def _host_and_port(url: str) -> str:
    """The host and the port of a URL."""
    scheme, host, path, query, fragment = urlsplit(url)
    if scheme != "http" or not host:
        raise ValueError(f"{url!r} is not an http:// or unix: URL")
    if path.strip("/") or query or fragment:
        raise ValueError(f"{url!r} has more than a host and a port")
    return host if urlsplit(url).port is not None else f"{host.rstrip(':')}:80"


def by_pid_file(path: str) -> RunningServer:
    """Find the server that has written a pid file.

    :raises AskError: If it can't be found that way.
    """
    try:
        text = _read(path).strip()
    except FileNotFoundError:
        raise AskError(
            f"There is no pid file {path}: the server isn't running, or writes"
            " another one."
        ) from None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise AskError(f"{path} is not a pid file: it has no number in it.")
    pid = int(text)
    try:
        return RunningServer(parse(_read(path + SUFFIX).strip()), path, pid)
    except FileNotFoundError:
        raise AskError(
            f"The server {pid} was started without --admin, so it serves no status."
            if _is_running(pid)
            else _stale_message(path, pid)
        ) from None
    except ValueError as e:
        raise AskError(f"{path}{SUFFIX} is invalid: {e}.") from None


def _read(path: str) -> str:
    """Read a short file.

    :raises FileNotFoundError: If it isn't there.
    :raises AskError: If it can't be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_SIZE).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise
    except OSError as e:
        raise AskError(f"Can't read {path}: {e.strerror}.") from None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        # It is somebody else's.
        pass
    return True


def _stale_message(path: str, pid: int) -> str:
    return f"The pid file {path} is stale: there is no process {pid}."
