"""Request targets and hosts: the part of RFC 3986 that a server needs.

Pure: the socket module only reads IPv6 addresses here.
"""

from __future__ import annotations

import re
import socket

from .errors import Refused

#: RFC 3986, 3.3, and what browsers leave as it is by the URL standard though
#: RFC 3986 has no place for it. No file's and no page's name has a NUL, CR or LF in
#: it, and what is dangerous in a field (RFC 9110, 5.5) is so in a path that an app
#: makes one of.
_PCHAR = rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/|\[\]^]*"
# One way only to match: a target is as long as a client likes.
_PATH = _PCHAR + rb"(?:%(?:0[1-9BCEFbcef]|[1-9A-Fa-f][0-9A-Fa-f])" + _PCHAR + rb")*"
_QUERY = rb"(?:\?[!$-;=?-~]*)?"
#: A path and its query: what nearly all targets are.
ORIGIN = re.compile(rb"/" + _PATH + _QUERY)
_ABSOLUTE = re.compile(
    rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]+)(?:/" + _PATH + rb")?" + _QUERY
)
#: RFC 3986, 3.2.2 and 3.2.3, without a comma: that is two hosts joined to one.
_AUTHORITY = re.compile(
    rb"(?:(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+"
    rb"|\[([0-9A-Fa-f:.]+)\]"
    rb"|\[[Vv][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+;=:]+\])"
    rb"(?::([0-9]*))?"
)


def check_authority(value: bytes) -> None:
    """Refuse a host and port that RFC 3986, 3.2 doesn't know, or an empty host.

    :raises Refused: 400.
    """
    found = _AUTHORITY.fullmatch(value)
    if found is None:
        raise Refused(400, "malformed Host")
    literal, port = found.groups()
    if port and (len(port) > 5 or int(port) > 65535):
        raise Refused(400, "malformed Host")
    if literal:
        try:
            socket.inet_pton(socket.AF_INET6, literal.decode("ascii"))
        except OSError:
            raise Refused(400, "malformed Host") from None


def check_target(method: str, target: bytes) -> None:
    """Refuse a target whose form isn't the method's (RFC 9112, 3.2).

    :raises Refused: 400, and 501 for a good target of CONNECT.
    """
    if method == "CONNECT":
        host, colon, port = target.rpartition(b":")
        if not host or not colon or not port:
            raise Refused(400, "malformed target for CONNECT")
        check_authority(target)
        # Not 405: no resource here could be asked for another method.
        raise Refused(501, "CONNECT is for proxies")
    if ORIGIN.fullmatch(target):
        return
    if target == b"*":
        if method != "OPTIONS":
            raise Refused(400, "malformed target")
        return
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise Refused(400, "malformed target")
    check_authority(absolute[1])
