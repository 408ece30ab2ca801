"""``X-Request-Start``: when a proxy has received a request. Pure.

Proxies say it in seconds (nginx's ``$msec``), milliseconds (Heroku) or microseconds
(Apache's ``%t``), with or without ``t=``. To the app it is given as monitoring agents
read it: ``t=`` and microseconds since the epoch.
"""

from __future__ import annotations

import re
import typing as t

REQUEST_START = "HTTP_X_REQUEST_START"
_KEYS = (REQUEST_START, "HTTP_X_QUEUE_START")
_TIME = re.compile(r"(?:t=)?([0-9]{9,17}(?:\.[0-9]{1,9})?)", re.ASCII)
#: A number from which on it is too large to be seconds, and milliseconds. As another
#: unit both are 1973, before any proxy.
_MILLISECONDS = 1e11
_MICROSECONDS = 1e14
#: The year 2000: no request has come before, and what says so is something else.
_LEAST = 946_684_800.0


def parse(value: str) -> float | None:
    """Read a field's value.

    :return: Seconds since the epoch, or ``None`` if it tells no time.
    """
    # Of several the last is the next proxy's own.
    found = _TIME.fullmatch(value.rpartition(",")[2].strip(" \t"))
    if found is None:
        return None
    number = float(found[1])
    if number >= _MICROSECONDS:
        number /= 1e6
    elif number >= _MILLISECONDS:
        number /= 1e3
    return number if number >= _LEAST else None


def find(environ: t.Mapping[str, t.Any], now: float) -> tuple[float | None, bool]:
    """When a request has begun, as a proxy says.

    :param now: Seconds since the epoch. What is later is none.
    :return: Seconds since the epoch, or ``None`` if it doesn't say; and whether
        ``X-Request-Start`` does.
    """
    for key in _KEYS:
        value = environ.get(key)
        start = parse(value) if value else None
        if start is not None and start <= now:
            return start, key == REQUEST_START
    return None, False


def render(start: float) -> str:
    """The field's value for the app.

    :param start: Seconds since the epoch.
    """
    return f"t={int(start * 1e6)}"
