"""A request's line in werkzeug's format, made faster and with more escaping."""

from __future__ import annotations

import logging
import re
import sys
import time
import typing as t

from werkzeug import serving
from werkzeug.serving import _ansi_style
from werkzeug.serving import WSGIRequestHandler
from werkzeug.urls import uri_to_iri

#: Targets that uri_to_iri() gives back unchanged.
_PLAIN = re.compile(r"/(?:[\w\-.~]+/)*[\w\-.~]*(?:\?[\w\-.~=&+,:;/]+)?", re.ASCII)
_CONTROL = WSGIRequestHandler._control_char_table
_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun",
    "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_now: tuple[int, str] = (0, "")
#: What :func:`goes_to_terminals` has looked at last, and its answer.
_seen: tuple[list[t.Any] | None, bool] = (None, False)


def date_time() -> str:
    """The local time as ``24/Nov/2026 09:15:00``, made once a second."""
    global _now
    second = int(time.time())
    if _now[0] != second:
        y, month, d, hh, mm, ss, *_ = time.localtime(second)
        _now = second, f"{d:02}/{_MONTHS[month - 1]}/{y:04} {hh:02}:{mm:02}:{ss:02}"
    return _now[1]


def escape(text: str) -> str:
    """Escape whatever could do something to a terminal: control characters, as
    werkzeug escapes them, and what else isn't printable, for example the marks
    that turn the direction of writing."""
    if text.isprintable() and "\\" not in text:
        return text
    text = text.translate(_CONTROL)
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def quotable(text: str) -> str:
    """As :func:`escape`, for a text between quotation marks: what comes after it in the
    line must not be in it. werkzeug leaves that to the reader."""
    return escape(text).replace('"', '\\"')


def escape_lines(text: str) -> str:
    """As :func:`escape`, for a text of several lines, like a traceback."""
    # Splitting at \n only: the other line ends are to be escaped.
    return "\n".join(
        line if line.isprintable() else escape(line) for line in text.split("\n")
    )


def request_text(method: str, target: str, version: str) -> str:
    """A request line to be read, with its escapes decoded and harmless."""
    if _PLAIN.fullmatch(target):
        return f"{method} {target} {version}"
    try:
        target = uri_to_iri(target)
    except ValueError:
        # It takes the start of "//[" for a host.
        pass
    return quotable(f"{method} {target} {version}")


def allow_color(allowed: bool) -> None:
    """Let lines have colors, those of werkzeug's own handler too, or not."""
    serving._log_add_style = allowed


def goes_to_terminals() -> bool:
    """Whether nobody else gets the lines of werkzeug's logger.

    It has no handler before its first line; that is for standard error then.
    """
    global _seen
    if not serving._log_add_style:
        return False
    streams = []
    # Not made before: configuring an app's logging disables loggers that are there.
    current: logging.Logger | None = logging.getLogger("werkzeug")
    while current is not None:
        streams += [getattr(handler, "stream", None) for handler in current.handlers]
        current = current.parent if current.propagate else None
    if _seen[0] != streams:
        checks = (getattr(one, "isatty", bool) for one in streams or [sys.stderr])
        _seen = streams, all(check() for check in checks)
    return _seen[1]


def color(text: str, status: str) -> str:
    """Color a request's text by the response's status, as ``flask run`` does.

    Where it isn't for terminals only, it stays as it is.
    """
    if status == "200" or not goes_to_terminals():
        return text
    kind = status[0]
    if kind == "1":
        return _ansi_style(text, "bold")
    if status == "304":
        return _ansi_style(text, "cyan")
    if kind == "3":
        return _ansi_style(text, "green")
    if status == "404":
        return _ansi_style(text, "yellow")
    if kind == "4":
        return _ansi_style(text, "bold", "red")
    return _ansi_style(text, "bold", "magenta")
