"""A request's head: bytes in, a :class:`Head` or a refusal out. No sockets.

llhttp (``httptools``) parses; before it, one regular expression holds the head
against RFC 9112's grammar to the letter, and after it come the rules that span
fields: framing, Host, target. So nothing depends on how lax a release of
llhttp is.

What is found wrong doesn't depend on how the bytes were split: :func:`check`
checks in the order of the bytes, and the rules that span fields come after it.
"""

from __future__ import annotations

import re
import typing as t

from httptools import HttpParserError
from httptools import HttpParserInvalidMethodError
from httptools import HttpParserUpgrade
from httptools import HttpRequestParser

from .errors import Refused
from .limits import Limits
from .target import check_authority
from .target import check_target
from .target import ORIGIN

#: RFC 9110, 5.6.2.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = rb"(" + TOKEN + rb") ([!-~]+) HTTP/([0-9])\.([0-9])\r\n"
#: RFC 9110, 5.5: a field's value has no control bytes but tab. No obs-fold.
_FIELD = TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n"
_HEAD = re.compile(_LINE + rb"(?:" + _FIELD + rb")*\r\n")
_REQUEST_LINE = re.compile(_LINE)
_FIELD_LINE = re.compile(_FIELD)
#: Bytes that can't come at all: these are refused before their line ends. A CR
#: at the end of what was read may be half of a CRLF.
_ILLEGAL_LINE = re.compile(rb"[^\r\n -~]|\r(?!\n|\Z)|(?<!\r)\n")
_ILLEGAL_FIELD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n")

#: What llhttp knows and means as a method of HTTP.
_METHODS = {
    name.encode(): name
    for name in [
        "ACL",
        "BIND",
        "CHECKOUT",
        "CONNECT",
        "COPY",
        "DELETE",
        "GET",
        "HEAD",
        "LINK",
        "LOCK",
        "M-SEARCH",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MOVE",
        "NOTIFY",
        "OPTIONS",
        "PATCH",
        "POST",
        "PROPFIND",
        "PROPPATCH",
        "PURGE",
        "PUT",
        "QUERY",
        "REBIND",
        "REPORT",
        "SEARCH",
        "SOURCE",
        "SUBSCRIBE",
        "TRACE",
        "UNBIND",
        "UNLINK",
        "UNLOCK",
        "UNSUBSCRIBE",
    ]
}

_VERSIONS = {b"%d" % minor: (f"HTTP/1.{minor}", minor) for minor in range(10)}

#: RFC 9112, 2.2 asks to ignore at least one empty line before a request.
_BLANK = 4
#: Above any real body, below any overflow; 10**18 bytes are an exabyte.
_LENGTH_DIGITS = 18

Fields = list[tuple[bytes, bytes]]


class Head:
    """A request's head that was found good.

    :ivar raw: The head as it came, from the method to the empty line.
    :ivar method: For example ``GET``.
    :ivar target: As it came, ASCII.
    :ivar version: As it came, ``HTTP/1.1``.
    :ivar fields: Name and value of each field line, in order, as they came;
        values without the blanks around them.
    :ivar length: The body's Content-Length; 0 without, -1 if it is chunked.
    :ivar keep_alive: Whether client and version want the connection to persist.
    :ivar expects: Whether the client waits for ``100 Continue``.
    """

    __slots__ = (
        "expects",
        "fields",
        "keep_alive",
        "length",
        "method",
        "minor",
        "raw",
        "target",
        "version",
    )

    raw: bytes
    method: str
    target: str
    version: str
    minor: int
    fields: Fields
    length: int
    keep_alive: bool
    expects: bool


def read(data: bytes, limits: Limits) -> tuple[Head, int] | None:
    """Read a head from the start of what a client sent.

    :param data: All of it so far. Not empty.
    :return: The head and how many bytes it took, or ``None`` if there is more to
        come.
    :raises Refused: 400, 414, 417, 431, 501 or 505.
    """
    line = _HEAD.match(data)
    if line is not None:
        # Nearly always.
        end = line.end()
        return parse(data if end == len(data) else data[:end], limits, line), end
    start = 0
    while data.startswith(b"\r\n", start) and start < 2 * _BLANK:
        start += 2
    end = data.find(b"\r\n\r\n", start) + 4
    if end < 4:
        check(data[start:], limits)
        return None
    return parse(data[start:end], limits), end


def check(data: bytes, limits: Limits) -> None:
    """Refuse a beginning, or a whole head, that no further byte makes good.

    :raises Refused: For what comes first in the order of the bytes: 400, 414, 431
        or 505.
    """
    position = 0
    count = -1
    whole = len(data)
    data = data[: limits.head]
    while True:
        end = data.find(b"\n", position) + 1
        line = data[position:end] if end else data[position:]
        first = count < 0
        _check_bytes(line, first, limits)
        if not end:
            break
        if first:
            found = _REQUEST_LINE.fullmatch(line)
            if found is None:
                raise Refused(400, "malformed request line")
            if found[3] != b"1":
                raise Refused(505, "only HTTP/1.0 and HTTP/1.1 are served")
        elif line == b"\r\n":
            break
        elif not _FIELD_LINE.fullmatch(line):
            raise Refused(400, "malformed header field")
        count += 1
        if count > limits.fields:
            raise Refused(431, "too many header fields")
        position = end
    if whole > limits.head:
        raise Refused(431, "header fields too large")


def _check_bytes(line: bytes, first: bool, limits: Limits) -> None:
    limit = limits.request_line if first else limits.field_size
    illegal = (_ILLEGAL_LINE if first else _ILLEGAL_FIELD).search(line)
    if illegal is not None and illegal.start() <= limit:
        raise Refused(400, "illegal byte in the head")
    size = len(line) - (2 if line.endswith(b"\r\n") else line.endswith(b"\r"))
    if size > limit:
        if first and b" " not in line[: limit + 1]:
            # No target is too long, for there is none (RFC 9112, 3).
            raise Refused(400, "endless method")
        if first:
            raise Refused(414, "request line too long")
        raise Refused(431, "header field too large")


class _Collector:
    """Takes llhttp's calls. Those that aren't wanted must be there as None, or
    each parser spends time on looking for them."""

    __slots__ = ("fields",)

    on_message_begin = on_url = on_headers_complete = on_body = None
    on_message_complete = on_chunk_header = on_chunk_complete = None

    def __init__(self) -> None:
        self.fields: Fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.strip(b" \t")))


def parse(raw: bytes, limits: Limits, line: re.Match[bytes] | None = None) -> Head:
    """Parse a whole head, up to and including its empty line.

    :param line: What the grammar has found in it, if somebody has looked.
    :raises Refused: 400, 414, 417, 431, 501 or 505.
    """
    if line is None:
        line = _HEAD.fullmatch(raw)
    size = len(raw)
    if line is None or size > limits.request_line or size > limits.field_size:
        check(raw, limits)
    if line is None:
        raise Refused(400, "malformed head")
    method, target, major, minor = line.groups()
    if major != b"1":
        raise Refused(505, "only HTTP/1.0 and HTTP/1.1 are served")
    if method not in _METHODS:
        raise Refused(501, "unknown method")
    fields = _collect(raw, minor, line.end(4))
    if len(fields) > limits.fields:
        check(raw, limits)

    head = Head()
    head.raw = raw
    head.method = _METHODS[method]
    head.target = target.decode("ascii")
    head.version, head.minor = _VERSIONS[minor]
    head.fields = fields
    _apply_fields(head)
    if not ORIGIN.fullmatch(target) or method == b"CONNECT":
        check_target(head.method, target)
    if head.length and head.method == "TRACE":
        # RFC 9110, 9.3.8.
        raise Refused(400, "TRACE with a body")
    return head


def _collect(raw: bytes, minor: bytes, minor_end: int) -> Fields:
    """Let llhttp parse a head that our grammar has found good."""
    if minor > b"1":
        # RFC 9110, 2.5: to be processed as the highest minor version we know,
        # llhttp wants to see that.
        raw = b"%b1%b" % (raw[: minor_end - 1], raw[minor_end:])
    collector = _Collector()
    try:
        HttpRequestParser(collector).feed_data(raw)
    except HttpParserUpgrade:
        # We don't upgrade: RFC 9110, 7.8 lets a server ignore the field.
        pass
    except HttpParserInvalidMethodError:
        raise Refused(501, "unknown method") from None
    except HttpParserError:
        # Framing has its own words, and 501; what it lets pass ends here.
        pairs = [p.split(b":", 1) for p in raw.split(b"\r\n")[1:-2]]
        _apply_framing([(n, v.strip(b" \t")) for n, v in pairs])
        raise Refused(400, "malformed head") from None
    return collector.fields


# What a field means for the connection, by the spellings of its name that were
# seen; bounded, because clients choose the spellings.
_OTHER, _HOST, _LENGTH, _CODING, _CONNECTION, _EXPECT, _TYPE = range(7)
_MEANINGS = {
    b"host": _HOST,
    b"content-type": _TYPE,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"expect": _EXPECT,
}


class _Meanings(dict[bytes, int]):
    def __missing__(self, name: bytes) -> int:
        meaning = _MEANINGS.get(name.lower(), _OTHER)
        if len(self) < 1024:
            self[name] = meaning
        return meaning


_meanings = _Meanings()
# Good hosts that were seen, bounded too.
_hosts: set[bytes] = set()


def _apply_fields(head: Head) -> None:
    """Apply what the fields say about the connection and the body."""
    host = None
    connection: list[bytes] = []
    framed = typed = False
    head.expects = False
    head.length = 0
    for name, value in head.fields:
        meaning = _meanings[name]
        if not meaning:
            continue
        if meaning == _HOST:
            if host is not None:
                raise Refused(400, "more than one Host")
            host = value
        elif meaning == _CONNECTION:
            connection.append(value)
        elif meaning == _EXPECT:
            # RFC 9110, 10.1.1: never for HTTP/1.0.
            if head.minor:
                if value.lower() != b"100-continue":
                    raise Refused(417, "unknown expectation")
                head.expects = True
        elif meaning == _TYPE:
            if typed:
                # It has one value (RFC 9110, 8.3); who checks the body by the other
                # one, a firewall say, would be deceived.
                raise Refused(400, "more than one Content-Type")
            typed = True
        else:
            framed = True
    if host is not None:
        # An empty one says that the target has no authority (RFC 9112, 3.2).
        if host and host not in _hosts:
            check_authority(host)
            if len(_hosts) < 256:
                _hosts.add(host)
    elif head.minor:
        # RFC 9112, 3.2.
        raise Refused(400, "no Host")
    if framed:
        head.length = _apply_framing(head.fields)
        if head.length < 0 and not head.minor:
            # RFC 9112, 6.1: take it for faulty framing.
            raise Refused(400, "Transfer-Encoding in HTTP/1.0")
    head.keep_alive = _persists(connection, head.minor)


def _persists(connection: list[bytes], minor: int) -> bool:
    """RFC 9112, 9.3."""
    if not connection:
        return minor > 0
    if minor and connection == [b"close"]:
        return False
    options = {o.strip(b" \t") for o in b",".join(connection).lower().split(b",")}
    return b"close" not in options and (minor > 0 or b"keep-alive" in options)


def _apply_framing(fields: t.Iterable[tuple[bytes, bytes]]) -> int:
    """The body's length by RFC 9112, 6.3; anything that can be read in two ways
    is refused.

    :return: Bytes, or -1 for chunked.
    """
    lengths = [v for n, v in fields if n.lower() == b"content-length"]
    codings = [v for n, v in fields if n.lower() == b"transfer-encoding"]
    if codings:
        if lengths:
            raise Refused(400, "Content-Length with Transfer-Encoding")
        names = [c.strip(b" \t") for c in b",".join(codings).lower().split(b",")]
        if names[-1] != b"chunked" or names.count(b"chunked") > 1:
            raise Refused(400, "chunked is not the last transfer coding")
        if len(names) > 1:
            if not all(re.fullmatch(TOKEN, name) for name in names):
                raise Refused(400, "malformed Transfer-Encoding")
            raise Refused(501, "unknown transfer coding")
        return -1
    if not lengths:
        return 0
    if len(lengths) > 1:
        raise Refused(400, "more than one Content-Length")
    digits = lengths[0]
    # bytes.isdigit() is true for ASCII digits only. To some a leading zero means
    # octal, and nobody who means well sends one.
    if not digits.isdigit() or (digits[:1] == b"0" and digits != b"0"):
        raise Refused(400, "malformed Content-Length")
    if len(digits) > _LENGTH_DIGITS:
        raise Refused(400, "Content-Length out of range")
    return int(digits)
