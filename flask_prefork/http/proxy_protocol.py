"""The PROXY protocol, versions 1 and 2: from bytes to the client's address. Pure.

A proxy that passes a connection on as it is says by a header before its first byte whom
it is from. See HAProxy's ``proxy-protocol.txt``; what is said there of receivers holds
here to the letter. Who may send such headers is not this module's affair.
"""

from __future__ import annotations

import re
import socket
import struct
import typing as t

#: Bytes of the longest header of version 1, with its CRLF.
_LONGEST_1 = 107
_FIRST_1 = b"PROXY "
_FIRST_2 = b"\r\n\r\n\0\r\nQUIT\n"
#: Signature, version and command, family and transport, length.
_HEAD_2 = struct.Struct("!12sBBH")
#: Bytes behind that: addresses and whatever else the proxy likes to tell (TLVs).
_MOST_2 = 4096
#: No leading zeros: some read these as octal.
_NUMBER = rb"(?:0|[1-9][0-9]{0,4})"
_LINE = re.compile(
    rb"PROXY (?:(TCP4) ([0-9.]+) ([0-9.]+)|(TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+))"
    rb" (" + _NUMBER + rb") (" + _NUMBER + rb")\r\n"
)
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
#: What version 2 knows as a family: the system's, and the sizes of an address and of
#: the whole; for unix sockets there is no address that would tell anything.
_FAMILIES = {1: (socket.AF_INET, 4, 12), 2: (socket.AF_INET6, 16, 36)}
_UNIX, _UNIX_SIZE = 3, 216

_TAG_SOCKET, _TAG_LOCAL = b"\0", b"\1"
_TAGS = {4: socket.AF_INET, 16: socket.AF_INET6}


class MalformedHeader(ValueError):
    """What no further byte makes a header; says why in one phrase of ours."""


class Source(t.NamedTuple):
    """Whom a connection is from.

    :param known: Whether the header tells. If not, it is from whom the socket says:
        the proxy itself.
    :param host: An IP address; empty for a unix socket's peer.
    :param port: Its TCP port.
    """

    known: bool
    host: str = ""
    port: int = 0

    def tag(self) -> bytes:
        """A few bytes, never none, for who keeps the connection for a while."""
        if not self.known:
            return _TAG_SOCKET
        if not self.host:
            return _TAG_LOCAL
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return socket.inet_pton(family, self.host) + struct.pack("!H", self.port)


def from_tag(tag: bytes) -> Source:
    """What :meth:`Source.tag` was made of.

    :raises ValueError: It is none.
    """
    if tag == _TAG_SOCKET:
        return Source(False)
    if tag == _TAG_LOCAL:
        return Source(True)
    family = _TAGS.get(len(tag) - 2)
    if family is None:
        raise ValueError(f"{tag!r} is no tag of a connection's source")
    (port,) = struct.unpack("!H", tag[-2:])
    return Source(True, socket.inet_ntop(family, tag[:-2]), port)


def read(data: bytes) -> tuple[Source, int] | None:
    """Read a header from the start of what a connection has brought.

    :param data: All of it so far.
    :return: The source and how many bytes the header took, or ``None`` if there is
        more to come.
    :raises Malformed: It is no header.
    """
    if data.startswith(_FIRST_1):
        return _read_1(data)
    if data.startswith(_FIRST_2):
        return _read_2(data)
    if _FIRST_1.startswith(data) or _FIRST_2.startswith(data):
        return None
    raise MalformedHeader("no PROXY header")


def _read_1(data: bytes) -> tuple[Source, int] | None:
    end = data.find(b"\n", 0, _LONGEST_1) + 1
    if not end:
        if len(data) >= _LONGEST_1:
            raise MalformedHeader("the PROXY header is too long")
        return None
    line = data[:end]
    if _UNKNOWN.fullmatch(line):
        return Source(False), end
    found = _LINE.fullmatch(line)
    if found is None:
        raise MalformedHeader("malformed PROXY header")
    v4, source4, target4, _, source6, target6, *ports = found.groups()
    family = socket.AF_INET if v4 else socket.AF_INET6
    host = _canonical(family, source4 or source6)
    _canonical(family, target4 or target6)
    port, target_port = (int(number) for number in ports)
    if port > 65535 or target_port > 65535:
        raise MalformedHeader("malformed port in the PROXY header")
    return Source(True, host, port), end


def _canonical(family: int, address: bytes) -> str:
    try:
        packed = socket.inet_pton(family, address.decode("ascii"))
    except OSError:
        raise MalformedHeader("malformed address in the PROXY header") from None
    return socket.inet_ntop(family, packed)


def _read_2(data: bytes) -> tuple[Source, int] | None:
    # Each byte is checked as soon as it is there.
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        raise MalformedHeader("unknown version or command in the PROXY header")
    is_local = len(data) > 12 and data[12] == 0x20
    if len(data) > 13 and not is_local:
        _check_family(data[13])
    if len(data) < _HEAD_2.size:
        return None
    _, _, family, length = _HEAD_2.unpack_from(data)
    if length > _MOST_2:
        raise MalformedHeader("the PROXY header is too long")
    if is_local or not family >> 4:
        source = Source(False)
        needed = 0
    elif family >> 4 == _UNIX:
        source = Source(True)
        needed = _UNIX_SIZE
    else:
        needed = _FAMILIES[family >> 4][2]
    if length < needed:
        raise MalformedHeader("the PROXY header is too short for its addresses")
    end = _HEAD_2.size + length
    if len(data) < end:
        return None
    if needed and family >> 4 != _UNIX:
        source = _source(data, family >> 4)
    return source, end


def _check_family(byte: int) -> None:
    family, transport = byte >> 4, byte & 15
    if family > _UNIX or transport > 2:
        raise MalformedHeader("unknown family in the PROXY header")
    if family and transport != 1:
        raise MalformedHeader("the PROXY header tells of no stream")


def _source(data: bytes, family: int) -> Source:
    system, size, _ = _FAMILIES[family]
    start = _HEAD_2.size
    host = socket.inet_ntop(system, data[start : start + size])
    (port,) = struct.unpack_from("!H", data, start + 2 * size)
    return Source(True, host, port)
