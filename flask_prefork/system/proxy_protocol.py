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

#: Bytes of a header of version 2 without what it tells.
HEAD_SIZE = _HEAD_2.size
#: Of a TLV, type and length; and the types of ours (PP2_TYPE_MIN_CUSTOM and up).
_TLV = struct.Struct("!BH")
_ARRIVED, _AT, _CERTIFICATE = 0xE0, 0xE1, 0xE2
#: What is passed over (PP2_TYPE_NOOP).
_NOOP = 0x04
#: Bytes of a :class:`Secured` header without a certificate: the longest, with an IPv6
#: address and a time, and room for a TLV that makes the others as long. So most are
#: read by one call.
SECURED_SIZE = HEAD_SIZE + 36 + (3 + 8) + 3

_TAG_SOCKET, _TAG_LOCAL = b"\0", b"\1"
_TAGS = {4: socket.AF_INET, 16: socket.AF_INET6}
#: What follows in a tag for a client with a certificate; such tags have lengths of
#: their own.
_PLACE = struct.Struct("!HI")
_WITH_PLACE = tuple(size + _PLACE.size for size in (1, 4 + 2, 16 + 2))


class MalformedHeader(ValueError):
    """What no further byte makes a header; says why in one phrase of ours."""


class CertificatePlace(t.NamedTuple):
    """Where a client's certificate is.

    :param proxy: The number of the TLS proxy that has it.
    :param slot: Where in that one's file.
    """

    proxy: int
    slot: int


class Source(t.NamedTuple):
    """Whom a connection is from.

    :param known: Whether the header tells. If not, it is from whom the socket says:
        the proxy itself.
    :param host: An IP address; empty for a unix socket's peer.
    :param port: Its TCP port.
    :param certificate: Where its certificate is, if it has given one to a TLS proxy.
    """

    known: bool
    host: str = ""
    port: int = 0
    certificate: CertificatePlace | None = None

    def tag(self) -> bytes:
        """A few bytes, never none, for who keeps the connection for a while."""
        place = b"" if self.certificate is None else _PLACE.pack(*self.certificate)
        if not self.known:
            return _TAG_SOCKET + place
        if not self.host:
            return _TAG_LOCAL + place
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        packed = socket.inet_pton(family, self.host)
        return packed + struct.pack("!H", self.port) + place


def from_tag(tag: bytes) -> Source:
    """What :meth:`Source.tag` was made of.

    :raises ValueError: It is none.
    """
    place = certificate_place(tag)
    if place is not None:
        return from_tag(tag[: -_PLACE.size])._replace(certificate=place)
    if tag == _TAG_SOCKET:
        return Source(False)
    if tag == _TAG_LOCAL:
        return Source(True)
    family = _TAGS.get(len(tag) - 2)
    if family is None:
        raise ValueError(f"{tag!r} is no tag of a connection's source")
    (port,) = struct.unpack("!H", tag[-2:])
    return Source(True, socket.inet_ntop(family, tag[:-2]), port)


class Secured(t.NamedTuple):
    """What the TLS proxy says of a connection that it hands over.

    :param source: Whom it is from.
    :param arrived: When its first bytes had arrived, by the system's monotonic clock.
    :param certificate: The client's certificate as DER, if it has given one.
    """

    source: Source
    arrived: float
    certificate: bytes | None = None

    def header(self) -> bytes:
        """A header of version 2 that says so."""
        source, data = self.source, b""
        kind = 0
        if source.host:
            family = socket.AF_INET6 if ":" in source.host else socket.AF_INET
            kind = 0x21 if family == socket.AF_INET6 else 0x11
            host = socket.inet_pton(family, source.host)
            data = host + bytes(len(host)) + struct.pack("!HH", source.port, 0)
        data += _TLV.pack(_ARRIVED, 8) + struct.pack("!d", self.arrived)
        if source.certificate is not None and self.certificate is not None:
            data += _TLV.pack(_AT, _PLACE.size) + _PLACE.pack(*source.certificate)
            data += _TLV.pack(_CERTIFICATE, len(self.certificate)) + self.certificate
        missing = SECURED_SIZE - HEAD_SIZE - len(data)
        if missing > 0:
            # Never shorter, for what follows is the client's.
            empty = bytes(max(missing - _TLV.size, 0))
            data += _TLV.pack(_NOOP, len(empty)) + empty
        return _HEAD_2.pack(_FIRST_2, 0x21, kind, len(data)) + data


def rest_size(head: bytes) -> int:
    """How many bytes follow the head of a header of version 2.

    :param head: Its first :data:`HEAD_SIZE` bytes.
    :raises MalformedHeader: It is none.
    """
    if len(head) < HEAD_SIZE or not head.startswith(_FIRST_2):
        raise MalformedHeader("no PROXY header")
    return int(_HEAD_2.unpack(head)[3])


def read_secured(data: bytes) -> Secured:
    """What :meth:`Secured.header` was made of.

    :raises MalformedHeader: It is none.
    """
    try:
        family = data[13] >> 4
        source = Source(True)
        at = HEAD_SIZE
        if family:
            source = _source(data, family)
            at += _FAMILIES[family][2]
        found: dict[int, bytes] = {}
        while at < len(data):
            kind, size = _TLV.unpack_from(data, at)
            at += _TLV.size
            found[kind] = data[at : at + size]
            at += size
        (arrived,) = struct.unpack("!d", found[_ARRIVED])
        if _AT in found:
            place = CertificatePlace(*_PLACE.unpack(found[_AT]))
            source = source._replace(certificate=place)
        return Secured(source, arrived, found.get(_CERTIFICATE))
    except (LookupError, struct.error, ValueError) as e:
        raise MalformedHeader(f"malformed header of the TLS proxy: {e}") from None


def certificate_place(tag: bytes) -> CertificatePlace | None:
    """Where the certificate is of the client of a connection, if it has given one.

    :param tag: As :meth:`Source.tag` made it; or any bytes.
    """
    if len(tag) not in _WITH_PLACE:
        return None
    return CertificatePlace(*_PLACE.unpack(tag[-_PLACE.size :]))


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
