"""The admin address: ``--admin`` parsed, and written as text. Pure.

``table.py`` checks it, ``dispatcher/service.py`` binds it, and ``prefork-status`` reads
it from the file beside the pid file.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
import typing as t

_UNIX = "unix:"
_FORMS = "give PORT, HOST:PORT or unix:PATH, such as 9000, 0.0.0.0:9000 or [::1]:9000"
#: A port, or a host in brackets or without colons, and a port.
_TCP = re.compile(r"(?:(?:\[([^][]+)\]|([^][:/\s]*)):)?([0-9]{1,5})", re.ASCII)
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", re.ASCII)
#: Without a host, only this machine is served.
_LOOPBACK = "127.0.0.1"


class Address(t.NamedTuple):
    """Where the status is served.

    :param host: An IP address or a name; empty for a unix socket.
    :param port: The TCP port.
    :param path: The unix socket's.
    """

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{_UNIX}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """For a browser; of a unix socket there is none, so it stays as it is."""
        return str(self) if self.path else f"http://{self}"

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine's users can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def reached(self) -> Address:
        """Where this machine's users reach it, if that is all of its addresses."""
        return self._replace(
            host={"0.0.0.0": _LOOPBACK, "::": "::1"}.get(self.host, self.host)
        )

    def clashes(self, host: str, port: int) -> bool:
        """Whether the app is to be served there too.

        :param host: As ``--host`` has it.
        :param port: Its TCP port.
        """
        if self.path:
            return host.startswith("unix://") and posixpath.normpath(
                host.removeprefix("unix://")
            ) == posixpath.normpath(self.path)
        if "://" in host or not port or port != self.port:
            return False
        ours, theirs = (_same_name(name) for name in (self.host, host))
        return ours == theirs or "" in (ours, theirs)


def _same_name(host: str) -> str:
    """One name for all that is the same; none for what is all of them."""
    if host in ("0.0.0.0", "::"):
        return ""
    return _LOOPBACK if host == "localhost" else host


def parse(text: str) -> Address:
    """Take an address apart.

    :param text: ``PORT``, ``HOST:PORT`` or ``unix:PATH``.
    :raises ValueError: If it is invalid; the message has the valid forms.
    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        path = path.removeprefix("//")
        if not path or "\0" in path:
            raise ValueError(f"{text!r} has no path; give one as unix:/run/shop.sock")
        return Address("", 0, path)
    found = _TCP.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not an address; {_FORMS}")
    inside, outside, port = found.groups()
    host = inside or outside or _LOOPBACK
    if not (_is_ipv6(host) if inside else _NAME.fullmatch(host)):
        raise ValueError(f"{host!r} is not a host; {_FORMS}")
    if int(port) > 65535:
        raise ValueError(f"{port} is not a port; give one from 0 to 65535")
    return Address(host, int(port))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
