"""Addresses: ``--host`` and ``--admin`` parsed, and written as text. Pure.

``cli.py`` checks those of the app and ``table.py`` the admin address.
``dispatcher/service.py`` binds all of them. ``prefork-status`` reads the admin address
from the file beside the pid file.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
import typing as t
from collections.abc import Sequence

_UNIX = "unix:"
_INHERITED = "fd://"
_FORMS = "give PORT, HOST:PORT or unix:PATH, such as 9000, 0.0.0.0:9000 or [::1]:9000"
#: A port, or a host in brackets or without colons, and a port.
_TCP = re.compile(r"(?:(?:\[([^][]+)\]|([^][:/\s]*)):)?([0-9]{1,5})", re.ASCII)
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", re.ASCII)
#: What the name service may know: its names needn't be ASCII.
_WIDE_NAME = re.compile(r"(?!-)[\w.-]+")
_SEPARATORS = re.compile(r"[\s,]+")
#: A host that isn't IPv6, and a port; the host in brackets, and a port.
_HOST_AND_PORT = re.compile(r"([^:]*):([^:]*)")
_IN_BRACKETS = re.compile(r"\[([^][]*)\](?::(.*))?", re.DOTALL)
_HOST_FORMS = "give HOST, HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N"
_ALL = "give 0.0.0.0 for all IPv4 addresses of this machine, or [::] for all"
#: Without a host, only this machine is served.
_LOOPBACK = "127.0.0.1"
_MAX_PORT = 65535
#: The highest descriptor that there could be: they are a C ``int``.
_MAX_DESCRIPTOR = 2**31 - 1


class Address(t.NamedTuple):
    """Where the app or the status is served.

    :param host: An IP address or a name; empty for what is not TCP.
    :param port: The TCP port.
    :param path: The unix socket's.
    :param fd: An inherited socket's descriptor; -1 for none.
    :param name: The name for which ``host`` was found, if it was one.
    """

    host: str
    port: int
    path: str = ""
    fd: int = -1
    name: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{_UNIX}{self.path}"
        if self.fd >= 0:
            return f"{_INHERITED}{self.fd}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """For messages: by the name that the user gave, and what was found for it."""
        return f"{self.name}:{self.port} ({self.host})" if self.name else str(self)

    @property
    def target(self) -> str:
        """What :func:`.listener.bind` takes as the host."""
        return self.host or str(self)

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

    def clashes(self, other: Address) -> bool:
        """Whether a connection to one may be meant for the other: both can't be bound.

        :param other: Another address of the server.
        """
        if self.path or other.path:
            return _same_path(self.path, other.path)
        if self.fd >= 0 or other.fd >= 0 or not self.port or self.port != other.port:
            return False
        ours, theirs = _canonical(self.host), _canonical(other.host)
        return ours == theirs or _IS_ALL & {ours, theirs} != set()

    def is_ipv6_only(self, others: t.Iterable[Address]) -> bool:
        """Whether its socket must leave IPv4 to others: they are given beside it.

        Unasked, a socket of ``::`` takes IPv4 too (``IPV6_V6ONLY`` in ``ipv6(7)``).
        """
        return _canonical(self.host) == "::" and any(
            other.host and ":" not in other.host and other.port == self.port
            for other in others
        )


#: Hosts that are all addresses of this machine, of IPv4 or of all.
_IS_ALL = {"0.0.0.0", "::"}


def _same_path(path: str, other: str) -> bool:
    if not (path and other):
        return False
    return posixpath.normpath(path) == posixpath.normpath(other)


def _canonical(host: str) -> str:
    """One spelling for all of the same host."""
    if host == "localhost":
        return _LOOPBACK
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def parse(text: str) -> Address:
    """Take an address apart.

    :param text: ``PORT``, ``HOST:PORT`` or ``unix:PATH``.
    :raises ValueError: If it is invalid; the message has the valid forms.
    """
    if text.startswith(_UNIX):
        return _parse_path(text)
    found = _TCP.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not an address; {_FORMS}")
    inside, outside, port = found.groups()
    host = inside or outside or _LOOPBACK
    if not (_is_ipv6(host) if inside else _NAME.fullmatch(host)):
        raise ValueError(f"{host!r} is not a host; {_FORMS}")
    return Address(host, _parse_port(port))


def parse_host(text: str, port: int) -> Address:
    """Take an address of the app's apart: one ``--host``.

    :param text: A host, as ``flask run`` takes it; ``HOST:PORT``; ``[IPV6]`` with or
        without a port; ``unix:PATH`` or ``unix://PATH``; or ``fd://N``.
    :param port: The TCP port if the text has none.
    :raises ValueError: If it is invalid; the message has what would be right.
    """
    if text.startswith(_UNIX):
        return _parse_path(text)
    if text.startswith("fd:"):
        return _parse_descriptor(text)
    _refuse_other_forms(text)
    host, own = text, None
    if _is_ipv6(text):
        return Address(text, port)  # whatever its last group was meant for
    if (found := _IN_BRACKETS.fullmatch(text)) is not None:
        host, own = found.groups()
        if not _is_ipv6(host):
            raise ValueError(
                f"{text!r} has {host!r} in brackets, which are for IPv6 addresses;"
                f" {_HOST_FORMS}"
            )
    elif (found := _HOST_AND_PORT.fullmatch(text)) is not None:
        host, own = found.groups()
        if not host:
            raise ValueError(
                f"{text!r} has no host; give {_LOOPBACK}{text} for this machine alone,"
                f" or 0.0.0.0{text} for all IPv4 addresses"
            )
    elif ":" in text:
        raise ValueError(
            f"{text!r} is not an IPv6 address; with a port it is given in brackets,"
            " such as [::1]:8000"
        )
    if not (_is_ipv6(host) or _WIDE_NAME.fullmatch(host)):
        hint = _ALL if host == "*" else _HOST_FORMS
        raise ValueError(f"{host!r} is not a host; {hint}")
    return Address(host, port if own is None else _parse_port(own, f" in {text!r}"))


def _refuse_other_forms(text: str) -> None:
    """Say what is right to whoever gives an address as other programs take it."""
    if not text:
        raise ValueError(f"it is empty; {_ALL}")
    scheme, separator, rest = text.partition("://")
    if separator:
        rest = rest.partition("/")[0]
        hint = f"give {rest!r}" if rest else _HOST_FORMS
        raise ValueError(f"{text!r} has {scheme + separator!r} before the host; {hint}")
    if "/" in text:
        raise ValueError(f"{text!r} is not a host; give a unix socket as unix:{text}")
    if _SEPARATORS.search(text):
        raise ValueError(f"{text!r} is not one address; give --host for each")
    # 0 is all addresses (inet_aton(3)), as in flask run.
    if text.isascii() and text.isdigit() and 0 < int(text) <= _MAX_PORT:
        raise ValueError(
            f"{text!r} is a port without a host; give --port {text}, or"
            f" {_LOOPBACK}:{text}"
        )


def _parse_path(text: str) -> Address:
    path = text.removeprefix(_UNIX).removeprefix("//")
    if not path or "\0" in path:
        raise ValueError(f"{text!r} has no path; give one as unix:/run/shop.sock")
    return Address("", 0, path)


def _parse_descriptor(text: str) -> Address:
    number = text.removeprefix(_INHERITED)
    is_number = number.isascii() and number.isdigit() and len(number) <= 10
    if not is_number or int(number) > _MAX_DESCRIPTOR:
        raise ValueError(f"{text!r} names no descriptor; give one as fd://3")
    return Address("", 0, fd=int(number))


def _parse_port(text: str, place: str = "") -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= 5
    if not is_number or int(text) > _MAX_PORT:
        what = f"{text!r}{place}" if place else text
        raise ValueError(f"{what} is not a port; give one from 0 to {_MAX_PORT}")
    return int(text)


def bracketed(host: str) -> str:
    """What was perhaps meant by an IPv6 address whose last group looks like a port.

    :return: It with brackets; empty if it doesn't.
    """
    rest, _, last = host.rpartition(":")
    rest += ":" if rest.endswith(":") else ""
    is_port = last.isdigit() and len(last) > 1
    return f"[{rest}]:{last}" if is_port and _is_ipv6(rest) else ""


def split(text: str) -> list[str]:
    """The addresses that a variable has, separated by whitespace or commas."""
    return [part for part in _SEPARATORS.split(text) if part] or [text]


def check_distinct(texts: Sequence[str], wanted: Sequence[Address]) -> None:
    """See that no two addresses of the app's are the same, or one includes another.

    :param texts: As the user gave them.
    :param wanted: The addresses.
    :raises ValueError: For the first two, with their texts.
    """
    for index, text in enumerate(texts):
        for other_text, other in zip(texts[:index], wanted[:index], strict=True):
            address = wanted[index]
            if _is_same(address, other):
                raise ValueError(
                    f"--host {other_text} and --host {text} are the same address; give"
                    " it once."
                )
            wide, narrow = other_text, text
            if _includes(address, other):
                wide, narrow = text, other_text
            elif not _includes(other, address):
                continue
            raise ValueError(
                f"--host {wide} includes --host {narrow}; leave one of them out."
            )


def _is_same(one: Address, other: Address) -> bool:
    if one.path or other.path:
        return _same_path(one.path, other.path)
    if one.fd >= 0 or other.fd >= 0:
        return one.fd == other.fd
    # With port 0 each gets one of its own.
    is_same = _canonical(one.host) == _canonical(other.host)
    return is_same and one.port == other.port != 0


def _includes(wide: Address, narrow: Address) -> bool:
    if not narrow.host or not wide.port or wide.port != narrow.port:
        return False
    # One of all addresses leaves IPv4 to others, see Address.is_ipv6_only.
    everything = "::" if ":" in narrow.host else "0.0.0.0"
    return _canonical(wide.host) == everything


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
