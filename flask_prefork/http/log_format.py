"""``--access-log-format``: a line about a request, as data.

A format is compiled once, at the start (:func:`compile_format`), and then renders an
:class:`LogEntry` for each request. Nothing that a client has sent is in a line as it
came: quoted, every byte that isn't printable ASCII is an escape, so that a line stays
one line, its fields stay apart, and no terminal obeys it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import time
import typing as t
from functools import partial

COMMON = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s'
COMBINED = f'{COMMON} "%(f)s" "%(a)s"'
_NAMED = {"common": COMMON, "combined": COMBINED}
JSON = "json"
#: The field for which a request id is made.
REQUEST_ID = "x-request-id"

_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun",
    "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_now: tuple[int, str, str] = (-1, "", "")


class LogEntry(t.NamedTuple):
    """What is known of a request that is over.

    :param environ: Its environ; empty if the request was refused before it had one.
    :param address: The client's, or its next proxy's.
    :param line: The request line, as it came.
    :param method: Empty if the head was refused, like target and version.
    :param status: What it was answered with.
    :param sent: Bytes of the response's body.
    :param head: The response's head, as it was sent.
    :param seconds: From the end of the request's head to the end of the response.
    :param slot: The worker.
    :param generation: The generation it is of.
    :param queue_time: From the request's arrival until a worker took it, in seconds.
    """

    environ: t.Mapping[str, t.Any]
    address: str
    line: str
    method: str
    target: str
    version: str
    status: int
    sent: int
    head: bytes
    seconds: float
    slot: int
    generation: int
    queue_time: float = 0.0


#: Makes an entry of all its values, in less than half the time of a call of the class.
make_entry: t.Callable[[tuple[t.Any, ...]], LogEntry] = partial(tuple.__new__, LogEntry)

Get = t.Callable[[LogEntry], t.Any]


class Format(t.NamedTuple):
    """A compiled format.

    :param render: Makes a line of an entry.
    :param asks_for_id: Whether requests need an id.
    """

    render: t.Callable[[LogEntry], str]
    asks_for_id: bool


def _is_plain(text: str) -> bool:
    """Whether it is printable ASCII, without a quote and a backslash."""
    return (
        text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
    )


def quote(value: object) -> str:
    """Make harmless what may have come from a client."""
    text = str(value)
    if _is_plain(text):
        return text
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')


def _times() -> tuple[int, str, str]:
    """The local time, in the log's way and in ISO 8601's, made once a second."""
    global _now
    second = int(time.time())
    if _now[0] != second:
        now = time.localtime(second)
        y, month, d, hh, mm, ss, *_ = now
        offset = now.tm_gmtoff // 60
        sign = "-" if offset < 0 else "+"
        hours, minutes = divmod(abs(offset), 60)
        clock = f"{hh:02}:{mm:02}:{ss:02}"
        _now = (
            second,
            f"[{d:02}/{_MONTHS[month - 1]}/{y:04}:{clock}"
            f" {sign}{hours:02}{minutes:02}]",
            f"{y:04}-{month:02}-{d:02}T{clock}{sign}{hours:02}:{minutes:02}",
        )
    return _now


# Atoms: what each makes of an entry. All but numbers and times are quoted.


def _user(entry: LogEntry) -> str | None:
    """Who the client says that it is (RFC 7617)."""
    scheme, _, code = entry.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(code.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded.partition(b":")[0].decode("latin-1") or None


def _from_environ(key: str) -> Get:
    def get(entry: LogEntry) -> str:
        value = entry.environ.get(key)
        return "-" if value is None or value == "" else quote(value)

    return get


def _request_field(name: str) -> Get:
    key = name.upper().replace("-", "_")
    return _from_environ(
        key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
    )


def _response_field(name: str) -> Get:
    pattern = re.compile(
        rb"\r\n" + re.escape(name.encode()) + rb":[ \t]*([^\r]*)", re.IGNORECASE
    )

    def get(entry: LogEntry) -> str:
        values = pattern.findall(entry.head)
        return quote(b", ".join(values).decode("latin-1")) if values else "-"

    return get


def _variable(name: str) -> Get:
    def get(entry: LogEntry) -> str:
        environ = entry.environ
        for key in (name, name.upper(), name.lower()):
            if key in environ:
                return quote(environ[key])
        return "-"

    return get


_ATOMS: dict[str, Get] = {
    "h": lambda entry: quote(entry.address),
    "l": lambda entry: "-",
    "u": lambda entry: quote(_user(entry) or "-"),
    "t": lambda entry: _times()[1],
    "r": lambda entry: quote(entry.line or "-"),
    "s": lambda entry: entry.status,
    "b": lambda entry: entry.sent or "-",
    "B": lambda entry: entry.sent,
    "f": _request_field("referer"),
    "a": _request_field("user-agent"),
    "L": lambda entry: f"{entry.seconds:.6f}",
    "D": lambda entry: int(entry.seconds * 1_000_000),
    "M": lambda entry: int(entry.seconds * 1000),
    "T": lambda entry: int(entry.seconds),
    "p": lambda entry: f"<{os.getpid()}>",
    "m": lambda entry: quote(entry.method or "-"),
    "U": _from_environ("PATH_INFO"),
    "q": lambda entry: quote(entry.environ.get("QUERY_STRING", "")),
    "H": lambda entry: quote(entry.version or "-"),
    "slot": lambda entry: entry.slot,
    "generation": lambda entry: entry.generation,
    "queue_time": lambda entry: f"{entry.queue_time:.6f}",
}
#: What people may call them.
_WORDS = {
    "slot": "slot",
    "worker": "slot",
    "generation": "generation",
    "host": "h",
    "address": "h",
    "user": "u",
    "time": "t",
    "request": "r",
    "request_id": f"{{{REQUEST_ID}}}i",
    "status": "s",
    "method": "m",
    "path": "U",
    "query": "q",
    "protocol": "H",
    "bytes": "B",
    "length": "B",
    "referer": "f",
    "user_agent": "a",
    "seconds": "L",
    "duration": "D",
    "queue_time": "queue_time",
    "pid": "p",
}
_IN_BRACES: dict[str, t.Callable[[str], Get]] = {
    "i": _request_field,
    "o": _response_field,
    "e": _variable,
}
_ATOM = re.compile(r"%(?:%|\((?:\{([^{}]*)\}([a-zA-Z]?)|([^()]*))\)s)")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+")


def compile_format(text: str) -> Format:
    """Compile a format.

    :param text: ``common``, ``combined``, ``json``, or a text with atoms.
    :raises ValueError: It is none; in one sentence without a full stop, with what is
        nearest to it.
    """
    if text == JSON:
        return Format(_render_json, True)
    text = _NAMED.get(text, text)
    if not text.isprintable():
        raise ValueError("it is not of one line of printable characters")
    template: list[str] = []
    getters: list[Get] = []
    ids = False
    end = 0
    for found in _ATOM.finditer(text):
        template.append(_literal(text[end : found.start()]))
        end = found.end()
        if found[0] == "%%":
            template.append("%%")
            continue
        name, kind, atom = found.groups()
        if atom is None:
            getters.append(_braced(name, kind))
            ids = ids or (kind == "i" and name.lower() == REQUEST_ID)
        else:
            getters.append(_atom(atom))
        template.append("%s")
    template.append(_literal(text[end:]))
    if not getters:
        raise ValueError(_no_format(text))
    render = _renderer("".join(template), getters)
    if text in (COMMON, COMBINED):
        render = _named_renderer(text == COMBINED, render)
    return Format(render, ids)


def _named_renderer(
    combined: bool, render: t.Callable[[LogEntry], str]
) -> t.Callable[[LogEntry], str]:
    """What renders the usual lines of a named format in a third of the time.

    :param combined: Whether it is the combined format, not the common one.
    :param render: Renders all others.
    """

    def render_plain(entry: LogEntry) -> str:
        environ = entry.environ
        address, line, sent = entry.address, entry.line, entry.sent or "-"
        referer = environ.get("HTTP_REFERER", "-") if combined else "-"
        agent = environ.get("HTTP_USER_AGENT", "-") if combined else "-"
        if (
            "HTTP_AUTHORIZATION" in environ
            or not (line and type(referer) is type(agent) is str and referer and agent)
            or not _is_plain(f"{address}{line}{referer}{agent}")
        ):
            return render(entry)
        start = f'{address} - - {_times()[1]} "{line}" {entry.status} {sent}'
        return f'{start} "{referer}" "{agent}"' if combined else start

    return render_plain


def _renderer(template: str, getters: list[Get]) -> t.Callable[[LogEntry], str]:
    def render(entry: LogEntry) -> str:
        return template % tuple([get(entry) for get in getters])

    return render


def _literal(text: str) -> str:
    if "%" in text:
        what = text[text.index("%") :].split(maxsplit=1)[0]
        raise ValueError(
            f"{what!r} is no atom: write atoms as %(h)s or %({{referer}}i)s, and a"
            " percent sign as %%"
        )
    return text


def _atom(name: str) -> Get:
    if name not in _ATOMS:
        raise ValueError(
            f"there is no %({name})s; did you mean {_nearest_atom(name)!r}?"
        )
    return _ATOMS[name]


def _nearest_atom(name: str) -> str:
    for same in (name.lower(), name.upper()):
        if same in _ATOMS:
            return f"%({same})s"
    word = _nearest(name.lower(), list(_WORDS))
    return f"%({_WORDS[word] if word else 'r'})s"


def _nearest(name: str, names: list[str]) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, names, n=1)), None)


def _braced(name: str, kind: str) -> Get:
    if kind not in _IN_BRACES:
        right = kind.lower() if kind.lower() in _IN_BRACES else "i"
        raise ValueError(
            f"there is no %({{{name}}}{kind})s; did you mean '%({{{name}}}{right})s'?"
        )
    if kind != "e" and not _FIELD_NAME.fullmatch(name):
        near = re.sub(r"[^!-~]|[_(),/:;<=>?@\[\\\]\"]", "-", name).strip("-") or "host"
        raise ValueError(
            f"{name!r} is the name of no header field; did you mean"
            f" '%({{{near}}}{kind})s'?"
        )
    if not name:
        raise ValueError(
            "'%({}e)s' names no variable; write it as '%({REMOTE_PORT}e)s'"
        )
    return _IN_BRACES[kind](name)


def _no_format(text: str) -> str:
    near = _nearest(text, [*_NAMED, JSON])
    if near is not None:
        return f"there is no format {text!r}; did you mean {near!r}?"
    return (
        f"there is nothing of the request in {text!r}; give common, combined, json, or"
        " atoms as in '%(h)s \"%(r)s\" %(s)s'"
    )


# JSON


#: One encoder for all lines: json.dumps() with options makes one each time.
_encode = json.JSONEncoder(default=str, check_circular=False).encode


def _readable(value: t.Any) -> str | None:
    """A field's value as text: the environ has its bytes as Latin-1 (PEP 3333)."""
    if value is None:
        return None
    text = str(value)
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _render_json(entry: LogEntry) -> str:
    environ = entry.environ
    values = {
        "time": _times()[2],
        "address": entry.address,
        "user": _readable(_user(entry)),
        "method": entry.method or None,
        "target": entry.target or None,
        "protocol": entry.version or None,
        "status": entry.status,
        "sent": entry.sent,
        "seconds": round(entry.seconds, 6),
        "queue_time": round(entry.queue_time, 6),
        "referer": _readable(environ.get("HTTP_REFERER")),
        "user_agent": _readable(environ.get("HTTP_USER_AGENT")),
        "request_id": environ.get("flask_prefork.request_id"),
        "slot": entry.slot,
        "generation": entry.generation,
        "pid": os.getpid(),
    }
    # All that isn't ASCII is escaped there, and control characters; but DEL isn't.
    return _encode(values).replace("\x7f", "\\u007f")
