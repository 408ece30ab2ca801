"""Status and header fields of a response: checked, and encoded.

:class:`~.response.Response` calls it before anything is sent, so that what can't be
sent is an error of the app and never seen by the client (PEP 3333).
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate

#: For the Server field and SERVER_SOFTWARE. No version: that is nobody's business.
SOFTWARE = "flask_prefork"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: A final status. Those below 200 are followed by another one (RFC 9110, 15), which
#: here would never come, and HTTP/1.0 knows none of them.
_STATUS = re.compile(r"([2-5][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_CONTROL = bytes([*range(9), *range(10, 32), 127])

_PLAIN, _LENGTH, _DATE, _SERVER, _CONNECTION, _DROPPED, _UPGRADE, _CODING = range(8)
#: What a field means to the server, by its name in lower case. The connection is the
#: server's (PEP 3333). What an app says of it is dropped as a gateway has to do
#: (RFC 9110, 7.6.1), and so is what only a request or a trailer section gives a sense.
#: An Upgrade field stays: a 426 must have it (15.5.22).
_MEANINGS = {
    "content-length": _LENGTH,
    "date": _DATE,
    "server": _SERVER,
    "connection": _CONNECTION,
    "keep-alive": _DROPPED,
    "proxy-connection": _DROPPED,
    "te": _DROPPED,
    "trailer": _DROPPED,
    "trailers": _DROPPED,
    "transfer-encoding": _CODING,
    "upgrade": _UPGRADE,
}


class _Names(dict[str, int]):
    """The meanings of the names that were seen and are good; bounded, because an app
    could make up names."""

    def __missing__(self, name: str) -> int:
        meaning = _check_name(name)
        if len(self) < 1024:
            self[name] = meaning
        return meaning


class _Statuses(dict[str, tuple[int, bytes]]):
    """Code and status line of the statuses that were seen and are good; bounded."""

    def __missing__(self, status: str) -> tuple[int, bytes]:
        checked = _check_status(status)
        if len(self) < 256:
            self[status] = checked
        return checked


_names = _Names()
statuses = _Statuses()
_now: tuple[int, bytes] = (0, b"")


def date_line() -> bytes:
    """The Date field, made once a second."""
    global _now
    second = int(time.time())
    if _now[0] != second:
        _now = second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
    return _now[1]


def render(
    headers: list[tuple[str, str]], software: str
) -> tuple[bytes, int | None, bool, bool]:
    """Make the lines of the header fields.

    :param headers: As PEP 3333 has them.
    :param software: For the Server field, unless the app has set one.
    :return: The lines that are sent, but for the Content-Length; that, if there is one;
        whether the app wants the connection to end; and whether it names a protocol to
        upgrade to, which ``Connection`` then has to do too (RFC 9110, 7.8).
    :raises TypeError: For what is no string.
    :raises ValueError: For what can't be sent, or isn't the app's to send.
    """
    lines = ["Server: " + software]
    length = None
    date = server = closes = upgrades = False
    for name, value in headers:
        meaning = _names[name]
        if meaning:
            if meaning == _LENGTH:
                if length is not None:
                    raise ValueError("more than one Content-Length")
                if not (value.isascii() and value.isdigit()):
                    raise ValueError(f"malformed Content-Length: {value!r}")
                length = int(value)
                continue
            if meaning == _DATE:
                if date:
                    raise ValueError("more than one Date")
                date = True
            elif meaning == _SERVER:
                if server:
                    raise ValueError("more than one Server")
                server = True
                lines[0] = name + ": " + value
                continue
            elif meaning == _UPGRADE:
                upgrades = True
            elif meaning == _CODING:
                raise ValueError(
                    f"{name} is about the connection, which is the server's (PEP 3333)"
                )
            else:
                closes |= _asks_for_end(name, value, meaning)
                continue
        # Not an f-string: what isn't a str must not pass.
        lines.append(name + ": " + value)
    lines.append("")
    fields = "\r\n".join(lines).encode("latin-1")
    # The line ends are the only control characters, if all is well.
    if len(fields) - len(fields.translate(None, _CONTROL)) != 2 * len(lines) - 2:
        raise ValueError("control character in a header's value")
    return fields if date else date_line() + fields, length, closes, upgrades


def _asks_for_end(name: str, value: str, meaning: int) -> bool:
    """Check a field that is dropped: it must be good, and may ask for the end."""
    raw = (name + ": " + value).encode("latin-1")
    if len(raw) != len(raw.translate(None, _CONTROL)):
        raise ValueError("control character in a header's value")
    if meaning != _CONNECTION:
        return False
    return "close" in [option.strip(" \t") for option in value.lower().split(",")]


def _check_status(status: str) -> tuple[int, bytes]:
    if not isinstance(status, str):
        raise TypeError(f"the status must be a str, not {type(status).__name__}")
    found = _STATUS.fullmatch(status)
    if found is None:
        raise ValueError(f"no final status of HTTP (RFC 9110, 15): {status!r}")
    # The space is there even without a phrase (RFC 9112, 4).
    line = f"HTTP/1.1 {found[1]} {found[2] or ''}\r\n".encode("latin-1")
    return int(found[1]), line


def _check_name(name: str) -> int:
    if not isinstance(name, str):
        raise TypeError(f"a header's name must be a str, not {type(name).__name__}")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"malformed header name: {name!r}")
    return _MEANINGS.get(name.lower(), _PLAIN)
